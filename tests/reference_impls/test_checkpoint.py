"""Adapter files: what is written comes back, and what is not an adapter of ours is refused with the reason."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reference_impls import lora
from reference_impls.training import checkpoint

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
CONFIG = lora.Config(rank=3, alpha=5.0)


@pytest.fixture
def file(make_tiny: MakeTiny, tmp_path: Path) -> Path:
    model, _ = make_tiny("bert")
    return checkpoint.save(lora.attach(model, CONFIG), tmp_path / "deep" / "adapter.safetensors", "lora", CONFIG)


def rewritten(file: Path, **changes: str) -> Path:
    """The file with other metadata."""
    with safe_open(str(file), "pt") as old:
        metadata = dict(old.metadata())
    save_file(load_file(file), file, metadata=metadata | changes)
    return file


def test_file_names_its_method_and_configuration(file: Path) -> None:
    assert checkpoint.describe(file) == ("lora", {"rank": 3, "alpha": 5.0, "target": CONFIG.target})


def test_file_holds_the_adapter_only(file: Path) -> None:
    tensors = load_file(file)
    assert len(tensors) == 2 * 2 * 2
    assert sum(t.numel() for t in tensors.values()) == 4 * 3 * (64 + 64)


def test_loading_restores_configuration_and_values(file: Path, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    loaded = checkpoint.load(model, file)
    layer = loaded.bert.encoder.layer[1].attention.self.value
    assert (layer.A.shape[0], layer.scale) == (3, 5.0 / 3)
    assert torch.equal(layer.A, load_file(file)["bert.encoder.layer.1.attention.self.value.A"])


def test_other_method_than_the_expected_one_is_refused(file: Path, make_tiny: MakeTiny) -> None:
    with pytest.raises(ValueError, match="holds an adapter of 'lora', not of 'dora'"):
        checkpoint.load(make_tiny("bert")[0], file, "dora")


@pytest.mark.parametrize("slug", ["unheard_of", "_surgery", "os", "../lora", "Lora", ""])
def test_slug_without_an_implementation_is_refused(slug: str, file: Path, make_tiny: MakeTiny) -> None:
    with pytest.raises(ValueError, match="has no implementation here"):
        checkpoint.load(make_tiny("bert")[0], rewritten(file, slug=slug))


def test_field_that_the_configuration_lacks_is_named(file: Path, make_tiny: MakeTiny) -> None:
    with pytest.raises(ValueError, match=r"lora\.Config has no field rnak"):
        checkpoint.load(make_tiny("bert")[0], rewritten(file, config=json.dumps({"rnak": 3})))


def test_adapter_of_another_shape_is_refused_and_the_model_stays_plain(file: Path, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    with pytest.raises(ValueError, match=r"\.A is \(3, 64\) instead of \(4, 64\)"):
        checkpoint.load(model, rewritten(file, config=json.dumps({"rank": 4})))
    assert all(p.requires_grad for p in model.parameters())
    lora.attach(model)


def test_adapter_of_another_family_is_refused(file: Path, make_tiny: MakeTiny) -> None:
    with pytest.raises(ValueError, match="is missing"):
        checkpoint.load(make_tiny("vit")[0], file)


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no adapter of this project"):
        checkpoint.describe(tmp_path / "other.safetensors")


def test_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoint.describe(tmp_path / "text")


def test_missing_file_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.describe(tmp_path / "nothing")


def test_failed_write_leaves_the_old_file_and_no_other(
    file: Path, make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(lora.attach(make_tiny("bert")[0], CONFIG), file, "lora", CONFIG)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@dataclass(frozen=True)
class Inner:
    """Half of a configuration."""

    length: int = 1


@dataclass(frozen=True)
class Outer:
    """A configuration that holds another one."""

    inner: Inner = Inner()
    layers: tuple[int, ...] = ()


def test_nested_configuration_comes_back_as_it_was(tmp_path: Path, make_tiny: MakeTiny) -> None:
    outer = Outer(Inner(7), (1, 2))
    model, _ = make_tiny("bert")
    path = checkpoint.save(lora.attach(model), tmp_path / "a.safetensors", "lora", outer)
    assert checkpoint._rebuild(Outer, checkpoint.describe(path)[1]) == outer
