"""Ways to run a method on a card: which one is taken, and which one would be the smallest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from kb.closed_form import WHOSE, Form, Implementation, Storage, outline
from kb.device import ANY, Context
from kb.families import refused
from kb.polynomial import Settled
from recommender.answer import Memory, ParameterCounts, Plan
from recommender.applicable import applicable, failing, nearest, running
from recommender.base import weights
from recommender.constraints import Constraints
from recommender.criteria import stored_value
from recommender.family import Packing, unpacked
from recommender.footprint import Prepared, Subject, counted, rank
from recommender.memory import Formula, Line, room
from recommender.recent import Recent
from recommender.refusal import worded
from recommender.setting import BF16, setting
from recommender.speed import Work, work
from recommender.unaligned import copied, uneven
from recommender.ungrouped import held_once, ungrouped

Sharding = Literal["none", "full"]
Way = tuple[Storage, bool, Sharding]  # base storage, checkpointing, sharding
Key = tuple[Implementation, Storage, bool, Sharding]  # whose code, base storage, checkpointing, sharding

_STORAGES: dict[str, tuple[Storage, ...]] = {
    "any": ("bf16", "int8", "nf4"),
    "none": ("bf16",),
    "8bit": ("int8",),
    "4bit": ("nf4",),
}
_CHECKPOINTING = {"any": (False, True), "on": (True,), "off": (False,)}


class Variant(NamedTuple):
    """What a request changes about every method."""

    implementation: Literal["any", "ours", "peft"]
    rank: int | None
    targets: str  # sites, joined by commas; empty for those of the record
    autocast: bool = False  # of PEFT's code


PLAIN = Variant("any", None, "")


class Asked(NamedTuple):
    """The constraints that decide which plans there are."""

    quantization: str
    checkpointing: str
    gpus: int
    optimizer: str
    head_chunks: int
    seq: int


class Option:
    """A way to run a method, with what it costs whatever the batch."""

    __slots__ = ("_work", "key", "line", "repeated", "sites")

    def __init__(self, key: Key, line: Line, sites: tuple[str, ...]) -> None:
        self.key, self.line, self.sites = key, line, sites
        self._work: Work | None = None
        self.repeated: Work | None = None  # by ``recomputing.least``

    @property
    def work(self) -> Work:
        """The work of a micro-batch; most ways that are tried do not fit, and their work is never asked for."""
        found = self._work
        if found is None:
            found = self._work = work(self.line.of, self.line.setting.seq)
        return found


class Demand(NamedTuple):
    """A request as plans see it."""

    constraints: Constraints
    variant: Variant
    asked: Asked
    share: int  # examples per card and step
    sure: float  # reserved bytes that the upper prediction may take
    likely: float  # reserved bytes that the middle of it may take
    context: Context  # what a process holds besides
    plans: dict[tuple[Key, int, tuple[str, ...]], Plan]  # those put into words so far: many methods share one


def demand(
    constraints: Constraints, budget: float, about: Subject, targets: str = "", context: Context = ANY
) -> Demand:
    """What ``constraints`` ask of plans on a card with ``budget`` bytes and that ``context``. An image has as many tokens as its model says."""
    model = about.model
    seq = model.positions if model.kind == "vision" and model.positions else constraints.seq
    asked = Asked(
        constraints.quantization,
        constraints.checkpointing,
        constraints.gpus,
        constraints.optimizer,
        constraints.head_chunks,
        seq,
    )
    share = -(-constraints.batch // constraints.gpus)
    variant = Variant(constraints.implementation, constraints.rank, targets, constraints.autocast == "on")
    sure, likely = room(budget, sure=True, context=context), room(budget, sure=False, context=context)
    return Demand(constraints, variant, asked, share, sure, likely, context, {})


class Choice(NamedTuple):
    """A plan with its prediction, before it is put into words."""

    asked: Demand
    option: Option
    examples: int
    accumulation: int

    @property
    def key(self) -> Key:
        """Whose code, base storage, checkpointing, sharding."""
        return self.option.key

    @property
    def line(self) -> Line:
        """Peak memory over the micro-batch."""
        return self.option.line

    @property
    def work(self) -> Work:
        """The work of a micro-batch."""
        return self.option.work

    def plan(self) -> Plan:
        """The plan as an answer shows it."""
        named = self.key, self.examples, self.option.sites
        found = self.asked.plans.get(named)
        if found is None:
            implementation, storage, checkpointing, sharding = self.key
            constraints = self.asked.constraints
            found = self.asked.plans[named] = Plan(
                implementation=implementation,
                storage=storage,
                checkpointing=checkpointing,
                autocast=self.line.of.form.autocast,
                micro_batch=self.examples,
                accumulation=self.accumulation,
                seq=self.asked.asked.seq,
                optimizer=constraints.optimizer,
                targets=self.option.sites,
                gpus=constraints.gpus,
                sharding=sharding,
            )
        return found

    @property
    def carried(self) -> bool:
        """Whether gradients of earlier micro-batches are alive at the loss."""
        return self.accumulation > 1

    def memory(self) -> Memory:
        """The predicted peak by part."""
        return self.line.memory(self.examples, self.carried, self.asked.context)

    def device(self) -> tuple[int, int]:
        """Its device bytes, and the upper end of their range."""
        return self.line.device(self.examples, self.carried, self.asked.context)


class Sheet:
    """A method on a model: its counts, and its lines and works as far as they were asked for."""

    def __init__(self, prepared: Prepared, about: Subject, variant: Variant) -> None:
        self.prepared, self.about, self.variant = prepared, about, variant
        stored = counted(prepared.stored, prepared, about)
        self.stored_bytes = None if stored is None else BF16 * stored
        self.storage = stored_value(self.stored_bytes)
        slug = prepared.method.slug
        read = slug, variant.implementation, about.shape, running(slug, about.family), variant.targets
        self.forms, self._failing = applicable(*read, variant.autocast), failing(*read, variant.autocast)
        if variant.rank is not None:
            self.forms = {key: Settled(one.form, {"r": variant.rank}) for key, one in self.forms.items()}
        self._formulas: dict[tuple[Storage, bool, bool, bool], Formula] = {}
        self._options: Recent[tuple[Way, Asked], Option] = Recent()

    @cached_property
    def counts(self) -> ParameterCounts:
        """The survey's three counts on this model, and what a task stores."""
        prepared, about = self.prepared, self.about
        trainable = counted(prepared.trainable, prepared, about)
        return ParameterCounts(
            trainable=trainable,
            trainable_percent=None if trainable is None else round(100 * trainable / about.parameters, 4),
            changed=counted(prepared.changed, prepared, about),
            rank=rank(prepared, about),
            stored_bytes=self.stored_bytes,
        )

    @property
    def unread(self) -> str:
        """Why there is no closed form for this family of models and these layers, where there is none: a clause of its own."""
        unknown = "its memory on models of this kind is not known"
        if self.variant.targets:
            return f"{unknown}: it was not run on them with {self.variant.targets.replace(',', ', ')} adapted"
        slug, family = self.prepared.method.slug, self.about.family
        for implementation in WHOSE:
            if (reason := refused(family, implementation).get(slug)) is not None:
                return f"its code does not run on models of this family: {worded(reason, self.about.model)}"
        said = (reason for words, reason in outline(slug).refused.items() if self.about.shape in words.split(", "))
        reason = next(said, "no implementation of it was run on one")
        return f"{unknown}: {worded(reason, self.about.model)}"

    @property
    def form(self) -> Form | None:
        """The form in bf16 without checkpointing, or any other; ``None`` if the method was never run on this family."""
        return next((one.form for one in self.forms.values()), None)

    def packing(self, implementation: Implementation, storage: Storage) -> Packing:
        """How that code runs on a base that is stored so."""
        cast = self.variant.autocast and implementation == "peft"
        return Packing(implementation, storage, cast, self.prepared.everywhere)

    def formula(self, storage: Storage, checkpointing: bool, seq: int) -> Formula:
        """The closed form of a way to store the base; where that was not run, of the one in bf16."""
        near = nearest(self.forms, storage, checkpointing)
        if ungrouped(self.about):
            near = held_once(near)
        copies = uneven(near, self.about, seq)
        key = storage, checkpointing, self.about.windowed(seq), copies
        found = self._formulas.get(key)
        if found is None:
            found = Formula(copied(near) if copies else near, self.about, storage, self.prepared, key[2])
            self._formulas[key] = found
        return found

    def unstored(self, quantization: str) -> str:
        """Why there is no plan with the storage that ``quantization`` asks for: a clause with the method as its subject."""
        if self.prepared.quantised and not self.about.quantised:
            return "works so, but transformers stores no layer of this family in fewer bits"
        if self._failing:
            return f"works so, but its code does not run with quantization={quantization}"
        return f"is not known to work with the storage that quantization={quantization} asks for"

    def options(self, asked: Asked) -> Iterator[Option]:
        """The combinations that constraints and method leave open, most faithful and fastest first, smallest last.

        A method whose record does not say that it works on a quantised base is tried in bf16 only. Each is worked out
        when it is reached: most requests are content with the first.
        """
        return (self.option(way, asked) for way in self.ways(asked))

    def ways(self, asked: Asked) -> tuple[Way, ...]:
        """What ``options`` works out, in the same order."""
        if not self.forms:
            return ()
        of = self.prepared
        packable = of.quantised and self.about.quantised > 0
        found = _ways(asked.quantization, asked.checkpointing, asked.gpus > 1, packable, of.packed, of.through)
        return tuple(way for way in found if way[:2] not in self._failing) if self._failing else found

    def option(self, way: Way, asked: Asked) -> Option:
        """One way to run the method."""
        found = self._options.get((way, asked))
        if found is None:
            found = self._options[way, asked] = self._option(way, asked)
        return found

    def _option(self, way: Way, asked: Asked) -> Option:
        storage, checkpointing, sharding = way
        shards, replicas = (asked.gpus, 1) if sharding == "full" else (1, asked.gpus)
        of = self.formula(storage, checkpointing, asked.seq)
        line = Line(of, setting(asked.seq, asked.optimizer, asked.head_chunks, shards, replicas))
        return Option(_key(of.form.implementation, way), line, self.prepared.where)

    def least(self, way: Way, asked: Asked) -> float:
        """Reserved bytes that a way takes in any case: its share of the weights."""
        storage, _, sharding = way
        return weights(self.about, storage) / (asked.gpus if sharding == "full" else 1)


