"""Which methods run on which families: what is written down is what happens, and nothing fails for an unnamed reason."""

import pytest

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import backbone_key
from kb.families import FILE, Families, refused
from kb.records import load_methods
from profiler import families
from profiler.profiles import versions

PARTICULAR = (  # methods that rest on what blocks, norms, heads and caches of a family look like
    *("adapterfusion", "attention_fusion", "ladder_side_tuning", "lets", "llama_adapter", "loreft", "lorta"),
    *("lt_sft", "pfeiffer_adapter", "prefix_tuning", "s4", "unipelt"),
)
MODELS = ("qwen3-0.6b", "gemma-3-1b", "modernbert-base", "phi-2", "mixtral-8x7b", "deberta-v3-base", "falcon-7b")


@pytest.mark.parametrize("model", MODELS)
def test_what_is_refused_is_what_is_written_down(model: str) -> None:
    shape = from_config(load_models()[model].config)
    for slug in PARTICULAR:
        if shape.kind in load_methods()[slug].applies_to.architectures:
            assert families.refusal(slug, "ours", model) == refused(backbone_key(shape), "ours").get(slug), slug


def test_every_family_of_the_catalogue_was_tried_or_there_is_a_reason() -> None:
    known = Families.model_validate_json(FILE.read_bytes())
    assert {*known.refused, *known.untried} == {*families.examples()}
    assert known.versions == versions()


def test_loreft_runs_where_heads_have_norms_of_their_own() -> None:
    assert "loreft" not in refused("qwen3 gated", "ours")
    assert "pfeiffer_adapter" in refused("falcon", "ours")
