"""What computing activations twice takes at least is never more than what it takes."""

import pytest

from recommender import Constraints
from recommender.catalogue import default_catalogue
from recommender.footprint import subject
from recommender.plans import alike
from recommender.reading import read_card, read_model
from recommender.recomputing import least
from recommender.scoring import Case, candidates, read_case, timing

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "mistral-7b-v0.3", "gemma-2-9b", "gpt2", "t5-large")
CARDS = ("rtx-4090", "l4", "v100-sxm2-32gb")


def _case(model: str, card: str, batch: int) -> Case:
    asked = Constraints(model=model, gpu=card, batch=batch)
    read, placed = read_model(asked)[0], read_card(asked)
    assert placed is not None
    assert placed.rates is not None
    return read_case(asked, default_catalogue(), subject(read), placed, placed.rates)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("card", CARDS)
def test_the_least_time_of_computing_activations_twice_is_no_more_than_its_time(model: str, card: str) -> None:
    told = 0
    for batch in (4, 32):
        case = _case(model, card, batch)
        for item, of in candidates(case)[0]:
            if not of.forms or not item.prepared.through:
                continue
            once = of.option(("bf16", False, "none"), case.demand.asked)
            twice = alike(of, (once.key[0], "bf16", True, "none"), case.demand)
            bound = least(of, once, case.demand, case.rates)
            if twice is not None and bound:
                told += 1
                spent, _ = timing(case, twice, case.demand.share)
                assert bound <= spent * (1 + 1e-9), item.prepared.method.slug
    assert told >= 80  # of two batches and about 60 methods
