"""Why code does not run on a model is said in words about the model, not in patterns and names of classes."""

import json
import re

import pytest

from kb.architecture import Architecture
from kb.catalogue import load_models
from kb.closed_form import PROFILES, backbone_key
from kb.families import FILE
from recommender import Constraints, recommend
from recommender.refusal import worded

ONE_OF_EACH = {backbone_key(model.architecture): id_ for id_, model in load_models().items()}
_CODE = re.compile(r"\\|\(\?|\||\b[A-Z]\w*For[A-Z]\w+|\b\w+\.\w+\.\d|_proj|'\w+' object|\bself_attn\b|Wqkv")
"""Patterns of names, classes of transformers, and names of modules."""


def _model(id_: str) -> Architecture:
    return load_models()[id_].architecture


def _errors() -> set[str]:
    families = json.loads(FILE.read_bytes())["refused"]
    found = {said for both in families.values() for each in both.values() for said in each.values()}
    for path in PROFILES.glob("*.json"):
        found.update((json.loads(path.read_bytes()).get("refused") or {}).values())
    return found


@pytest.mark.parametrize("id_", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
@pytest.mark.parametrize("whose", ["any", "peft"])
def test_no_reason_that_a_reader_sees_is_code(id_: str, whose: str) -> None:
    asked = {"model": id_, "gpu_mem": "2000GB", "implementation": whose, "limit": 1, "detail": "brief"}
    answer = recommend(Constraints.model_validate(asked))
    assert not [each.reason for each in answer.excluded if _CODE.search(each.reason)]


def test_every_error_that_a_family_or_a_profile_keeps_is_put_into_words() -> None:
    unworded = {error for error in _errors() if _CODE.search(worded(error, _model("llama-3.1-8b")))}
    assert not {error for error in unworded if "does not work with a base stored as" not in error}


@pytest.mark.parametrize(
    ("slug", "model", "words"),
    [
        ("pfeiffer_adapter", "qwen3-30b-a3b", "which in this model are experts fused into one tensor"),
        ("far", "mixtral-8x7b", "which in this model are experts fused into one tensor"),
        ("lorta", "falcon-7b", "works on queries alone, which this model computes in one matrix"),
        ("ladder_side_tuning", "gpt-oss-20b", "a router and experts fused into one tensor, which have no narrow copy"),
        ("prefix_tuning", "distilbert-base-uncased", "a prefix comes in with the cached keys and values"),
    ],
)
def test_the_reason_is_about_the_model(slug: str, model: str, words: str) -> None:
    answer = recommend(Constraints(model=model, gpu_mem="2000GB", limit=1, detail="brief"))
    assert words in next(each.reason for each in answer.excluded if each.slug == slug)


def test_an_error_of_an_unknown_kind_is_shown_as_it_is() -> None:
    assert worded("the moon is full", _model("gpt2")) == "the moon is full"
