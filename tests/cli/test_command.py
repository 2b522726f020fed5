"""``peft-atlas`` as a person and a program use it: answers, JSON, and errors that name the nearest right thing."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.advise import FIELDS
from cli.main import COMMANDS, app
from kb.loader import KB
from kb.records import load_methods
from recommender import Answer, Constraints, Estimate, recommend
from recommender import estimate as estimated
from taxonomy import build

ROOT = KB.parent
ASKED = ["--gpu-mem", "24GB", "--params", "7B"]


def invoke(*words: str) -> Any:
    """The command in this process, on a wide terminal without colours."""
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})


def answered(*words: str) -> Any:
    """The JSON that a command answers."""
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def refused(*words: str, code: int = 2) -> str:
    """What the error stream says when a command refuses; the output stays empty."""
    result = invoke(*words)
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.replace("│", " ").split())


# Help


def test_help_lists_every_command_with_the_words_of_its_function() -> None:
    shown = " ".join(invoke("--help").stdout.split())
    for name, (module, summary) in COMMANDS.items():
        assert summary in shown
        function = getattr(import_module(module), "list_" if name == "list" else name)
        assert summary == (function.__doc__ or "").strip().splitlines()[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert COMMANDS[name][1] in " ".join(result.stdout.split())


def test_no_command_shows_the_help() -> None:
    assert "recommend" in invoke().output


def test_version_is_told() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout.startswith("peft-atlas")) == (0, True)


# Browsing


def test_list_has_every_record() -> None:
    answer = answered("list")
    assert answer["total"] == len(answer["methods"]) == len(load_methods())
    assert [each["slug"] for each in answer["methods"]] == list(load_methods())


@pytest.mark.parametrize(
    ("words", "inside", "outside"),
    [
        (["--class", "selective"], "bitfit", "lora"),
        (["--class", "low_rank"], "lora", "bitfit"),
        (["--library", "peft"], "lora", "diff_pruning"),
        (["--form", "prompt"], "prompt_tuning", "lora"),
        (["--architecture", "diffusion"], "lora", "attention_fusion"),
        (["--status", "baseline"], "full_fine_tuning", "lora"),
        (["--mergeable"], "lora", "prompt_tuning"),
        (["--not-mergeable"], "prompt_tuning", "lora"),
        (["--no-backprop"], "ladder_side_tuning", "lora"),
        (["--backprop"], "lora", "ladder_side_tuning"),
        (["--quantised"], "lora", "full_fine_tuning"),
        (["--hybrid"], "mam_adapter", "lora"),
        (["--no-hybrid"], "lora", "mam_adapter"),
        (["--since", "2024"], "dora", "lora"),
        (["--search", "Weight-Decomposed"], "dora", "lora"),
        (["--mergeable", "--class", "reparameterization", "--since", "2022"], "dora", "lora"),
    ],
)
def test_list_filters(words: list[str], inside: str, outside: str) -> None:
    slugs = {each["slug"] for each in answered("list", *words)["methods"]}
    assert inside in slugs
    assert outside not in slugs


def test_opposite_filters_share_nothing() -> None:
    yes, no = ({each["slug"] for each in answered("list", word)["methods"]} for word in ("--runs-here", "--not-here"))
    assert yes | no == set(load_methods())
    assert not yes & no


def test_list_says_when_nothing_fits() -> None:
    result = invoke("list", "--form", "prompt", "--mergeable")
    assert (result.exit_code, "leave one out" in result.stdout) == (0, True)
    assert answered("list", "--since", "3000")["methods"] == []


@pytest.mark.parametrize("slug", load_methods())
def test_show_tells_every_method(slug: str) -> None:
    text = invoke("show", slug)
    assert text.exit_code == 0
    assert load_methods()[slug].name in text.stdout
    answer = answered("show", slug)
    assert answer["method"] == load_methods()[slug].model_dump(mode="json")
    assert answer["hybrid"] == build().is_hybrid(slug)


def test_show_finds_other_names_and_citations() -> None:
    assert answered("show", "Low-Rank Adaptation")["method"]["slug"] == "lora"
    assert invoke("show", "lora", "--bibtex").stdout.startswith("@misc{hu2021lora,")
    if load_methods()["full_fine_tuning"].paper is None:
        assert "no paper" in refused("show", "full_fine_tuning", "--bibtex", code=1)


def test_compare_puts_methods_side_by_side() -> None:
    answer = answered("compare", "lora", "dora", "bitfit")
    assert answer["methods"] == ["lora", "dora", "bitfit"]
    facts = {fact["key"]: fact for fact in answer["facts"]}
    assert facts["mergeable"]["values"]["lora"] is True
    assert all(fact["differs"] == (len(set(map(repr, fact["values"].values()))) > 1) for fact in facts.values())
    fewer = answered("compare", "lora", "dora", "bitfit", "--only-differences")["facts"]
    assert [fact["key"] for fact in fewer] == [key for key, fact in facts.items() if fact["differs"]]
    assert "DoRA" in invoke("compare", "lora", "dora").stdout


def test_compare_says_where_its_values_come_from() -> None:
    facts = {fact["key"]: fact for fact in answered("compare", "lora", "bitfit")["facts"]}
    record = load_methods()["bitfit"].efficiency.mergeable
    assert record.source is not None
    assert facts["mergeable"]["sources"]["bitfit"] == record.source.model_dump()
    assert facts["name"]["sources"] == {"lora": None, "bitfit": None}
    said = invoke("compare", "lora", "bitfit").stdout
    table, _, listed = said.partition("Sources\n")
    numbers = {int(each) for each in re.findall(r"\[(\d+)\]", table)}
    assert (
        numbers
        == {int(each) for each in re.findall(r"^\[(\d+)\]", listed, re.MULTILINE)}
        == {*range(1, len(numbers) + 1)}
    )
    assert f"{record.source.ref}, {record.source.where}" in listed


# Advice


def test_recommend_is_the_same_object_as_in_python() -> None:
    answer = Answer.model_validate_json(invoke("recommend", *ASKED, "--json").stdout)
    assert answer == recommend(Constraints(gpu_mem="24GB", params="7B"))


def test_estimate_is_the_same_object_as_in_python() -> None:
    answer = Estimate.model_validate_json(invoke("estimate", "lora", *ASKED, "--json").stdout)
    assert answer == estimated("lora", Constraints(gpu_mem="24GB", params="7B"))


def test_recommend_reads_well() -> None:
    text = invoke("recommend", *ASKED).stdout
    first = recommend(Constraints(gpu_mem="24GB", params="7B")).ranked[0]
    assert f"Why {first.name}" in text
    assert "Not offered" in text


@pytest.mark.parametrize("words", [[], ["--gpu-mem", "24GB"], ["--gpu-mem", "4GB", "--quantization", "none"]])
def test_estimate_reads_well_with_and_without_a_card(words: list[str]) -> None:
    result = invoke("estimate", "lora", "--params", "7B", *words)
    assert result.exit_code == (1 if "4GB" in words else 0), result.stderr
    assert "allocated" in result.stdout


def test_options_are_the_fields_of_the_constraints() -> None:
    for command in ("recommend", "estimate"):
        text = invoke(command, "--help").stdout
        assert all(f"--{name.replace('_', '-')} " in text for name in FIELDS)
    assert set(FIELDS) == set(Constraints.model_fields) - {"config"}


def test_a_variant_of_a_model_is_said_to_be_read_as_another() -> None:
    for command in (("recommend", "--gpu-mem", "24GB"), ("estimate", "lora")):
        result = invoke(*command, "--model", "meta-llama/Llama-3.1-8B-Instruct")
        assert "meta-llama/Llama-3.1-8B-Instruct is read as Llama 3.1 8B" in result.stdout


def test_a_model_that_is_not_known_ends_with_options_that_help() -> None:
    said = refused("recommend", "--gpu-mem", "24GB", "--model", "Qwen/Qwen3.5-9B")
    assert "did you mean qwen3-8b" in said
    assert "Its size (--params 9B) is answered" in said
    said = refused("recommend", "--gpu-mem", "24GB", "--model", "Qwen/Qwen3-9B")
    assert "Or give its size (--params 9B) or its config.json (--model PATH)" in said


@pytest.mark.parametrize("folder", [False, True])
def test_a_model_can_be_a_config_of_ones_own(tmp_path: Path, folder: bool) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "vocab_size": 1000,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = tmp_path if folder else tmp_path / "config.json"
    answer = answered("recommend", "--gpu-mem", "8GB", "--model", str(path))
    assert (answer["model"]["layers"], answer["model"]["hidden_size"]) == (4, 512)


# Refusals

REFUSALS = [
    (["recomend"], "did you mean recommend?"),
    (["shw", "lora"], "did you mean show?"),
    (["show", "loraa"], "did you mean lora"),
    (["compare", "lora", "loraa"], "did you mean lora"),
    (["compare", "lora"], "takes 2 to 6"),
    (["compare", *list(load_methods())[:7]], "takes 2 to 6"),
    (["compare", "lora", "lora"], "lora is named twice"),
    (["estimate", "loraa", *ASKED], "did you mean lora"),
    (["list", "--class", "low_rnk"], "did you mean reparameterization.low_rank?"),
    (["list", "--library", "peftt"], "did you mean peft"),
    (["list", "--form", "lowrank"], "did you mean low_rank?"),
    (["list", "--architecture", "decodr"], "did you mean decoder"),
    (["list", "--status", "etablished"], "did you mean established?"),
    (["list", "--sine", "2024"], "--since"),
    (["export", "--format", "jsn"], "did you mean json?"),
    (["recommend", "--gpu-men", "24GB"], "--gpu-mem"),
    (["recommend", "--gpu-mem", "24", "--params", "7B"], "write 24GB (10⁹ bytes) or 24GiB"),
    (["recommend", "--gpu-mem", "24,5GB", "--params", "7B"], "as in 24.5GB"),
    (["recommend", "--gpu-mem", "24GB", "--params", "0B"], "out of range"),
    (["recommend", "--gpu-mem", "24GB", "--params", "7B", "--params", "8B"], "--params is given 2 times"),
    (["recommend", "--params", "7B"], "--gpu-mem 24GB"),
    (["recommend", "--gpu-mem", "24GB"], "say which model: --params 7B"),
    (["recommend", "--gpu-mem", "24GB", "--params", "7B", "--model", "gpt2"], "both describe the model"),
    (["recommend", *ASKED, "--objective", "speeed"], "did you mean speed?"),
    (["recommend", *ASKED, "--merge", "yes"], "not one of any, required"),
    (["recommend", *ASKED, "--seq", "abc"], "--seq: 'abc' should be a valid integer"),
    (["recommend", *ASKED, "--limit", "0"], "--limit: '0' should be greater than or equal to 1"),
    (["recommend", *ASKED, "--family", "additiv"], "did you mean additive"),
    (["recommend", *ASKED, "--library", "peftt"], "did you mean peft"),
    (["recommend", "--gpu", "rtx-4900", "--params", "7B"], "rtx-4090? For another card"),
    (["recommend", "--gpu-mem", "24GB", "--model", "lama-3.1-8b"], "did you mean llama-3.1-8b"),
    (["recommend", "--gpu-mem", "24GB", "--model", "nowhere/config.json"], "No such file"),
    (["check", "--folder", "/nonexistent"], "has no folder kb/"),
    (["serve", "--port", "99999"], "65535"),
    (["serve", "--host", "no such host"], "no such address"),
]


@pytest.mark.parametrize(
    ("words", "message"), REFUSALS, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_what_is_wrong_is_said_with_the_nearest_right_thing(words: list[str], message: str) -> None:
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 20_000, "not JSON"),
        ('{"model_type": "llama"}', "hidden_size"),
        ('{"a": "' + "x" * 70_000 + '"}', "larger than"),
        ("\x00", "not JSON"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    assert message in refused("recommend", "--gpu-mem", "24GB", "--model", str(path))


def test_a_config_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe")
    assert "not JSON" in refused("recommend", "--gpu-mem", "24GB", "--model", str(path))


def test_a_taken_port_is_said_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        message = refused("serve", "--port", str(taken.getsockname()[1]), code=1)
    assert "is taken" in message


# Upkeep


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's knowledge base, to be spoiled."""
    shutil.copytree(KB, tmp_path / "kb", ignore=shutil.ignore_patterns("__pycache__", "models"))
    shutil.copytree(
        ROOT / "reference_impls", tmp_path / "reference_impls", ignore=shutil.ignore_patterns("base", "__*")
    )
    return tmp_path


