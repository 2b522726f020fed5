"""Every implementation keeps what its record and the contract promise, on every family that the record names.

The folder is the registry: a new ``reference_impls/<slug>.py`` is tested here without an edit. The last statement, that
a GPU computes the same, is collected only on a machine that has one.
"""

import copy
import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference_impls
from kb.architecture import Architecture, from_config
from kb.expression import evaluate
from kb.loader import KB, load_record
from kb.schema import Count, Method
from reference_impls import _journal, _site, _surgery
from reference_impls.parts import nf4
from reference_impls.training import checkpoint
from reference_impls.training.loop import configure, train
from tests.reference_impls.tiny import JOINED

SLUGS = reference_impls.slugs()
FAMILIES = {
    "decoder": ("llama", "gpt2"),
    "encoder": ("bert",),
    "encoder_decoder": ("t5",),
    "vision": ("vit",),
    "diffusion": (),
}
WITH_BIASES = ("gpt2", "bert", "vit")
REFUSES_JOINED = {  # methods that give keys and values something of their own, or narrow each matrix
    *("ladder_side_tuning", "llama_adapter", "lorta", "mam_adapter", "p_tuning_v2", "prefix_tuning", "s4", "unipelt"),
}
ONE_MATRIX_EACH = ("llama", "bert", "t5", "vit")  # GPT-2 holds three maps in one matrix
LR = 1e-2

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]


@cache
def record(slug: str) -> Method:
    """The record of an implementation."""
    return load_record(KB / "methods" / f"{slug}.yaml", Method)


@dataclass(frozen=True)
class Case:
    """One method on one family."""

    slug: str
    family: str

    @property
    def method(self) -> ModuleType:
        """The implementation."""
        return importlib.import_module(f"reference_impls.{self.slug}")

    @property
    def config(self) -> Any:
        """The paper's configuration, with what the record changes for small models."""
        reference = record(self.slug).reference
        return configure(self.method, dict(reference.config) if reference else {})

    def attach(self, model: nn.Module) -> nn.Module:
        """The method on ``model``, under a fixed seed."""
        torch.manual_seed(1)
        return self.method.attach(model, self.config)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train: not where the record counts nothing, as for a fusion of models."""
        return record(self.slug).counts.trainable.expr != "0"

    def train(self, model: nn.Module, batch: Batch, steps: int) -> None:
        """``steps`` steps of the project's own training loop on one batch, where anything trains."""
        if not self.trains:
            return
        torch.manual_seed(2)
        train(model, self.method, self.config, itertools.repeat(batch), lr=LR, steps=steps)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The method's training loss, under a fixed seed."""
        torch.manual_seed(3)
        if hasattr(self.method, "loss"):
            return self.method.loss(model, batch)
        return model(**batch).loss

    def backward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss, after its backward pass where anything trains."""
        loss = self.loss(model, batch)
        if self.trains:
            loss.backward()
        return loss


def families(slug: str) -> list[str]:
    """The tiny models that the record says the method works on."""
    if not (KB / "methods" / f"{slug}.yaml").exists():
        return []  # test_every_implementation_has_a_record fails for it
    applies = record(slug).applies_to
    named = [family for kind in applies.architectures for family in FAMILIES[kind]]
    if "biases" in applies.needs:
        named = [family for family in named if family in WITH_BIASES]
    if "masked_lm" in applies.needs:
        named = [f"{family}_mlm" for family in named]
    return named


CASES = [Case(slug, family) for slug in SLUGS for family in families(slug)]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.slug}-{case.family}")
each_trained_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.trains], ids=lambda case: f"{case.slug}-{case.family}"
)
each_slug = pytest.mark.parametrize("slug", SLUGS)


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    """The model's answer in evaluation mode; a label for a whole example has no part in it."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels" or tensor.dim() > 1}
    return model.eval()(**inputs).logits


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients of everything that trains."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture without a classification head, which no method counts."""
    config = {key: value for key, value in model.config.to_dict().items() if key != "num_labels"}
    return from_config(config | {"id2label": {}})


def variables(method: Method, config: Any, architecture: Architecture) -> dict[str, float]:
    """What the record's formulas may speak of: sizes of the model, and the hyperparameters by their symbols."""
    known: dict[str, float] = dict(architecture.variables())
    for knob in method.mechanism.hyperparameters:
        value = getattr(config, knob.name, None)
        if isinstance(value, int | float):
            known[knob.symbol] = value
    return known


