"""What does not run on a base that bitsandbytes stores is what is written down, and transformers stores what we say it does."""

from importlib import metadata
from pathlib import Path

import bitsandbytes
import pytest
import torch
import transformers

from kb.closed_form import Implementation, Storage
from kb.measurement import Setting
from kb.storages import FILE, Storages, refused
from profiler import storages
from profiler.profiles import versions
from tests.profiler.test_quantised import built, packed

EYES = (
    "clip-vit-base-patch32",
    "llama-4-maverick-17b-128e",
    "llama-4-scout-17b-16e",
)  # are described whole, built in part


@pytest.mark.parametrize("model", ["llama-3.2-1b", "t5-large", "falcon-7b", "mixtral-8x7b", "gpt2", "roberta-base"])
def test_layers_that_are_packed_are_those_that_transformers_packs(model: str, tmp_path: Path) -> None:
    ours = built(model).to(torch.bfloat16)
    ours.save_pretrained(tmp_path)
    theirs = type(ours).from_pretrained(
        tmp_path,
        dtype=torch.bfloat16,
        quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),
        device_map={"": "cpu"},
    )
    found = {name for name, one in theirs.named_modules() if isinstance(one, bitsandbytes.nn.Linear8bitLt)}
    heads = {name for name in found if name.startswith("classifier")}  # our scripts keep these whole
    assert {*packed(ours)} == found - heads


@pytest.mark.parametrize(
    ("slug", "implementation", "storage"),
    [
        ("pissa", "peft", "int8"),
        ("pissa", "peft", "nf4"),
        ("loha", "peft", "nf4"),
        ("lokr", "peft", "nf4"),
        ("loha", "peft", "int8"),
        ("lora", "peft", "int8"),
        ("oft", "peft", "nf4"),
        ("dora", "ours", "int8"),
    ],
)
def test_what_is_refused_is_what_is_written_down(slug: str, implementation: Implementation, storage: Storage) -> None:
    setting = Setting(model=storages.MODELS[0], small=True, batch=2, seq=16, storage=storage)
    assert storages.refusal(slug, implementation, setting) == refused(storage, implementation).get(slug)


def test_the_file_is_of_the_libraries_that_are_installed_and_ours_runs_everywhere() -> None:
    known = Storages.model_validate_json(FILE.read_bytes())
    assert known.versions == versions() | {"bitsandbytes": metadata.version("bitsandbytes")}
    assert [refusals["ours"] for refusals in known.refused.values()] == [{}, {}]
    tried = {(method.slug, setting.storage) for method, _, setting in storages.trials()}
    assert {("lora", "nf4"), ("bitfit", "int8"), ("lora", "int8")} <= tried
