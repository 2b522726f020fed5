"""What each criterion says of a method, in words that need no statistics, with the statistics beside them.

A note leads with the consequence and gives the number behind it; the detail keeps estimate, range and basis.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from kb.schema import Method
from recommender.answer import Quality, Relation, Robustness, Tally
from recommender.quality import LITTLE
from recommender.retention import Retention
from recommender.units import show_bytes, signed, with_minus

WELL_TRIED = 10  # independent studies: few methods have as many
_ABOUT = 0.1  # standard deviations: what lies closer to the average method is about as good
_ROOMY, _NARROW = 0.5, 0.8  # of the usable memory: below the one there is plenty left, above the other little
_SAME = 0.025  # of LoRA's time: what differs less is as fast, within the error of the prediction
# Nats per token: a third of the measured best runs stay below the one, a third lie above the other.
_KEPT, _LOST = 0.05, 0.13

_BY: dict[Relation, str] = {
    "independent": "independent comparisons",
    "rival": "comparisons by authors of other methods",
    "own": "comparisons by its own authors, who tend to flatter it",
}
_ONE: dict[Relation, str] = {
    "independent": "the only independent comparison",
    "rival": "the only comparison, by authors of another method",
    "own": "the only comparison, by its own authors, who tend to flatter it",
}
_LEFT: dict[str | None, tuple[str, str]] = {
    "none": ("costs nothing once trained: it can become part of the weights", "leaves nothing at inference"),
    "elementwise": (
        "costs next to nothing once trained: one multiplication per value stays",
        "leaves an elementwise product at inference",
    ),
    "extra_layers": (
        "slows the trained model a little: small extra layers stay in it",
        "leaves small extra layers at inference",
    ),
    "longer_input": (
        "slows the trained model: every input, or what it attends to, is longer",
        "lengthens the input or the attended keys at inference",
    ),
    "extra_network": (
        "slows the trained model: a second network runs beside it",
        "leaves a second network at inference",
    ),
    None: ("what it costs once trained is not known", "what it leaves at inference is not known"),
}


class Phrase(NamedTuple):
    """What a criterion says of a method."""

    note: str  # the consequence with its number
    detail: str  # the statistics
    tone: int = 0  # above zero if the note sounds good, below if it sounds bad

    def further(self, note: str, detail: str) -> Phrase:
        """The same with more words."""
        return self._replace(note=self.note + note, detail=self.detail + detail)


def sentence(text: str) -> str:
    """A message as a sentence: with a capital and an end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def quality(expected: Quality) -> Phrase:
    """How good the method is likely to be, and how often it came out ahead."""
    tone = (expected.low > -_ABOUT and expected.estimate > _ABOUT) - (expected.estimate < -_ABOUT)
    counted = ": no study compares it, so this is what its class lets expect"
    if expected.tally is not None:
        counted = _counted(expected.tally, expected.estimate)
    return Phrase(
        f"{_likely(expected)}{counted}",
        f"{signed(expected.estimate)} standard deviations from the average method of a comparison, 80 % range "
        f"{signed(expected.low)} to {signed(expected.high)} ({expected.situation}); the lower end counts, which is "
        f"exceeded in nine cases of ten; {expected.basis}",
        tone,
    )


def _likely(expected: Quality) -> str:
    if expected.low > 0:
        return "likely to beat the average method"
    if expected.high < 0:
        return "likely to stay behind the average method"
    if abs(expected.estimate) <= _ABOUT:
        return "about as good as the average method"
    return f"probably a little {'better' if expected.estimate > 0 else 'worse'} than the average method"


def _counted(tally: Tally, estimate: float) -> str:
    """The counts; 'though' where they point another way than the estimate, which also knows all other situations."""
    share = tally.ahead / tally.comparisons
    against = share < 0.5 if estimate > -_ABOUT else share > 0.5
    lead = ", though " if against else ": "
    if tally.comparisons == 1:
        text = f"{lead}{'ahead of' if tally.ahead else 'behind'} it in {_ONE[tally.relation]}"
    else:
        text = f"{lead}ahead of it in {_share(tally.ahead, tally.comparisons)} {_BY[tally.relation]}"
    if tally.situated:
        text += " in situations like yours"
    if tally.against_full > 1:
        text += f", and at least as good as full fine-tuning in {_share(tally.level_with_full, tally.against_full)}"
    return text


def _share(part: int, whole: int) -> str:
    return f"{part or 'none'} of {whole}"


