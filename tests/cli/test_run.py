"""``peft-atlas run``: on the ladder, on a model and data of the user's, and told wrongly."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from typer.testing import CliRunner

from cli import run as module
from kb.loader import KB
from kb.records import load_methods
from reference_impls.ladder import base, task
from reference_impls.training import checkpoint, row, text

ALPHABET = "abcdefgh"


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(module.run)
    app.callback()(lambda: None)
    return app


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def call(app: typer.Typer, *arguments: object) -> Any:
    return CliRunner().invoke(app, ["run", *map(str, arguments)], env={"COLUMNS": "200"})


def answer(app: typer.Typer, *arguments: object) -> dict[str, Any]:
    result = call(app, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def error(app: typer.Typer, *arguments: object) -> str:
    result = call(app, *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def climbed(app: typer.Typer, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("climbed")
    options = ("--rung", "rename", "--steps", 120, "--lr", 0.01, "--output", folder, "--device", "cpu")
    return answer(app, "lora", *options), folder


def test_ladder_run_reports_what_it_did(climbed: tuple[dict[str, Any], Path]) -> None:
    done, _ = climbed
    (outcome,) = done["outcomes"]
    assert (done["slug"], done["device"], done["seed"]) == ("lora", "cpu", 0)
    assert (outcome["task"], outcome["steps"], outcome["learning_rate"]) == ("rename", 120, 0.01)
    assert outcome["before"]["exact"] < 0.2
    assert outcome["after"]["exact"] >= 0.9
    assert outcome["climbed"] is True
    assert outcome["reloaded"] == outcome["after"]
    assert len(outcome["losses"]) == 120
    assert outcome["seconds"] > 0
    assert outcome["memory_bytes"] >= 0
    assert "memory" in outcome["memory_kind"]


def test_counts_of_the_record_are_those_of_the_running_model(climbed: tuple[dict[str, Any], Path]) -> None:
    done, _ = climbed
    counts, rank = done["outcomes"][0]["counts"], done["config"]["rank"]
    assert counts["trained"] == counts["trainable"] == 8 * rank * (128 + 128)
    assert counts["changed"] == 8 * 128 * 128
    assert counts["rank"] == rank
    assert counts["total"] == base.report()["parameters"] + counts["trained"]


def test_saved_adapter_does_on_a_fresh_base_what_was_reported(climbed: tuple[dict[str, Any], Path]) -> None:
    done, folder = climbed
    path = folder / "rename.safetensors"
    assert done["outcomes"][0]["adapter"] == str(path)
    with safe_open(path, "pt") as file:
        assert file.metadata()["slug"] == "lora"
    model = checkpoint.load(base.load_base(), path)
    assert task.accuracy(model, task.exam(task.RUNGS["rename"])).exact == done["outcomes"][0]["after"]["exact"]


def test_table_for_people_names_counts_memory_time_and_adapter(app: typer.Typer, tmp_path: Path) -> None:
    result = call(app, "ia3", "--rung", "all", "--steps", 2, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    for part in ("rename", "composition", "new_skill", "before", "after", "saved and reloaded", "2,048 of"):
        assert part in result.stdout
    for part in ("memory", "time", "not climbed", "rename.safetensors", "for example"):
        assert part in result.stdout


def test_targets_say_which_layers_are_adapted(app: typer.Typer, tmp_path: Path) -> None:
    few, many = (
        answer(app, "lora", "--rung", "rename", "--steps", 1, "--targets", targets, "--output", tmp_path)
        for targets in ("paper", "all_linear")
    )
    assert few["config"]["target"] != many["config"]["target"]
    less, more = few["outcomes"][0]["counts"], many["outcomes"][0]["counts"]
    assert less["trained"] < more["trained"]
    for counts in (less, more):
        assert counts["trained"] == counts["trainable"]
    assert more["changed"] == 4 * (4 * 128 * 128 + 3 * 128 * base.load_base().config.intermediate_size)


def test_layers_given_as_a_pattern_leave_the_formulas_per_layer_unknown(app: typer.Typer, tmp_path: Path) -> None:
    run = answer(app, "lora", "--rung", "rename", "--steps", 1, "--set", "target=o_proj", "--output", tmp_path)
    counts = run["outcomes"][0]["counts"]
    assert counts["trained"] > 0
    assert (counts["trainable"], counts["changed"]) == (None, None)


def test_setting_changes_the_configuration(app: typer.Typer, tmp_path: Path) -> None:
    done = answer(app, "lora", "--rung", "rename", "--steps", 1, "--set", "rank=3", "--output", tmp_path)
    assert done["config"]["rank"] == 3
    assert done["outcomes"][0]["counts"]["trained"] == 8 * 3 * 256


def test_same_seed_gives_the_same_losses(app: typer.Typer, tmp_path: Path) -> None:
    runs = [
        answer(app, "lora", "--rung", "rename", "--steps", 3, "--seed", seed, "--output", tmp_path)["outcomes"][0]
        for seed in (5, 5, 6)
    ]
    assert runs[0]["losses"] == runs[1]["losses"]
    assert runs[0]["losses"] != runs[2]["losses"]


# Those that the small base, a plain decoder, cannot carry promise no rung.
CARRIED = [
    slug
    for slug in module.implemented()
    if (reference := load_methods()[slug].reference) is not None and reference.expected_rung != "none"
]


@pytest.mark.parametrize("slug", CARRIED)
def test_every_method_runs_counts_as_its_record_and_reloads(app: typer.Typer, tmp_path: Path, slug: str) -> None:
    (outcome,) = answer(app, slug, "--rung", "rename", "--steps", 2, "--output", tmp_path)["outcomes"]
    assert outcome["reloaded"] == outcome["after"]
    assert outcome["counts"]["trained"] == outcome["counts"]["trainable"]
    assert Path(outcome["adapter"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loraa"], "there is no method 'loraa'; did you mean lora"),
        (["xxxxxxxx"], "there is no method 'xxxxxxxx'"),
        (["../lora"], "there is no method '../lora'"),
        (["lora", "--rung", "renam"], "there is no rung 'renam'; did you mean rename?"),
        (["lora", "--targets", "q_prj"], "did you mean q_proj"),
        (["ln_tuning", "--targets", "q_proj"], "--targets: "),
        (["lora", "--set", "rank"], "--set 'rank' is not name=value"),
        (["lora", "--set", "rnk=3", "--steps", 1], "lora.Config has no field 'rnk'; it has rank"),
        (["lora", "--set", "rank=100000", "--steps", 1], "rank 100000 does not fit"),
        (["lora", "--device", "quantum"], "the device 'quantum' cannot be used here"),
        (["lora", "--model", "m"], "--model and --data go together"),
        (["lora", "--data", "d"], "--model and --data go together"),
        (["lora", "--rung", "all", "--model", "m", "--data", "d"], "--rung belongs to the default ladder"),
        (["lora", "--dtype", "bf16"], "--dtype, --quantization, --checkpointing and --accumulation belong to --model"),
        (["lora", "--model", "m", "--data", "d", "--dtype", "bf17"], "--dtype 'bf17' is unknown; did you mean bf16?"),
        (["lora", "--model", "m", "--data", "d", "--quantization", "nf4"], "give none, 8bit, 4bit"),
        (["diff_pruning", "--model", "m", "--data", "d", "--quantization", "4bit"], "not known to work on a base in"),
        (["qlora", "--model", "m", "--data", "d", "--quantization", "8bit"], "stores its base in 4 bits itself"),
        (["ladder_side_tuning", "--model", "m", "--data", "d", "--checkpointing"], "nothing to recompute"),
        (["lora", "--steps", 0], "Invalid value for '--steps'"),
        (["lora", "--lr", "fast"], "Invalid value for '--lr'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_request_gets_one_clear_error(app: typer.Typer, arguments: list[object], message: str) -> None:
    assert message in error(app, *arguments)


def test_method_without_implementation_is_said_to_have_none(app: typer.Typer) -> None:
    waiting = sorted({path.stem for path in (KB / "methods").glob("*.yaml")} - set(module.implemented()))
    if waiting:
        assert "has a record but no implementation yet" in error(app, waiting[0])
    assert "lora" in module.implemented()
    assert not [slug for slug in module.implemented() if slug.startswith("_")]


def test_missing_torch_is_answered_with_the_command_that_installs_it(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else real(name))
    result = call(app, "lora")
    assert result.exit_code == 1
    assert 'pip install "peft-atlas[torch]"' in result.stderr


def test_importing_the_command_imports_no_torch() -> None:
    code = "import sys, cli.run; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", ":", *ALPHABET])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=12, **sizes, eos_token_id=1, bos_token_id=None)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"{a} {b} :", "completion": f"{a} {a}"} for a in ALPHABET for b in ALPHABET]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


def test_own_model_and_data_are_learned_saved_and_reloaded(
    app: typer.Typer, decoder: Path, pairs: Path, tmp_path: Path
) -> None:
    options = ("--lr", 0.01, "--steps", 60, "--batch", 16, "--output", tmp_path)
    done = answer(app, "full_fine_tuning", "--model", decoder, "--data", pairs, *options)
    (outcome,) = done["outcomes"]
    assert outcome["says"] == "58 rows to learn from, 6 held out"
    assert outcome["after"]["loss"] < 0.5 * outcome["before"]["loss"]
    assert outcome["after"]["token"] > outcome["before"]["token"]
    assert outcome["reloaded"] == outcome["after"]
    assert outcome["climbed"] is None
    assert (tmp_path / "adapter.safetensors").is_file()


@pytest.mark.parametrize(
    ("slug", "how"),
    [
        ("lora", ["--dtype", "bf16", "--quantization", "4bit", "--checkpointing", "--accumulation", 2]),
        ("dora", ["--dtype", "bf16", "--quantization", "8bit"]),
        ("qlora", ["--dtype", "bf16", "--quantization", "4bit", "--checkpointing", "--set", "rank=4"]),
        ("vera", ["--checkpointing"]),
    ],
)
def test_own_model_is_held_as_a_plan_says(
    app: typer.Typer, decoder: Path, pairs: Path, tmp_path: Path, slug: str, how: list[object]
) -> None:
    options = [*how, "--lr", 0.01, "--steps", 3, "--batch", 2, "--output", tmp_path]
    done = answer(app, slug, "--model", decoder, "--data", pairs, *options)
    (outcome,) = done["outcomes"]
    assert len(outcome["losses"]) == 3
    assert outcome["after"] != outcome["before"]
    assert outcome["reloaded"] == outcome["after"]


def test_own_text_is_learned_whole(app: typer.Typer, decoder: Path, tmp_path: Path) -> None:
    data = tmp_path / "text.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"{a} b c d"}) for a in ALPHABET))
    result = call(app, "lora", "--model", decoder, "--data", data, "--lr", 0.01, "--steps", 3, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "7 rows to learn from, 1 held out" in result.stdout
    assert "loss per token" in result.stdout


def test_encoder_decoder_reads_the_prompt_and_learns_the_completion(
    app: typer.Typer, pairs: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    config = T5Config(vocab_size=12, **sizes, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    make_tokenizer().save_pretrained(tmp_path / "t5")
    options = ("--lr", 0.01, "--steps", 20, "--output", tmp_path)
    (outcome,) = answer(app, "lora", "--model", tmp_path / "t5", "--data", pairs, *options)["outcomes"]
    assert outcome["after"]["loss"] < outcome["before"]["loss"]
    assert outcome["reloaded"] == outcome["after"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without a head, as encoders are published."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=12, **sizes)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two letters, to be told apart by whether the first is one of a to d."""
    path = tmp_path_factory.mktemp("data") / "labelled.jsonl"
    rows = [{"text": f"{a} {b}", "label": "early" if a < "e" else "late"} for a in ALPHABET for b in ALPHABET]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


