"""A pretrained model of the user's, opened for what the rows ask of it: to continue texts, to answer, or to classify."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging

from reference_impls._site import backbone
from reference_impls.parts.storage import pack
from reference_impls.training.row import Row, classes
from reference_impls.training.text import Example, encode, encode_labels


@dataclass(frozen=True)
class Held:
    """How a base is held while a method trains on it."""

    dtype: torch.dtype = torch.float32
    storage: str | None = None  # of the linear layers of its blocks: "int8" or "nf4"; else they are as the rest is
    recompute: bool = False  # activations of the blocks, in the backward pass, instead of keeping them

    def settle(self, model: nn.Module, device: torch.device) -> nn.Module:
        """``model``, loaded in ``dtype``, held so on ``device`` and in evaluation mode."""
        model.config.use_cache = False
        if self.storage is not None:
            pack(model, self.storage, device)
        if self.recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model.to(device).eval()


@dataclass(frozen=True)
class Source:
    """Where fresh copies of a model come from, and how it reads rows."""

    model_id: str
    config: Any
    tokenizer: Any
    names: tuple[str, ...]  # of the classes; none where text is learned
    held: Held = Held()

    @property
    def paired(self) -> bool:
        """Whether an encoder reads the prompt and a decoder writes the completion."""
        return bool(self.config.is_encoder_decoder) and not self.names

    @property
    def pad(self) -> int:
        """The token that fills short rows."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((one for one in known if one is not None), 0)

    def examples(self, rows: Sequence[Row], longest: int) -> list[Example]:
        """The rows in tokens, at most ``longest``."""
        if self.names:
            return encode_labels(rows, self.names, self.tokenizer, longest)
        return encode(rows, self.tokenizer, longest, self.paired)

    @property
    def _family(self) -> type[AutoModelForSeq2SeqLM] | type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
        """The class that loads it to continue texts; that for text alone would leave out a model's eyes."""
        if self.paired:
            return AutoModelForSeq2SeqLM
        return AutoModelForImageTextToText if hasattr(self.config, "vision_config") else AutoModelForCausalLM

    def fresh(self, device: torch.device) -> tuple[nn.Module, list[str]]:
        """A new copy, held as ``held`` says, and the names of its classification head's parameters, if it has one.

        To the head belongs all that ``transformers`` does not count as base model, and what the checkpoint lacks; what
        it lacks is random.
        """
        if not self.names:
            return self.held.settle(self._family.from_pretrained(self.model_id, dtype=self.held.dtype), device), []
        with _quiet():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                self.model_id,
                dtype=self.held.dtype,
                id2label=dict(enumerate(self.names)),
                label2id={name: number for number, name in enumerate(self.names)},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        model.config.pad_token_id = self.pad
        known = {name for name, _ in backbone(model)} - set(found["missing_keys"])
        top = [name for name, _ in model.named_parameters() if name not in known]
        return self.held.settle(model, device), top


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning that a head is missing from the checkpoint: it is known, and it will be trained."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def source(model_id: str, rows: Sequence[Row], held: Held = Held()) -> Source:
    """The model ``model_id``, a Hugging Face id or a folder, for ``rows``, held as ``held`` says.

    Raises ``ValueError`` when it cannot be loaded, or cannot do what the rows ask.
    """
    names = classes(rows)
    try:
        config = AutoConfig.from_pretrained(model_id)
        tokenizer = AutoTokenizer.from_pretrained(model_id)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load {model_id!r}: {str(error).splitlines()[0]}") from None
    encoder = type(config) in AutoModelForMaskedLM._model_mapping and not config.is_encoder_decoder
    if not names and encoder and not getattr(config, "is_decoder", False):
        raise ValueError(
            f"{model_id} is an encoder ({config.model_type}), which does not continue texts; give it rows with 'text' "
            "and 'label' to classify"
        )
    if names and type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise ValueError(f"transformers has no {config.model_type} that classifies; give rows without 'label'")
    given = list(config.id2label.values())
    return Source(model_id, config, tokenizer, tuple(given if sorted(given) == sorted(names) else names), held)
