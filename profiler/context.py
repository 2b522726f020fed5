"""What a card's driver takes for a process that uses it: the CUDA context, with the kernels that were loaded.

It is in what ``nvidia-smi`` shows and not in what PyTorch reports. Published figures are few: on NVIDIA's L40S, runs of
Hugging Face PEFT's method comparison showed 0.4 to 0.6 GB beyond the allocator's reserved bytes, other cards up to 0.7. No
card of the catalogue has a figure of its own yet (``context_mib`` in ``kb/gpus.yaml``), so that one range stands for all;
the closed forms assume the same.
"""

from __future__ import annotations

LOW, USUAL, HIGH = 400 * 10**6, 500 * 10**6, 700 * 10**6  # bytes
