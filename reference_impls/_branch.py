"""A branch beside two layers of a model, from what the first one reads to what the last one gives."""

from collections.abc import Callable

from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._surgery import find, refuse, replace


class Held:
    """Hands one tensor from a ``Tap`` to its ``Beside`` and keeps nothing afterwards."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None

    def take(self) -> Tensor:
        """The tensor, once; ``RuntimeError`` when the first layer has not run."""
        if self.tensor is None:
            raise RuntimeError("the last layer of a pair ran before its first")
        tensor, self.tensor = self.tensor, None
        return tensor

    def __deepcopy__(self, memo: dict[int, object]) -> "Held":
        return Held()  # a tensor under way belongs to the original's graph


class Tap(Around):
    """The first layer of a pair; lends its input to the branch beside the pair."""

    def __init__(self, base: nn.Module, held: Held) -> None:
        super().__init__(base)
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives."""
        self.held.tensor = x
        return self.base(x)


class Beside(Around):
    """The last layer of a pair; adds what the branch makes of the first layer's input."""

    def __init__(self, base: nn.Module, branch: nn.Module, held: Held) -> None:
        super().__init__(base)
        self.branch, self.held = branch, held

    def forward(self, h: Tensor) -> Tensor:
        """What the layer gives, plus the branch."""
        return self.base(h) + self.branch(self.held.take())


def beside(
    model: nn.Module, first: str, last: str, build: Callable[[nn.Linear, nn.Linear], nn.Module]
) -> list[tuple[str, str]]:
    """Runs ``build(first_layer, last_layer)`` beside each pair of layers, from the first's input to the last's output.

    With ``FFN_IN`` and ``FFN_OUT`` this is a branch parallel to the feed-forward network. Returns the pairs of names;
    raises ``ValueError`` as ``replace`` does, or when the two do not pair up.
    """
    taps: list[Tap] = []

    def tap(layer: nn.Linear) -> Tap:
        taps.append(Tap(layer, Held()))
        return taps[-1]

    def join(layer: nn.Linear) -> Beside:
        start = next(starts)
        return Beside(layer, build(start.base, layer), start.held)

    firsts = replace(model, first, tap)
    lasts = list(find(model, last))
    if len(firsts) != len(lasts):
        refuse(model, f"{first!r} matches {len(firsts)} layers, {last!r} {len(lasts)}: they do not pair up")
    starts = iter(taps)
    return list(zip(firsts, replace(model, last, join), strict=True))
