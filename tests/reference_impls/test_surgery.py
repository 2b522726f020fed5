"""Surgery on models: everything can be undone exactly, copied, moved, and refused without a trace."""

import copy
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from reference_impls import _site, bitfit, diff_pruning, dora, fishmask, ia3, krona, ln_tuning, lora
from reference_impls import _surgery as surgery
from reference_impls._branch import beside
from reference_impls._layer import Around
from reference_impls.training import checkpoint
from tests.reference_impls.tiny import FAMILIES, tiny

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]

METHODS = (lora, dora, krona, ia3, ln_tuning, bitfit, fishmask, diff_pruning)
SITES = {  # how many layers each constant names in the tiny models: two blocks; T5 has two in each of its stacks
    "QUERY": {"llama": 2, "gpt2": 2, "bert": 2, "t5": 6, "vit": 2},
    "KEY": {"llama": 2, "gpt2": 2, "bert": 2, "t5": 6, "vit": 2},
    "VALUE": {"llama": 2, "gpt2": 2, "bert": 2, "t5": 6, "vit": 2},
    "OUTPUT": {"llama": 2, "gpt2": 2, "bert": 2, "t5": 6, "vit": 2},
    "FFN_IN": {"llama": 2, "gpt2": 2, "bert": 2, "t5": 4, "vit": 2},
    "FFN_OUT": {"llama": 2, "gpt2": 2, "bert": 2, "t5": 4, "vit": 2},
    "FFN_GATE": {"llama": 2, "gpt2": 0, "bert": 0, "t5": 0, "vit": 0},
}


class Doubled(Around):
    """Twice what the layer inside gives."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base(x)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer with twice its weight and bias."""
        self.base.weight *= 2
        if self.base.bias is not None:
            self.base.bias *= 2
        return self.base


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    return model(**batch).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", SITES)
def test_site_names_find_one_layer_per_block(site: str, family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    surgery.freeze(model)
    if SITES[site][family] == 0:
        with pytest.raises(ValueError, match="no Linear layer matches"):
            surgery.replace(model, getattr(_site, site), Doubled)
    else:
        names = surgery.replace(model, getattr(_site, site), Doubled)
        assert len(names) == SITES[site][family], names


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_names_every_matrix_of_the_blocks_and_no_other(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    names = surgery.replace(surgery.freeze(model), _site.LINEAR, Doubled)
    per_block = {"llama": 7, "gpt2": 6, "bert": 6, "vit": 6}
    assert len(names) == (2 * 6 + 2 * 10 if family == "t5" else 2 * per_block[family])
    assert not [name for name in names if "head" in name or "classifier" in name or "pooler" in name]


def test_replacing_says_what_it_found_when_nothing_matches_and_leaves_no_trace() -> None:
    model = two_layers()
    with pytest.raises(ValueError, match="no Linear layer matches 'q_proj'; this model has 0, 2"):
        surgery.replace(surgery.freeze(model), "q_proj", Doubled)
    assert all(p.requires_grad for p in model.parameters())
    surgery.freeze(model)  # nothing is left over that would forbid it


def test_error_while_building_undoes_the_layers_already_replaced() -> None:
    model = two_layers()
    built = iter([Doubled(model[0])])
    with pytest.raises(StopIteration):
        surgery.replace(surgery.freeze(model), "0|2", lambda layer: next(built))
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(p.requires_grad for p in model.parameters())


def test_second_method_on_the_same_model_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    lora.attach(model)
    with pytest.raises(ValueError, match="already carries a method"):
        ia3.attach(model)


def test_detaching_a_plain_model_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential carries no method"):
        surgery.detach(two_layers())


def test_flags_of_single_parameters_survive() -> None:
    model = two_layers()
    model[0].bias.requires_grad_(False)
    surgery.replace(surgery.freeze(model), "2", Doubled)
    surgery.detach(model)
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]


def test_layer_wrapped_twice_is_found_by_its_name_and_unwrapped_in_order() -> None:
    model, x = two_layers(), torch.randn(3, 4)
    first, before = model[0], model(x)
    surgery.freeze(model)
    surgery.replace(model, "0|2", Doubled)
    surgery.replace(model, "0", Doubled)
    assert isinstance(model[0].base, Doubled)
    torch.testing.assert_close(model[0](x), 4 * first(x))
    expected = model(x)
    torch.testing.assert_close(surgery.settle(copy.deepcopy(model))(x), expected)
    assert surgery.detach(model)[0] is first
    assert torch.equal(model(x), before)


def test_layer_replaced_whole_comes_back_in_the_type_that_the_model_has_now() -> None:
    model = two_layers()
    first = model[0]
    surgery.replace(surgery.freeze(model), "0", lambda layer: nn.Linear(4, 4))
    model.to(torch.bfloat16)
    assert surgery.detach(model)[0] is first
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_any_kind_of_layer_can_be_replaced() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4))
    assert surgery.replace(surgery.freeze(model), "0", Around, kind=nn.Embedding) == ["0"]
    with pytest.raises(ValueError, match="no LayerNorm layer matches 'norm'; this model has 1"):
        surgery.replace(model, "norm", Around, kind=nn.LayerNorm)


