"""What a card's driver takes for a process that uses it: the CUDA context, with the kernels that were loaded.

It is in what ``nvidia-smi`` shows and not in what PyTorch reports. Published figures are few: on NVIDIA's L40S, runs of
Hugging Face PEFT's method comparison showed 0.4 to 0.6 GB beyond the allocator's reserved bytes; other cards with CUDA 12
are reported between 0.3 and 0.6 GiB. No card of the catalogue has a figure of its own yet (``context_mib`` in
``kb/gpus.yaml``), so that one range stands for all.
"""

from __future__ import annotations

MIB = 1 << 20
LOW, USUAL, HIGH = 300 * MIB, 480 * MIB, 615 * MIB  # 0.3 GiB, 0.5 GB, 0.6 GiB
