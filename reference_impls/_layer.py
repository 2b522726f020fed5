"""The layers that surgery puts into a model: one around another layer, one behind a parameter."""

from functools import cache

from torch import Tensor, nn


class Around(nn.Module):
    """A layer with another one inside, ``base``, whose weight, sizes and kind it shows (T5 and ModernBERT look)."""

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)
    in_features = property(lambda self: self.base.in_features)
    out_features = property(lambda self: self.base.out_features)
    attention_type = property(lambda self: self.base.attention_type)

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """What the layer inside gives."""
        return self.base(x)


class Derived(nn.Module):
    """A parameter of the base model, ``original``, and the rule by which it now reads.

    What ``torch`` offers for this, ``parametrize``, cannot be undone on a copy of a model.
    """

    def __init__(self, original: nn.Parameter, rule: nn.Module) -> None:
        super().__init__()
        self.original, self.rule = original, rule

    def forward(self) -> Tensor:
        """What the parameter reads as."""
        return self.rule(self.original)

    def enter(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        """Takes the parameter's place wherever ``model`` holds it: the modules, and the parameter's name in each."""
        homes = [(m, leaf) for m in model.modules() for leaf, p in m._parameters.items() if p is self.original]
        for module, leaf in homes:
            if "derived" not in module._modules:
                module.derived = nn.ModuleDict()
            module._parameters[leaf] = None  # keeps its place in the order of parameters
            module.derived[leaf] = self
            module.__class__ = _reading(type(module), leaf)
        return homes

    @staticmethod
    def leave(module: nn.Module, leaf: str) -> None:
        """Undoes what ``enter`` did last to ``module``: the parameter is itself again."""
        module.__class__ = type(module).__bases__[0]
        module._parameters[leaf] = module.derived[leaf].original
        del module.derived[leaf]
        if not module.derived:
            del module.derived


@cache
def _reading(kind: type[nn.Module], leaf: str) -> type[nn.Module]:
    """A subclass of ``kind``, named as it is, whose attribute ``leaf`` is computed when it is read."""
    return type(kind.__name__, (kind,), {leaf: property(lambda module: module.derived[leaf]())})