@lru_cache(maxsize=64)
def _key(implementation: Implementation, way: Way) -> Key:
    """One object for all methods that are run so."""
    return implementation, *way


@lru_cache(maxsize=512)
def _ways(
    quantization: str, checkpointing: str, several: bool, quantised: bool, packed: bool, through: bool
) -> tuple[Way, ...]:
    """Base storage, checkpointing and sharding that a request and a method leave open."""
    storages = _STORAGES[quantization]
    if not quantised:
        storages = tuple(storage for storage in storages if storage == "bf16")
    if packed:
        storages = tuple(storage for storage in storages if storage == "nf4")
    recomputing = _CHECKPOINTING[checkpointing] if through else (False,)  # nothing kept, nothing to redo
    shardings: tuple[Sharding, ...] = ("none", "full") if several else ("none",)
    never = "int8", "full"  # bitsandbytes' eight bits cannot be spread
    return tuple((s, c, p) for p in shardings for s in storages for c in recomputing if (s, p) != never)


def sheet(prepared: Prepared, about: Subject, variant: Variant) -> Sheet:
    """The sheet of a method on a model, made once for both."""
    key = (id(prepared), variant)
    found: Sheet | None = about.sheets.get(key)
    if found is None:
        found = about.sheets[key] = Sheet(prepared, about, variant)  # holds ``prepared``, so its id stays its own
    return found


