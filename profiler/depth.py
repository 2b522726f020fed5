"""From few layers to many: which two depths tell of a third, since the layers of a model are uniform.

Whatever is counted (parameters, operations) is a straight line in the number of layers. What happens in time is not, and is
stretched event by event (``profiler.stretch``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DEPTH = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers")
_DEPTH += ("num_decoder_layers", "num_encoder_layers")
_UNEVEN = ("first_k_dense_replace", "mlp_only_layers", "decoder_sparse_step", "moe_layer_freq", "attn_layer_indices")
_ENDS = 2  # blocks at either end that are kept apart, at least


class UnevenError(ValueError):
    """The layers of a model do not repeat."""

    def __init__(self) -> None:
        super().__init__("the layers of this model are not uniform; run it whole (extend=False)")


@dataclass(frozen=True)
class Plan:
    """Two depths to run, and the depth that is wanted."""

    depths: tuple[int, int]
    wanted: int
    ends: int  # blocks at either end that are looked at

    def line(self, one: int, two: int) -> int:
        """The value at the wanted depth of the straight line through the values at both depths."""
        rise, run = two - one, self.depths[1] - self.depths[0]
        value, rest = divmod(rise * (self.wanted - self.depths[0]), run)
        if rest:
            raise UnevenError
        return one + value


def _keys(config: Mapping[str, object]) -> dict[str, int]:
    return {key: value for key in _DEPTH if isinstance(value := config.get(key), int)}


def layers(config: Mapping[str, object]) -> int:
    """The number of layers that ``config`` states, of the deeper stack if there are two, or of its text model."""
    text = config.get("text_config")
    return max(_keys(config).values(), default=layers(text) if isinstance(text, Mapping) else 0)


def plan(config: Mapping[str, object]) -> Plan | None:
    """Depths from which ``config`` can be extended, or ``None`` when it has to be run whole: few or uneven layers."""
    keys = _keys(config)
    if len({*keys.values()}) != 1 or any(config.get(key) for key in _UNEVEN):
        return None
    wanted = layers(config)
    kinds = config.get("layer_types")
    period = _period(kinds) if isinstance(kinds, list) and kinds else _declared(config)
    ends = max(_ENDS, period + 1)
    first = 2 * ends + (wanted - 2 * ends) % period
    return Plan((first, first + period), wanted, ends) if first + period < wanted else None


def _period(kinds: list[Any]) -> int:
    return next(p for p in range(1, len(kinds) + 1) if all(a == b for a, b in zip(kinds, kinds[p:], strict=False)))


def _declared(config: Mapping[str, object]) -> int:
    """The period that families with alternating attention state, else 1."""
    if config.get("model_type") == "gemma2":
        return 2
    value = config.get("sliding_window_pattern")
    return value if isinstance(value, int) and value > 0 else 1


def shallow(config: Mapping[str, object], depth: int) -> dict[str, object]:
    """``config`` with ``depth`` layers."""
    whole = layers(config)
    changed: dict[str, object] = {
        key: value[:depth] if isinstance(value, list) and len(value) == whole else value
        for key, value in config.items()
    }
    return changed | dict.fromkeys(_keys(config), depth)
