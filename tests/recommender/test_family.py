"""What a family adds to its shape: more where it has more norms and these train."""

import pytest

from kb.architecture import from_config
from kb.catalogue import load_models
from recommender.family import extra
from recommender.footprint import subject


def added(model: str, normed: bool) -> float:
    """Bytes that each token of an example keeps at the start of the backward pass, beyond what the shape keeps."""
    found = extra(subject(from_config(load_models()[model].config)), checkpointing=False, windowed=False, normed=normed)
    assert found is not None
    return found.parts["head backward"]["activations"].get((1, 1), 0.0)


@pytest.mark.parametrize("model", ["gemma-2-2b", "qwen3-0.6b", "olmo-2-1b"])
def test_further_norms_keep_their_inputs_only_while_they_train(model: str) -> None:
    assert added(model, normed=True) > added(model, normed=False) > 0


def test_a_family_with_the_norms_of_its_shape_keeps_the_same_either_way() -> None:
    assert added("phi-3-mini-4k", normed=True) == added("phi-3-mini-4k", normed=False)
