"""The methods that Hugging Face PEFT and we both have, each set so that both train the same numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from torch import nn

from reference_impls._site import LINEAR

RATE = 1e-4  # learning rate of all
TOTAL = 1000  # steps of the training that a step is taken from
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QUERY_VALUE = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Pair:
    """One method in both libraries, with the same numbers to train."""

    ours: Mapping[str, Any]  # fields of our Config
    theirs: peft.PeftConfig
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None  # theirs, where the method brings its own
    note: str = ""


def lora(**options: Any) -> peft.PeftConfig:
    """PEFT's LoRA of rank 8 on every linear layer."""
    return peft.LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ALL, **options})


LORA = {"rank": 8, "alpha": 16.0, "target": LINEAR}
PROMPT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 10}
PAIRS: dict[str, Pair] = {
    "adalora": Pair(
        {"init_rank": 12, "target_rank": 8, "alpha": 16.0},
        peft.AdaLoraConfig(
            init_r=12,
            target_r=8,
            lora_alpha=16,
            target_modules=ALL,
            task_type="CAUSAL_LM",
            total_step=TOTAL,
            tinit=100,
            tfinal=800,
        ),
        note="both with their penalty, before the first cut of the budget",
    ),
    "boft": Pair(
        {"factors": 1, "block_size": 8},
        peft.BOFTConfig(boft_block_size=8, boft_n_butterfly_factor=1, target_modules=ALL),
        note="PEFT trains a scale of the outputs besides and whole blocks where skew ones are meant",
    ),
    "dora": Pair(LORA, lora(use_dora=True)),
    "fourierft": Pair(
        {"coefficients": 1000, "scale": 150.0}, peft.FourierFTConfig(n_frequency=1000, target_modules=QUERY_VALUE)
    ),
    "ia3": Pair(
        {},
        peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "krona": Pair(
        {"a1": 16, "a2": 16},
        peft.LoKrConfig(r=64, alpha=64, target_modules=QUERY_VALUE, decompose_factor=16),
    ),
    "llama_adapter": Pair(
        {"prompt_length": 10},
        peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=10, adapter_layers=2),
        note="PEFT has one gate a layer, the paper and we one a head",
    ),
    "ln_tuning": Pair({}, peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"])),
    "loha": Pair({"rank": 8, "alpha": 8.0}, peft.LoHaConfig(r=8, alpha=8, target_modules=ALL)),
    "lokr": Pair(
        {"factor": 8, "rank": 8, "alpha": 8.0},
        peft.LoKrConfig(r=8, alpha=8, decompose_factor=8, target_modules=ALL),
    ),
    "lora": Pair(LORA, lora()),
    "lora_fa": Pair(
        LORA,
        lora(),
        lambda model: create_lorafa_optimizer(model, r=8, lora_alpha=16, lr=RATE),
        note="PEFT freezes A only in its optimizer",
    ),
    "lora_plus": Pair(
        LORA,
        lora(),
        lambda model: create_loraplus_optimizer(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=16.0),
    ),
    "miss": Pair({"rank": 8}, peft.MissConfig(r=8, target_modules=ALL)),
    "oft": Pair(
        {"block_size": 32, "target": LINEAR},
        peft.OFTConfig(oft_block_size=32, r=0, use_cayley_neumann=False, module_dropout=0.0, target_modules=ALL),
    ),
    "olora": Pair(LORA, lora(init_lora_weights="olora")),
    "p_tuning": Pair(
        {"prompt_length": 10, "encoder": "mlp", "hidden": 128},
        peft.PromptEncoderConfig(**PROMPT, encoder_reparameterization_type="MLP", encoder_hidden_size=128),
    ),
    "pissa": Pair(LORA, lora(init_lora_weights="pissa")),
    "prefix_tuning": Pair(
        {"prefix_length": 10, "hidden": 128},
        peft.PrefixTuningConfig(**PROMPT, prefix_projection=True, encoder_hidden_size=128),
    ),
    "p_tuning_v2": Pair({"prompt_length": 10}, peft.PrefixTuningConfig(**PROMPT)),
    "prompt_tuning": Pair({"prompt_length": 10}, peft.PromptTuningConfig(**PROMPT)),
    "rslora": Pair(LORA, lora(use_rslora=True)),
    "shira": Pair({"rank": 8, "target": LINEAR}, peft.ShiraConfig(r=8, target_modules=ALL)),
    "vera": Pair({"rank": 64}, peft.VeraConfig(r=64, target_modules=QUERY_VALUE)),
}
