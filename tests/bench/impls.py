"""Our implementations beside Hugging Face PEFT's on the CPU: time of a training step, and what a forward pass saves.

``python -m tests.bench.impls`` measures every method that both have (or those named after it), in fp32 and bf16, and
writes ``impls.json`` and ``IMPLS.md`` beside this file.
"""

import copy
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakSet

import peft
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from kb.files import put
from tests.bench.impls_pairs import PAIRS, RATE, TOTAL, Pair

REPORT = Path(__file__).with_name("impls.json")
TABLE = Path(__file__).with_name("IMPLS.md")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH, TOKENS, HIDDEN, INTERMEDIATE, BLOCKS = 4, 64, 256, 704, 2
HOW = (
    "Both stand on copies of one small Llama with random weights, keep their adapter in the base's type, and take steps in "
    "turn, in one process on one thread: a step's time is the median of the processor's. Saved bytes are those of every "
    "storage that autograd keeps for the backward pass and that is no parameter or buffer of the model."
)
WARM, ROUNDS = 2, 9  # steps that are not counted, and pairs of steps that are


@dataclass(frozen=True)
class Side:
    """One library's model, ready to be stepped."""

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer
    after: Callable[[], None]  # what the method does after a step


@dataclass(frozen=True)
class Row:
    """What was measured of one method in one type: ours and theirs."""

    slug: str
    dtype: str
    trained: tuple[int, int]
    saved_bytes: tuple[int, int]
    step_ms: tuple[float, float]
    note: str

    @property
    def memory(self) -> float:
        """Ours as a share of theirs."""
        return self.saved_bytes[0] / self.saved_bytes[1]

    @property
    def time(self) -> float:
        """Ours as a share of theirs."""
        return self.step_ms[0] / self.step_ms[1]


def base(dtype: torch.dtype) -> nn.Module:
    """Two blocks of a Llama with grouped heads, random weights."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=BLOCKS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=256,
        use_cache=False,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).train()


def batch() -> dict[str, Tensor]:
    """Random tokens, all of which are learned."""
    ids = torch.randint(1, 512, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def ours(slug: str, pair: Pair, dtype: torch.dtype) -> Side:
    """Our implementation."""
    method = importlib.import_module(f"reference_impls.{slug}")
    config = method.Config(**pair.ours)
    model = method.attach(base(dtype), config).train()
    optimizer = method.optimizer(model, RATE, config) if hasattr(method, "optimizer") else adamw(model)
    loss = getattr(method, "loss", own_loss)
    after = getattr(method, "step", lambda adapted, t, total: None)
    return Side(model, partial(loss, model, batch()), optimizer, lambda: after(model, 1, TOTAL))


def theirs(pair: Pair, dtype: torch.dtype) -> Side:
    """PEFT's, with its adapter in the base's type."""
    model = peft.get_peft_model(base(dtype), copy.deepcopy(pair.theirs), autocast_adapter_dtype=False).train()
    optimizer = pair.optimizer(model) if pair.optimizer else adamw(model)
    allocate = getattr(model.base_model, "update_and_allocate", lambda t: None)
    return Side(model, partial(own_loss, model, batch()), optimizer, lambda: allocate(1))


def own_loss(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    """The model's own."""
    return model(**rows).loss


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of whoever brings none."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)


def trained(side: Side) -> int:
    """How many numbers train."""
    return sum(p.numel() for p in side.model.parameters() if p.requires_grad)


def saved_bytes(side: Side) -> int:
    """Bytes of the storages that a forward pass keeps for its backward pass, but for the model's own."""
    own = {x.untyped_storage().data_ptr() for x in (*side.model.parameters(), *side.model.buffers())}
    alive: WeakSet[Kept] = WeakSet()  # a part of the graph that no gradient needs is freed on the way

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        loss = side.loss()
    assert loss.requires_grad
    parts = (part for kept in alive for part in kept.parts())
    sizes = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    return sum(size for address, size in sizes.items() if address not in own)