def expected_count(count: Count, method: Method, config: Any, architecture: Architecture) -> int:
    """The record's formula at this configuration and architecture."""
    assert count.expr is not None
    known = variables(method, config, architecture)
    if count.scope == "model":
        return int(evaluate(count.expr, known))
    where = set(method.mechanism.where)
    where |= {f"cross_{site}" for site in where}
    return sum(
        linear.count * int(evaluate(count.expr, known | {"d_in": linear.d_in, "d_out": linear.d_out}))
        for linear in architecture.reached(where)
    )


def start_of(case: Case, model: nn.Module) -> nn.Module:
    """The model, or, for a method that needs a quantised one, a copy with its matrices in 4 bits."""
    if "quantised_base" not in record(case.slug).applies_to.needs:
        return model
    model = _surgery.freeze(copy.deepcopy(model))
    _surgery.replace(model, _site.LINEAR, lambda layer: nf4.NF4Linear(layer, nf4.quantise(layer.weight)))
    return model


@each_slug
def test_every_implementation_has_a_record(slug: str) -> None:
    assert (KB / "methods" / f"{slug}.yaml").exists(), f"write kb/methods/{slug}.yaml"
    assert record(slug).slug == slug
    assert families(slug), f"{slug} applies to no family that has a tiny model"


@each_slug
def test_module_keeps_to_the_contract(slug: str) -> None:
    method = Case(slug, "").method
    assert method.__doc__
    for line in ("Paper:", "Official:", "Differs:"):
        assert f"\n{line}" in method.__doc__, f"the docstring lacks the line {line!r}"
    assert method.Config() == method.Config()
    with pytest.raises(AttributeError):
        method.Config().anything = 1
    for knob in record(slug).mechanism.hyperparameters:
        if knob.paper_default is not None and hasattr(method.Config(), knob.name):
            assert getattr(method.Config(), knob.name) == knob.paper_default, f"{knob.name} differs from the record"


@each_slug
def test_model_without_a_target_is_refused_and_left_as_it_was(slug: str) -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match=r"\w"):
        Case(slug, "").method.attach(model)
    assert not hasattr(model, "_journal")


