"""Memory from closed forms: laws that hold for every method, and the published run that everyone can look up."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import PROFILES
from kb.loader import KB
from kb.records import load_methods
from recommender import ConstraintError, Constraints, estimate
from recommender.footprint import prepare, subject
from recommender.memory import Line
from recommender.plans import PLAIN, Sheet
from recommender.setting import OPTIMIZERS, Setting

ERRORS = KB / "validation" / "closed_form.json"
PLAIN_SETTING = Setting(1024)


def changed(seq: int = 1024, **sharing: object) -> Setting:
    return Setting(seq, PLAIN_SETTING.sharing._replace(**sharing))


SLUGS = sorted(path.stem for path in PROFILES.glob("*.json") if path.stem != "backbones")


@cache
def sheet(slug: str, model: str = "llama-3.2-3b") -> Sheet:
    return Sheet(prepare(load_methods()[slug]), subject(from_config(load_models()[model].config)), PLAIN)


def line(slug: str, setting: Setting = PLAIN_SETTING, checkpointing: bool = False) -> Line:
    return sheet(slug).formula("bf16", checkpointing, setting.seq).line(setting)


ON_LLAMA = [slug for slug in SLUGS if sheet(slug).forms and ("bf16", False) in sheet(slug).forms]


@pytest.mark.parametrize("slug", ON_LLAMA)
def test_parts_add_up_to_the_peak(slug: str) -> None:
    for examples in (1, 16):
        said = line(slug).memory(examples)
        assert sum(said.parts.model_dump().values()) == said.allocated_bytes
        assert said.reserved_bytes == pytest.approx(line(slug).reserved(examples), rel=1e-6)


@given(st.sampled_from(ON_LLAMA), st.integers(1, 64), st.sampled_from([64, 512, 4096]))
@settings(max_examples=80, deadline=None)
def test_more_examples_and_longer_ones_never_need_less(slug: str, examples: int, seq: int) -> None:
    here, longer = line(slug, Setting(seq)), line(slug, Setting(2 * seq))
    assert here.reserved(examples) <= here.reserved(examples + 1)
    assert here.reserved(examples) <= longer.reserved(examples) * 1.0001


@pytest.mark.parametrize("slug", ON_LLAMA)
def test_the_largest_batch_fits_and_the_next_power_does_not(slug: str) -> None:
    room, here = 60e9, line(slug)
    found = here.largest(room, 1 << 20)
    if found:
        assert here.reserved(found, carried=True) <= room < here.reserved(2 * found, carried=True)
    else:
        assert here.reserved(1, carried=True) > room


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "adamw"])
def test_no_optimizer_needs_more_than_adamw_on_lists(optimizer: str) -> None:
    here = line("full_fine_tuning", changed(optimizer=optimizer))
    assert here.reserved(1) < line("full_fine_tuning").reserved(1)


def test_shards_divide_what_stands_still() -> None:
    whole = line("full_fine_tuning", changed(16)).memory(1).parts
    eighth = line("full_fine_tuning", changed(16, shards=8)).memory(1).parts
    assert eighth.weights == pytest.approx(whole.weights / 8, rel=1e-6)
    assert eighth.optimizer <= whole.optimizer / 8 * 1.000001  # another instant may be the peak, without temporaries


def test_pieces_of_the_head_take_less_and_never_less_than_what_stays_of_all() -> None:
    whole = line("lora").memory(4).parts.logits
    shares = [line("lora", changed(head_chunks=n)).memory(4).parts.logits / whole for n in (2, 4, 8, 64)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] < 0.7
    assert shares[-1] > 0.5  # of all logits a copy in bf16 and one in fp32, of twelve bytes in all, stay


def published(**changed: object) -> Constraints:
    return Constraints.model_validate(
        {
            "model": "llama-3.2-3b",
            "batch": 4,
            "seq": 768,
            "rank": 32,
            "targets": "q_proj,v_proj",
            "implementation": "peft",
            "quantization": "none",
            "checkpointing": "off",
        }
        | changed
    )


def test_the_published_lora_run_is_predicted_within_three_percent() -> None:
    """20.76 GiB reserved: Hugging Face PEFT's method comparison, LoRA of rank 32 on an L40S."""
    assert estimate("lora", published()).peak.reserved_bytes == pytest.approx(20.76 * 2**30, rel=0.03)


def test_rank_and_targets_change_counts_and_memory() -> None:
    few, many = estimate("lora", published()), estimate("lora", published(rank=64, targets="all_linear"))
    assert few.counts.trainable == 28 * 32 * (3072 + 3072 + 3072 + 1024)
    assert many.counts.trainable is not None
    assert many.counts.trainable > 8 * few.counts.trainable
    assert many.peak.allocated_bytes > few.peak.allocated_bytes


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ({"targets": "q_prj"}, "q_proj"),
        ({"targets": "k_proj"}, "exact"),
        ({"implementation": "ours", "targets": "o_proj"}, "exact"),
    ],
)
def test_what_no_form_knows_is_refused_with_a_way_out(changed: dict[str, object], hint: str) -> None:
    with pytest.raises(ConstraintError, match=hint):
        estimate("lora", published(**changed))


def test_a_method_without_rank_refuses_one() -> None:
    with pytest.raises(ConstraintError, match="has no rank"):
        estimate("prompt_tuning", published(targets=None))


def test_closed_forms_lie_near_dry_runs_that_they_were_not_read_from() -> None:
    rows = json.loads(ERRORS.read_text())["rows"]
    found = sorted(abs(row["allocated"][0] / row["allocated"][1] - 1) for row in rows.values() if "allocated" in row)
    assert len(found) >= 40
    assert found[len(found) // 2] <= 0.01
    assert found[int(0.9 * len(found))] <= 0.05
