"""A line of JSON for each request, with an id that the client gets too."""

import json

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from web.access_log import VARIABLE, AccessLog
from web.app import create_app


@pytest.fixture
def lines(app: FastAPI) -> tuple[TestClient, list[dict[str, object]]]:
    told: list[dict[str, object]] = []
    logged = AccessLog(app, lambda line: told.append(json.loads(line)))
    return TestClient(logged, raise_server_exceptions=False), told


def test_every_request_leaves_one_line_with_its_id(lines: tuple[TestClient, list[dict[str, object]]]):
    client, told = lines
    answer = client.get("/methods.json?class=additive", headers={"accept-encoding": "identity"})
    (line,) = told
    assert (line["method"], line["path"], line["query"], line["status"]) == (
        "GET",
        "/methods.json",
        "class=additive",
        200,
    )
    assert (line["id"], line["bytes"]) == (answer.headers["x-request-id"], len(answer.content))
    client.get("/nowhere")
    assert told[1]["status"] == 404
    assert told[1]["id"] != line["id"]


@pytest.mark.parametrize(("given", "kept"), [("abc-123", True), ("a" * 65, False), ("two words", False)])
def test_an_id_of_a_proxy_is_kept_if_it_is_plain(
    lines: tuple[TestClient, list[dict[str, object]]], given: str, kept: bool
):
    client, told = lines
    answer = client.get("/healthz", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is kept
    assert told[0]["id"] == answer.headers["x-request-id"]


def test_the_log_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    TestClient(create_app()).get("/healthz")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv(VARIABLE, "1")
    TestClient(create_app()).get("/healthz")
    assert json.loads(capsys.readouterr().out)["path"] == "/healthz"
