"""LoRA's kin and Hugging Face PEFT's, with the same numbers in both: outputs, gradients and optimizer steps are equal.

Built as ``test_parity_peft.py`` is. Where PEFT 0.21.2 departs from the paper, or from what it documents, the proof
stands below.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, lorafa
from torch import Tensor, nn

from reference_impls import adalora, loftq, lora_fa, lora_plus, miss, olora, pissa, qlora, rslora, vera
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]

QUERY_VALUE = {"llama": ["q_proj", "v_proj"], "bert": ["query", "value"], "t5": ["q", "v"]}
ALL = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "bert": r".*layer\.\d+\..*(query|key|value|dense)",
    "t5": ["q", "k", "v", "o", "wi", "wo"],
}
LINEAR_SITES = {**ALL, "bert": r".*encoder\.layer\.\d+\..*(query|key|value|dense)"}
each_family = pytest.mark.parametrize("family", ["llama", "bert", "t5"])

LORA = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
VERA = {"d": "vera_lambda_d.default", "b": "vera_lambda_b.default"}
MISS = {"D": "miss_block.default"}
ADALORA = {"P": "lora_B.default", "lam": "lora_E.default", "Q": "lora_A.default"}


def pairs(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """Our trainable parameters beside PEFT's, which train the same and no more."""
    there = dict(theirs.named_parameters())
    found = []
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            path, _, leaf = name.rpartition(".")
            found.append((name, parameter, there[f"base_model.model.{path}.{names[leaf]}"]))
    assert {id(yours) for _, _, yours in found} == {id(p) for p in theirs.parameters() if p.requires_grad}
    return found


def copy_over(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Gives PEFT's model our numbers."""
    with torch.no_grad():
        for _, mine, yours in pairs(ours, theirs, names):
            yours.copy_(mine.reshape(yours.shape))


def compare(ours: nn.Module, theirs: nn.Module, names: dict[str, str], batch: Batch) -> None:
    """Logits and the gradients of the task's loss are equal, within 1e-5."""
    copy_over(ours, theirs, names)
    answers = [model(**batch) for model in (ours, theirs.base_model.model)]  # inside PEFT's: AdaLoRA adds a penalty
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=1e-5, atol=1e-5)
    for answer in answers:
        answer.loss.backward()
    for name, mine, yours in pairs(ours, theirs, names):
        torch.testing.assert_close(
            yours.grad.reshape(mine.shape), mine.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def peft_lora(model: nn.Module, targets: Any, **options: Any) -> nn.Module:
    """PEFT's LoRA of rank 8 and alpha 20."""
    return peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=20, target_modules=targets, **options))


