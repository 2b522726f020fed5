"""Tiny models with the shape of the real ones: randomly initialised, seeded, with a batch that fits.

Two layers, width 64 with an inner width of 96 (256 in GPT-2), attention narrower than the model where the family allows
it (T5; keys and values of Llama), biases and norms that are not the usual zeros and ones, dropout off, and positions
enough for a long prompt.
"""

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PretrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

FAMILIES = ("llama", "gpt2", "bert", "t5", "vit")
JOINED = ("phi3", "gpt_neox")  # decoders whose queries, keys and values come from one matrix
_VOCABULARY, _LABELS, _PAD = 96, 3, 0


def tiny(family: str, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny model of ``family`` in evaluation mode, and a batch of four padded examples with labels.

    Raises ``ValueError`` for a family that is in neither ``FAMILIES`` nor ``JOINED``.
    """
    if family not in (*FAMILIES, *JOINED):
        raise ValueError(f"no tiny model of {family!r}; there is {', '.join((*FAMILIES, *JOINED))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:  # biases and norms: nothing may be accidentally neutral
                    parameter += 0.05 * torch.randn_like(parameter)
        return model, _batch(family)


def opt(**further: object) -> nn.Module:
    """A tiny OPT in evaluation mode, for what differs from the families; ``further`` fields of its configuration."""
    sizes = {"hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return OPTForCausalLM(OPTConfig(vocab_size=_VOCABULARY, **sizes, **further)).eval()


def _model(family: str) -> nn.Module:
    config: PretrainedConfig
    if family == "llama":
        config = LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.1,
            use_cache=False,
            pad_token_id=_PAD,
            bos_token_id=1,
            eos_token_id=2,
        )
        return LlamaForCausalLM(config)
    if family in JOINED:
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"vocab_size": _VOCABULARY, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2}
        if family == "gpt_neox":
            return GPTNeoXForCausalLM(GPTNeoXConfig(initializer_range=0.1, use_cache=False, **sizes))
        grouped = {"num_key_value_heads": 2, "pad_token_id": _PAD}
        return Phi3ForCausalLM(Phi3Config(initializer_range=0.1, use_cache=False, **sizes, **grouped))
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=_VOCABULARY,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=256,
            initializer_range=0.1,
            use_cache=False,
            pad_token_id=_PAD,
            bos_token_id=1,
            eos_token_id=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return GPT2LMHeadModel(config)
    if family == "bert":
        config = BertConfig(
            vocab_size=_VOCABULARY,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            initializer_range=0.1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=_LABELS,
            pad_token_id=_PAD,
        )
        return BertForSequenceClassification(config)
    if family == "t5":
        config = T5Config(
            vocab_size=_VOCABULARY,
            d_model=64,
            d_kv=8,
            d_ff=96,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            use_cache=False,
            pad_token_id=_PAD,
            eos_token_id=1,
            decoder_start_token_id=_PAD,
        )
        return T5ForConditionalGeneration(config)
    config = ViTConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=_LABELS,
    )
    return ViTForImageClassification(config)


def _batch(family: str) -> dict[str, Tensor]:
    if family == "vit":
        return {"pixel_values": torch.randn(4, 3, 16, 16), "labels": torch.tensor([0, 1, 2, 1])}
    tokens = torch.randint(3, _VOCABULARY, (4, 10))
    mask = torch.ones_like(tokens)
    for row, length in enumerate((10, 7, 10, 5)):
        mask[row, length:] = 0
    tokens = tokens.masked_fill(mask == 0, _PAD)
    if family == "bert":
        labels = torch.tensor([0, 1, 2, 1])
    elif family == "t5":
        labels = torch.randint(3, _VOCABULARY, (4, 6))
        labels[1, 4:] = -100
    else:
        labels = tokens.masked_fill(mask == 0, -100)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}
