"""Trains the base: a Llama of 0.66M parameters that rewrites letters by eight named rules.

Run ``python -m reference_impls.ladder.base.pretrain`` to make the weights again (about ten minutes on one core). Attention and
MLP layers carry biases, unlike a released Llama, so that BitFit has something to train. The names of the ladder's rungs
never occur here; their embeddings stay as drawn.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from reference_impls.ladder import task

STEPS, BATCH, LR, WARMUP, SEED = 3000, 128, 3e-3, 100, 0
MOST_WORDS = 16  # so that positions before the letters, where soft prompts go, are not new to the base


def build() -> LlamaForCausalLM:
    """The untrained model."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(task.VOCABULARY),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
            pad_token_id=task.PAD,
            bos_token_id=None,
            eos_token_id=task.EOS,
            use_cache=False,
        )
    )


def words_in_step(generator: torch.Generator) -> int:
    """How many words without meaning a batch has: none in a third of the steps, else few or, seldom, many."""
    kind = torch.rand((), generator=generator).item()
    if kind < 1 / 3:
        return 0
    most = 4 if kind < 0.85 else MOST_WORDS
    return int(torch.randint(1, most + 1, (), generator=generator))


def pretrain(
    model: nn.Module, steps: int, seed: int = SEED, progress: Callable[[int, float], None] = lambda step, loss: None
) -> list[float]:
    """Trains ``model`` on the base skills, with linear warm-up and cosine decay; returns the losses."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / WARMUP) * decay
        loss = model(**task.skill_batch(BATCH, generator, words_in_step(generator))).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        progress(step, losses[-1])
    return losses


def examine(model: nn.Module) -> dict[str, dict[str, float]]:
    """Exact-match accuracy of every skill, and of every rung before any adaptation."""
    exam = torch.Generator().manual_seed(2**40)
    skills = {
        name: task.accuracy(model, task.named_batch(name, rule, 1024, exam)).exact for name, rule in task.SKILLS.items()
    }
    rungs = {name: task.accuracy(model, task.exam(rung, 1024)).exact for name, rung in task.RUNGS.items()}
    return {"skills_exact": skills, "rungs_exact_before_adaptation": rungs}


def main() -> None:
    """Trains from the seed and writes weights, configuration and report beside this file, or where told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order on every machine of one kind
    torch.manual_seed(SEED)
    model = build()

    def progress(step: int, loss: float) -> None:
        if step % 100 == 0 or step == arguments.steps - 1:
            sys.stderr.write(f"step {step} loss {loss:.4f}\n")
            sys.stderr.flush()

    losses = pretrain(model, arguments.steps, progress=progress)
    arguments.output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.output)
    (arguments.output / "generation_config.json").unlink(missing_ok=True)
    report = {
        "made_by": "python -m reference_impls.ladder.base.pretrain",
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": SEED,
        "steps": arguments.steps,
        "batch": BATCH,
        "lr": LR,
        "last_loss": losses[-1],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **examine(model),
    }
    (arguments.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
