"""Our implementations and the library adapters 1.3.0, with the same numbers in both: outputs and gradients are equal.

``adapters`` works with an older transformers alone, so what it computes is read from files that ``adapters_fixture.py``
wrote. Where it defines a method otherwise than the paper, the proof stands below.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from reference_impls import compacter, dora, ia3, lora, pfeiffer_adapter, prefix_tuning, vera
from reference_impls._branch import Tap
from reference_impls._site import KEY, VALUE
from reference_impls._surgery import freeze, instances, replace
from tests.reference_impls.adapters_fixture import EVERY, FAMILIES, FOLDER, MADE_WITH, SEED
from tests.reference_impls.tiny import tiny

Tensors = dict[str, Tensor]
Pair = tuple[nn.Parameter, str, slice]  # ours, the library's name, which of its rows

BOTTLENECK, PREFIX = 64 // 8, {"prefix_length": 3, "hidden": 16}
OURS: dict[str, tuple[str, dict[str, Any]]] = {  # case: method and configuration here
    "houlsby": ("houlsby_adapter", {"bottleneck": BOTTLENECK}),
    "pfeiffer": ("pfeiffer_adapter", {"reduction": 8}),
    "parallel": ("parallel_adapter", {"bottleneck": BOTTLENECK}),
    "scaled_parallel": ("scaled_parallel_adapter", {"bottleneck": BOTTLENECK, "scale": 4.0}),
    "compacter": ("compacter", {"reduction": 8}),
    "compacter_plus_plus": ("compacter_plus_plus", {"reduction": 8}),
    "phm": ("phm_adapter", {"reduction": 8, "factors": 4}),
    "prefix_tuning": ("prefix_tuning", PREFIX),
    "lora": ("lora", {"rank": 4, "alpha": 10}),
    "dora": ("dora", {"rank": 4, "alpha": 10, "target": lora.Config().target}),
    "ia3": ("ia3", {}),
    "loreft": ("loreft", {"rank": 4, "prefix_positions": 2, "suffix_positions": 2}),
    "mam": ("mam_adapter", {**PREFIX, "bottleneck": BOTTLENECK, "scale": 4.0}),
    "unipelt": ("unipelt", {**PREFIX, "rank": 4, "bottleneck": BOTTLENECK}),
    "fusion": ("adapterfusion", {"n_tasks": 2, "reduction": 8}),
}
PARALLEL = ("parallel", "scaled_parallel", "mam")
APART = {  # what differs, each with its proof below
    *((case, family) for case in PARALLEL for family in ("llama", "t5") if family in EVERY[case]),
    *((case, family) for case in ("compacter_plus_plus", "dora") for family in FAMILIES),
    *(("ia3", family) for family in ("bert", "llama")),
    ("prefix_tuning", "t5"),
    ("prefix_tuning_sdpa", "llama"),
    ("prompt_tuning", "bert"),
    ("vera", "bert"),
}
EQUAL = [(case, family) for case, families in EVERY.items() for family in families if (case, family) not in APART]


@cache
def fixture(case: str, family: str) -> Tensors:
    """What the library computed."""
    with safe_open(FOLDER / f"{case}_{family}.safetensors", "pt") as file:
        assert file.metadata() == {"made_with": MADE_WITH}
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def base(family: str) -> tuple[nn.Module, Tensors]:
    """The tiny model and the batch that the library worked on."""
    model, _ = tiny(family, SEED)
    saved = fixture("base", family)
    model.load_state_dict({name: value for name, value in saved.items() if not name.startswith("batch.")})
    return model, {name.removeprefix("batch."): value for name, value in saved.items() if name.startswith("batch.")}


def attached(case: str, family: str) -> tuple[nn.Module, Tensors]:
    """Our method on that model, and the batch."""
    model, batch = base(family)
    slug, settings = OURS[case]
    method = import_module(f"reference_impls.{slug}")
    return method.attach(model, method.Config(**settings)), batch


LEAVES = {  # the end of a name: here, and in the library
    r"down\.(weight|bias)": r"adapter_down.0.\1",
    r"up\.(weight|bias)": r"adapter_up.\1",
    r"down\.s": "adapter_down.0.W_left",
    r"down\.t": "adapter_down.0.W_right",
    r"down\.b": "adapter_down.0.b",
    r"down\.B": "adapter_down.0.W",
    r"up\.s": "adapter_up.W_left",
    r"up\.t": "adapter_up.W_right",
    r"up\.b": "adapter_up.b",
    r"up\.B": "adapter_up.W",
    r"gate\.score\.(weight|bias)": r"gate.\1",
}
BESIDE = {"A": "lora_A", "B": "lora_B", "m": "m.weight", "l": "lora_B"}  # what belongs to a linear layer


def site(path: str) -> str:
    """Where the library puts the adapter that stands behind our layer ``path``."""
    path = re.sub(r"\.self_attn\.o_proj$", ".attention_adapters", path)
    path = re.sub(r"\.mlp\.down_proj$", ".output_adapters", path)
    path = re.sub(r"(output)\.(dense|LayerNorm)$", r"\1", path)
    return re.sub(r"\.(SelfAttention\.o|DenseReluDense\.wo)$", "", path)


def counterpart(name: str, there: Tensors) -> tuple[str, slice]:
    """The library's name for our parameter ``name``, and which of its rows are ours."""
    every = slice(None)
    if ".prefix." in name:
        return prefix_counterpart(name, there)
    if match := re.fullmatch(r"(.*)\.(?:adapter|branch)\.(.*)", name):
        place, rest = site(match[1]), match[2]
        if rest == "down.rule.A" or rest == "up.rule.A":
            part = "adapter_down.0" if rest.startswith("down") else "adapter_up"
            own = f"{place}.adapters.one.{part}.phm_rule"
            return (own if f"value.{own}" in there else named(there, "shared_parameters.one.phm_rule")), every
        if fused := re.fullmatch(r"([QKV])", rest):
            long = {"Q": "query", "K": "key", "V": "value"}[fused[1]]
            return f"{place}.adapter_fusion_layer.one,two.{long}.weight", every
        if one := re.fullmatch(r"adapters\.(\d)\.(.*)", rest):
            return f"{place}.adapters.{('one', 'two')[int(one[1])]}.{leaf(one[2])}", every
        return f"{place}.adapters.one.{leaf(rest)}", every
    if match := re.fullmatch(r"(.*)\.self\.gate\.score\.(weight|bias)", name):  # UniPELT's gate of the prefix
        return f"{match[1]}.self.prefix_tuning.prefix_gates.one.{match[2]}", every
    if match := re.fullmatch(r"(.*)\.gate\.score\.(weight|bias)", name):
        return f"{match[1].replace('.self.base.', '.self.')}.loras.one.gate.{match[2]}", every
    if match := re.fullmatch(r"base\.(.*)\.([AWb])", name):  # LoReFT
        part = {"A": "projection.weight", "W": "learned_source.weight", "b": "learned_source.bias"}[match[2]]
        return f"{match[1]}.reft_layer.refts.one.units.0.{part}", every
    path, _, end = name.rpartition(".")
    path = path.replace("DenseReluDense.wo", "DenseReluDense.wi")  # (IA)³: the same number before ReLU and behind it
    return f"{path.replace('.self.base.', '.self.')}.loras.one.{BESIDE[end]}", every