# One that adds, one that trains in place and is not the head, one with an optimizer of its own, one that prepares anew.
@pytest.mark.parametrize(
    "slug", ["houlsby_adapter", "bitfit", "diff_pruning", "ladder_side_tuning", "full_fine_tuning"]
)
def test_labels_are_learned_with_a_head_that_is_saved_and_reloaded(
    app: typer.Typer, encoder: Path, labelled: Path, tmp_path: Path, slug: str
) -> None:
    options = ("--lr", 0.01, "--steps", 40, "--batch", 16, "--output", tmp_path)
    (outcome,) = answer(app, slug, "--model", encoder, "--data", labelled, *options)["outcomes"]
    assert outcome["labels"] == ["early", "late"]
    assert outcome["counts"]["head"] == 2 * (32 + 1)
    assert outcome["after"]["loss"] < outcome["before"]["loss"]
    assert outcome["after"]["exact"] >= outcome["majority"]
    assert outcome["head_alone"] != outcome["before"]
    assert outcome["reloaded"] == outcome["after"]
    with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
        assert json.loads(file.metadata()["head"]) == ["classifier.weight", "classifier.bias"]


def test_decoder_classifies_too_and_people_see_the_head_and_the_majority(
    app: typer.Typer, decoder: Path, labelled: Path, tmp_path: Path
) -> None:
    options = ("--lr", 0.01, "--steps", 3, "--output", tmp_path)
    result = call(app, "lora", "--model", decoder, "--data", labelled, *options)
    assert result.exit_code == 0, result.output
    for part in ("labels right", "head alone", "loss per label", "early, late", "right without reading"):
        assert part in result.stdout


