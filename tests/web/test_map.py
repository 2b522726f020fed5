"""The map says what the records say, and stays legible with far more methods than there are."""

from __future__ import annotations

import random
import re
from html import unescape
from itertools import combinations

import pytest
from starlette.testclient import TestClient

from taxonomy import build
from taxonomy.euler import base_of
from web.map.block import Label
from web.map.chart import Chart, chart
from web.map.settled import FILE, text
from web.map.shape import Box, Polygon, gap, outline
from web.views.map import drawings, placed

PARENTS = {each: base_of(each) for each in build().classes if base_of(each) != each}
NAMES = {each.id: each.name for each in build().classes.values()}
Methods = dict[str, tuple[str, frozenset[str]]]


def _real() -> Methods:
    return {slug: (each.name, frozenset(each.taxonomy.classes)) for slug, each in build().methods.items()}


def _grown(number: int, seed: int) -> Methods:
    """The records with invented ones beside them: names of all lengths, in the regions that there are."""
    chance = random.Random(seed)
    methods, regions = _real(), [own for _, own in _real().values()]
    while len(methods) < number:
        name = "".join(chance.choice("ALRDio ratune-") for _ in range(chance.randint(3, 22))).strip() or "X"
        methods[f"invented_{len(methods)}"] = (f"{name}x", chance.choice(regions))
    return methods


def _overlap(one: Box, other: Box) -> bool:
    """Whether they have more in common than an edge."""
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return min(across, down) > 1e-6


def _wrong(made: Chart, methods: Methods) -> list[tuple[str, str]]:
    """Names that lie outside of a region of theirs, or touch a foreign one."""
    found = []
    for slug, (_, own) in methods.items():
        around = own | {PARENTS[each] for each in own if each in PARENTS}
        corners = made.methods[slug].corners
        for region in made.regions:
            if region.id in around and not _covers(region.polygon, corners):
                found.append((slug, region.id))
            if region.id not in around and gap(region.polygon, corners)[0] < region.margin:
                found.append((slug, region.id))
    return found


