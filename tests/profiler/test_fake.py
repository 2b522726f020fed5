"""Every implementation, and every configuration of PEFT that a record names, steps without values."""

from __future__ import annotations

import pytest

import reference_impls
from kb.records import load_methods
from profiler.build import peft_config
from profiler.dry_run import dry_run
from profiler.settings import Settings

SLUGS = reference_impls.slugs()
FAMILIES = {
    "llama": {
        "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "gpt2": {"model_type": "gpt2", "vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "bert": {
        "model_type": "bert", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 256,
    },
    "t5": {
        "model_type": "t5", "vocab_size": 256, "d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 2,
        "num_decoder_layers": 2, "num_heads": 4,
    },
    "vit": {
        "model_type": "vit", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "num_channels": 3,
    },
}  # fmt: skip
_KINDS = {"llama": "decoder", "gpt2": "decoder", "bert": "encoder", "t5": "encoder_decoder", "vit": "vision"}
TINY = Settings(batch=2, seq=64)
_VALUES = {"shira", "boft"}  # PEFT looks at random numbers or permutations to build these
_REFUSED = {  # no biases; no way in for prefixes or prompts
    ("llama", "bitfit"), ("t5", "bitfit"), ("vit", "mam_adapter"), ("vit", "prefix_tuning"), ("vit", "prompt_tuning"),
    ("vit", "unipelt"),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slug", SLUGS)
def test_ours_steps_without_values(slug: str, family: str) -> None:
    record = load_methods()[slug]
    if record.counts.trainable.expr == "0":
        pytest.skip("fuses models and trains nothing")
    overrides = dict(record.reference.config) if record.reference else {}  # the paper's sizes may not fit tiny models
    try:
        report = dry_run(FAMILIES[family], slug, TINY, overrides=overrides)
    except ValueError as error:
        known = (family, slug) in _REFUSED or _KINDS[family] not in record.applies_to.architectures
        if "reads values" in str(error) or not (known or record.applies_to.needs):
            raise
        pytest.skip(f"not for {family}: {error}")
    assert report.trainable > 0
    assert sum(report.parts.values()) == report.allocated_bytes
    assert report.flops > 0


def _named_by_records() -> list[str]:
    found = []
    for slug in sorted(load_methods()):
        try:
            peft_config(slug, {})
        except ValueError:
            continue
        found.append(slug)
    return found


@pytest.mark.parametrize("slug", _named_by_records())
def test_peft_steps_without_values(slug: str) -> None:
    if slug in _VALUES:
        with pytest.raises(ValueError, match="reads values"):
            dry_run(FAMILIES["llama"], slug, TINY, "peft")
        return
    report = dry_run(FAMILIES["llama"], slug, TINY, "peft")
    assert report.trainable > 0
