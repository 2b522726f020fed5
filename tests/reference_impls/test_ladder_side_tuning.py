"""Ladder side-tuning against its equations, its pruning against masked full blocks, and what it keeps for backward."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import ladder_side_tuning, lora
from reference_impls._site import instances, stacks
from reference_impls._surgery import detach
from reference_impls.parts.narrow import narrow

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
CONFIG = ladder_side_tuning.Config(reduction=4, temperature=0.5)
FAMILIES = ["llama", "gpt2", "bert", "t5", "vit"]


def test_ladder_is_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    model.double()
    tokens = batch["input_ids"]
    plain = copy.deepcopy(model).model
    h = [plain.embed_tokens(tokens)]
    where = torch.arange(10)[None]
    rotation = plain.rotary_emb(h[0], where)
    for block in plain.layers:
        h.append(block(h[-1], position_embeddings=rotation))
    randomise(ladder_side_tuning.attach(model, CONFIG))
    first, second = model.model.layers
    s = h[0] @ first.start.weight.T + first.start.bias
    for rung, reached in ((first, h[1]), (second, h[2])):
        g = 1 / (1 + torch.exp(-rung.alpha / 0.5))
        mixed = g * s + (1 - g) * (reached @ rung.down.weight.T + rung.down.bias)
        s = rung.block(mixed, position_embeddings=tuple(x[..., rung.rotary] for x in rotation))
    finish = model.model.norm.finish
    s = finish.norm.weight * s / (s.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = (s @ finish.U.weight.T + finish.U.bias) @ model.lm_head.weight.T
    logits = model(input_ids=tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)  # Llama's norm computes in fp32


@pytest.mark.parametrize("family", FAMILIES)
def test_pruning_nothing_copies_the_blocks(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    ladder_side_tuning.attach(model, ladder_side_tuning.Config(reduction=1))
    for _, rung in instances(model, ladder_side_tuning.Rung):
        ours, theirs = dict(rung.block.named_parameters()), dict(rung.base.named_parameters())
        assert ours.keys() == {name for name in theirs if "relative_attention_bias" not in name}
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert not {p.data_ptr() for p in ours.values()} & {p.data_ptr() for p in theirs.values()}


@pytest.mark.parametrize("family", FAMILIES)
def test_side_block_of_full_width_computes_what_the_block_computes(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    ladder_side_tuning.attach(model, ladder_side_tuning.Config(reduction=1))
    rung = next(rung for _, rung in instances(model, ladder_side_tuning.Rung))  # of the encoder in T5
    width = rung.down.in_features
    with torch.no_grad():
        rung.start.weight.copy_(torch.eye(width))
        rung.start.bias.zero_()
        rung.alpha.fill_(100.0)  # g = 1: the side reads what the block reads
    seen: dict[str, Tensor] = {}
    rung.base.register_forward_hook(lambda _, args, out: seen.update(block=out[0] if isinstance(out, tuple) else out))
    rung.block.register_forward_hook(lambda _, args, out: seen.update(side=out[0] if isinstance(out, tuple) else out))
    model(**batch)
    torch.testing.assert_close(seen["side"], seen["block"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit"])
@torch.no_grad()
def test_pruning_what_is_zero_changes_only_the_scale(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    model.double()
    stack = next(iter(stacks(model)))
    path = {"llama": "self_attn", "gpt2": "attn", "bert": "attention.self", "vit": "attention"}[family]
    full = stack.blocks[0][1].get_submodule(path)
    head = full.attention_head_size if family == "bert" else full.head_dim
    pairs = torch.randperm(head // 2)[: head // 4]
    turned = torch.cat((pairs, pairs + head // 2)).sort().values
    carried, kept = (torch.randperm(size)[: size // 2].sort().values for size in (head, stack.width))

    def ends(block: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
        """Weight (d_out, d_in) and bias of q, k, v and o, as views."""
        attention = block.get_submodule(path)
        if family == "gpt2":
            fused, last = attention.c_attn, attention.c_proj
            return [*zip(fused.weight.T.chunk(3), fused.bias.chunk(3), strict=True), (last.weight.T, last.bias)]
        names = ("query", "key", "value") if family == "bert" else ("q_proj", "k_proj", "v_proj")
        layers = [attention.get_submodule(name) for name in names]
        layers.append(block.attention.output.dense if family == "bert" else attention.o_proj)
        return [(layer.weight, layer.bias) for layer in layers]

    def clear(numbers: Tensor, dims: Tensor) -> None:
        """Zeroes all rows but those of ``dims``, in every head when ``dims`` are a head's."""
        size = stack.width if dims is kept else head
        rows = torch.ones(size, dtype=torch.bool)
        rows[dims] = False
        numbers[rows.repeat(len(numbers) // size)] = 0

    rows, columns = (turned, turned, carried, kept), (kept, kept, kept, carried)
    for (weight, bias), out, into in zip(ends(stack.blocks[0][1]), rows, columns, strict=True):
        clear(weight, out)
        clear(weight.T, into)
        if bias is not None:
            clear(bias, out)
    attended = {id(p) for p in full.parameters()}
    small = narrow(stack, 2, lambda w: w.square() if id(w) in attended else 0 * w, rotary=family == "llama")
    thin = small.blocks[0].get_submodule(path)
    assert torch.equal(small.kept, kept)
    assert thin.scaling == pytest.approx(full.scaling * 2**0.5)
    thin.scaling = full.scaling
    x = torch.randn(2, 5, stack.width, dtype=torch.float64)
    clear(x.transpose(0, 2), kept)
    wide: dict[str, object] = {"attention_mask": None}
    slim = dict(wide)
    if family == "llama":
        rotation = model.model.rotary_emb(x, torch.arange(5)[None])
        wide["position_embeddings"] = rotation
        slim["position_embeddings"] = tuple(r[..., small.rotary[0]] for r in rotation)
    expected, answer = full(x, **wide)[0], thin(x[..., kept], **slim)[0]
    if family == "bert":  # its output projection stands outside
        expected = stack.blocks[0][1].attention.output.dense(expected)
        answer = small.blocks[0].attention.output.dense(answer)
    torch.testing.assert_close(answer, expected[..., kept], rtol=1e-6, atol=1e-7)


def test_kept_dimensions_are_the_heaviest(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    stack = next(iter(stacks(model)))
    heavy = torch.tensor([1, 5, 17, 30])
    with torch.no_grad():
        for _, block in stack.blocks:
            block.intermediate.dense.weight[heavy] *= 100
            for layer in (block.attention.self.query, block.attention.self.key, block.intermediate.dense):
                layer.weight[:, heavy] *= 100
    small = narrow(stack, stack.width // 4, lambda weight: weight.square(), rotary=False)
    assert torch.equal(small.kept, heavy)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_of_the_backbone_is_kept_for_the_backward_pass(
    family: str, checkpointing: bool, make_tiny: MakeTiny
) -> None:
    def widths_kept(attach: Callable[[nn.Module], nn.Module]) -> set[int]:
        model, batch = make_tiny(family)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model = attach(model).train()
        weights = {p.data_ptr() for p in model.parameters()}
        kept: set[int] = set()

        def note(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights and tensor.dim() == 3:
                kept.add(tensor.shape[-1])
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(**batch).loss
        loss.backward()
        return kept

    model, _ = make_tiny(family)
    inner = getattr(model.config, "intermediate_size", None) or model.config.d_ff
    assert inner not in widths_kept(lambda m: ladder_side_tuning.attach(m, CONFIG))
    if not checkpointing:
        assert inner in widths_kept(lora.attach), "the probe sees nothing: the statement above would be blind"


def test_no_gradient_enters_the_backbone(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    ladder_side_tuning.attach(model, CONFIG)
    for _, rung in instances(model, ladder_side_tuning.Rung):
        rung.base.register_forward_hook(lambda _, args, out: seen.append(out.requires_grad))
    seen: list[bool] = []
    model(**batch).loss.backward()
    assert seen == [False, False]


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_prepare_prunes_by_squared_gradients_of_single_examples(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    fresh = copy.deepcopy(model)
    ladder_side_tuning.attach(model, CONFIG)
    ladder_side_tuning.prepare(model, [batch], ladder_side_tuning.Config(reduction=4, samples=3))
    sums: dict[str, Tensor] = {}
    for i in range(3):
        fresh.zero_grad()
        fresh(**{name: value[i : i + 1] for name, value in batch.items()}).loss.backward()
        for name, p in fresh.named_parameters():
            sums[name] = sums.get(name, 0) + p.grad.square()
    named = {id(p): name for name, p in fresh.named_parameters()}
    stack = next(iter(stacks(fresh)))
    expected = narrow(stack, 4, lambda weight: sums[named[id(weight)]], rotary=family == "llama")
    magnitude = narrow(stack, 4, lambda weight: weight.square(), rotary=family == "llama")
    rung = next(rung for _, rung in instances(model, ladder_side_tuning.Rung))
    for ours, theirs in zip(rung.block.parameters(), expected.blocks[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.equal(expected.kept, magnitude.kept)
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in rung.base.parameters())
    restored = detach(model)
    assert all(p.requires_grad for p in restored.parameters())


def test_decoding_with_a_cache_is_refused(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    ladder_side_tuning.attach(model, CONFIG)
    with pytest.raises(ValueError, match="use_cache=False"):
        model.generate(input_ids=batch["input_ids"][:1], max_new_tokens=3, min_new_tokens=3, use_cache=True)


def test_generation_without_a_cache_follows_the_logits(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("t5")
    randomise(ladder_side_tuning.attach(model, CONFIG))
    source = batch["input_ids"][:1]
    answer = model.generate(input_ids=source, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=False)
    logits = model(input_ids=source, decoder_input_ids=answer[:, :-1]).logits
    assert torch.equal(logits[:, 1:].argmax(-1), answer[:, 2:])


def test_side_decoder_needs_the_side_encoders_run(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("t5")
    encoded = model.encoder(input_ids=batch["input_ids"])
    ladder_side_tuning.attach(model, CONFIG)
    with pytest.raises(ValueError, match="side encoder's run on the same input"):
        model(encoder_outputs=encoded, labels=batch["labels"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ladder_side_tuning.Config(reduction=100), "cannot be divided by 100"),
        (ladder_side_tuning.Config(reduction=0), "at least 1"),
        (ladder_side_tuning.Config(temperature=0.0), "above 0"),
    ],
)
def test_impossible_sizes_are_refused(config: ladder_side_tuning.Config, message: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=message):
        ladder_side_tuning.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
