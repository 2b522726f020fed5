"""Our implementations and Hugging Face PEFT's, with the same numbers in both: outputs and gradients are equal.

Each pair is built on the same tiny base; every trainable number is drawn at random and copied across by name. What the
two libraries define differently is shown with its proof below, not imitated.
"""

import re
from collections.abc import Callable

import peft
import pytest
import torch
from torch import Tensor, nn

from reference_impls import bitfit, dora, ia3, krona, ln_tuning, lora

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
Rename = Callable[[str, Tensor], tuple[str, Tensor]]

TARGETS = {
    "llama": ["q_proj", "v_proj"],
    "bert": ["query", "value"],
    "t5": ["q", "v"],
    "vit": ["q_proj", "v_proj"],
}
FFN_OUT = {"llama": "down_proj", "bert": r".*\d+\.output\.dense", "t5": "wo", "vit": "fc2"}
KEYS_VALUES = {
    "llama": "k_proj|v_proj",
    "bert": "key|value",
    "t5": "k|v",
    "vit": "k_proj|v_proj",
}


def compare(ours: nn.Module, theirs: nn.Module, rename: Rename, batch: Batch) -> None:
    """Copies our trainable numbers into PEFT's model under their names there; checks logits, loss and gradients."""
    counterparts = dict(theirs.named_parameters())
    pairs: list[tuple[nn.Parameter, nn.Parameter, str]] = []
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad:
                there, value = rename(name, parameter)
                assert counterparts[there].requires_grad
                counterparts[there].copy_(value)
                pairs.append((parameter, counterparts[there], name))
    assert len(pairs) == sum(p.requires_grad for p in theirs.parameters()), "one side trains more tensors"
    answers = [model(**batch) for model in (ours, theirs)]
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=1e-5, atol=1e-5)
    for answer in answers:
        answer.loss.backward()
    for mine, yours, name in pairs:
        assert mine.grad is not None
        expected = rename(name, mine.grad)[1]
        torch.testing.assert_close(yours.grad, expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def low_rank_name(name: str, value: Tensor) -> tuple[str, Tensor]:
    """Where PEFT keeps A, B and m."""
    path, _, leaf = name.rpartition(".")
    kept = {"A": "lora_A.default.weight", "B": "lora_B.default.weight", "m": "lora_magnitude_vector.default.weight"}
    return f"base_model.model.{path}.{kept[leaf]}", value


@pytest.mark.parity("lora")
@pytest.mark.parametrize("family", TARGETS)
def test_lora_equals_peft(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    theirs = peft.get_peft_model(
        make_tiny(family)[0], peft.LoraConfig(r=8, lora_alpha=20, target_modules=TARGETS[family])
    )
    compare(randomise(lora.attach(ours, lora.Config(rank=8, alpha=20))), theirs, low_rank_name, batch)


@pytest.mark.parity("dora")
@pytest.mark.parametrize("family", TARGETS)
def test_dora_equals_peft(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    theirs = peft.get_peft_model(
        make_tiny(family)[0],
        peft.LoraConfig(r=8, lora_alpha=20, target_modules=TARGETS[family], use_dora=True),
    )
    config = dora.Config(rank=8, alpha=20, target=lora.Config().target)
    compare(randomise(dora.attach(ours, config)), theirs, low_rank_name, batch)


@pytest.mark.parity("ia3")
@pytest.mark.parametrize("family", FFN_OUT)
def test_ia3_equals_peft(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    theirs = peft.get_peft_model(
        make_tiny(family)[0],
        peft.IA3Config(
            target_modules=rf"(?:.*\.)?(?:{KEYS_VALUES[family]}|{FFN_OUT[family]})",
            feedforward_modules=rf"(?:.*\.)?(?:{FFN_OUT[family]})",
        ),
    )

    def rename(name: str, value: Tensor) -> tuple[str, Tensor]:
        column = not re.search(rf"(?:{FFN_OUT[family]})\.l$", name)
        return f"base_model.model.{name.removesuffix('.l')}.ia3_l.default", value[:, None] if column else value[None, :]

    compare(randomise(ia3.attach(ours)), theirs, rename, batch)


@pytest.mark.parity("ln_tuning")
@pytest.mark.parametrize("family", TARGETS)
def test_ln_tuning_equals_peft_on_the_same_norms(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    ours = randomise(ln_tuning.attach(ours))
    norms = sorted({name.rpartition(".")[0] for name, p in ours.named_parameters() if p.requires_grad})
    theirs = peft.get_peft_model(make_tiny(family)[0], peft.LNTuningConfig(target_modules=norms))

    def rename(name: str, value: Tensor) -> tuple[str, Tensor]:
        path, _, leaf = name.rpartition(".")
        return f"base_model.model.{path}.ln_tuning_layers.default.{leaf}", value

    compare(ours, theirs, rename, batch)


def kronecker_name(name: str, value: Tensor) -> tuple[str, Tensor]:
    """Where PEFT's LoKr keeps the two factors."""
    path, _, leaf = name.rpartition(".")
    kept = {"A": "lokr_w1", "B": "lokr_w2"}
    return f"base_model.model.{path}.{kept[leaf]}.default", value


@pytest.mark.parity("krona")
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_krona_equals_lokr_with_whole_factors(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    ours, batch = make_tiny(family)
    theirs = peft.get_peft_model(  # a rank this high keeps both factors whole; alpha = r makes the scale 1
        make_tiny(family)[0],
        peft.LoKrConfig(r=64, alpha=64, target_modules=TARGETS[family], decompose_factor=16),
    )  # 64 x 64 as 16 x 16 times 4 x 4
    compare(randomise(krona.attach(ours)), theirs, kronecker_name, batch)


def test_survey_ran_krona_as_lokr_with_a_low_rank_factor(make_tiny: MakeTiny) -> None:
    """The survey's 221,184 on T5-large are not KronA's numbers: one of LoKr's factors is a product of rank 8 there."""
    theirs = peft.get_peft_model(
        nn.ModuleDict({"q": nn.Linear(1024, 1024, bias=False)}), peft.LoKrConfig(r=8, alpha=8, target_modules=["q"])
    )
    per_matrix = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert per_matrix == 32 * 32 + 8 * (32 + 32)
    assert 72 * 2 * per_matrix == 221_184  # 72 attention modules, two matrices in each
    ours = krona.attach(nn.ModuleDict({"q": nn.Linear(1024, 1024, bias=False)}), krona.Config(a1=32, a2=32))
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == 32 * 32 + 32 * 32


def test_peft_starts_as_the_base_does_and_so_do_we(make_tiny: MakeTiny) -> None:
    base, batch = make_tiny("llama")
    expected = base(**batch).logits
    theirs = peft.get_peft_model(make_tiny("llama")[0], peft.LoraConfig(r=8, target_modules=TARGETS["llama"]))
    torch.testing.assert_close(theirs(**batch).logits, expected)
    torch.testing.assert_close(lora.attach(base)(**batch).logits, expected)


@pytest.mark.parity("bitfit")
@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_bitfit_equals_peft_beside_a_lora_that_does_nothing(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    """PEFT trains biases beside LoRA alone; its B is zero here. It also trains a new head's bias, which BitFit does not."""
    ours, batch = make_tiny(family)
    ours = randomise(bitfit.attach(ours))
    targets = {"gpt2": ["c_attn"]}.get(family) or TARGETS[family]
    theirs = peft.get_peft_model(make_tiny(family)[0], peft.LoraConfig(r=1, target_modules=targets, bias="all"))
    there = {name.replace(".base_layer", ""): parameter for name, parameter in theirs.named_parameters()}
    pairs = [(name, p, there[f"base_model.model.{name}"]) for name, p in ours.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for _, mine, yours in pairs:
            assert yours.requires_grad
            yours.copy_(mine)
    further = {name for name, p in there.items() if p.requires_grad} - {
        f"base_model.model.{name}" for name, _, _ in pairs
    }
    assert all("lora_" in name or name.endswith("classifier.bias") for name in further)
    answers = [model(**batch) for model in (ours, theirs)]
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=1e-5, atol=1e-5)
    for answer in answers:
        answer.loss.backward()
    for name, mine, yours in pairs:
        torch.testing.assert_close(yours.grad, mine.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
