"""The page of the benchmarks says what the committed report says."""

from __future__ import annotations

import csv
import io
import json
import re

from starlette.testclient import TestClient

from kb.loader import KB

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
