"""The page of the benchmarks says what the committed report says."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from starlette.testclient import TestClient

from kb.loader import KB
from kb.measured import CardReport, CardRun, Tried, card_report
from web.render import render
from web.views import benchmarks, method

REPORT = json.loads((KB / "validation" / "report.json").read_text())


def test_every_row_of_the_report_is_on_the_page(browser: TestClient) -> None:
    text = browser.get("/benchmarks").text
    assert text.count('<tr id="') == len(REPORT["rows"])
    for goal in REPORT["goals"].values():
        assert goal["title"] in text


def test_rivals_stand_beside_our_errors(browser: TestClient) -> None:
    text = browser.get("/benchmarks").text
    errors = text[text.index('id="errors"') : text.index("</table>")]
    for peer in REPORT["peers"]:
        assert peer["name"].replace("'", "&#39;") in errors


def test_every_mark_of_the_drawing_leads_to_its_row(browser: TestClient) -> None:
    text = browser.get("/benchmarks").text
    marks = re.findall(r'<a href="#([\w-]+)"><title>', text)
    assert len(marks) == len(REPORT["rows"])
    assert set(marks) <= set(re.findall(r'<tr id="([\w-]+)"', text))


def test_fitted_rows_are_drawn_as_squares(browser: TestClient) -> None:
    fitted = sum(row["use"] == "fit" for row in REPORT["rows"])
    text = browser.get("/benchmarks").text
    assert fitted >= 1
    assert text[text.index("<main") :].count("<path d=") == fitted


def test_table_to_download_has_the_rows(client: TestClient) -> None:
    response = client.get("/api/v1/benchmarks.csv")
    assert response.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["name"] for row in rows] == [row["name"] for row in REPORT["rows"]]
    for row in rows:
        wrong = float(row["predicted"]) / float(row["measured"]) - 1
        assert abs(wrong - float(row["error"])) < 1e-4


def test_twin_is_the_object_of_the_api(client: TestClient) -> None:
    assert client.get("/benchmarks.json").content == client.get("/api/v1/benchmarks").content


def measured_card() -> CardReport:
    row = {
        "card": "NVIDIA H100", "date": "2026-01-31", "commit": "abc123", "slug": "lora", "implementation": "ours",
        "setting": "llama-3.2-1b, 4 × 768, bf16", "allocated_bytes": 10**10, "reserved_bytes": 11 * 10**9,
        "step_seconds": 0.25, "predicted_allocated": 101 * 10**8, "predicted_reserved": None, "predicted_seconds": None,
        "reason": None,
    }  # fmt: skip
    fit = {"card": "NVIDIA H100", "slug": "qlora", "setting": "llama-2-7b", "limit_gb": 24, "predicted_bytes": 1}
    tried = (Tried(**fit, predicted=True, fitted=False),)
    return CardReport(made_by="a test", compared=(CardRun(**row),), beside=(), tried=tried)


def test_nothing_is_said_to_be_measured_while_no_card_has_measured(browser: TestClient) -> None:
    section = browser.get("/benchmarks").text.partition('id="card"')[2]
    if card_report() is None:
        assert "Not measured" in section
        assert "not measured" in browser.get("/methods/lora").text
    else:
        assert "Not measured" not in section


def test_measurements_of_a_card_are_shown_with_their_day_and_commit() -> None:
    card = measured_card()
    page = benchmarks.benchmarks_page().model_copy(update={"card": card, "goals": card.goals()})
    section = render("benchmarks.html", page=page, twin=None, path="/benchmarks").decode().partition('id="card"')[2]
    assert "NVIDIA H100, 2026-01-31, abc123" in section
    assert "within 24 GB: predicted to fit, did not fit" in section
    assert "Allocated: median error 1\u00a0%" in section
    lora = method.method_page("lora", method.MethodQuery()).model_copy(update={"measured": card.compared})
    shown = render("method.html", page=lora, twin=None, path="/methods/lora").decode()
    assert "NVIDIA H100, 2026-01-31, abc123" in shown
    assert "not measured" not in shown.partition('id="predicted"')[2].partition("</section>")[0]


def test_closed_forms_are_shown_with_their_errors_the_largest_first(browser: TestClient) -> None:
    rows = json.loads((KB / "validation" / "closed_form.json").read_text())["rows"]
    errors = [abs(row["allocated"][0] / row["allocated"][1] - 1) for row in rows.values() if "allocated" in row]
    found = browser.get("/api/v1/benchmarks").json()["forms"]
    assert found["allocated"]["worst"] == pytest.approx(max(errors))
    assert found["allocated"]["within"] == sum(error <= 0.05 for error in errors)
    assert len(found["rows"]) == len(errors)
    assert abs(found["rows"][0]["allocated"]) == found["allocated"]["worst"]
    text = browser.get("/benchmarks").text
    assert f"{len(errors)} cases" in text
