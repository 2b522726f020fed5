"""How many blocks of each kind a model has, and where in the stack they lie: what makes closed forms straight lines.

Most methods treat all blocks alike, and everything that a step holds is a straight line in their number, ``L``. S4 has four
groups of blocks, each with parts of its own. Within a group the blocks are alike, so everything is linear in the numbers of
blocks of the groups. These follow from the depth, and the sizes of the parts from the budget: the form says by which formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from profiler.shapes import Shape
from reference_impls import s4

ENDS = 2  # blocks at either end of a stack that are looked at
_BIASED = ("decoder_plain", "decoder_rectified", "encoder")  # shapes whose matrices have biases


@dataclass(frozen=True)
class Spot:
    """Where a block lies, in a way that does not depend on the depth."""

    block: int  # from the front, or negative: -2 is the last; -1 for what lies outside the blocks
    group: int = -1  # of which group, where there are several: ``block`` counts from its ends then


OUTSIDE = Spot(-1)


@dataclass(frozen=True)
class Layout:
    """The kinds of blocks that a method makes, and the depths that are run to tell them apart."""

    depths: tuple[int, ...] = (3, 4)  # one more than there are letters
    further: int = 5  # the depth of one more run, which has to agree; 7 is in a labelled width
    least: int = 2  # from this depth on nothing can be negative
    letters: tuple[str, ...] = ("L",)  # of each group in order; groups that are always equally long share one
    groups: Callable[[int], Sequence[int]] = lambda depth: (depth,)  # blocks of each, in all stacks together
    formulas: Mapping[str, str] = field(default_factory=dict)  # by which letters follow from the widths of a model
    values: Mapping[str, float] = field(default_factory=dict)  # of hyperparameters in these formulas
    knobs: Mapping[str, str] = field(default_factory=dict)  # letters of sizes, and the fields that set them

    def counts(self, depth: int) -> dict[str, int]:
        """What each letter stands for at a depth."""
        return dict(zip(self.letters, self.groups(depth), strict=True))

    def spots(self, depth: int, block: int, length: int, before: int) -> Iterator[Spot]:
        """Where a block lies that is near an end of its stack, or at one of its group; ``before`` it lie other stacks.

        The only block of a group is its first and its last.
        """
        if len(self.letters) == 1:
            from_end = length - block
            if min(block + 1, from_end) <= ENDS:
                yield Spot(block if block < ENDS else -1 - from_end)
            return
        sizes = self.groups(depth)
        for group, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True)):
            if before + block == end - size:
                yield Spot(0, group)
            if before + block == end - 1:
                yield Spot(-2, group)


UNIFORM = Layout()


def layout(slug: str, shape: Shape) -> Layout:
    """The layout that a method makes of the models of a shape."""
    return _spindle(shape) if slug == "s4" else UNIFORM


def _spindle(shape: Shape) -> Layout:
    """S4's groups. The sizes of their parts are the mean of those beside trained biases and without them."""
    twice = shape.kind == "encoder_decoder"
    stacks = 2 if twice else 1
    numbers = f"beta*N/({2 * stacks}*L)"  # of each of two parts in a block
    if shape.name in _BIASED:
        numbers = "(2*beta*N-n_bias)/(4*L)"  # half of the blocks pay for their biases first
    outer, inner = ("(L+1)//3", "L-(L+1)//3") if twice else ("(L+2)//6", "L//2-(L+2)//6")
    formulas = {
        "L_out": outer,
        **({"L_in": inner} if twice else {"L_fore": inner, "L_aft": "L-L//2-(L+2)//6"}),
        "m": f"({numbers}-d)//(2*d+1)",
        "p": f"{numbers}//(2*d_kv)",
        "r": f"{numbers}//(2*d+d_q+d_kv)",
    }
    return Layout(
        depths=(3, 4, 5) if twice else (4, 5, 6, 10),
        further=7 if twice else 13,
        least=3 if twice else 4,
        letters=("L_out", *(("L_in", "L_in") if twice else ("L_fore", "L_aft")), "L_out"),
        groups=lambda depth: tuple(map(s4.grouped(stacks * depth).count, s4.GROUPS)),
        formulas=formulas,
        values={"beta": s4.Config().budget},
        knobs={"m": "bottleneck", "p": "prefix_length", "r": "rank"},
    )