@pytest.mark.parametrize("slug", [s for s in SLUGS if families(s) and "biases" in record(s).applies_to.needs])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_model_without_biases_is_refused_where_biases_are_needed(slug: str, family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    before = logits(model, batch)
    with pytest.raises(ValueError, match="bias"):
        Case(slug, family).method.attach(model)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(logits(model, batch), before)


@each_case
def test_attaching_keeps_the_output_iff_identity_at_init(case: Case, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(case.family)
    before = logits(start_of(case, model), batch)
    after = logits(case.attach(model), batch)
    same = after.shape == before.shape and bool((after - before).abs().max() <= 1e-5)
    assert same == record(case.slug).efficiency.identity_at_init.value


@each_case
def test_trainable_numbers_are_as_many_as_the_record_says(case: Case, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(case.family)
    architecture = architecture_of(model)
    inside = {id(parameter) for _, parameter in _site.backbone(model)}
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    expected = expected_count(record(case.slug).counts.trainable, record(case.slug), case.config, architecture)
    adapted = case.attach(model)
    counted = sum(p.numel() for p in adapted.parameters() if p.requires_grad and not any(p is h for h in head))
    assert counted == expected


@pytest.mark.parametrize("family", JOINED)
@pytest.mark.parametrize("slug", [s for s in SLUGS if "decoder" in record(s).applies_to.architectures])
def test_joined_matrices_are_adapted_as_a_whole_or_refused(slug: str, family: str, make_tiny: MakeTiny) -> None:
    case = Case(slug, family)
    model, batch = make_tiny(family)
    architecture = architecture_of(model)
    without_biases = family == "phi3" and "biases" in record(slug).applies_to.needs
    refuses = slug in REFUSES_JOINED or without_biases
    expected = expected_count(record(slug).counts.trainable, record(slug), case.config, architecture)
    if slug == "ia3":  # its formula speaks of keys and values; here the queries are in the same matrix
        expected += sum(one.count * one.d_out for one in architecture.linears() if one.site == "attention.query")
    before = logits(model, batch)
    try:
        adapted = case.attach(model)
    except ValueError:
        assert refuses
        assert torch.equal(logits(model, batch), before)
        return
    assert not refuses
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == expected
    case.backward(adapted, batch)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients(adapted).values())


@each_case
def test_training_changes_no_base_weight_but_those_trained_in_place(case: Case, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(case.family)
    live = {name: p.detach() for name, p in model.named_parameters()}
    before = {name: tensor.clone() for name, tensor in live.items()}
    adapted = case.attach(model)
    case.train(adapted, batch, steps=3)
    _, book = _journal.journal(adapted)
    in_place = {getattr(module, name).data_ptr() for module, name, _ in book.saved}
    for name, tensor in live.items():
        if tensor.data_ptr() not in in_place:
            assert torch.equal(tensor, before[name]), name


@each_case
def test_detach_restores_the_base_exactly_and_attaching_again_works(case: Case, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(case.family)
    model.get_parameter(next(iter(dict(model.named_parameters())))).requires_grad_(False)  # a flag of the user's own
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before, output = copy.deepcopy(model.state_dict()), logits(model, batch)
    adapted = case.attach(model)
    first = logits(adapted, batch)
    case.train(adapted, batch, steps=2)
    base = _surgery.detach(adapted)
    assert base is model
    assert list(base.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert {name: p.requires_grad for name, p in base.named_parameters()} == flags
    assert torch.equal(logits(base, batch), output)
    torch.testing.assert_close(logits(case.attach(base), batch), first, rtol=0, atol=1e-6)


@each_trained_case
def test_every_trainable_parameter_gets_a_gradient_within_two_steps(case: Case, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(case.family)
    adapted = case.attach(model).train()
    if hasattr(case.method, "prepare"):
        case.method.prepare(adapted, [batch], case.config)
    names = {name for name, p in adapted.named_parameters() if p.requires_grad}
    reached: set[str] = set()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        case.backward(adapted, batch)
        reached |= {name for name, gradient in gradients(adapted).items() if gradient.abs().max() > 0}
        optimizer.step()
    assert reached == names
    assert all(p.grad is None for p in adapted.parameters() if not p.requires_grad)


@each_trained_case
def test_loss_falls_on_a_small_batch(case: Case, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(case.family)
    adapted = case.attach(model)
    with torch.no_grad():
        before = adapted(**batch).loss
    case.train(adapted, batch, steps=20)
    with torch.no_grad():
        assert adapted(**batch).loss < before - 1e-3


@each_case
def test_merge_exists_iff_mergeable_and_gives_a_plain_equal_model(
    case: Case, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    assert hasattr(case.method, "merge") == record(case.slug).efficiency.mergeable.value
    if not hasattr(case.method, "merge"):
        return
    model, batch = make_tiny(case.family)
    kinds = [(name, type(module)) for name, module in model.named_modules()]
    names = [(name, tensor.shape) for name, tensor in model.state_dict().items()]
    before = logits(model, batch)
    adapted = randomise(case.attach(model))
    expected = logits(adapted, batch)
    merged = case.method.merge(adapted)
    assert [(name, type(module)) for name, module in merged.named_modules()] == kinds
    assert [(name, tensor.shape) for name, tensor in merged.state_dict().items()] == names
    assert all(p.requires_grad for p in merged.parameters())
    assert (expected - before).abs().max() > 1e-3, "the adapter changes nothing: the test would be blind"
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="carries no method"):
        _surgery.detach(merged)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.trains and hasattr(case.method, "merge") and case.family in ONE_MATRIX_EACH],
    ids=lambda case: f"{case.slug}-{case.family}",
)
def test_weights_change_in_as_many_numbers_and_by_the_rank_that_the_record_says(
    case: Case, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    """Trained, then moved at random, because a batch does not reach every number; a record notes what may stay below.

    A base in 4 bits counts as such.
    """
    model, batch = make_tiny(case.family)
    counts, architecture = record(case.slug).counts, architecture_of(model.double())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adapted = case.attach(model)
    for name, layer in _site.instances(adapted, nf4.NF4Linear):
        before[f"{name.removesuffix('.base')}.weight"] = layer.weight.detach().clone()
    case.train(adapted, {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}, steps=2)
    merged = case.method.merge(randomise(adapted))
    changes = {name: (weight - before[name]).detach() for name, weight in _site.backbone(merged)}
    changed = sum(int(change.count_nonzero()) for change in changes.values())
    expected = expected_count(counts.changed, record(case.slug), case.config, architecture)
    assert changed == expected or (counts.changed.note and 0.9 * expected < changed < expected)
    if counts.rank.expr is None:
        return
    known = variables(record(case.slug), case.config, architecture)
    for name, change in changes.items():
        if change.dim() == 2 and change.any():
            d_out, d_in = change.shape
            limit = int(evaluate(counts.rank.expr, known | {"d_in": d_in, "d_out": d_out}))
            rank = int(torch.linalg.matrix_rank(change, tol=1e-7))
            assert rank == limit or (counts.rank.note and rank < limit), name


@each_case
def test_saving_and_loading_on_a_fresh_base_gives_equal_outputs(
    case: Case, make_tiny: MakeTiny, randomise: Randomise, tmp_path: Path
) -> None:
    model, batch = make_tiny(case.family)
    adapted = case.attach(model)
    if hasattr(case.method, "prepare"):
        case.method.prepare(adapted, [batch], case.config)
    randomise(adapted)
    path = checkpoint.save(adapted, tmp_path / "adapter.safetensors", case.slug, case.config)
    fresh, _ = make_tiny(case.family)
    torch.manual_seed(99)
    loaded = checkpoint.load(fresh, path, case.slug)
    assert torch.equal(logits(loaded, batch), logits(adapted, batch))


@each_case
def test_gradient_checkpointing_gives_the_same_gradients(case: Case, make_tiny: MakeTiny, randomise: Randomise) -> None:
    runs = []
    for checkpointing in (False, True):
        model, batch = make_tiny(case.family)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        torch.manual_seed(4)
        adapted = randomise(case.attach(model)).train()
        case.backward(adapted, batch)
        runs.append(gradients(adapted))
    assert runs[0].keys() == runs[1].keys()
    for name, gradient in runs[0].items():
        torch.testing.assert_close(runs[1][name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@each_case
def test_bf16_is_finite_and_close_to_fp32(case: Case, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(case.family)
    adapted = randomise(case.attach(model))
    exact = logits(adapted, batch)
    low = adapted.to(torch.bfloat16)
    batch = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in batch.items()}
    case.backward(low, batch)
    assert all(gradient.isfinite().all() for gradient in gradients(low).values())
    answer = logits(low, batch)
    assert answer.dtype == torch.bfloat16
    assert (answer.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@each_case
def test_method_attached_to_a_bf16_model_stays_in_bf16(case: Case, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(case.family)
    batch = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in batch.items()}
    adapted = case.attach(model.to(torch.bfloat16))
    case.train(adapted, batch, steps=2)
    assert {p.dtype for p in adapted.parameters()} == {torch.bfloat16}
    assert logits(adapted, batch).isfinite().all()


@each_case
def test_autocast_is_finite(case: Case, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(case.family)
    adapted = randomise(case.attach(model)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss(adapted, batch)
    if case.trains:
        loss.backward()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(adapted).values())


@each_case
def test_same_seed_gives_the_same_training(case: Case, make_tiny: MakeTiny) -> None:
    answers = []
    for _ in range(2):
        model, batch = make_tiny(case.family)
        adapted = case.attach(model)
        case.train(adapted, batch, steps=3)
        answers.append(logits(adapted, batch))
    assert torch.equal(answers[0], answers[1])


@each_case
def test_copy_of_an_adapted_model_is_independent(case: Case, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(case.family)
    before = logits(model, batch)
    adapted = randomise(case.attach(model))
    expected = logits(adapted, batch)
    twin = copy.deepcopy(adapted)
    assert torch.equal(logits(twin, batch), expected)
    assert torch.equal(logits(_surgery.detach(twin), batch), before)
    assert torch.equal(logits(adapted, batch), expected)


if torch.cuda.is_available():

    @each_case
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    def test_gpu_computes_the_same(case: Case, dtype: torch.dtype, make_tiny: MakeTiny, randomise: Randomise) -> None:
        model, batch = make_tiny(case.family)
        batch = {name: x.cpu().to(dtype) if x.is_floating_point() else x.cpu() for name, x in batch.items()}
        adapted = randomise(case.attach(model.cpu())).to(dtype)
        expected = logits(adapted, batch).float()
        there = {name: tensor.to("cuda") for name, tensor in batch.items()}
        found = logits(adapted.to("cuda"), there).float().cpu()
        if dtype == torch.float32:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        else:
            assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()
        case.backward(adapted, there)
        assert all(gradient.isfinite().all() for gradient in gradients(adapted).values())
        born = case.attach(make_tiny(case.family)[0].to("cuda", dtype))
        assert {p.device.type for p in born.parameters()} == {"cuda"}
        case.train(born, there, steps=2)
