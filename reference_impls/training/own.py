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
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging

from reference_impls._site import backbone
from reference_impls.training.row import Row, classes
from reference_impls.training.text import Example, encode, encode_labels


@dataclass(frozen=True)
class Source:
    """Where fresh copies of a model come from, and how it reads rows."""

    model_id: str
    config: Any
    tokenizer: Any
    names: tuple[str, ...]  # of the classes; none where text is learned

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

    def fresh(self, device: torch.device) -> tuple[nn.Module, list[str]]:
        """A new copy in fp32, in evaluation mode, and the names of its classification head's parameters, if it has one.

        To the head belongs all that ``transformers`` does not count as base model, and what the checkpoint lacks; what
        it lacks is random.
        """
        if not self.names:
            family = AutoModelForSeq2SeqLM if self.paired else AutoModelForCausalLM
            model = family.from_pretrained(self.model_id, dtype=torch.float32)
            model.config.use_cache = False
            return model.to(device).eval(), []
        with _quiet():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                self.model_id,
                dtype=torch.float32,
                id2label=dict(enumerate(self.names)),
                label2id={name: number for number, name in enumerate(self.names)},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        model.config.pad_token_id = self.pad
        model.config.use_cache = False
        known = {name for name, _ in backbone(model)} - set(found["missing_keys"])
        return model.to(device).eval(), [name for name, _ in model.named_parameters() if name not in known]


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning that a head is missing from the checkpoint: it is known, and it will be trained."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def source(model_id: str, rows: Sequence[Row]) -> Source:
    """The model ``model_id``, a Hugging Face id or a folder, for ``rows``.

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
    return Source(model_id, config, tokenizer, tuple(given if sorted(given) == sorted(names) else names))
