"""From tensors to what a card's driver shows: the CUDA context, and the range in which a prediction holds.

The context is in what ``nvidia-smi`` shows and not in what PyTorch reports. Published figures are few: on NVIDIA's L40S, runs
of Hugging Face PEFT's method comparison showed 0.4 to 0.6 GB beyond the allocator's reserved bytes, other cards up to 0.7. No
card of the catalogue has a figure of its own yet (``context_mib`` in ``kb/gpus.yaml``), so that one range stands for all.
"""

from __future__ import annotations

import json
from functools import lru_cache

from kb.loader import KB

CONTEXT_LOW, CONTEXT, CONTEXT_HIGH = 400 * 10**6, 500 * 10**6, 700 * 10**6  # bytes


@lru_cache(maxsize=1)
def prediction_range() -> tuple[float, float]:
    """Ends of the 90 % range as shares of predicted bytes, from the runs that predictions were held against."""
    known = json.loads((KB / "validation" / "report.json").read_bytes())["range"]
    return float(known["low"]), float(known["high"])
