"""Scripts for bases in 8 and 4 bits, run on the real bitsandbytes."""

from pathlib import Path

import pytest
import torch

from kb.architecture import from_config
from tests.recommender.test_scripts import TINY, TINY_BERT, TINY_T5, ranked, trained


@pytest.mark.parametrize(
    ("kind", "slug", "storage"),
    [
        ("decoder", "lora", "4bit"),
        ("decoder", "lora", "8bit"),
        ("decoder", "ia3", "4bit"),
        ("decoder", "shira", "8bit"),
        ("encoder", "lora", "4bit"),
        ("encoder", "vera", "8bit"),
        ("encoder_decoder", "lora", "4bit"),
        ("encoder_decoder", "oft", "8bit"),
    ],
)
def test_a_script_trains_on_a_base_that_bitsandbytes_stores_as_the_plan_counts_it(
    kind: str, slug: str, storage: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"decoder": TINY, "encoder": TINY_BERT, "encoder_decoder": TINY_T5}[kind]
    plan = ranked(config, storage)[slug]
    row: dict[str, object] = {"prompt": "say ab", "completion": "ba"}
    row = {"text": "good", "label": 1} if kind == "encoder" else row
    assert plan.code.script
    found = trained(plan.code.script, folders[kind], row, tmp_path, monkeypatch)
    assert (Path(found["OUTPUT"]) / "adapter_model.safetensors").is_file()
    frozen = [one for one in found["model"].parameters() if not one.requires_grad]
    packed = [one for one in frozen if not one.is_floating_point()]
    numbers = sum(one.numel() * (2 if one.dtype == torch.uint8 else 1) for one in packed)
    assert numbers == from_config(config).packable + (64 * 64 if kind == "encoder" else 0)  # BERT's pooler
    assert {one.dtype for one in frozen} - {one.dtype for one in packed} == {torch.bfloat16}
