"""The page of a recommendation: the answer first, every method that fits in the drawing, and what each change does."""

import re
from html import unescape
from urllib.parse import parse_qsl, urlsplit

import pytest
from starlette.testclient import TestClient

from kb.catalogue import load_gpus
from recommender import Constraints, recommend
from recommender.service import RELATIVE_TIMES
from web.views.label import place_labels
from web.views.recommend import PLOTS
from web.views.scatter import scatter

ASKED = "/recommend?gpu_mem=24GB&params=7B"


def test_the_first_heading_says_what_to_use_and_how_much_room_it_leaves(browser: TestClient):
    first = recommend(Constraints(gpu_mem="24GB", params="7B")).ranked[0]
    (heading,) = re.findall(r"<h1[^>]*>(.*?)</h1>", browser.get(ASKED).text, re.S)
    assert re.fullmatch(rf"{re.escape(first.name)} fits, with [\d.]+ GiB to spare", unescape(heading).strip())
    (nothing,) = re.findall(r"<h1[^>]*>(.*?)</h1>", browser.get("/recommend?gpu_mem=1GB&params=70B").text, re.S)
    assert nothing == "Nothing fits as it is"


@pytest.mark.parametrize("name", PLOTS)
def test_every_method_that_fits_is_a_point_and_a_line_of_the_table(browser: TestClient, name: str):
    answer = recommend(Constraints(gpu_mem="24GB", params="7B"))
    page = browser.get(f"{ASKED}&plot={name}").text
    drawings = re.findall(r'<svg class="plot (roomy|slim)"(.*?)</svg>', page, re.S)
    assert [width for width, _ in drawings] == ["roomy", "slim"]
    for _, drawing in drawings:
        drawn = re.findall(r'<a href="(?:#|/methods/)(\w+)" class="[^"]*"><title>', drawing)
        assert sorted(drawn) == sorted(each.slug for each in answer.standings)
    assert len(answer.standings) == answer.total_ranked > len(answer.ranked)


@pytest.mark.parametrize("path", ["/recommend", "/estimate"])
def test_a_nameless_card_is_asked_for_by_cards_of_its_memory(browser: TestClient, path: str) -> None:
    page = browser.get(f"{path}?gpu_mem=24GB&params=7B{'' if path == '/recommend' else '&method=lora'}").text
    assert RELATIVE_TIMES not in page
    asked = page[page.index("Which card is it?") :]
    links = [unescape(each) for each in re.findall(r'href="([^"]+)"', asked[: asked.index("</p>")])]
    assert links
    for link in links:
        named = dict(parse_qsl(urlsplit(link).query))
        assert load_gpus()[named["gpu"]].memory_gb == 24
        answer = browser.get(link.replace(path, f"{path}.json")).json()
        told = answer["ranked"][0] if path == "/recommend" else answer
        assert told["tokens_per_second"] > 0
        assert RELATIVE_TIMES not in answer["warnings"]
    assert "Which card is it?" not in browser.get(links[0]).text


def test_comparisons_won_are_those_of_the_answer_and_say_whose_they_are(browser: TestClient) -> None:
    page = re.sub(r"<[^>]+>", "", browser.get(ASKED).text)
    for each in recommend(Constraints(gpu_mem="24GB", params="7B")).ranked:
        tally = each.quality.tally
        if tally is not None:
            whose = {"independent": "", "rival": " by rivals", "own": " in its own paper"}[tally.relation]
            assert f"{tally.ahead} of {tally.comparisons}{whose}" in page


def test_standings_agree_with_the_cards():
    answer = recommend(Constraints(gpu="rtx-4090", model="llama-3.1-8b", limit=500))
    for card, line in zip(answer.ranked, answer.standings, strict=True):
        assert (line.slug, line.rank, line.verdict) == (card.slug, card.rank, card.verdict)
        assert abs(line.device_bytes - card.memory.device_bytes) <= 16  # a card rounds each part to whole bytes
        assert (line.quality, line.stored_bytes, line.score) == (
            card.quality.estimate,
            card.counts.stored_bytes,
            card.score,
        )


@pytest.mark.parametrize(("across", "up"), PLOTS.values())
def test_nothing_beats_a_point_of_the_front(across: str, up: str):
    standings = recommend(Constraints(gpu_mem="24GB", params="7B")).standings
    drawn = scatter(standings, across, up, {each.slug: "additive" for each in standings}, ())
    best = [point for point in drawn.points if point.best]
    for point in drawn.points:  # to the left is less, and above is a smaller y
        beaten = any(
            other.x <= point.x and other.y <= point.y and (other.x, other.y) != (point.x, point.y) for other in best
        )
        assert point.best != beaten or (point.x, point.y) in {(each.x, each.y) for each in best}


def test_a_plot_that_does_not_exist_is_named_with_the_nearest(client: TestClient):
    answer = client.get("/recommend.json?gpu_mem=24GB&params=7B&plot=memory-qualty")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["near"][0] == "memory-quality"
    plain, with_plot = (
        client.get(f"/recommend.json?gpu_mem=24GB&params=7B{more}").content for more in ("", "&plot=time-quality")
    )
    assert plain == with_plot


def test_why_not_is_answered_above_the_ranking_and_keeps_the_constraints(browser: TestClient):
    page = browser.get(f"{ASKED}&why=prompt_tuning").text
    assert page.index('<h2 id="why">Why not Prompt tuning?') < page.index('<h2 id="ranking">')
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    assert hidden == [("gpu_mem", "24GB"), ("params", "7B")]


def test_a_change_is_worth_its_line():
    for ranked in recommend(Constraints(gpu="rtx-4090", model="llama-3.1-8b")).ranked:
        for change in ranked.changes:
            if "targets" in change.query:  # other layers are worth their time, or what they learn
                assert "times the time" in change.text
            elif change.device_bytes is not None:
                assert change.device_bytes < 0.995 * ranked.memory.device_bytes


def test_names_cover_neither_points_nor_each_other():
    places = [(100 + 9 * (i % 10), 100 + 7 * (i // 10)) for i in range(60)]
    names = [f"Method {i}" for i in range(60)]
    found = place_labels(names, places, range(60), (0, 0, 700, 400))
    assert 0 < len(found) < 60
    boxes = []
    for place, label in found.items():
        width = 7 * len(names[place])
        left = {"start": label.x, "end": label.x - width, "middle": label.x - width / 2}[label.anchor]
        boxes.append((left, label.y - 10, left + width, label.y + 3))
    boxes += [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    crossing = [
        (one, other)
        for at, one in enumerate(boxes[: len(found)])
        for other in boxes[at + 1 :]
        if one[0] < other[2] - 0.2 and other[0] < one[2] - 0.2 and one[1] < other[3] - 0.2 and other[1] < one[3] - 0.2
    ]
    assert crossing == []


def test_the_page_shows_everything_even_where_data_would_be_brief(browser: TestClient) -> None:
    data = browser.get(f"/recommend.json{ASKED.removeprefix('/recommend')}&detail=brief").json()
    assert data["standings"] == []
    page = browser.get(f"{ASKED}&detail=brief").text
    assert '<svg class="plot roomy"' in page
    assert "Training script for Hugging Face PEFT" in page
