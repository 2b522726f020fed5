"""What a dry run assumes about the training: one frozen object, echoed in the report."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kb.closed_form import Storage

PIECES = 8192  # of a loss


class Settings(BaseModel):
    """How a method is trained, on one card or on several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["bf16", "fp32"] = Field("bf16", description="number format of the base model")
    adapter_dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="number format of added parameters; auto is what the implementation does by itself: "
        "fp32 in PEFT, the base model's in ours, which knows no other",
    )
    batch: int = Field(4, ge=1, le=4096, description="examples in one forward pass")
    seq: int = Field(768, ge=2, le=1_048_576, description="tokens per example, the longest")
    checkpointing: bool = Field(False, description="whether activations are recomputed in the backward pass")
    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit", "adamw_paged", "adamw_paged_8bit", "adafactor", "sgd"] = (
        Field(
            "adamw",
            description="adamw works on lists of tensors (foreach), as PyTorch does on a card by default; 8-bit and paged ones "
            "are bitsandbytes', adafactor is transformers'. A method that brings its own optimizer keeps it",
        )
    )
    storage: Storage = Field(
        "bf16",
        description="how the linear layers of the blocks are stored: as dtype says, or in 8 or 4 bits with bitsandbytes "
        "(4 bits with double quantisation); no weights are made fp32 beforehand",
    )
    autocast: bool = Field(
        False,
        description="whether the forward pass runs under torch.autocast to bf16 and gives fp32, as transformers' Trainer has "
        "it with bf16=True; PEFT's published comparison does not",
    )
    attention: Literal["auto", "eager"] = Field(
        "auto", description="auto is what transformers chooses, fused kernels where the family has them; eager is plain"
    )
    loss_chunk: int | None = Field(
        None, ge=1, description="rows of logits whose cross-entropy is computed at once; null for all"
    )
    head_chunks: int = Field(
        1, ge=1, le=PIECES, description="pieces, along the tokens, in which the head is applied; the loss follows them"
    )
    loss_fp32: bool = Field(True, description="whether logits are made fp32 for the loss, as transformers does")
    padded: bool = Field(
        False,
        description="whether the batch holds examples of unequal length: then a mask is built, keys and values are "
        "repeated for all heads, and the memory-efficient kernel runs instead of the flash kernel; false: every example "
        "has seq tokens",
    )
    keep_outputs: bool = Field(
        False,
        description="whether the training loop holds the model's output, with the logits, until the next one, as a loop "
        "does that writes `outputs = model(**batch)`",
    )
    use_cache: bool = Field(
        False,
        description="whether the model keeps keys and values in a cache while it trains, as `transformers` does unless told "
        "otherwise; its Trainer says otherwise",
    )
    before: int | None = Field(
        None, ge=2, description="tokens per example in the step before the longest batch; null for as many as that has"
    )
    emptied: bool = Field(
        True,
        description="whether the allocator's cache is emptied before the longest batch; matters for reserved bytes",
    )
    devices: int = Field(1, ge=1, le=65_536, description="cards; batch is that of one card")
    sharding: Literal["ddp", "fsdp2", "zero1", "zero2", "zero3"] = Field(
        "ddp", description="what several cards divide among themselves; of no effect on one card"
    )

    @model_validator(mode="after")
    def _few_pieces(self) -> Settings:
        """Every piece of the loss costs time to run: absurdly small ones are refused."""
        if self.loss_chunk is not None and self.batch * self.seq > PIECES * self.loss_chunk:
            raise ValueError(
                f"loss_chunk {self.loss_chunk} cuts {self.batch * self.seq} tokens into more than {PIECES} pieces"
            )
        return self
