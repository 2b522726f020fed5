"""What the tests of the implementations share: tiny models, one thread, and seeds."""

import copy
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM

from tests.reference_impls.tiny import tiny

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same random state, and on one thread: tiny tensors gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@cache
def _tiny(family: str) -> tuple[nn.Module, Batch]:
    if family != "bert_mlm":
        return tiny(family)
    classifier, batch = tiny("bert")
    torch.manual_seed(0)
    model = BertForMaskedLM(classifier.config).eval()  # the same encoder, with a head that fills in masked words
    model.bert.load_state_dict(classifier.bert.state_dict(), strict=False)
    return model, batch


@pytest.fixture
def make_tiny(request: pytest.FixtureRequest) -> MakeTiny:
    """A fresh copy of a tiny model, and its batch, on the device that ``python -m tests.gpu`` chose."""
    device = request.config.getoption("--device", "cpu")

    def make(family: str) -> tuple[nn.Module, Batch]:
        model, batch = _tiny(family)
        return copy.deepcopy(model).to(device), {name: tensor.to(device) for name, tensor in batch.items()}

    return make


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Moves every trainable number of a model away from where it starts: a zero would hide mistakes."""

    @torch.no_grad()
    def move(model: nn.Module) -> nn.Module:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        return model

    return move
