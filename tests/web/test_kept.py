"""Answers are kept for those who ask the same again, within a bound."""

from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from web.kept import Kept


def test_the_answer_asked_for_longest_ago_makes_room() -> None:
    kept = Kept(10)
    kept.put("a", (b"aaaa", "1"))
    kept.put("b", (b"bbbb", "2"))
    assert kept.get("a") == (b"aaaa", "1")
    kept.put("c", (b"cccc", "3"))
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ((b"aaaa", "1"), None, (b"cccc", "3"))


def test_an_answer_larger_than_the_bound_is_not_kept() -> None:
    kept = Kept(3)
    kept.put("a", (b"aaaa", "1"))
    assert kept.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=12)), max_size=40))
def test_what_is_kept_is_the_last_answer_and_never_more_than_the_bound(puts: list[tuple[int, bytes]]) -> None:
    kept, last = Kept(20), dict[int, bytes]()
    for key, body in puts:
        kept.put(key, (body, ""))
        last[key] = body
        held = {each: found for each in last if (found := kept.get(each)) is not None}
        assert sum(len(found) for found, _ in held.values()) <= 20
        assert all(found == last[each] for each, (found, _) in held.items())


def test_the_same_request_is_answered_alike_and_by_its_page_and_rendering(client: TestClient) -> None:
    asked = "gpu_mem=20GB&params=7B&limit=1"
    first, again = (client.get(f"/recommend.json?{asked}") for _ in range(2))
    assert first.content == again.content
    assert first.headers["etag"] == again.headers["etag"]
    page = client.get(f"/recommend?{asked}", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    other = client.get("/recommend.json?gpu_mem=20GB&params=7B&limit=2")
    assert len(other.json()["ranked"]) == 2
