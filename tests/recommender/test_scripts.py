"""Training scripts for Hugging Face PEFT: every method that it ships trains on a tiny random model, as written."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.pytorch_utils import Conv1D

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.records import load_methods
from kb.sites import LINEAR_SITES
from recommender import Constraints, recommend
from recommender.answer import Ranked
from recommender.modules import is_pattern, module_names, pattern

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
TINY_T5: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 64,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
TINY_BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
TINY_SIGHTED: dict[str, Any] = {  # its eyes have layers of the same names as its decoder
    "model_type": "qwen2_5_vl",
    "text_config": {
        **{name: value for name, value in TINY.items() if name != "model_type"},
        "model_type": "qwen2_5_vl_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "pad_token_id": 0,
    },
    "vision_config": {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 128,
    },
}


def ranked(config: dict[str, Any], storage: str = "none") -> dict[str, Ranked]:
    asked = Constraints.model_validate(
        {"config": config, "gpu_mem": "80GB", "seq": 32, "batch": 4, "epochs": 2, "quantization": storage, "limit": 500}
    )
    return {each.slug: each for each in recommend(asked).ranked}


FOR_DECODERS = ranked(TINY)
SCRIPTED = [slug for slug, each in FOR_DECODERS.items() if each.code.script]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each kind with a tokenizer of single characters, as folders."""
    letters = "abcdefghijklmnopqrstuvwxyz "
    vocabulary = {word: place for place, word in enumerate(["<pad>", "</s>", "<unk>", *letters])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    reader = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    kinds = {
        "decoder": (TINY, transformers.AutoModelForCausalLM),
        "encoder_decoder": (TINY_T5, transformers.AutoModelForSeq2SeqLM),
        "encoder": (TINY_BERT, transformers.AutoModelForSequenceClassification),
        "sighted": (TINY_SIGHTED, transformers.AutoModelForImageTextToText),
    }
    made = {}
    torch.manual_seed(0)
    for kind, (config, family) in kinds.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        family.from_config(transformers.AutoConfig.for_model(**config)).save_pretrained(made[kind])
        reader.save_pretrained(made[kind])
    return made


def run(script: str, model: Path, row: dict[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs a script as a file would run; the folder that it wrote."""
    return Path(trained(script, model, row, folder, monkeypatch)["OUTPUT"])


def trained(
    script: str, model: Path, row: dict[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Runs a script as a file would run; what its names stand for at the end."""
    code, data, written = folder / "train.py", folder / "train.jsonl", folder / "adapter"
    code.write_text(script, encoding="utf-8")
    data.write_text(f"{json.dumps(row)}\n" * 8, encoding="utf-8")
    monkeypatch.setattr("sys.argv", [str(code), str(model), str(data), str(written)])
    return runpy.run_path(str(code), run_name="__main__")


@pytest.mark.parametrize("slug", SCRIPTED)
def test_a_script_trains_a_decoder(
    slug: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = FOR_DECODERS[slug].code.script
    assert script
    row = {"prompt": "say ab", "completion": "ba"}
    written = run(script, folders["decoder"], row, tmp_path, monkeypatch)
    assert (written / "adapter_model.safetensors").stat().st_size > 0


@pytest.mark.parametrize(
    ("config", "kind", "row"),
    [
        (TINY_T5, "encoder_decoder", {"prompt": "say ab", "completion": "ba"}),
        (TINY_BERT, "encoder", {"text": "good", "label": 1}),
    ],
    ids=["encoder_decoder", "encoder"],
)
@pytest.mark.parametrize("slug", ["lora", "ia3"])
def test_a_script_trains_other_kinds(
    slug: str,
    config: dict[str, Any],
    kind: str,
    row: dict[str, object],
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = ranked(config)[slug].code.script
    assert script
    assert (run(script, folders[kind], row, tmp_path, monkeypatch) / "adapter_config.json").is_file()


@pytest.mark.parametrize("slug", ["lora", "ia3", "prompt_tuning"])
def test_a_script_trains_the_decoder_of_a_model_that_reads_images_and_leaves_its_eyes(
    slug: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ranked(TINY_SIGHTED)[slug].code.script
    assert script
    row: dict[str, object] = {"prompt": "say ab", "completion": "ba"}
    model = trained(script, folders["sighted"], row, tmp_path, monkeypatch)["model"]
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learned
    assert not [name for name in learned if ".visual." in name]
    assert any(".visual." in name for name, _ in model.named_parameters())


TEMPLATE = (
    "{% for each in messages %}{{ each['role'] }} {{ each['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant think {% endif %}"
)
"""Of a model that thinks before it answers: the question ends in what answers lack."""


def test_a_model_that_was_tuned_to_talk_is_trained_in_turns(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Constraints(model="Qwen/Qwen2.5-0.5B-Instruct", gpu_mem="24GB", seq=64, batch=4, epochs=1)
    script = next(each for each in recommend(asked).ranked if each.slug == "lora").code.script
    assert script
    talker = Path(shutil.copytree(folders["decoder"], tmp_path / "talker"))
    (talker / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    row: dict[str, object] = {"prompt": "say ab", "completion": "ba"}
    made = trained(script, talker, row, tmp_path, monkeypatch)
    assert (Path(made["OUTPUT"]) / "adapter_model.safetensors").is_file()
    encoded, read = made["encode"](row), made["tokenizer"]
    learned = [token for token in encoded["labels"] if token != -100]
    assert read.decode(encoded["input_ids"]).replace(" ", "") == "usersayabassistantba"
    assert read.decode(learned).replace(" ", "") == "ba"


def test_a_base_model_is_trained_on_plain_text() -> None:
    plain = recommend(Constraints(model="qwen2.5-0.5b", gpu_mem="24GB")).ranked[0].code.script
    assert plain is not None
    assert "apply_chat_template" not in plain


def test_every_plan_gives_a_script_that_compiles() -> None:
    for storage in ("none", "8bit", "4bit"):
        for checkpointing in ("on", "off"):
            asked = Constraints.model_validate(
                {
                    "params": "7B",
                    "gpu_mem": "80GB",
                    "quantization": storage,
                    "checkpointing": checkpointing,
                    "limit": 500,
                }
            )
            for each in recommend(asked).ranked:
                if each.code.script:
                    compile(each.code.script, each.slug, "exec")


@pytest.mark.parametrize(
    ("storage", "gpus", "has", "lacks"),
    [
        ("4bit", 1, ['device_map={"": 0 if', "enable_input_require_grads"], ["torchrun", "fsdp"]),
        ("4bit", 8, ["nproc_per_node 8", "PartialState().local_process_index"], ["fsdp"]),
        ("none", 8, ["nproc_per_node 8", "full_shard"], ["device_map"]),
    ],
)
def test_a_script_for_several_cards_starts_a_process_on_each(
    storage: str, gpus: int, has: list[str], lacks: list[str]
) -> None:
    asked = {"model": "llama-3.1-70b", "gpu": "h100-sxm5-80gb", "gpus": gpus, "quantization": storage, "seq": 4096}
    script = next(
        each for each in recommend(Constraints.model_validate(asked)).ranked if each.slug == "lora"
    ).code.script
    assert script is not None
    compile(script, "lora", "exec")
    assert all(text in script for text in has)
    assert not any(text in script for text in lacks)


def test_four_bits_that_are_spread_are_packed_as_what_all_else_is_and_eight_are_never_spread() -> None:
    large = {"model": "llama-3.1-405b", "gpu": "h100-sxm5-80gb", "gpus": 8}
    first = recommend(Constraints.model_validate(large)).ranked[0]
    assert (first.plan.storage, first.plan.sharding) == ("nf4", "full")
    assert "bnb_4bit_quant_storage=torch.bfloat16" in str(first.code.script)
    assert "device_map" not in str(first.code.script)
    assert recommend(Constraints.model_validate({**large, "quantization": "8bit"})).ranked == ()


def test_whoever_peft_ships_has_a_script_or_is_named_here() -> None:
    shipped = {
        slug for slug, m in load_methods().items() if any(lib.name == "peft" and lib.symbol for lib in m.code.libraries)
    }
    asked = Constraints.model_validate({"config": TINY, "gpu_mem": "80GB", "limit": 500})
    without = shipped - {each.slug for each in recommend(asked).ranked if each.code.script}
    assert without == {
        "bitfit",  # PEFT trains biases beside LoRA only
        "krona",  # its record says by which LoKr it can be had, which depends on the widths
        "loftq",  # PEFT starts it from a whole base and a quantised one in turn, which no single file of ours does
    }


MODEL_TYPES = sorted({each.model_type: each.id for each in load_models().values()}.items())


@pytest.mark.parametrize(("model_type", "model_id"), MODEL_TYPES)
def test_names_of_layers_are_those_of_the_released_code(model_type: str, model_id: str) -> None:
    record = load_models()[model_id]
    architecture = from_config(record.config)
    config = transformers.AutoConfig.for_model(**record.config)
    with torch.device("meta"):
        family = getattr(transformers, record.transformers_class)
        model = family(config)
    present = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    sites = {
        linear.site for linear in architecture.linears() if linear.in_block and linear.module
    } & LINEAR_SITES.keys()
    for site in sites:
        names = module_names(architecture, [site])
        assert names
        told = (
            [re.fullmatch(pattern(names), name) for name in present]
            if is_pattern(names)
            else [name.rpartition(".")[2] in names for name in present]
        )
        assert any(told), f"{site} of {model_type}: {names}"
