"""Which methods run on the real model, and how: sixteen steps of four rows of at most 24 tokens."""

from dataclasses import dataclass, field
from typing import Any

STEPS, BATCH, LONGEST = 16, 4, 24


@dataclass(frozen=True)
class Setting:
    """Learning rate and what differs from the method's own configuration.

    The papers' rates are made for thousands of steps; these are about ten times as high, and none was tuned.
    """

    lr: float
    config: dict[str, Any] = field(default_factory=dict)


PLAN = {
    "lora": Setting(2e-3),
    "houlsby_adapter": Setting(2e-3),
    "prompt_tuning": Setting(1e-1, {"prompt_length": 10}),
    "ia3": Setting(2e-2),
    "ln_tuning": Setting(1e-2),
    "mam_adapter": Setting(1e-3, {"bottleneck": 64}),
    "fishmask": Setting(1e-3),
    "dora": Setting(2e-3),
    "compacter": Setting(5e-3),
    "unipelt": Setting(2e-3),
    "prefix_tuning": Setting(2e-3),
    "loreft": Setting(5e-3),
    "vera": Setting(4e-2, {"rank": 256}),
    "pfeiffer_adapter": Setting(2e-3),
    "shira": Setting(5e-3),
    "adalora": Setting(5e-3),
    "sparse_adapter": Setting(2e-3),
    "ladder_side_tuning": Setting(3e-3),
    "p_tuning": Setting(2e-3, {"prompt_length": 10}),
    "full_fine_tuning": Setting(5e-5),
}
