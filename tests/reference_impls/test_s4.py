"""S4: groups, budget, and the parts of each block; the parts' equations are tested where they are defined."""

from collections.abc import Callable
from itertools import groupby

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from reference_impls import lora, pfeiffer_adapter, prefix_tuning, s4
from reference_impls._site import instances
from reference_impls._surgery import freeze, train_in_place
from reference_impls.training.checkpoint import adapter_state, load_adapter

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
LARGE = s4.Config(budget=0.1)


def bert(layers: int) -> nn.Module:
    """A narrow BERT of several layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 50}
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(num_hidden_layers=layers, max_position_embeddings=32, **sizes)
    ).eval()


def t5(layers: int) -> nn.Module:
    """A narrow T5 of several layers in each stack."""
    sizes = {"d_model": 32, "d_kv": 4, "d_ff": 48, "num_heads": 4, "vocab_size": 50}
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(num_layers=layers, decoder_start_token_id=0, **sizes)).eval()


def trained_in(block: nn.Module) -> dict[str, int]:
    """How many numbers of each part train in a block."""
    counts = {"A": 0, "P": 0, "B": 0, "L": 0}
    for name, p in block.named_parameters():
        if p.requires_grad:
            part = "P" if "prefix." in name else "A" if "adapter." in name else "B" if name.endswith("bias") else "L"
            counts[part] += p.numel()
    return counts


def hide_prefix(attention: s4.OwnPrefix) -> None:
    """Masks the prefix of an attention module for every query."""
    widened = attention.widened

    def hidden(*args: object) -> Tensor:
        mask = widened(*args).clone()
        p = len(attention.prefix.P_k)
        mask[..., :p] = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return mask

    attention.widened = hidden


@pytest.mark.parametrize(
    ("blocks", "sizes"),
    [
        (1, [0, 0, 1, 0]),
        (2, [0, 1, 1, 0]),
        (4, [1, 1, 1, 1]),
        (12, [2, 4, 4, 2]),
        (24, [4, 8, 8, 4]),
        (32, [5, 11, 11, 5]),
    ],
)
def test_groups_are_a_spindle(blocks: int, sizes: list[int]) -> None:
    parts = s4.grouped(blocks)
    assert [parts.count(group) for group in ("AL", "AP", "APB", "PBL")] == sizes
    assert [group for group, _ in groupby(parts)] == [g for g, n in zip(s4.GROUPS, sizes, strict=True) if n]


def test_every_block_has_the_parts_of_its_group_and_nearly_the_same_number_of_numbers() -> None:
    model = s4.attach(bert(12), LARGE)
    whole = sum(p.numel() for p in bert(12).bert.parameters())
    share = 0.1 * whole / 12
    blocks = [trained_in(block) for block in model.bert.encoder.layer]
    for at, counts in enumerate(blocks):
        group = ["AL", "AP", "APB", "PBL"][0 if at < 2 else 1 if at < 6 else 2 if at < 10 else 3]
        assert {part for part, count in counts.items() if count} == set(group)
        assert counts["B"] in (0, 7 * 32 + 48)  # q, k, v, o, in, out and two norms
        assert share - (2 * 32 + 1) - 4 * 32 - 2 < sum(counts.values()) <= share
    trained = sum(p.numel() for p in model.bert.parameters() if p.requires_grad)
    assert trained == sum(sum(counts.values()) for counts in blocks) <= 0.1 * whole


def test_sizes_that_are_given_replace_the_budget() -> None:
    model = s4.attach(bert(4), s4.Config(bottleneck=3, prefix_length=5, rank=2))
    first, second, _, last = (trained_in(block) for block in model.bert.encoder.layer)
    assert first == {"A": 2 * 32 * 3 + 3 + 32, "P": 0, "B": 0, "L": 2 * 2 * (32 + 32)}
    assert second["P"] == last["P"] == 2 * 5 * 32


def test_encoder_and_decoder_are_one_sequence_and_a_model_without_biases_lacks_them() -> None:
    model = s4.attach(t5(3), LARGE)
    blocks = [*model.encoder.block, *model.decoder.block]
    parts = ["".join(part for part, count in trained_in(block).items() if count) for block in blocks]
    assert parts == ["AL", "AP", "AP", "AP", "AP", "PL"]
    assert not any("EncDecAttention" in name for name, p in model.named_parameters() if p.requires_grad)


def test_t5s_relative_positions_are_untouched_by_prefixes_that_nothing_attends_to() -> None:
    """With every prefix masked, adapters silent and LoRA at its start, the model is the plain one."""
    batch = {"input_ids": torch.randint(50, (3, 7)), "labels": torch.randint(50, (3, 5))}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][1, 4:] = 0  # so that a mask is made in the encoder as well
    expected = t5(3)(**batch).logits
    model = s4.attach(t5(3), LARGE)
    for _, adapter in instances(model, pfeiffer_adapter.Bottleneck):
        nn.init.zeros_(adapter.up.weight)
    for _, attention in instances(model, s4.OwnPrefix):
        hide_prefix(attention)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-5)


def test_output_is_that_of_the_four_methods_put_in_by_hand(randomise: Randomise) -> None:
    batch = {"input_ids": torch.randint(50, (3, 7)), "labels": torch.tensor([0, 1, 1])}
    model = randomise(s4.attach(bert(4), LARGE))
    one, two, three, four = (trained_in(block) for block in model.bert.encoder.layer)
    other = freeze(bert(4))

    def part(at: int, kind: str, count: int) -> None:
        if kind == "A":
            m = (count - 32) // 65
            pfeiffer_adapter.behind_ffn(other, lambda like: pfeiffer_adapter.bottleneck(like, m), rf".*layer\.{at}\.")
        elif kind == "L":
            target = rf"layer\.{at}\.attention\.self\.(?:query|value)"
            lora.insert(other, lora.Config(rank=count // 128, alpha=count // 128, target=target))
        else:
            target = rf"layer\.{at}\.attention\.self"
            prefix_tuning.insert(other, prefix_tuning.Config(count // 64, hidden=None, target=target))

    for at, (kinds, counts) in enumerate(zip(("AL", "AP", "AP", "LP"), (one, two, three, four), strict=True)):
        for kind in kinds:
            part(at, kind, counts[kind])
    own = {id(p) for _, module in instances(other, (nn.Linear, nn.LayerNorm)) for p in module.parameters()}
    biases = [
        name
        for name, p in other.named_parameters()
        if name.endswith("bias")
        and id(p) in own
        and any(f"layer.{at}." in name for at in (2, 3))
        and "adapter" not in name
    ]
    train_in_place(other, biases)
    load_adapter(other, adapter_state(model))
    torch.testing.assert_close(model(**batch).logits, other(**batch).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_budget_too_small_for_a_part_is_refused_and_leaves_the_model_plain(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    before = model(**batch).logits
    with pytest.raises(ValueError, match="leaves nothing for"):
        s4.attach(model)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(model(**batch).logits, before)


def test_model_whose_attention_reads_no_cache_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("vit")
    with pytest.raises(ValueError, match=r"no way in|no self-attention"):
        s4.attach(model, LARGE)
    assert all(p.requires_grad for p in model.parameters())