def named(there: Tensors, end: str) -> str:
    """The library's one parameter whose name ends so."""
    return next(name for name in there if name.startswith("value.") and name.endswith(end)).removeprefix("value.")


def leaf(rest: str) -> str:
    """The library's name of a part of an adapter."""
    for pattern, name in LEAVES.items():
        if re.fullmatch(pattern, rest):
            return re.sub(pattern, name, rest)
    raise AssertionError(f"no name for {rest}")


def prefix_counterpart(name: str, there: Tensors) -> tuple[str, slice]:
    """One network for each kind of attention there, whose last matrix holds the rows of all layers."""
    kind = "cross" if "EncDec" in name else "encoder" if name.startswith("encoder") else "self"
    stem = named(there, f".{kind}_prefix.wte.weight").removesuffix("wte.weight")
    rest = name.partition(".prefix.")[2]
    parts = {"network.E": "wte.weight", "network.inner.weight": "control_trans.0.weight"}
    parts |= {"network.inner.bias": "control_trans.0.bias", "outer.weight": "control_trans.2.weight"}
    found = stem + (parts | {"outer.bias": "control_trans.2.bias"})[rest]
    if not rest.startswith("outer"):
        return found, slice(None)
    layer = int(re.search(r"\.(\d+)\.", name)[1])  # type: ignore[index]
    rows = len(there[f"value.{found}"]) // 2  # the tiny models have two layers
    return found, slice(layer * rows, (layer + 1) * rows)


def pairs(ours: nn.Module, there: Tensors) -> Iterator[Pair]:
    """Our parameters beside the library's; all of those that it trains are met."""
    met = set()
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad or ".adapters." in name:
            found, rows = counterpart(name, there)
            met.add(found)
            yield parameter, found, rows
    trained = {name.removeprefix("grad.") for name in there if name.startswith("grad.")}
    assert trained - met <= {name for name in trained if re.search(r"one,two\.(key|query)\.bias|projection\.", name)}


def shaped(tensor: Tensor, parameter: nn.Parameter, name: str) -> Tensor:
    """The library's tensor as ours lies: its fusion multiplies from the other side."""
    return tensor.T if "fusion" in name else tensor.reshape(parameter.shape)