def test_check_ends_with_one_and_names_file_line_and_repair(copy: Path) -> None:
    path = copy / "kb" / "methods" / "lora.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("year: 2021", "yaer: 2021"), encoding="utf-8")
    result = invoke("check", "--folder", str(copy))
    assert result.exit_code == 1
    assert f"{path}:7: yaer is not a field of this record; did you mean 'year'?" in result.stdout
    answer = invoke("check", "--folder", str(copy), "--json")
    assert answer.exit_code == 1
    problems = json.loads(answer.stdout)["problems"]
    assert {"file": str(path), "line": 7} in [{key: each[key] for key in ("file", "line")} for each in problems]


def test_check_writes_the_schema(copy: Path) -> None:
    schema = copy / "kb" / "schema.json"
    schema.write_text("{}", encoding="utf-8")
    invoke("check", "--folder", str(copy), "--write-schema")
    assert schema.read_bytes() == (KB / "schema.json").read_bytes()


def test_the_project_passes_its_check() -> None:
    result = invoke("check", "--json")
    assert json.loads(result.stdout)["problems"] == []
    assert result.exit_code == 0
    assert "All well" in invoke("check").stdout


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("json", "{"),
        ("graphml", "<?xml"),
        ("mermaid", "flowchart"),
        ("dot", "digraph"),
        ("csv", "slug,"),
        ("bib", "@misc{"),
    ],
)
def test_export_writes_each_format(tmp_path: Path, name: str, start: str) -> None:
    printed = invoke("export", "--format", name)
    assert printed.exit_code == 0
    assert printed.stdout.startswith(start)
    target = tmp_path / "out"
    assert invoke("export", "--format", name, "--output", str(target)).exit_code == 0
    assert target.read_bytes().decode().replace("\r\n", "\n") == printed.stdout.replace("\r\n", "\n")
    assert list(tmp_path.iterdir()) == [target]


