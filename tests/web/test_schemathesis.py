"""The API against its own description: made-up requests, right and wrong, are answered as it says."""

from __future__ import annotations

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks

from kb.catalogue import load_gpus, load_models
from taxonomy import build
from web.app import create_app, load

load_all_checks()
load()

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app())
refusals = schema.config.checks.negative_data_rejection
refusals.expected_statuses = [*refusals.expected_statuses, "414"]  # a value may be too long for an address altogether
ALWAYS = CHECKS.get_by_names(
    [
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance", "negative_data_rejection", "unsupported_method",
    ]
)  # fmt: skip
QUIET = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@schema.parametrize()
@settings(max_examples=25, **QUIET)
def test_answer_is_as_described(case):
    case.call_and_validate(checks=ALWAYS)


WORDS = {
    "gpu_mem": ["24GB", "80 GB", "8GiB", "11GB"],
    "gpu": sorted(load_gpus()),
    "params": ["7B", "0.5B", "350M", "13b", "70B"],
    "model": sorted(load_models()),
    "library": ["peft", "adapters"],
    "family": sorted(build().classes),
    "method": sorted(build().methods),
    "why": sorted(build().methods),
    "targets": ["q_proj,v_proj", "all_linear", "paper"],
}
"""Right values of the parameters that the description knows only as text."""
EITHER = [("gpu_mem", "params"), ("gpu", "params"), ("gpu_mem", "model"), ("gpu", "model")]


def _values(parameter):
    """Right values of a parameter, from its description where that decides."""
    described = parameter["schema"]
    if "enum" in described:
        return st.sampled_from(described["enum"])
    if described.get("type") == "integer":
        return st.integers(described["minimum"], described.get("maximum", 2**16))
    if described.get("type") == "number":
        return st.floats(0.5, 10)
    return st.sampled_from(WORDS[parameter["name"]])


@st.composite
def _requests(draw, parameters):
    """A card, a model, a method where one is needed, and some further constraints."""
    needed = {*draw(st.sampled_from(EITHER)), *(name for name, each in parameters.items() if each["required"])}
    single = {"rank", "implementation"} | (
        {"targets"} if "method" in parameters else set()
    )  # not known of every method
    others = sorted(parameters.keys() - {name for pair in EITHER for name in pair} - needed - single)
    chosen = needed | draw(st.sets(st.sampled_from(others), max_size=4))
    return {name: draw(_values(parameters[name])) for name in sorted(chosen)}


@pytest.mark.parametrize("name", ["recommend", "estimate"])
def test_answer_to_a_right_request_is_as_described(name):
    """Random text rarely makes a right request, so these are put together from right values."""
    get, post = (schema[f"/api/v1/{name}"][verb] for verb in ("GET", "POST"))
    parameters = {each["name"]: each for each in schema.raw_schema["paths"][f"/api/v1/{name}"]["get"]["parameters"]}
    statuses = Counter()

    @settings(max_examples=60, **QUIET)
    @given(_requests(parameters))
    def check(asked):
        answer = get.Case(query=asked).call_and_validate(checks=ALWAYS[:5])
        posted = post.Case(body=asked, media_type="application/json").call_and_validate(checks=ALWAYS[:5])
        assert posted.status_code == answer.status_code, asked
        statuses[answer.status_code] += 1

    check()
    assert statuses[200] >= 0.5 * statuses.total(), statuses