def fill(ours: nn.Module, there: Tensors) -> nn.Module:
    """Gives our method the library's numbers."""
    with torch.no_grad():
        for parameter, name, rows in pairs(ours, there):
            parameter.copy_(shaped(there[f"value.{name}"][rows], parameter, name))
    return ours


def compare(ours: nn.Module, batch: Tensors, there: Tensors) -> None:
    """Logits, loss and the gradient of every number that the library trains are equal."""
    answer = ours(**batch)
    torch.testing.assert_close(answer.logits, there["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answer.loss, there["loss"], rtol=1e-5, atol=1e-6)
    answer.loss.backward()
    compared = 0
    for parameter, name, rows in pairs(ours, there):
        if f"grad.{name}" in there:
            compared += 1
            assert parameter.grad is not None, name
            expected = shaped(there[f"grad.{name}"][rows], parameter, name)
            torch.testing.assert_close(
                parameter.grad, expected, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert compared


def differ(case: str, family: str) -> None:
    """Our method, as the paper has it, answers otherwise than the library with the same numbers."""
    there = fixture(case, family)
    ours, batch = attached(case, family)
    assert (fill(ours, there)(**batch).logits - there["logits"]).abs().max() > 1e-3


@pytest.mark.parametrize(("case", "family"), EQUAL, ids=lambda word: word)
def test_outputs_and_gradients_equal_those_of_adapters(case: str, family: str) -> None:
    there = fixture(case, family)
    ours, batch = attached(case, family)
    compare(fill(ours, there), batch, there)


def test_every_fixture_is_compared_or_shown_to_differ() -> None:
    cases = {f"{case}_{family}" for case, families in EVERY.items() for family in families}
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == cases | {f"base_{family}" for family in FAMILIES}
    assert cases - {f"{case}_{family}" for case, family in EQUAL} <= {f"{case}_{family}" for case, family in APART}


@pytest.mark.parametrize(("case", "family"), sorted(one for one in APART if one[0] in PARALLEL), ids=lambda word: word)
def test_adapters_feeds_parallel_branches_with_what_the_norm_has_not_seen(case: str, family: str) -> None:
    """In blocks that normalise first, the library's branch reads the residual, the paper's what the network reads."""
    there = fixture(case, family)
    ours, batch = attached(case, family)
    inputs: dict[nn.Module, Tensor] = {}
    norms = [
        module
        for name, module in ours.named_modules()
        if re.fullmatch(rf"(?:.*\.)?(?:{pfeiffer_adapter.NORM_IN_FRONT})", name)
    ]
    for norm, (_, tap) in zip(norms, instances(ours, Tap), strict=True):
        norm.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0]}))
        tap.register_forward_hook(lambda module, args, _, norm=norm: setattr(module.held, "tensor", inputs[norm]))
    compare(fill(ours, there), batch, there)
    differ(case, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_puts_compacter_plus_plus_where_pfeiffer_puts_his_adapter(family: str) -> None:
    """The library's one adapter reads the sum with the residual; the paper's is Compacter's second, left where it was."""
    there = fixture("compacter_plus_plus", family)
    model, batch = base(family)
    rule = compacter.Rule(next(model.parameters()), 4)
    ours = pfeiffer_adapter.behind_ffn(freeze(model), lambda like: compacter.Adapter(rule, len(like), BOTTLENECK, 1))
    compare(fill(ours, there), batch, there)
    differ("compacter_plus_plus", family)


class LibraryDoRA(dora.DoRALinear):
    """DoRA as adapters computes it."""

    def forward(self, x: Tensor) -> Tensor:
        """The norm is of W + B A without α / r and has a gradient; the magnitude scales the bias too."""
        norm = (self.weight + self.B @ self.A).norm(dim=1)
        return self.m / norm * (self.base(x) + self.scale * (x @ self.A.T @ self.B.T))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_leaves_the_scale_out_of_the_norm_of_dora(family: str) -> None:
    there = fixture("dora", family)
    ours, batch = attached("dora", family)
    for _, layer in instances(ours, dora.DoRALinear):
        layer.__class__ = LibraryDoRA
    compare(fill(ours, there), batch, there)
    differ("dora", family)


@pytest.mark.parametrize(("family", "scaled"), [("bert", r"intermediate\.dense"), ("llama", "down_proj")])
def test_adapters_scales_the_feed_forward_network_elsewhere_in_ia3(family: str, scaled: str) -> None:
    """In BERT before the activation, in Llama behind the whole network: the paper scales what the activation gives."""
    there = fixture("ia3", family)
    model, batch = base(family)
    replace(freeze(model), f"{KEY}|{VALUE}|{scaled}", ia3.ScaledOutput)
    compare(fill(model, there), batch, there)
    inner = 96
    widths = {value.numel() for name, value in there.items() if name.startswith("value.") and "self" not in name}
    assert widths == ({inner} if family == "bert" else {64})


def test_adapters_moves_t5s_relative_positions_by_the_length_of_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys count from the start of the prefix, its queries from the end: each token seems p places further off."""
    differ("prefix_tuning", "t5")
    there = fixture("prefix_tuning", "t5")
    ours, batch = attached("prefix_tuning", "t5")
    monkeypatch.setattr(prefix_tuning.Front, "get_seq_length", lambda front, layer=0: 0)
    compare(fill(ours, there), batch, there)


def test_adapters_hides_the_prefix_of_llama_from_sdpa() -> None:
    """Where the attention mask is of booleans, the library marks the prefix as padding: it has no effect at all."""
    there = fixture("prefix_tuning_sdpa", "llama")
    model, batch = base("llama")
    torch.testing.assert_close(model(**batch).logits, there["logits"], rtol=1e-4, atol=1e-5)
    gradients = [value for name, value in there.items() if name.startswith("grad.")]
    assert gradients
    assert not any(value.any() for value in gradients)


def test_adapters_puts_the_prompt_of_bert_behind_positions_and_lets_its_first_states_see_padding() -> None:
    """The library's prompt stands in what the embedding layer gives, ours among the words, which get their positions.

    It widens the mask of sdpa by p rows in front as well, in which nothing is hidden: those of [CLS] and p − 1 others.
    """
    there = fixture("prompt_tuning", "bert")
    model, batch = base("bert")
    embedded = model.bert.embeddings(batch["input_ids"])  # (b, n, d), normalised
    prompt = there["value.bert.prompt_tuning.prompt_tunings.one.prompt_embedding.weight"].expand(len(embedded), -1, -1)
    states = torch.cat((embedded[:, :1], prompt, embedded[:, 1:]), dim=1)  # (b, p + n, d)
    p, n = prompt.shape[1], states.shape[1]
    hidden = torch.cat((torch.zeros(len(states), p), 1.0 - batch["attention_mask"]), dim=1)
    mask = (hidden * torch.finfo(torch.float32).min)[:, None, None, :].expand(-1, 1, n, n).clone()
    right, mask[:, :, :p] = mask.clone(), 0.0

    def logits(mask: Tensor) -> Tensor:
        return model.classifier(model.bert.pooler(model.bert.encoder(states, attention_mask=mask).last_hidden_state))

    torch.testing.assert_close(logits(mask), there["logits"], rtol=1e-4, atol=1e-5)
    padded = hidden.any(dim=1)
    assert ((logits(right) - there["logits"])[padded].abs().amax(dim=1) > 1e-2).all()


class LibraryVeRA(nn.Module):
    """VeRA as adapters computes it: full matrices where the paper has vectors."""

    def __init__(self, layer: nn.Linear, there: Tensors, name: str) -> None:
        super().__init__()
        self.base = layer
        self.left, self.inner = (nn.Parameter(there[f"value.{name}.loras.one.vera_{end}"]) for end in "BD")
        self.A, self.B = (there[f"value.bert.shared_parameters.one.lora_{end}"] for end in "AB")

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b + x (Λ_b B Λ_d A)ᵀ with Λ_b (d_out, d_out) and Λ_d (r, r)."""
        return self.base(x) + x @ (self.left @ self.B @ self.inner @ self.A).T


def test_adapters_trains_full_matrices_where_vera_has_vectors() -> None:
    there = fixture("vera", "bert")
    model, batch = base("bert")
    names = sorted({name.partition(".loras.")[0].removeprefix("value.") for name in there if ".loras." in name})
    names = [name for name in names if not name.startswith("grad.")]
    for name in names:
        model.set_submodule(name, LibraryVeRA(model.get_submodule(name), there, name))
    answer = model(**batch)
    torch.testing.assert_close(answer.logits, there["logits"], rtol=1e-4, atol=1e-5)
    answer.loss.backward()
    for name in names:
        layer = model.get_submodule(name)
        for mine, end in ((layer.left, "B"), (layer.inner, "D")):
            expected = there[f"grad.{name}.loras.one.vera_{end}"]
            torch.testing.assert_close(mine.grad, expected, rtol=1e-3, atol=1e-6)
            assert (expected - expected.diagonal().diag()).abs().max() > 1e-5  # numbers that the paper does not have
    ours = vera.attach(base("bert")[0], vera.Config(rank=4))
    trained = sum(parameter.numel() for parameter in ours.parameters() if parameter.requires_grad)
    assert trained == len(names) * (4 + 64)
    assert sum(there[name].numel() for name in there if name.startswith("grad.")) == len(names) * (4 * 4 + 64 * 64)