def test_export_takes_the_format_from_the_file_name(tmp_path: Path) -> None:
    assert invoke("export", "-o", str(tmp_path / "all.csv")).exit_code == 0
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as stream:
        assert [each["slug"] for each in csv.DictReader(stream)] == list(load_methods())


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "folder.csv"
    target.mkdir()
    assert "cannot be written" in refused("export", "-o", str(target), code=1)
    assert "cannot be written" in refused("export", "-o", str(tmp_path / "no" / "x.csv"), code=1)
    assert list(tmp_path.iterdir()) == [target]


# As a process of its own


def process(*words: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_nothing_that_answers_imports_torch() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from cli.main import COMMANDS, app
runner = CliRunner()
for words in (["list"], ["show", "lora"], ["compare", "lora", "dora"], ["recommend", *{ASKED}],
              ["estimate", "lora", *{ASKED}], ["export"], ["check"], *([name, "--help"] for name in COMMANDS)):
    result = runner.invoke(app, words)
    assert result.exit_code in (0, 1) and result.output, (words, result.output)
assert not {{"torch", "transformers", "peft"}} & sys.modules.keys(), words
"""
    result = process(code=code)
    assert result.returncode == 0, result.stderr


def test_help_imports_no_room() -> None:
    code = """
import sys
from typer.testing import CliRunner
from cli.main import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
assert not {"kb", "taxonomy", "recommender", "pydantic", "networkx", "yaml"} & sys.modules.keys(), sys.modules.keys()
"""
    result = process(code=code)
    assert result.returncode == 0, result.stderr


def test_a_terminal_without_unicode_gets_utf8() -> None:
    result = process("show", "ia3", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.returncode == 0, result.stderr
    assert "(IA)³" in result.stdout


def test_a_broken_knowledge_base_is_said_without_a_trace(copy: Path) -> None:
    for room in ("cli", "taxonomy", "recommender"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "kb" / "methods" / "lora.yaml").open("a", encoding="utf-8") as stream:
        stream.write("slug: lora\n")
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); sys.argv[1:] = ['list']; from cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=copy, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "kb/methods/lora.yaml" in result.stderr
    assert "is written twice" in result.stderr
    assert "Traceback" not in result.stderr


def test_output_can_be_cut_short() -> None:
    code = """
import subprocess, sys
words = [sys.executable, "-m", "cli.main", "export"]
with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
    assert command.stdout.read(10)
    command.stdout.close()
    assert b"Traceback" not in command.stderr.read()
"""
    result = process(code=code)
    assert result.returncode == 0, result.stderr


def test_csv_on_the_terminal_is_a_table() -> None:
    rows = list(csv.reader(io.StringIO(invoke("export", "--format", "csv").stdout, newline="")))
    assert len({len(each) for each in rows}) == 1


def test_a_recipe_is_printed_alone_and_compiles() -> None:
    asked = ("recommend", "--gpu-mem", "24GB", "--model", "llama-3.1-8b")
    script = invoke(*asked, "--code", "script", "--for", "dora").stdout
    assert "use_dora=True" in script
    compile(script, "train.py", "exec")
    assert invoke(*asked, "--code", "axolotl", "--for", "lora").stdout.startswith("# axolotl train")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--code", "scrpt"), "script"),
        (("--for", "lora"), "--code"),
        (("--code", "script", "--for", "full_fine_tuning"), "left out"),
        (("--code", "axolotl", "--for", "vera"), "there is run, peft, script"),
    ],
)
def test_a_recipe_that_there_is_not_is_refused_with_what_there_is(options: tuple[str, ...], hint: str) -> None:
    done = invoke("recommend", "--gpu-mem", "24GB", "--params", "7B", *options)
    assert done.exit_code != 0
    assert hint in done.stderr