class Kept:
    """A tensor that autograd keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def parts(self) -> tuple[Tensor, ...]:
        """The tensors with a storage: of a sparse one, its places and its values."""
        return (self.tensor._indices(), self.tensor._values()) if self.tensor.is_sparse else (self.tensor,)


def step_ms(side: Side) -> float:
    """Milliseconds of processor time that one training step takes."""
    start = time.process_time()
    side.loss().backward()
    side.optimizer.step()
    side.after()  # PEFT's AdaLoRA reads the gradients
    side.optimizer.zero_grad()
    return 1e3 * (time.process_time() - start)


def measure(slug: str, dtype: str) -> Row:
    """One method in one type: saved bytes once, steps in turn."""
    pair = PAIRS[slug]
    sides = ours(slug, pair, DTYPES[dtype]), theirs(pair, DTYPES[dtype])
    saved = tuple(map(saved_bytes, sides))
    rounds = [tuple(map(step_ms, sides)) for _ in range(WARM + ROUNDS)][WARM:]
    times = tuple(round(statistics.median(column), 2) for column in zip(*rounds, strict=True))
    return Row(slug, dtype, tuple(map(trained, sides)), saved, times, pair.note)


def report(rows: Iterable[Row]) -> dict[str, Any]:
    """What is committed: where it was measured, and every row."""
    return {
        "made_by": "python -m tests.bench.impls",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "processor": processor(),
        "shape": {"batch": BATCH, "tokens": TOKENS, "hidden": HIDDEN, "intermediate": INTERMEDIATE, "blocks": BLOCKS},
        "rows": [asdict(row) for row in rows],
    }


def processor() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def stored() -> list[Row]:
    """The rows of the committed report."""
    found = json.loads(REPORT.read_text(encoding="utf-8"))["rows"] if REPORT.exists() else []
    pairs = ("trained", "saved_bytes", "step_ms")
    return [Row(**{key: tuple(value) if key in pairs else value for key, value in row.items()}) for row in found]


def table(rows: Iterable[Row]) -> str:
    """The report as a page."""
    rows = list(rows)
    memory, fast = sum(row.memory <= 1 for row in rows), sum(row.time <= 1.1 for row in rows)
    lines = [
        "# Our implementations beside Hugging Face PEFT's, on the CPU",
        "",
        "Written by `python -m tests.bench.impls` (`make bench-impls`); do not edit by hand.",
        "",
        f"Saved memory at most theirs in {memory} of {len(rows)} rows, time at most 1.1 times theirs in {fast}.",
        "",
        "| method | type | trained, ours / theirs | saved MB, ours / theirs | × | ms a step, ours / theirs | × | |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        mine, other = (f"{value / 1e6:.2f}" for value in row.saved_bytes)
        lines.append(
            f"| {row.slug} | {row.dtype} | {row.trained[0]:,} / {row.trained[1]:,} | {mine} / {other} | {row.memory:.3f} "
            f"| {row.step_ms[0]:.1f} / {row.step_ms[1]:.1f} | {row.time:.2f} | {row.note} |"
        )
    where = json.loads(REPORT.read_text(encoding="utf-8"))
    named = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    shape = ", ".join(f"{name} {number}" for name, number in where["shape"].items())
    return "\n".join([*lines, "", HOW, "", f"A Llama of {shape}; {where['processor']}; {named}.", ""])


def main(slugs: list[str]) -> None:
    """Measures the methods named, or all, and writes what is known of the others again."""
    torch.set_num_threads(1)
    known = {(row.slug, row.dtype): row for row in stored() if row.slug in PAIRS}
    for slug in slugs or PAIRS:
        for dtype in DTYPES:
            row = known[slug, dtype] = measure(slug, dtype)
            sys.stderr.write(f"{slug} {dtype}: memory {row.memory:.3f}, time {row.time:.2f}\n")
    rows = [known[slug, dtype] for slug in PAIRS for dtype in DTYPES if (slug, dtype) in known]
    put(REPORT, json.dumps(report(rows), indent=1) + "\n")
    put(TABLE, table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