def test_layer_without_a_way_back_cannot_be_settled() -> None:
    model = two_layers()
    surgery.replace(surgery.freeze(model), "0", Around)
    with pytest.raises(ValueError, match="Around at 0 cannot be written back"):
        surgery.settle(model)


@pytest.mark.parametrize("target", ["c_fc", "c_attn", r"attn\.c_proj", "query", "value|c_fc"])
def test_conv1d_takes_part_as_linear_layers(target: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("gpt2")
    state, before = copy.deepcopy(model.state_dict()), logits(model, batch)
    surgery.replace(surgery.freeze(model), target, Around)
    torch.testing.assert_close(logits(model, batch), before, rtol=1e-5, atol=1e-5)
    surgery.detach(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert sum(isinstance(module, Conv1D) for module in model.modules()) == 8


def test_thirds_of_a_fused_projection_are_query_key_and_value(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("gpt2")
    x = torch.randn(2, 64)
    whole = model.transformer.h[0].attn.c_attn(x)
    surgery.replace(surgery.freeze(model), "key", Doubled)
    q, k, v = model.transformer.h[0].attn.c_attn(x).split(64, dim=-1)
    torch.testing.assert_close(torch.cat((q, k / 2, v), dim=-1), whole)


def test_conv1d_survives_a_copy_a_change_of_type_and_a_merge(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("gpt2")
    surgery.replace(surgery.freeze(model), "value|c_fc", Doubled)
    twin = copy.deepcopy(model).double()
    expected = logits(twin, batch)
    merged = surgery.settle(twin)
    assert all(isinstance(block.attn.c_attn, Conv1D) for block in merged.transformer.h)
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-9, atol=1e-9)


class Halved(nn.Module):
    """A branch whose output tells where its input came from."""

    def __init__(self, first: nn.Linear, last: nn.Linear) -> None:
        super().__init__()
        self.map = nn.Linear(first.in_features, last.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_branch_beside_the_network_maps_its_input_onto_its_output(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    surgery.freeze(model)
    pairs = beside(model, _site.FFN_IN, _site.FFN_OUT, Halved)
    assert len(pairs) == SITES["FFN_IN"][family]
    seen: dict[str, Tensor] = {}
    first, last = (model.get_submodule(name) for name in pairs[-1])
    first.register_forward_hook(lambda _, args, __: seen.update(x=args[0]))
    last.register_forward_hook(lambda _, args, y: seen.update(h=args[0], y=y))
    logits(model, batch)
    expected = last.base(seen["h"]) + last.branch.map(seen["x"]) / 2
    torch.testing.assert_close(seen["y"], expected)
    assert last.held.tensor is None, "the tensor must not be kept"


def test_pairs_that_do_not_match_up_are_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    with pytest.raises(ValueError, match="they do not pair up"):
        beside(surgery.freeze(model), _site.FFN_IN, r"0\.output\.dense", Halved)
    assert all(p.requires_grad for p in model.parameters())


def test_values_trained_in_place_come_back_bit_by_bit() -> None:
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    surgery.train_in_place(surgery.freeze(model), ["0.weight", "2.bias"])
    assert set(checkpoint.adapter_state(model)) == {"0.weight", "2.bias"}
    with torch.no_grad():
        model[0].weight.normal_()
    surgery.detach(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Shifted(nn.Module):
    """A rule that adds a trained number."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(1.0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.shift


def test_derived_parameter_reads_by_its_rule_in_copies_too() -> None:
    model, x = two_layers(), torch.randn(3, 4)
    weight, before = model[0].weight, model(x)
    for name in ("0.weight", "0.bias"):
        surgery.derive(model if name == "0.bias" else surgery.freeze(model), name, Shifted())
    assert torch.equal(model[0].weight, weight + 1)
    assert set(checkpoint.adapter_state(model)) == {"0.derived.weight.rule.shift", "0.derived.bias.rule.shift"}
    twin, settled = copy.deepcopy(model), copy.deepcopy(model)
    expected = model(x)
    assert torch.equal(surgery.detach(twin)(x), before)
    assert torch.equal(model(x), expected), "undoing a copy must not touch the original"
    assert torch.equal(surgery.settle(settled)(x), expected)
    assert type(surgery.detach(model)[0]) is nn.Linear
    assert model[0].weight is weight


def test_only_what_differs_from_the_base_is_adapter_state(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("gpt2")
    state = checkpoint.adapter_state(lora.attach(model))
    assert len(state) == 2 * 2 * 2
    assert all(name.endswith((".A", ".B")) for name in state)


def test_head_that_the_user_lets_train_belongs_to_the_adapter(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    attached = lora.attach(model)
    surgery.train_in_place(attached, ["classifier.weight", "classifier.bias"])
    assert {"classifier.weight", "classifier.bias"} < set(checkpoint.adapter_state(attached))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(min(state)), "is missing"),
        (lambda state: state.update(foreign=torch.zeros(1)), "foreign is unexpected"),
        (lambda state: state.update({min(state): torch.zeros(1, 2, 3)}), r"is \(1, 2, 3\) instead of \(8, 64\)"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_state_that_does_not_fit_is_refused_and_nothing_is_copied(
    change: Callable[[dict[str, Tensor]], object], message: str, make_tiny: MakeTiny
) -> None:
    model, _ = make_tiny("bert")
    attached = lora.attach(model)
    state = {name: torch.ones_like(tensor) for name, tensor in checkpoint.adapter_state(attached).items()}
    before = copy.deepcopy(checkpoint.adapter_state(attached))
    change(state)
    with pytest.raises(ValueError, match=message):
        checkpoint.load_adapter(attached, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.adapter_state(attached).items())


@pytest.mark.parametrize(
    ("method", "family"),
    [
        (method, family)
        for method in METHODS
        for family in ("llama", "gpt2", "bert", "t5")
        if method is not bitfit or family in ("gpt2", "bert")  # the others have no biases
    ],
)
def test_methods_attach_and_run_without_any_values(method: ModuleType, family: str) -> None:
    with FakeTensorMode():
        model, batch = tiny(family)
        model = method.attach(model)
        model(**batch).loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", METHODS)
def test_methods_attach_on_the_meta_device(method: ModuleType, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("gpt2")
    attached = method.attach(model.to("meta"))
    assert {p.device.type for p in attached.parameters()} == {"meta"}
    assert surgery.detach(attached) is model


@pytest.mark.parametrize("family", FAMILIES)
def test_backbone_is_all_but_a_classifier(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    left_out = {name for name, _ in model.named_parameters()} - {name for name, _ in _site.backbone(model)}
    assert left_out == ({"classifier.weight", "classifier.bias"} if family in ("bert", "vit") else set())


def test_tiny_models_are_the_same_each_time_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = tiny("llama")[0].state_dict(), tiny("llama")[0].state_dict()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="no tiny model of 'lama'; there is llama, gpt2"):
        tiny("lama")
