"""A model from its configuration and a method on it, ours or Hugging Face PEFT's; meant for ``fake.without_values``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, util
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

import reference_impls
from kb.architecture import Architecture, from_config
from kb.closed_form import Implementation
from kb.records import load_method
from kb.schema import Method
from kb.symbol import Attaching, advised, arguments, attaching, shipped
from profiler import loss as losses
from profiler import optimizers, quantised
from profiler.settings import Settings
from reference_impls._journal import journal
from reference_impls.training.loop import configure
from reference_impls.training.sense import aside, senses

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_HEADS = {
    "decoder": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModelForSequenceClassification",
    "vision": "AutoModelForImageClassification",
}
_MASKED, _SIGHTED = "AutoModelForMaskedLM", "AutoModelForImageTextToText"
_TOKENS = ("mask_token", "separator")  # of a tokeniser, which no configuration names; memory does not depend on them


@dataclass(frozen=True)
class Training:
    """A method on a model, ready to be stepped."""

    model: nn.Module
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    optimizer: torch.optim.Optimizer
    after: Callable[[int, int], None]  # what the method does after step t of a total
    elsewhere: tuple[Tensor, ...]  # tensors that a real run keeps in the computer's memory, not on the card

    def given(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch. Raises ``ValueError`` when nothing that trains has a part in it."""
        found = self.loss(self.model, batch)
        if not found.requires_grad:  # such as the biases of a tower for images, on text
            raise ValueError("nothing that it trains has a part in the loss of such a batch")
        return found


def base(config: Mapping[str, object], settings: Settings, implementation: Implementation, slug: str = "") -> nn.Module:
    """The model that ``config`` describes, with the head that its kind, or the method, is trained with; see ``ready``.

    A method of ours that packs the model itself is given it unpacked.
    Raises ``ValueError`` naming the field that transformers does not take.
    """
    kind = kind_of(config)
    try:
        known = transformers.AutoConfig.for_model(**dict(config))
    except StrictDataclassError as error:
        raise ValueError(f"the configuration does not fit transformers' own: {error}") from error
    known.use_cache = settings.use_cache and not settings.checkpointing
    if kind == "encoder_decoder":  # a configuration that states sizes only need not say with which token answers begin
        known.decoder_start_token_id = getattr(known, "decoder_start_token_id", None) or 0
        known.pad_token_id = getattr(known, "pad_token_id", None) or 0
    asked = {} if settings.attention == "auto" else {"attn_implementation": settings.attention}
    try:
        model = getattr(transformers, _head(config, kind, slug)).from_config(
            known, dtype=DTYPES[settings.dtype], **asked
        )
    except KeyError as error:
        field = next((key for key, value in config.items() if value == error.args[0]), None)
        if field is None:
            raise
        raise ValueError(f"{field} is {config[field]!r}, which transformers does not know") from None
    model.tie_weights()  # left out together with the initialisation
    if kind == "encoder_decoder" and config.get("tie_word_embeddings") is False:
        _untie(model)
    if settings.storage != "bf16" and not packs(slug, implementation):
        quantised.quantise(model, settings.storage, implementation)
    return model  # type: ignore[no-any-return]  # attach is looked up by name


def _untie(model: nn.Module) -> None:
    """Gives the head a matrix of its own: transformers ties T5's by its class, released weights may hold two."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(torch.empty_like(embedding.weight))


def _needs(slug: str) -> tuple[str, ...]:
    """What the method's record says that it needs of a model."""
    record = load_method(slug)
    return record.applies_to.needs if record is not None else ()


def packs(slug: str, implementation: Implementation) -> bool:
    """Whether the method's code makes a base of 4 bits itself, of one in 16."""
    return implementation == "ours" and "quantised_base" in _needs(slug)


def _head(config: Mapping[str, object], kind: str, slug: str) -> str:
    """The class of ``transformers`` with the head that a method trains a model of this kind with.

    A decoder that reads images keeps its eyes: the class for text alone leaves them out or does not know it.
    """
    if kind == "decoder" and "vision_config" in config:
        return _SIGHTED
    return _MASKED if kind == "encoder" and "masked_lm" in _needs(slug) else _HEADS[kind]


