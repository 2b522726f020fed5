"""SPoT: task similarity against naive cosines in float64, the choice of a start, and what sources are trained on."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import spot

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
QUICK = {"prompt_length": 3, "source_steps": 4, "probe_steps": 2, "source_lr": 0.1}


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def numbered(batch: Batch, *tasks: int) -> Batch:
    return batch | {"task_ids": torch.tensor(tasks)}


def test_similarities_are_the_papers() -> None:
    P, Q = torch.randn(3, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    means = [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in (P.tolist(), Q.tolist())]
    assert spot.averaged(P, Q).item() == pytest.approx(cosine(*means), rel=1e-12)
    pairs = [cosine(p, q) for p in P.tolist() for q in Q.tolist()]
    assert spot.pairwise(P, Q).item() == pytest.approx(sum(pairs) / 12, rel=1e-12)


def test_start_is_the_nearest_prompt_or_an_average_weighted_by_similarity() -> None:
    prompts = list(torch.randn(4, 2, 3, dtype=torch.float64))
    likeness = torch.tensor([0.1, 0.6, -0.5, 0.2], dtype=torch.float64)
    torch.testing.assert_close(spot.blend(prompts, likeness, 1), prompts[1])
    expected = (0.6 * prompts[1] + 0.2 * prompts[3]) / 0.8
    torch.testing.assert_close(spot.blend(prompts, likeness, 2), expected)
    three = (0.6 * prompts[1] + 0.2 * prompts[3] + 0.1 * prompts[0]) / 0.9
    torch.testing.assert_close(spot.blend(prompts, likeness, 9), three, msg="a negative similarity has no weight")
    none = spot.blend(prompts[:2], torch.tensor([-0.1, -0.3], dtype=torch.float64), 2)
    torch.testing.assert_close(none, (prompts[0] + prompts[1]) / 2)


def test_rows_are_dealt_out_by_task(make_tiny: MakeTiny) -> None:
    _, batch = make_tiny("llama")
    sources, target = spot.split([numbered(batch, 5, 2, 5, 2), batch, numbered(batch, 2, 2, 2, 2)])
    assert [len(task) for task in sources] == [2, 1]
    assert torch.equal(sources[0][0]["input_ids"], batch["input_ids"][[1, 3]])
    assert torch.equal(sources[1][0]["labels"], batch["labels"][[0, 2]])
    assert len(target) == 1
    assert all("task_ids" not in rows for task in (*sources, target) for rows in task)
    alone, target = spot.split([batch, batch])
    assert [len(task) for task in alone] == [1, 1]
    assert len(target) == 2
    with pytest.raises(ValueError, match="no batch"):
        spot.split([])


def test_source_prompt_learns_its_task_and_leaves_the_model_alone(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    model = spot.attach(model, spot.Config(**QUICK))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        first = model(**batch).loss
    prompt, vector = spot.learned(model, [batch], 96, lr=0.3, steps=30, early=10)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not torch.equal(prompt, vector)
    with torch.no_grad():
        model.P.copy_(prompt)
        assert model(**batch).loss < first - 0.1


@pytest.mark.parametrize("kind", ["averaged", "pairwise"])
def test_prompt_starts_from_the_source_that_is_most_like_the_target(
    kind: str, make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make_tiny("llama")
    config = spot.Config(**QUICK, similarity=kind)  # type: ignore[arg-type]
    model = spot.attach(model, config)
    seen: list[tuple[Tensor, Tensor]] = []
    train = spot.learned

    def watched(*call: object) -> tuple[Tensor, Tensor]:
        seen.append(train(*call))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(spot, "learned", watched)
    spot.prepare(model, [numbered(batch, 0, 1, 2, 1), batch], config)
    *sources, (_, goal) = seen
    assert len(sources) == 3
    like = [getattr(spot, kind)(vector, goal) for _, vector in sources]
    assert torch.equal(model.P, sources[like.index(max(like))][0])


def test_mixture_trains_one_prompt_on_all_sources(make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make_tiny("llama")
    config = spot.Config(**QUICK, choice="mixture")
    model = spot.attach(model, config)
    rows: list[int] = []

    def watched(model: nn.Module, batches: list[Batch], *rest: object) -> tuple[Tensor, Tensor]:
        rows.append(sum(len(one["labels"]) for one in batches))
        return torch.full((3, 64), 7.0), torch.zeros(3, 64)

    monkeypatch.setattr(spot, "learned", watched)
    spot.prepare(model, [numbered(batch, 0, 1, 2, 1)], config)
    assert rows == [4]
    assert (model.P == 7).all()


def test_sources_without_a_target_cannot_be_compared(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    config = spot.Config(**QUICK)
    with pytest.raises(ValueError, match="needs batches of the target"):
        spot.prepare(spot.attach(model, config), [numbered(batch, 0, 1, 2, 1)], config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (spot.Config(source_steps=0), "at least 1"),
        (spot.Config(top=0), "at least 1"),
        (spot.Config(choice="best"), "there is no 'best'; take nearest"),  # type: ignore[arg-type]
        (spot.Config(similarity="dot"), "there is no 'dot'; take averaged"),  # type: ignore[arg-type]
        (spot.Config(prompt_length=0), "prompt of length 0"),
    ],
)
def test_impossible_transfer_is_refused(config: spot.Config, message: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=message):
        spot.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
