"""Where the parts of a transformer block stand in its drawing: once from left to right, once from top to bottom."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A box."""

    site: str  # name of the place, as records use it
    label: str
    x: int  # left edge
    y: int  # upper edge
    width: int
    height: int


class Plan(NamedTuple):
    """A whole drawing, in pixels."""

    width: int
    height: int  # without parts that are there only for some methods
    places: tuple[Place, ...]  # parts that every block has, in the order of the computation
    cross: tuple[Place, ...]  # parts of cross-attention
    modules: tuple[Place, ...]  # parts that are there only where a method acts at them
    lines: tuple[str, ...]  # how hidden states run, as SVG paths
    side: str  # what feeds a side network, as an SVG path
    sums: tuple[tuple[int, int], ...]  # where a module's output is added to the stream
    product: tuple[int, int]  # where gate and up projection are multiplied
    attention: tuple[int, int, int, int]  # box of the attention itself: left, top, width, height
    tokens: tuple[int, int]  # left upper corner of the first vector of the input
    asides: tuple[tuple[str, int, int], ...]  # words with the start of their line
    cross_aside: tuple[str, int, int]


_STREAM = 46
ACROSS = Plan(
    width=980,
    height=246,
    places=(
        Place("embedding", "embeddings", 8, 96, 92, 34),
        Place("norm", "norm", 128, 96, 52, 34),
        Place("attention.query", "query", 206, 78, 58, 34),
        Place("attention.key", "key", 206, 126, 58, 34),
        Place("attention.value", "value", 206, 174, 58, 34),
        Place("attention.output", "output", 410, 126, 58, 34),
        Place("norm", "norm", 556, 96, 52, 34),
        Place("mlp.gate", "gate", 632, 96, 54, 34),
        Place("mlp.up", "up", 632, 150, 54, 34),
        Place("mlp.down", "down", 742, 124, 58, 34),
        Place("head", "head", 918, 29, 52, 34),
    ),
    cross=(
        Place("cross_attention.query", "query", 206, 258, 58, 34),
        Place("cross_attention.key", "key", 310, 258, 58, 34),
        Place("cross_attention.value", "value", 414, 258, 58, 34),
        Place("cross_attention.output", "output", 518, 258, 58, 34),
    ),
    modules=(
        Place("input", "in front", 8, 66, 92, 24),
        Place("attention.prefix", "prefix", 304, 210, 62, 24),
        Place("attention.block", "adapter", 478, 66, 66, 24),
        Place("mlp.block", "adapter", 824, 66, 66, 24),
        Place("layer.output", "hidden states", 792, 8, 92, 24),
        Place("side_network", "side network", 100, 258, 818, 28),
    ),
    lines=(
        f"M100 {_STREAM}H918M154 {_STREAM}V96M180 113H194V95H206M194 113V143H206M194 143V191H206",
        f"M264 95H330M264 143H330M264 191H330M386 143H410M468 143H510V{_STREAM}",
        f"M582 {_STREAM}V96M608 113H632M620 113V167H632M686 113H716V141H742M686 167H716V141M800 141H858V{_STREAM}",
    ),
    side=f"M114 {_STREAM}V258M532 {_STREAM}V258M904 {_STREAM}V258",
    sums=((510, _STREAM), (858, _STREAM)),
    product=(716, 141),
    attention=(330, 78, 56, 130),
    tokens=(8, 40),
    asides=(("input", 8, 28), ("attention", 206, 66), ("feed-forward", 632, 84)),
    cross_aside=("cross-attention", 104, 280),
)
"""For windows with room: the hidden states run from left to right at one height."""

DOWN = Plan(
    width=288,
    height=640,
    places=(
        Place("embedding", "embeddings", 44, 38, 92, 28),
        Place("norm", "norm", 60, 78, 52, 28),
        Place("attention.query", "query", 60, 124, 58, 32),
        Place("attention.key", "key", 60, 164, 58, 32),
        Place("attention.value", "value", 60, 204, 58, 32),
        Place("attention.output", "output", 60, 252, 58, 32),
        Place("norm", "norm", 60, 342, 52, 28),
        Place("mlp.gate", "gate", 60, 388, 54, 32),
        Place("mlp.up", "up", 60, 428, 54, 32),
        Place("mlp.down", "down", 60, 476, 58, 32),
        Place("head", "head", 10, 604, 52, 30),
    ),
    cross=(
        Place("cross_attention.query", "query", 10, 670, 58, 32),
        Place("cross_attention.key", "key", 150, 670, 58, 32),
        Place("cross_attention.value", "value", 10, 712, 58, 32),
        Place("cross_attention.output", "output", 150, 712, 58, 32),
    ),
    modules=(
        Place("input", "in front", 116, 8, 92, 24),
        Place("attention.prefix", "prefix", 193, 94, 62, 24),
        Place("attention.block", "adapter", 56, 294, 66, 24),
        Place("mlp.block", "adapter", 56, 518, 66, 24),
        Place("layer.output", "hidden states", 44, 570, 92, 24),
        Place("side_network", "side network", 2, 656, 284, 28),
    ),
    lines=(
        "M24 28V604M24 92H60M86 106V115H46V220H60M46 140H60M46 180H60",
        "M118 140H196M118 180H196M118 220H196M224 236V268H118M89 284V328H33",
        "M24 356H60M86 370V379H46V444H60M46 404H60M114 404H208V416M114 444H208V432M216 424H240V492H118M89 508V552H33",
    ),
    side="M24 72H2V656M24 340H2M24 564H2",
    sums=((24, 328), (24, 552)),
    product=(208, 424),
    attention=(196, 124, 56, 112),
    tokens=(8, 16),
    asides=(("input", 8, 10), ("attention", 122, 96), ("feed-forward", 122, 360)),
    cross_aside=("cross-attention", 10, 660),
)
"""For a telephone: the hidden states run down at the left, and letters keep their size."""