def ready(config: Mapping[str, object], slug: str, implementation: Implementation) -> None:
    """Imports all code that will run: a module that is imported under fake tensors would keep fake constants.

    Raises ``ValueError`` naming what does not exist.
    """
    kind = kind_of(config)
    if kind not in _HEADS:
        raise ValueError(f"a {kind} model cannot be dry-run yet; {', '.join(_HEADS)} can")
    name, head = str(config.get("model_type")), _head(config, kind, slug)
    try:
        known = type(transformers.AutoConfig.for_model(name))
        import_module(getattr(transformers, head)._model_mapping[known].__module__)
    except (KeyError, ValueError):
        raise ValueError(f"transformers has no {head} for the model_type {name!r}") from None
    if implementation == "ours":
        if slug not in reference_impls.slugs():
            raise ValueError(f"{slug} has no implementation of ours; PEFT's may exist (implementation='peft')")
        import_module(f"reference_impls.{slug}")
    elif util.find_spec("peft") is None:
        raise ValueError("PEFT is not installed; install the extra [peft] to dry-run its implementation")
    else:
        import_module("peft")


def kind_of(config: Mapping[str, object]) -> str:
    """What the model is: decoder, encoder, encoder_decoder, vision; ``ValueError`` if its configuration is not one."""
    shape: Architecture = from_config(config)
    return str(shape.kind)


def batch_for(model: nn.Module, config: Mapping[str, object], settings: Settings, tokens: int) -> dict[str, Tensor]:
    """A batch of the model's kind. Its values do not exist; whether it is padded decides whether a mask is given."""
    kind = kind_of(config)
    rows = settings.batch
    if kind == "vision":
        inner = getattr(model.config, "vision_config", model.config)  # CLIP keeps two
        shape = (rows, inner.num_channels, inner.image_size, inner.image_size)
        return {
            "pixel_values": torch.zeros(shape, dtype=DTYPES[settings.dtype]),
            "labels": torch.zeros(rows, dtype=torch.long),
        }
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    batch = {"input_ids": ids}
    if settings.padded:
        batch["attention_mask"] = torch.ones_like(ids)
    batch["labels"] = torch.zeros(rows, dtype=torch.long) if kind == "encoder" else torch.zeros_like(ids)
    return batch


def training(
    model: nn.Module,
    slug: str,
    settings: Settings,
    implementation: Implementation,
    overrides: Mapping[str, object],
    first: Sequence[dict[str, Tensor]] = (),
) -> Training:
    """Attaches the method and makes its optimizer.

    ``overrides`` are fields of our ``Config``, or of PEFT's configuration class. A method that looks at data beforehand
    sees the batches ``first``; without any, as in a dry run, it does not. Raises ``ValueError`` naming what does not
    exist or does not fit.
    """
    if implementation == "ours":
        return _ours(model, slug, settings, overrides, first)
    return _peft(model, slug, settings, overrides)


def suits(slug: str, settings: Settings) -> None:
    """Raises ``ValueError`` with the record's reason when the method cannot work on a quantised base."""
    record = load_method(slug)
    if settings.storage == "bf16" or record is None:
        return
    fact = record.efficiency.quantised_base
    if fact.value is False:
        reason = fact.source.where if fact.source is not None else fact.note
        raise ValueError(f"{record.name} does not work on a base stored as {settings.storage}: {reason}")


def _ours(
    model: nn.Module,
    slug: str,
    settings: Settings,
    overrides: Mapping[str, object],
    first: Sequence[dict[str, Tensor]],
) -> Training:
    if settings.adapter_dtype not in ("auto", settings.dtype):
        raise ValueError(f"our implementations keep the base model's {settings.dtype}; adapter_dtype='auto' says so")
    method = import_module(f"reference_impls.{slug}")
    record = load_method(slug)
    advice = {} if record is None else advised(record)
    fields = {field.name for field in dataclasses.fields(method.Config)}
    tokens = {name: 0 for name in _TOKENS if name in fields}
    config = configure(method, {**tokens, **{k: v for k, v in advice.items() if k in fields}, **overrides})
    _checkpoint(model, settings)
    with aside(model):
        model = method.attach(model, config)
        if first and hasattr(method, "prepare"):
            method.prepare(model, list(first), config)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("it trains nothing: there is no training step to run")
    book = journal(model)[1]
    losses.chunk(model, settings)
    loss = getattr(method, "loss", _own_loss)
    after = getattr(method, "step", None)
    return Training(
        model=model,
        loss=loss,
        optimizer=_listed(method.optimizer(model, 1e-4, config))
        if hasattr(method, "optimizer")
        else optimizers.make(settings.optimizer, model),
        after=(lambda t, total: after(model, t, total)) if after else _nothing,
        elsewhere=(*(value for _, _, value in book.saved), *_parked(model, slug)),
    )