def _covers(polygon: Polygon, corners: Polygon) -> bool:
    """Whether every corner lies in the convex polygon, its border included."""
    size = len(polygon)
    return all(
        (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= -1e-6
        for x, y in corners
        for (ax, ay), (bx, by) in ((polygon[at], polygon[(at + 1) % size]) for at in range(size))
    )


CASES = {"records": _real(), **{f"200-{seed}": _grown(200, seed) for seed in (1, 2)}}
CASES["another-hybrid"] = {
    **_real(),
    "invented": ("Spectral prompt", frozenset({"additive.soft_prompt", "reparameterization.spectral"})),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Methods, Chart]:
    methods = CASES[request.param]
    return methods, chart(methods, NAMES, PARENTS)


def test_every_method_lies_in_its_classes_and_in_no_other(case: tuple[Methods, Chart]) -> None:
    methods, made = case
    assert set(made.methods) == set(methods)
    assert _wrong(made, methods) == []


def test_no_two_names_overlap(case: tuple[Methods, Chart]) -> None:
    _, made = case
    boxes = {**made.methods, **{f"title {each}": box for each, box in made.titles.items()}}
    assert [pair for pair in combinations(boxes, 2) if _overlap(boxes[pair[0]], boxes[pair[1]])] == []


def test_classes_overlap_exactly_where_a_method_lies_in_both(case: tuple[Methods, Chart]) -> None:
    methods, made = case
    around = [own | {PARENTS[each] for each in own if each in PARENTS} for _, own in methods.values()]
    for one, other in combinations(made.regions, 2):
        shared = any({one.id, other.id} <= each for each in around)
        apart, _ = gap(one.polygon, other.polygon)
        assert (apart < one.margin + other.margin) == shared, (one.id, other.id)


def test_everything_lies_in_the_frame(case: tuple[Methods, Chart]) -> None:
    _, made = case
    frame = made.frame
    for box in (*made.methods.values(), *made.titles.values()):
        assert frame.x <= box.x
        assert box.x + box.width <= frame.x + frame.width
        assert frame.y <= box.y
        assert box.y + box.height <= frame.y + frame.height
    assert 0.6 < frame.width / frame.height < 2.5


def test_the_committed_places_are_those_of_the_rule_for_the_committed_records() -> None:
    assert FILE.read_text(encoding="utf-8") == text(drawings()), "run: python -m web.map.settled"


def test_committed_places_draw_the_same_map_as_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = chart(_real(), NAMES, PARENTS)
    monkeypatch.setattr("web.map.settled._known", dict)
    assert chart(_real(), NAMES, PARENTS) == kept


def test_equal_records_give_an_equal_map() -> None:
    assert chart(_real(), NAMES, PARENTS) == chart(_real(), NAMES, PARENTS)


def test_room_of_a_name_grows_with_the_name() -> None:
    assert Label("a", "LoRA").width < Label("b", "LoRA+").width < Label("c", "Scaled Parallel Adapter").width


def test_outline_goes_around_its_polygon() -> None:
    path = outline([(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)], 4.0)
    numbers = [float(each) for each in re.findall(r"-?\d+\.?\d*", path)]
    assert path.startswith("M")
    assert path.endswith("Z")
    assert min(numbers) == -4.0
    assert max(numbers) == 14.0


@pytest.mark.parametrize("scheme", ["survey", "decomposition", "critical_review", "library"])
def test_every_scheme_places_every_method(scheme: str) -> None:
    assert set(placed(scheme).methods) == set(build().methods)


def _node(text: str, slug: str) -> str:
    found = re.search(rf'<a class="(node[^"]*)" href="/methods/{slug}"', text)
    assert found is not None
    return found[1]


def test_filters_fade_the_rest(browser: TestClient) -> None:
    data = browser.get("/taxonomy.json?library=peft&until=2021").json()
    items = {item["slug"]: item for item in browser.get("/methods.json").json()["items"]}
    for node in data["map"]["nodes"]:
        item = items[node["slug"]]
        assert node["faded"] == (not ("peft" in item["libraries"] and item["year"] <= 2021))
    assert data["kept"] == sum(not node["faded"] for node in data["map"]["nodes"]) > 0
    text = browser.get("/taxonomy?library=peft&until=2021").text
    assert "faded" not in _node(text, "lora")
    assert "faded" in _node(text, "dora")
    assert f"{data['kept']} of {len(items)} methods pass the filters" in text


def test_a_chosen_method_lights_its_relatives(browser: TestClient) -> None:
    text = browser.get("/taxonomy?method=dora").text
    assert "chosen lit" in _node(text, "dora")
    for each in build().relations_of("dora"):
        assert "lit" in _node(text, each.other if each.method == "dora" else each.method)
    assert build().methods["dora"].summary in text
    assert text.count('class="edge lit"') == len(build().relations_of("dora"))


def test_all_lines_are_drawn_on_demand(browser: TestClient) -> None:
    assert browser.get("/taxonomy").text.count('class="edge lit"') == 0
    assert browser.get("/taxonomy?lineage=all").text.count('class="edge lit"') == len(build().statements)


def test_a_part_can_be_shown(browser: TestClient) -> None:
    whole = browser.get("/taxonomy.json").json()["map"]
    part = browser.get("/taxonomy.json?zoom=additive.soft_prompt").json()["map"]
    assert part["whole"] == whole["whole"] == whole["frame"]
    assert part["frame"][2] < 0.7 * whole["frame"][2]
    moved = browser.get("/taxonomy.json?view=-10,20,300,200").json()["map"]
    assert moved["frame"] == [-10, 20, 300, 200]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("library=pefd", "did you mean peft"),
        ("zoom=additive.adaptor", "did you mean additive.adapter"),
        ("method=loraa", "did you mean lora"),
        ("zoom=prompt", "there is no class on this map"),
        ("view=1,2,3", "view"),
    ],
)
def test_wrong_parameters_are_answered_with_the_right_ones(browser: TestClient, query: str, said: str) -> None:
    response = browser.get(f"/taxonomy?{query}")
    assert response.status_code == 422
    assert said in response.text


def test_the_form_keeps_the_scheme_and_every_choice_of_part_is_one(browser: TestClient) -> None:
    for scheme in ("survey", "library"):
        data = browser.get(f"/taxonomy.json?scheme={scheme}").json()
        parts = next(each for each in data["form"] if each["name"] == "zoom")
        for option in parts["options"][1:]:
            assert browser.get(f"/taxonomy.json?scheme={scheme}&zoom={option['value']}").status_code == 200
    text = browser.get("/taxonomy?scheme=library").text
    assert '<input type="hidden" name="scheme" value="library">' in text


@pytest.mark.parametrize("address", ["/", "/taxonomy", "/taxonomy?scheme=library"])
def test_links_of_the_map_come_in_the_order_of_the_list(browser: TestClient, client: TestClient, address: str) -> None:
    """A class comes before those inside of it, and each method once, right after the title of its first class."""
    twin = "/index.json" if address == "/" else address.replace("/taxonomy", "/taxonomy.json")
    drawn = client.get(twin).json()["map"]
    page = browser.get(address).text
    atlas = page[page.index('<svg class="atlas') :]
    atlas = atlas[: atlas.index("</svg>")]
    order = re.findall(
        r'class="(?:title [^>]*><path[^>]*></path><text[^>]*>([^<]+)|node [^>]*data-slug="(\w+)")', atlas
    )
    expected = []
    for title in drawn["titles"]:
        inside = [node["slug"] for node in drawn["nodes"] if node["home"] == title["id"]]
        expected += [(title["name"], ""), *(("", slug) for slug in inside)]
    assert [(unescape(name), slug) for name, slug in order] == expected
    assert {slug for _, slug in order if slug} == {node["slug"] for node in drawn["nodes"]}
    if "scheme" not in address:
        listed = [each.id for base in build().class_tree for each in (base, *base.children)]
        titles = [title["id"] for title in drawn["titles"]]
        assert titles == [each for each in listed if each in titles]
