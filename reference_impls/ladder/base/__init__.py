"""The small base that the default run adapts: weights, configuration, and the script that made them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent


def load_base(device: torch.device | str = "cpu") -> nn.Module:
    """A fresh copy of the base, in evaluation mode: every call gives its own."""
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten: the caller's seed stays as it was
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(FOLDER, local_files_only=True))
    model.load_state_dict(load_file(FOLDER / "model.safetensors"))
    return model.to(device).eval()


@cache
def report() -> dict[str, Any]:
    """How the base was trained, and its accuracies: what ``pretrain.py`` wrote."""
    return json.loads((FOLDER / "report.json").read_text())