def _parked(model: nn.Module, slug: str) -> list[Tensor]:
    """Matrices that a method has packed, and keeps as they were in the computer's memory."""
    if "quantised_base" not in _needs(slug):
        return []
    inside = {*model.modules()}
    replaced = (layer for _, layer in journal(model)[1].swaps if layer is not None and layer not in inside)
    return [layer.weight for layer in replaced if isinstance(layer.weight, Tensor)]


def _peft(model: nn.Module, slug: str, settings: Settings, overrides: Mapping[str, object]) -> Training:
    import peft  # an extra; ``ready`` has said so if it is missing

    _checkpoint(model, settings)
    if slug == "full_fine_tuning":
        losses.chunk(model, settings)
        return Training(model, _own_loss, optimizers.make(settings.optimizer, model), _nothing, ())
    config = peft_config(slug, overrides, getattr(model.config.get_text_config(), "num_hidden_layers", None))
    beside = "|".join(map(re.escape, senses(model)))
    if beside and getattr(config, "exclude_modules", "") is None:
        config.exclude_modules = rf"(?:{beside})\..*"
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=settings.adapter_dtype != "bf16")
    losses.chunk(model.get_base_model(), settings)
    optimizer = _peft_optimizer(model, slug, config) or optimizers.make(settings.optimizer, model)
    return Training(model, _own_loss, optimizer, _nothing, ())


def _peft_optimizer(model: nn.Module, slug: str, config: Any) -> torch.optim.Optimizer | None:
    """The optimizer that a method consists of in PEFT, made as our scripts make it; ``None`` for other methods."""
    from peft import optimizers as theirs

    record, named = peft_attaching(slug)
    maker = named.optimizer
    if maker is None:
        return None
    if "loraplus" in maker:
        ratio = advised(record)["lr_ratio"]
        return _listed(getattr(theirs, maker)(model, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=ratio))
    return _listed(getattr(theirs, maker)(model, r=config.r, lora_alpha=config.lora_alpha, lr=1e-4))


def peft_attaching(slug: str) -> tuple[Method, Attaching]:
    """A record, and how it says that PEFT is told of the method. Raises ``ValueError`` when it does not say so."""
    record = load_method(slug)
    if record is None:
        raise ValueError(f"there is no record of a method {slug!r}")
    entry = shipped(record, "peft")
    found = None if entry is None else attaching(entry.symbol)
    if found is None or not hasattr(import_module("peft"), found.kind):
        raise ValueError(f"{record.name}: PEFT has no configuration class of its own for it")
    return record, found


def peft_config(slug: str, overrides: Mapping[str, object], layers: int | None = None) -> Any:
    """The configuration of PEFT that a record names, with our advised values where it has fields for them.

    ``layers`` is the number of the model's layers: LLaMA-Adapter wants to be told.

    Raises ``ValueError`` when the record names none, or a field does not exist.
    """
    import peft

    record, named = peft_attaching(slug)
    kind = getattr(peft, named.kind)
    fields = frozenset(inspect.signature(kind).parameters)
    values = arguments(named.arguments, advised(record), fields)
    if unknown := sorted(set(overrides) - fields):
        raise ValueError(f"{named.kind} has no field {unknown[0]!r}")
    values.update(overrides)
    if "task_type" in fields and issubclass(kind, peft.PromptLearningConfig):
        values.setdefault("task_type", "CAUSAL_LM")
    if "total_step" in fields:
        values.setdefault("total_step", 1000)  # AdaLoRA insists on one; memory does not depend on it
    if "adapter_layers" in fields and layers is not None and "adapter_layers" not in overrides:
        values["adapter_layers"] = layers
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{named.kind}: {error}") from None


def _checkpoint(model: nn.Module, settings: Settings) -> None:
    if settings.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss  # type: ignore[no-any-return]  # a module call is untyped


def _nothing(t: int, total: int) -> None:
    """Most methods do nothing between steps."""


def _listed(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Lets an optimizer work on lists of tensors where a card would let it do so by default."""
    for group in optimizer.param_groups:
        if group.get("foreach", True) is None and not group.get("fused"):
            group["foreach"] = True
    return optimizer
