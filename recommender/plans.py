"""Ways to run a method on a card: which one is taken, and which one would be the smallest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from kb.closed_form import Form, Implementation, Settled, Storage, profile, settle, shape_of
from recommender.answer import Memory, ParameterCounts, Plan
from recommender.constraints import Constraints
from recommender.criteria import stored_value
from recommender.footprint import Footprint, Prepared, Subject, counted, footprint
from recommender.memory import BF16, Formula, Line, Setting, room
from recommender.speed import Work, work
from recommender.units import show_bytes

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


PLAIN = Variant("any", None, "")


class Asked(NamedTuple):
    """The constraints that decide which plans there are."""

    quantization: str
    checkpointing: str
    gpus: int
    optimizer: str
    head_chunks: int
    seq: int


class Option(NamedTuple):
    """A way to run a method, with what it costs whatever the batch."""

    key: Key
    line: Line
    work: Work


class Demand(NamedTuple):
    """A request as plans see it."""

    constraints: Constraints
    variant: Variant
    asked: Asked
    share: int  # examples per card and step
    sure: float  # reserved bytes that the upper prediction may take
    likely: float  # reserved bytes that the middle of it may take
    plans: dict[tuple[Key, int], Plan]  # those put into words so far: many methods share one


def demand(constraints: Constraints, budget: float, about: Subject, targets: str = "") -> Demand:
    """What ``constraints`` ask of plans on a card with ``budget`` bytes. An image has as many tokens as its model says."""
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
    variant = Variant(constraints.implementation, constraints.rank, targets)
    return Demand(constraints, variant, asked, share, room(budget, sure=True), room(budget, sure=False), {})


class Choice(NamedTuple):
    """A plan with its prediction, before it is put into words."""

    asked: Demand
    key: Key
    examples: int
    accumulation: int
    line: Line
    work: Work

    def plan(self) -> Plan:
        """The plan as an answer shows it."""
        found = self.asked.plans.get((self.key, self.examples))
        if found is None:
            implementation, storage, checkpointing, sharding = self.key
            constraints = self.asked.constraints
            found = self.asked.plans[self.key, self.examples] = Plan(
                implementation=implementation,
                storage=storage,
                checkpointing=checkpointing,
                micro_batch=self.examples,
                accumulation=self.accumulation,
                seq=self.asked.asked.seq,
                optimizer=constraints.optimizer,
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
        return self.line.memory(self.examples, self.carried)


@lru_cache(maxsize=512)
def _forms(slug: str, implementation: str, shape: str, targets: str) -> dict[tuple[Storage, bool], Settled]:
    """A method's forms for a family of models, with the hyperparameters that we advise; those of PEFT before ours."""
    known = profile(slug)
    fitting = [form for form in known.forms if form.shape == shape and form.targets == targets] if known else []
    theirs = [form for form in fitting if form.implementation == implementation]
    if implementation == "any":
        theirs = [form for form in fitting if form.implementation == "peft"] or fitting
    return {(form.storage, form.checkpointing): settle(form) for form in theirs}


