"""The pages of the evidence say what the studies and the committed synthesis say."""

from __future__ import annotations

import csv
import io

import pytest
from starlette.testclient import TestClient

from kb.records import load_methods, load_names
from kb.studies import load_studies
from recommender.quality import committed
from taxonomy import build
from web.views.evidence import written

STUDIES = load_studies()


def test_every_study_is_listed_with_a_link_and_its_number_of_results(browser: TestClient, client: TestClient) -> None:
    text = browser.get("/evidence").text
    listed = {each["id"]: each for each in client.get("/evidence.json").json()["studies"]}
    assert listed.keys() == STUDIES.keys()
    for name, (study, rows) in STUDIES.items():
        assert f'href="/evidence/{name}"' in text
        assert listed[name]["rows"] == len(rows)
        assert listed[name]["independent"] == (not study.proposes)


def test_missed_targets_are_said_as_plainly_as_reached_ones(browser: TestClient, client: TestClient) -> None:
    page, text = client.get("/evidence.json").json(), browser.get("/evidence").text
    ours = committed("validation")["rankings"]["synthesis"]
    assert page["reached"]["correlation"] == (ours["correlation"]["mean"] >= page["targets"]["correlation"])
    stated = [page["reached"][name] for name in ("correlation", "regret_of_three", "regret_of_first", "coverage")]
    assert text.count("<strong>missed</strong>") == stated.count(False)
    assert text.count("<strong>reached</strong>") == stated.count(True)


def test_rankings_are_those_of_the_validation(client: TestClient) -> None:
    shown = client.get("/evidence.json").json()["rankings"]
    told = committed("validation")["rankings"]
    assert shown[0]["correlation"]["mean"] == told["synthesis"]["correlation"]["mean"]
    assert sorted(each["regret_first"]["mean"] for each in shown) == sorted(
        each["regret_first"]["mean"] for each in told.values()
    )


def test_every_study_of_a_methods_own_authors_is_drawn(client: TestClient) -> None:
    drawn = {
        mark["study"]
        for group in client.get("/evidence.json").json()["advantages"]["groups"]
        for mark in group["marks"]
    }
    effects = committed("quality")["methods"]
    proposing = {name for slug, own in effects.items() for name in own["studies"] if slug in STUDIES[name][0].proposes}
    assert drawn == proposing


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_page_of_a_study_has_its_rows_and_cautions(client: TestClient, browser: TestClient, name: str) -> None:
    study, rows = STUDIES[name]
    page, text = client.get(f"/evidence/{name}.json").json(), browser.get(f"/evidence/{name}").text
    assert sum(len(table["rows"]) for table in page["tables"]) == len(rows)
    assert page["study"]["cautions"] == list(study.cautions)
    assert text.count("<tr>") == len(rows) + len(page["tables"])
    for slug in {row.method for row in rows} & load_methods().keys():
        assert f'href="/methods/{slug}"' in text


@pytest.mark.parametrize("slug", sorted(load_methods()))
def test_every_result_of_a_method_is_at_the_address_that_its_record_names(
    client: TestClient, browser: TestClient, slug: str
) -> None:
    reported = {name: [row for row in rows if row.method == slug] for name, (_, rows) in STUDIES.items()}
    counts = {name: len(rows) for name, rows in reported.items() if rows}
    told = client.get(f"/methods/{slug}.json").json()
    assert {each["study"]: each["results"] for each in told["evidence"]} == counts
    address = told["links"]["evidence"]
    given, text = client.get(f"{address}.json").json(), browser.get(address).text
    assert given["total"] == sum(counts.values())
    for each in given["evidence"]:
        assert [row["value"] for row in each["rows"]] == [row.value for row in reported[each["study"]["id"]]]
    assert text.count("<tr>") == given["total"] + len(counts)
    for name in counts:
        assert f'<h2 id="{name}">' in text


def test_a_record_is_small_beside_its_results(client: TestClient) -> None:
    assert len(client.get("/methods/lora.json").content) < 100_000


@pytest.mark.parametrize(
    ("slug", "study", "name"),
    [
        ("lora", "lora_2021", "LoRA"),
        ("madakron", "adakron_2024", "MAdaKron"),
        ("igu_lora", "igu_lora_notes", "IGU-LoRA"),
        ("dvora", "dora_2024", "DVoRA"),
        ("linear_probe", "fourierft_2024", "linear probe"),
    ],
)
def test_proposers_are_named_as_records_and_titles_write_them(slug: str, study: str, name: str) -> None:
    assert written(slug, STUDIES[study][0]) == name


def test_every_written_name_is_that_of_a_compared_method_without_a_record() -> None:
    compared = {row.method for _, rows in STUDIES.values() for row in rows}
    compared |= {slug for study, _ in STUDIES.values() for slug in study.proposes}
    assert compared - build().methods.keys() >= load_names().keys()


def test_unknown_study_gives_near_names(client: TestClient) -> None:
    problem = client.get("/evidence/llm_adapter.json")
    assert problem.status_code == 404
    assert "llm_adapters_2023" in problem.json()["errors"][0]["near"]


def test_table_to_download_has_every_result_and_no_formula(client: TestClient) -> None:
    rows = list(csv.DictReader(io.StringIO(client.get("/api/v1/evidence.csv").text)))
    assert len(rows) == sum(len(own) for _, own in STUDIES.values())
    reported = iter(row for _, own in STUDIES.values() for row in own)
    for row, result in zip(rows, reported, strict=True):
        assert float(row["value"]) == pytest.approx(result.value)
        assert not any(cell.startswith(("=", "+", "@")) for cell in row.values())