def varied(of: Sheet, variant: Variant) -> Sheet:
    """The sheet of the same method and layers in another variant; remembered where ``of`` is."""
    remembered = of.about.sheets.get((id(of.prepared), of.variant)) is of
    return (sheet if remembered else Sheet)(of.prepared, of.about, variant)


def accumulation(asked: Demand, examples: int) -> int:
    """How many micro-batches of ``examples`` a card needs for its share of a step."""
    return -(-asked.share // examples)


def chosen(asked: Demand, option: Option, examples: int) -> Choice:
    """A plan with ``examples`` in each micro-batch."""
    return Choice(asked, option, examples, accumulation(asked, examples))


def likewise(of: Sheet, key: Key, asked: Demand) -> tuple[Option | None, int]:
    """The way to run ``of`` that ``key`` is for another sheet of the method, and the micro-batch that surely fits."""
    option = alike(of, key, asked)
    return option, 0 if option is None else option.line.largest(asked.sure, asked.share)


def alike(of: Sheet, key: Key, asked: Demand) -> Option | None:
    """The way to run ``of`` that ``key`` is for another sheet of the method.

    None where the base was not run in that storage, and what unpacking it takes is not known either.
    """
    implementation, storage, checkpointing, sharding = key
    there = of.forms.get((storage, checkpointing))
    if there is None and unpacked(of.about, of.packing(implementation, storage), checkpointing):
        there = of.forms.get(("bf16", checkpointing))
    if there is None or there.form.implementation != implementation:
        return None
    return of.option((storage, checkpointing, sharding), asked.asked)


def best(
    of: Sheet, asked: Demand, storage: Storage | None = None, sharding: Sharding | None = None
) -> tuple[Option | None, int, bool]:
    """The first way in order of faithfulness and speed that fits, its micro-batch, and whether the upper prediction fits.

    Ways are tried without sharding first, then with more compact storage, then with checkpointing; with ``storage`` and
    ``sharding`` only those with the base held so.
    """
    sure, share = asked.sure, asked.share
    ways = of.ways(asked.asked)
    if storage is not None:
        ways = tuple(way for way in ways if way[0] == storage and sharding in (None, way[2]))
    for way in ways:
        if of.least(way, asked.asked) > sure:
            continue
        option = of.option(way, asked.asked)
        examples = option.line.largest(sure, share)
        if examples:
            return option, examples, True
    if not ways or not (option := of.option(ways[-1], asked.asked)).line.largest(asked.likely, share):
        return None, 0, False
    return option, 1, False


def smallest(of: Sheet, asked: Demand) -> Choice | None:
    """The plan with the least device memory, one example at a time; ``None`` when no plan is allowed at all."""
    found: Option | None = None
    bytes_found = float("inf")
    for way in reversed(of.ways(asked.asked)):  # the smallest come last
        if of.least(way, asked.asked) >= bytes_found:
            continue
        option = of.option(way, asked.asked)
        needed = option.line.reserved(1)
        if needed <= bytes_found:
            found, bytes_found = option, needed
    return None if found is None else chosen(asked, found, 1)