def test_encoder_without_labels_is_refused_with_what_it_needs(app: typer.Typer, encoder: Path, pairs: Path) -> None:
    said = error(app, "lora", "--model", encoder, "--data", pairs)
    assert "is an encoder (bert), which does not continue texts; give it rows with 'text' and 'label'" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a", "completion": "b"}\nnonsense\n', "data.jsonl:2: not JSON"),
        (
            '{"question": "a"}\n',
            "data.jsonl:1: expected the texts 'prompt' and 'completion', or 'text', or 'text' and a 'label' (a text or a whole number); found 'que",
        ),
        ("[1]\n", "data.jsonl:1: expected the texts"),
        ('{"text": "a", "label": null}\n', "or 'text' and a 'label' (a text or a whole number); found 'text', 'label'"),
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', "some rows of"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 1}\n', "every row has the label '1'"),
        ('{"text": "a b"}\n{"text": "a b"}\n', "all rows say the same"),
        ('{"text": "a b"}\n', "has 1 usable rows; two are needed"),
        ("", "has 0 usable rows; two are needed"),
    ],
    ids=[
        "no JSON",
        "other keys",
        "no object",
        "no label",
        "mixed",
        "one label",
        "nothing to learn",
        "one row",
        "empty",
    ],
)
def test_unusable_data_is_named_with_its_line(
    app: typer.Typer, decoder: Path, tmp_path: Path, content: str, message: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(content)
    assert message in error(app, "lora", "--model", decoder, "--data", data)


def test_missing_model_or_data_is_named(app: typer.Typer, decoder: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "cannot load" in error(app, "lora", "--model", tmp_path / "empty", "--data", pairs)
    assert "nowhere.jsonl is not a file" in error(app, "lora", "--model", decoder, "--data", tmp_path / "nowhere.jsonl")


def test_prompt_too_long_loses_its_beginning_and_never_its_completion() -> None:
    (example,) = text.encode([row.Row("a b c d :", "e f")], make_tokenizer(), 5, encoder_decoder=False)
    words = make_tokenizer().convert_ids_to_tokens(example.inputs)
    assert words == ["d", ":", "e", "f", "</s>"]
    assert [label == -100 for label in example.labels] == [True, True, False, False, False]


def test_padding_is_masked_and_not_learned() -> None:
    batch = text.collate([text.Example([5, 6, 7], [-100, 6, 7]), text.Example([5], [5])], pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [5, -100, -100]]


def test_held_out_rows_are_never_learned() -> None:
    examples = [text.Example([i], [i]) for i in range(40)]
    learned, held = text.hold_out(examples, seed=1)
    assert (len(learned), len(held)) == (36, 4)
    assert not {one.inputs[0] for one in learned} & {one.inputs[0] for one in held}


def test_repetition_of_a_held_out_row_is_not_learned() -> None:
    examples = [text.Example([i % 10], [i % 10]) for i in range(40)]
    learned, held = text.hold_out(examples, seed=1)
    assert not {one.inputs[0] for one in learned} & {one.inputs[0] for one in held}
    assert len(learned) == 4 * len({one.inputs[0] for one in learned})


class Constant(torch.nn.Module):
    """Says the same of every row: class 1 of two, with odds of three to one."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.0, math.log(3)]))

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(len(input_ids), 2))


def test_score_of_a_classifier_is_its_share_of_right_labels_and_their_loss() -> None:
    examples = [text.Example([1] * (i + 1), [label]) for i, label in enumerate((1, 1, 1, 0, 1))]
    score = text.examine(Constant(), examples, size=2, pad=0, encoder_decoder=False)
    assert score.exact == score.token == 0.8
    assert score.loss == pytest.approx((4 * math.log(4 / 3) + math.log(4)) / 5)
    assert text.majority(examples[:3], examples) == 0.8


def test_labels_are_numbered_in_order_and_numbers_as_numbers() -> None:
    assert row.classes([row.Row("x", name, labelled=True) for name in ("10", "9", "b", "a", "9")]) == [
        "9",
        "10",
        "a",
        "b",
    ]
    assert row.classes([row.Row("x", "10")]) == []