def memory(demand: float, wider: float | None = None) -> Phrase:
    """What share of the card's memory is left; ``demand`` is what one example at a time takes of it.

    ``wider`` is the same for a plan that adapts all linear layers instead of query and value.
    """
    taken = f"{demand:.0%} of the usable memory with one example at a time"
    tone = (demand < _ROOMY) - (demand > _NARROW)
    note = f"leaves {1 - demand:.0%} of the card free with one example at a time"
    if demand >= 1:
        note = "fills the whole card, even with one example at a time"
    return Phrase(note, taken, tone).further(*_wider(wider is not None and f"{1 - wider:.0%}"))


def speed(relative: float, wider: float | None = None) -> Phrase:
    """How fast it is; ``relative`` is its time per token against LoRA's, ``wider`` as for ``memory``."""
    detail = (
        f"{relative:.2f} times the seconds per token of LoRA at its fastest: as in its paper on query and value, in bf16, "
        "without checkpointing, the whole batch at once"
    )
    note, tone = f"{relative:.1f} times the time per token of LoRA at its fastest", -1
    if abs(relative - 1) <= _SAME:
        note, tone = "as fast as LoRA at its fastest", 0
    elif relative < 1:
        note, tone = f"{1 - relative:.0%} less time per token than LoRA at its fastest", 1
    elif relative < 2:
        note = f"{relative - 1:.0%} more time per token than LoRA at its fastest"
    return Phrase(note, detail, tone).further(*_wider(wider is not None and f"{wider:.2f} times its time"))


def storage(stored: int | None, wider: int | None = None) -> Phrase:
    """How large the file of a task is; ``stored`` are its bytes, ``wider`` as for ``memory``."""
    if stored is None:
        return Phrase("how large its file per task is, is not known", "bytes per task not known")
    told = Phrase(f"a file of {show_bytes(stored)} per task", f"{stored:,} bytes per task")
    return told.further(*_wider(wider is not None and show_bytes(wider)))


def _wider(told: str | Literal[False]) -> tuple[str, str]:
    """Words that tell the layers which are scored from all linear ones, where a plan adapts these."""
    words = f" on query and value alone, {told} on all linear layers" if told else ""
    return words, words


def inference(overhead: str | None) -> Phrase:
    """What the trained model costs in use; ``overhead`` is the record's word."""
    return Phrase(*_LEFT[overhead], 1 if overhead in ("none", "elementwise") else -1)


def beside(overhead: str | None, served: bool) -> Phrase:
    """What the trained model costs in use while tasks share a batch, so that nothing can be merged."""
    left = (
        "stays beside the weights in use, since tasks share a batch" if overhead == "none" else inference(overhead).note
    )
    if served:
        return Phrase(f"{left}; vLLM serves many of them so", "nothing can be merged, since tasks share a batch", 1)
    return Phrase(
        f"{left}; no server is known here that does so", "nothing can be merged, since tasks share a batch", -1
    )


def robustness(method: Method, spread: Robustness, studies: int) -> Phrase:
    """Whether it works as expected at the first try; ``studies`` are independent ones that contain it."""
    middle, low, high = (2**each for each in (spread.estimate, spread.low, spread.high))
    settings = len(method.mechanism.hyperparameters)
    varied = "less" if high < 1 else "more" if low > 1 else "about as much"
    tried = {0: "no independent study", 1: "1 independent study"}.get(studies, f"{studies} independent studies")
    choose = "1 setting" if settings == 1 else f"{settings} settings"
    return Phrase(
        f"{_tried(low, studies)} ({tried}): results vary {varied} from run to run "
        f"{'as' if varied == 'about as much' else 'than'} the average method's, with {choose} to choose",
        f"results spread {middle:.2f} times as far as the average method's, 80 % range {low:.2f} to {high:.2f}: "
        f"{spread.basis}; independent studies: {studies}; settings to choose: {settings}",
        -1 if low > 1 or studies < LITTLE else 1,
    )


def _tried(low: float, studies: int) -> str:
    if low > 1:
        return "needs care"
    if studies < LITTLE:
        return "little tried by others" if studies else "not tried by others"
    return "well tried" if studies >= WELL_TRIED else "tried by several groups"


def retention(kept: Retention) -> Phrase:
    """How much the model forgets of what it could do before."""
    amount = "little" if kept.rise < _KEPT else "some" if kept.rise < _LOST else "much"
    rise = with_minus(f"{kept.rise:+.3f}")
    return Phrase(
        f"{'forgets' if kept.measured else 'probably forgets'} {amount} of what the model could do: "
        f"loss on other text {rise} nats per token, {kept.note}",
        f"rise of the loss on text that has nothing to do with the task: {rise} nats per token, {kept.note}",
        (kept.rise < _KEPT) - (kept.rise >= _LOST),
    )