class Sheet:
    """A method on a model: its counts, and its lines and works as far as they were asked for."""

    def __init__(self, prepared: Prepared, about: Subject, variant: Variant) -> None:
        self.prepared, self.about, self.variant = prepared, about, variant
        self.mark: Footprint = footprint(prepared, about)
        self.stored_bytes = None if self.mark.stored is None else BF16 * self.mark.stored
        self.storage = stored_value(self.stored_bytes)
        self.stored = (
            "size per task not known" if self.stored_bytes is None else f"{show_bytes(self.stored_bytes)} per task"
        )
        forms = _forms(prepared.method.slug, variant.implementation, shape_of(about.model), variant.targets)
        if variant.rank is not None:
            forms = {key: settle(one.form, {"r": variant.rank}) for key, one in forms.items()}
        self.forms = forms
        self._formulas: dict[tuple[Storage, bool], Formula] = {}
        self._options: dict[tuple[Way, Asked], Option] = {}

    @cached_property
    def counts(self) -> ParameterCounts:
        """The survey's three counts on this model, and what a task stores."""
        mark, whole = self.mark, self.about.parameters
        return ParameterCounts(
            trainable=mark.trainable,
            trainable_percent=None if mark.trainable is None else round(100 * mark.trainable / whole, 4),
            changed=counted(self.prepared.changed, self.prepared, self.about),
            rank=mark.rank,
            stored_bytes=self.stored_bytes,
        )

    @property
    def form(self) -> Form | None:
        """The form in bf16 without checkpointing, or any other; ``None`` if the method was never run on this family."""
        return next((one.form for one in self.forms.values()), None)

    def formula(self, storage: Storage, checkpointing: bool) -> Formula:
        """The closed form of a way to store the base; where that was not run, of the one in bf16."""
        found = self._formulas.get((storage, checkpointing))
        if found is None:
            near = self.forms.get((storage, checkpointing)) or self.forms.get(("bf16", checkpointing))
            near = near or self.forms.get((storage, not checkpointing)) or next(iter(self.forms.values()))
            about = self.about
            mark = self.mark
            found = Formula(near, about.values, about.model, storage, about.quantised, mark.through, mark.scored)
            self._formulas[storage, checkpointing] = found
        return found

    def options(self, asked: Asked) -> Iterator[Option]:
        """The combinations that constraints and method leave open, most faithful and fastest first, smallest last.

        A method whose record does not say that it works on a quantised base is tried in bf16 only. Each is worked out
        when it is reached: most requests are content with the first.
        """
        for way in self._open(*asked[:3]):
            found = self._options.get((way, asked))
            if found is None:
                found = self._options[way, asked] = self._option(way, asked)
            yield found

    def _option(self, way: Way, asked: Asked) -> Option:
        storage, checkpointing, sharding = way
        shards, replicas = (asked.gpus, 1) if sharding == "full" else (1, asked.gpus)
        of = self.formula(storage, checkpointing)
        line = of.line(Setting(asked.seq, asked.optimizer, asked.head_chunks, shards, replicas))
        return Option((of.form.implementation, storage, checkpointing, sharding), line, work(of, asked.seq))

    def _open(self, quantization: str, checkpointing: str, gpus: int) -> tuple[Way, ...]:
        method = self.prepared.method
        if not self.forms:
            return ()
        storages = _STORAGES[quantization]
        if method.efficiency.quantised_base.value is not True:
            storages = tuple(storage for storage in storages if storage == "bf16")
        if "quantised_base" in method.applies_to.needs:
            storages = tuple(storage for storage in storages if storage == "nf4")
        recomputing = _CHECKPOINTING[checkpointing] if self.mark.through else (False,)  # nothing kept, nothing to redo
        shardings: tuple[Sharding, ...] = ("none", "full") if gpus > 1 else ("none",)
        return tuple((s, c, p) for p in shardings for s in storages for c in recomputing)


def sheet(prepared: Prepared, about: Subject, variant: Variant) -> Sheet:
    """The sheet of a method on a model, made once for both."""
    key = (id(prepared), variant)
    found: Sheet | None = about.sheets.get(key)
    if found is None:
        found = about.sheets[key] = Sheet(prepared, about, variant)  # holds ``prepared``, so its id stays its own
    return found


def accumulation(asked: Demand, examples: int) -> int:
    """How many micro-batches of ``examples`` a card needs for its share of a step."""
    return -(-asked.share // examples)


def chosen(asked: Demand, option: Option, examples: int) -> Choice:
    """A plan with ``examples`` in each micro-batch."""
    key, peak, effort = option
    return Choice(asked, key, examples, accumulation(asked, examples), peak, effort)


def best(of: Sheet, asked: Demand) -> tuple[Option | None, int, bool]:
    """The first way in order of faithfulness and speed that fits, its micro-batch, and whether the upper prediction fits.

    Ways are tried without sharding first, then with more compact storage, then with checkpointing.
    """
    sure, share = asked.sure, asked.share
    option = None
    for option in of.options(asked.asked):
        examples = option.line.largest(sure, share)
        if examples:
            return option, examples, True
    if option is None or not option.line.largest(asked.likely, share):
        return None, 0, False
    return option, 1, False


def smallest(of: Sheet, asked: Demand) -> Choice | None:
    """The plan with the least device memory, one example at a time; ``None`` when no plan is allowed at all."""
    least = min(of.options(asked.asked), key=lambda option: option.line.reserved(1), default=None)
    return None if least is None else chosen(asked, least, 1)