@pytest.mark.parity("rslora")
@each_family
def test_rslora_equals_peft(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    ours = randomise(rslora.attach(ours, rslora.Config(rank=8, alpha=20.0)))
    compare(ours, peft_lora(make_tiny(family)[0], QUERY_VALUE[family], use_rslora=True), LORA, batch)


@pytest.mark.parity("pissa")
@each_family
def test_pissa_equals_peft_from_the_same_start(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    ours = pissa.attach(ours, pissa.Config(rank=8, alpha=20.0))
    theirs = peft_lora(make_tiny(family)[0], ALL[family], init_lora_weights="pissa")
    for _, mine, yours in pairs(ours, theirs, LORA):
        torch.testing.assert_close(yours, mine, rtol=1e-5, atol=1e-6)
    compare(randomise(ours), theirs, LORA, batch)


@pytest.mark.parity("olora")
@each_family
def test_olora_equals_peft_from_the_same_start(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    ours = olora.attach(ours, olora.Config(rank=8, alpha=20.0))
    theirs = peft_lora(make_tiny(family)[0], QUERY_VALUE[family], init_lora_weights="olora")
    for _, mine, yours in pairs(ours, theirs, LORA):
        torch.testing.assert_close(yours, mine, rtol=1e-5, atol=1e-6)
    compare(randomise(ours), theirs, LORA, batch)


@pytest.mark.parity("vera")
@each_family
def test_vera_equals_peft_with_the_matrices_of_the_same_seed(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    ours, batch = make_tiny(family)
    ours = vera.attach(ours, vera.Config(rank=48, seed=3))
    config = peft.VeraConfig(r=48, target_modules=QUERY_VALUE[family], projection_prng_key=3)
    theirs = peft.get_peft_model(make_tiny(family)[0], config)
    for _, mine, yours in pairs(ours, theirs, VERA):
        torch.testing.assert_close(yours, mine)  # the start
    compare(randomise(ours), theirs, VERA, batch)


@pytest.mark.parity("miss")
@each_family
@pytest.mark.parametrize("rank", [8, 7], ids=["pieces-fit", "last-piece-shorter"])
def test_miss_equals_peft(family: str, rank: int, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    ours = randomise(miss.attach(ours, miss.Config(rank=rank)))
    theirs = peft.get_peft_model(make_tiny(family)[0], peft.MissConfig(r=rank, target_modules=ALL[family]))
    compare(ours, theirs, MISS, batch)


@pytest.mark.parity("adalora")
@each_family
def test_adalora_equals_peft(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    ours = randomise(adalora.attach(ours, adalora.Config(init_rank=8, target_rank=4, alpha=20.0)))
    compare(ours, peft_adalora(make_tiny(family)[0], family), ADALORA, batch)


def peft_adalora(model: nn.Module, family: str, task_type: str | None = None) -> nn.Module:
    """PEFT's AdaLoRA of rank 8, going to 4, over 40 steps."""
    schedule = {"total_step": 40, "tinit": 6, "tfinal": 20, "deltaT": 4}
    config = peft.AdaLoraConfig(
        init_r=8, target_r=4, lora_alpha=20, target_modules=ALL[family], task_type=task_type, **schedule
    )
    return peft.get_peft_model(model, config)


def test_adalora_keeps_the_triplets_that_peft_keeps(make_tiny: MakeTiny, randomise: Randomise) -> None:
    """Forty steps of the task's loss under SGD in both: the same importance, budget and masks at every step."""
    ours, batch = make_tiny("llama")
    config = adalora.Config(
        init_rank=8, target_rank=4, alpha=20.0, allocate_every=4, warmup_share=0.15, final_share=0.5
    )
    ours = randomise(adalora.attach(ours, config))
    theirs = peft_adalora(make_tiny("llama")[0], "llama")
    copy_over(ours, theirs, ADALORA)
    layers = [layer for _, layer in instances(ours, adalora.SVDLinear)]
    widths = set()
    for t in range(1, 41):
        for model in (ours, theirs.base_model.model):
            model.zero_grad()
            model(**batch).loss.backward()
        with torch.no_grad():
            for model in (ours, theirs):
                for p in model.parameters():
                    if p.grad is not None:
                        p -= 0.2 * p.grad
        for layer in layers:
            layer.observe()
        adalora.step(ours, t, 40)
        theirs.base_model.update_and_allocate(t)
        for name, mine, yours in pairs(ours, theirs, ADALORA):
            torch.testing.assert_close(
                yours.reshape(mine.shape), mine, rtol=1e-3, atol=1e-5, msg=lambda m, n=name, t=t: f"{t}, {n}: {m}"
            )
        widths.add(sum(int((layer.lam != 0).sum()) for layer in layers))
    assert min(widths) == 4 * len(layers)
    assert len(widths) > 3


def test_peft_penalises_the_mean_of_unsquared_norms_where_the_paper_sums_squares(
    make_tiny: MakeTiny, randomise: Randomise
) -> None:
    """PEFT's extra loss is γ / n Σ ‖PᵀP − I‖, the official code's form; the paper has γ Σ ‖PᵀP − I‖²."""
    ours, batch = make_tiny("llama")
    ours = randomise(adalora.attach(ours, adalora.Config(init_rank=8, target_rank=4, alpha=20.0, orthogonality=0.5)))
    theirs = peft_adalora(make_tiny("llama")[0], "llama")
    copy_over(ours, theirs, ADALORA)
    task = ours(**batch).loss
    squares = []
    for _, layer in instances(ours, adalora.SVDLinear):
        for gram in (layer.P.T @ layer.P, layer.Q @ layer.Q.T):
            squares.append((gram - torch.eye(8)).square().sum())
    torch.testing.assert_close(adalora.loss(ours, batch) - task, 0.5 * sum(squares), rtol=1e-4, atol=1e-4)
    roots = sum(square.sqrt() for square in squares) / len(squares)
    torch.testing.assert_close(theirs.base_model(**batch).loss - task, 0.5 * roots, rtol=1e-4, atol=1e-4)


def test_peft_forgets_the_penalty_when_it_is_not_told_the_task(make_tiny: MakeTiny, randomise: Randomise) -> None:
    """AdaLoRA's penalty hangs on a forward that PEFT's plain wrapper, made without ``task_type``, passes by."""
    _, batch = make_tiny("llama")
    plain = randomise(peft_adalora(make_tiny("llama")[0], "llama"))
    task = plain.base_model.model(**batch).loss
    assert torch.equal(plain(**batch).loss, task)
    told = peft_adalora(make_tiny("llama")[0], "llama", task_type="CAUSAL_LM")
    told.load_state_dict(plain.state_dict())
    assert told(**batch).loss > task + 0.1


@pytest.mark.parity("lora_plus")
def test_lora_plus_steps_as_peft_does(make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny("llama")
    config = lora_plus.Config(lr_ratio=7.0, alpha=20.0)
    ours = randomise(lora_plus.attach(ours, config))
    theirs = peft_lora(make_tiny("llama")[0], QUERY_VALUE["llama"])
    compare(ours, theirs, LORA, batch)
    lora_plus.optimizer(ours, 1e-3, config).step()
    create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=7.0, weight_decay=0.0).step()
    for name, mine, yours in pairs(ours, theirs, LORA):
        torch.testing.assert_close(yours, mine, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def lora_fa_twins(make_tiny: MakeTiny) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, Batch]:
    """Ours and PEFT's with the same A, B and gradients, and PEFT's optimizer."""
    ours, batch = make_tiny("llama")
    ours = lora_fa.attach(ours, lora_fa.Config(alpha=20.0))
    theirs = peft_lora(make_tiny("llama")[0], QUERY_VALUE["llama"])
    optimizer = create_lorafa_optimizer(theirs, r=8, lora_alpha=20, lr=1e-3)
    there = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, layer in instances(ours, lora_fa.LoRAFALinear):
            layer.B.normal_(std=0.1)
            there[f"base_model.model.{name}.lora_A.default.weight"].copy_(layer.A)
    compare(ours, theirs, LORA, batch)
    return ours, theirs, optimizer, batch


@pytest.mark.parity("lora_fa")
def test_lora_fa_corrects_as_peft_does(make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)
    ours, theirs, optimizer, _ = lora_fa_twins(make_tiny)
    lora_fa.optimizer(ours, 1e-3, lora_fa.Config(alpha=20.0)).step()
    optimizer.step()
    there = dict(theirs.named_parameters())
    for name, layer in instances(ours, lora_fa.LoRAFALinear):
        key = f"base_model.model.{name}.lora_"
        corrected = optimizer.state[f"base_model.model.{name}.lora"]["exp_avg_B"] / 0.1  # the first average: 1 − β₁
        torch.testing.assert_close(corrected, layer.B.grad, rtol=1e-3, atol=1e-6)
        plain = torch.where(layer.B.grad.abs() > 1e-2, layer.B, there[f"{key}B.default.weight"])
        torch.testing.assert_close(
            there[f"{key}B.default.weight"], plain, rtol=0, atol=1e-5
        )  # Adam's ε is larger there
        assert torch.equal(there[f"{key}A.default.weight"], layer.A)


def test_peft_rounds_the_corrected_gradient_of_lora_fa_to_bfloat16(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 training too: the product runs under autocast wherever the machine knows bfloat16."""
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: True)
    monkeypatch.setattr(lorafa, "infer_device", lambda: "cpu")
    _, _, optimizer, _ = lora_fa_twins(make_tiny)
    optimizer.step()
    for state in optimizer.state.values():
        rounded = state["exp_avg_B"] / 0.1
        torch.testing.assert_close(rounded, rounded.bfloat16().float(), rtol=1e-6, atol=0)


@pytest.mark.parity("qlora", "loftq")
@each_family
@pytest.mark.parametrize("method", [qlora, loftq], ids=["qlora", "loftq"])
def test_lora_on_four_bits_equals_peft_on_the_unpacked_matrices(
    family: str, method: ModuleType, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    """What bitsandbytes' layer computes with is the unpacked matrix; that ours unpacks alike is tested with the codec."""
    ours, batch = make_tiny(family)
    ours = randomise(method.attach(ours, method.Config(rank=8)))
    base = make_tiny(family)[0]
    with torch.no_grad():
        for name, layer in instances(ours, qlora.QLoRALinear):
            base.get_submodule(name).weight.copy_(layer.weight)
    alpha = 16 if method is qlora else 8
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=alpha, target_modules=LINEAR_SITES[family]))
    compare(ours, theirs, LORA, batch)
