"""Each rule on a small knowledge base of its own: a true one passes, one wrong word is reported with its line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from kb import jsonschema, rules
from kb.knowledge import KnowledgeBase, read, sources_in, texts_in
from kb.loader import KB, Problem, load_record, load_yaml
from kb.schema import Method
from kb.studies import COLUMNS

RECORD = "kb/methods/lora.yaml"


STUDY = """\
id: early
title: An early comparison
arxiv: "2301.00001"
url: null
year: 2023
proposes: [lora]
hardware: null
seeds: 1
grade: A
cautions: []
"""
ROWS = f"""\
{",".join(COLUMNS)}
Table 1,t5-large,770000000,rte,understanding,2490,accuracy,yes,lora,rank 8,72.2,0.4,3,2.4M,,
Table 1,t5-large,770000000,rte,understanding,2490,accuracy,yes,bitfit,,70.1,0.9,3,0.2M,,
Table 1,t5-large,770000000,cola,understanding,8551,matthews,yes,lora,rank 8,61.3,,3,2.4M,,
Table 1,t5-large,770000000,mrpc,understanding,3668,accuracy,yes,lora,rank 8,89.7,,3,2.4M,,
"""
LATER = ROWS.replace("72.2", "72.3").replace("bitfit", "vera")
"""A second study, two of whose results are equal to the first one's by chance."""


def companion(record: dict[str, object], slug: str, arxiv: str) -> str:
    """A record that differs from LoRA's in what has to be different, and relates to nothing."""
    paper = {**record["paper"], "arxiv": arxiv}  # type: ignore[dict-item]  # YAML is untyped
    taxonomy = {**record["taxonomy"], "relations": []}  # type: ignore[dict-item]  # YAML is untyped
    return yaml.safe_dump(
        {**record, "slug": slug, "name": slug, "aliases": [], "year": 2020, "paper": paper, "taxonomy": taxonomy}
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project folder whose knowledge base holds LoRA's record and those that it and the frame refer to."""
    (tmp_path / "kb" / "methods").mkdir(parents=True)
    (tmp_path / "kb" / "models").mkdir()
    (tmp_path / "kb" / "evidence").mkdir()
    (tmp_path / "kb/evidence/early.yaml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "kb/evidence/early.csv").write_text(ROWS, encoding="utf-8")
    (tmp_path / "kb/evidence/later.yaml").write_text(STUDY.replace("id: early", "id: later"), encoding="utf-8")
    (tmp_path / "kb/evidence/later.csv").write_text(LATER, encoding="utf-8")
    shutil.copy(KB / "models" / "bert-base-uncased.yaml", tmp_path / "kb" / "models" / "bert-base-uncased.yaml")
    for name in ("classes.yaml", "sources.yaml", "findings.yaml", "gpus.yaml"):
        shutil.copy(KB / name, tmp_path / "kb" / name)
    text = (KB / "methods" / "lora.yaml").read_text(encoding="utf-8")
    record = yaml.safe_load(text)
    record["reference"] = None
    if "\nreference: null" not in text:
        start = text.index("\nreference:")
        text = text[:start] + "\nreference: null\n" + text[text.index("\nreview:", start) + 1 :]
    (tmp_path / RECORD).write_text(text, encoding="utf-8")
    wanted = {relation["to"] for relation in record["taxonomy"]["relations"]}
    wanted |= {source.ref for _, source in sources_in(load_record(KB / "methods" / "lora.yaml", Method))} - load_yaml(
        KB / "sources.yaml"
    ).keys()
    wanted |= {scheme["source"]["ref"] for scheme in load_yaml(KB / "classes.yaml")["schemes"]} - load_yaml(
        KB / "sources.yaml"
    ).keys()
    for number, slug in enumerate(sorted(wanted - {"lora"})):
        (tmp_path / f"kb/methods/{slug}.yaml").write_text(
            companion(record, slug, f"2001.{number:05}"), encoding="utf-8"
        )
    return tmp_path


def edit(root: Path, old: str, new: str, file: str = RECORD) -> None:
    """Replace the first ``old`` of a file, which must be there."""
    path = root / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} does not stand in {file}; choose another edit"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def complaints(root: Path) -> tuple[Problem, ...]:
    return rules.check(root)


def test_a_true_knowledge_base_passes(root: Path) -> None:
    assert complaints(root) == ()


EDITS = {
    # slug of the case: (what stands there, what is written instead, part of the message, part of the line it names)
    "yaml_is_broken": ("status: established", "status: [established", "expected", ""),
    "key_written_twice": (
        "status: established",
        "status: established\nstatus: research",
        "'status' is written twice",
        "status: research",
    ),
    "unknown_field": ("status: established", "status: established\nyaer: 2021", "did you mean 'year'?", "yaer"),
    "missing_field": ("status: established\n", "", "status is missing", ""),
    "number_without_source": (
        'value: 2.0e-4\n      source: {basis: paper, ref: lora, where: "appendix D, GPT-2 and GPT-3", grade: A}',
        "value: 2.0e-4\n      source: null",
        "has no source",
        "paper:",
    ),
    "default_without_source": (
        'source: {basis: paper, ref: lora, where: "appendix D, RoBERTa-base", grade: B}',
        "source: null",
        "has no source",
        "rank",
    ),
    "date_that_is_none": ('"2026-11-23"', "2026-13-45", "quote it", "2026-13-45"),
    "day_of_no_calendar": ('"2026-11-23"', '"2026-13-45"', "not a day", "2026-13-45"),
    "year_before_paper": ("year: 2021", "year: 2017", "posted in 2021", "year: 2017"),
    "year_after_paper": ("year: 2021", "year: 2022", "posted in 2021", "year: 2022"),
    "arxiv_of_no_month": ('"2106.09685"', '"2113.09685"', "no arXiv number", "2113"),
    "relation_to_nowhere": (
        "to: intrinsic_said",
        "to: intrinsic_sade",
        "did you mean 'intrinsic_said'?",
        "intrinsic_sade",
    ),
    "relation_to_itself": ("to: intrinsic_said", "to: lora", "relates to itself", "to: lora"),
    "source_to_nowhere": ("ref: qlora", "ref: qlra", "did you mean 'qlora'?", "qlra"),
    "unknown_class": (
        "[reparameterization.low_rank]",
        "[reparameterization.low_rnk]",
        "did you mean 'reparameterization.low_rank'?",
        "low_rnk",
    ),
    "class_that_is_no_leaf": (
        "[reparameterization.low_rank]",
        "[reparameterization]",
        "holds other classes",
        "classes:",
    ),
    "letter_of_another_class": (
        "    type: R\n",
        "    type: AR\n",
        "says AR, but the classes are of type R",
        "type: AR",
    ),
    "row_without_table1": ("table1: true", "table1: false", "disagrees with taxonomy.survey.table1", "survey_table1"),
    "unknown_place": ("attention.value]", "attention.valeu]", "did you mean 'attention.value'?", "attention.valeu"),
    "linear_formula_without_linear_place": (
        "where: [attention.query, attention.value]",
        "where: [input]",
        "mechanism.where names none",
        "trainable",
    ),
    "formula_of_unknown_letter": (
        "expr: r * (d_in + d_out)",
        "expr: z * (d_in + d_out)",
        "'z' is neither a variable",
        "trainable",
    ),
    "formula_that_is_none": ("expr: r * (d_in + d_out)", "expr: r * (d_in + d_out", "is not a formula", "trainable"),
    "formula_that_runs_code": (
        "expr: r * (d_in + d_out)",
        "expr: __import__('os').getpid()",
        "is not allowed",
        "trainable",
    ),
    "formula_below_zero": ("expr: r * (d_in + d_out)", "expr: r * (d_in - d_out)", "the value is -", "trainable"),
    "formula_of_halves": ("expr: r * (d_in + d_out)", "expr: r * d_in / 3", "a whole number", "trainable"),
    "formula_too_large": ("expr: d_in * d_out", "expr: d_in * d_out * 2", "makes sense", "changed"),
    "formula_without_value": ("expr: d_in * d_out", "expr: d_in / (r - r)", "has no value", "changed"),
    "layer_letter_in_model_formula": ("scope: linear", "scope: model", "belongs to one linear layer", "trainable"),
    "letter_without_number": (
        "      ours: 16\n      reason: Memory",
        "      ours: lots\n      reason: Memory",
        "has no number",
        "trainable",
    ),
    "letter_of_the_architecture": ("symbol: r\n", "symbol: d\n", "is a variable of the architecture", "symbol: d"),
    "letter_taken": ("symbol: α", "symbol: r", "is taken", "symbol: r"),
    "letter_unexplained": ('    A: "trainable, r × d_in"\n', "", "'A' stands in the equation", "equation:"),
    "number_as_text": ("paper_default: 8", "paper_default: 8e-1", "is text to YAML; write 8.0e-01", "8e-1"),
    "start_outside_range": ("range: [1, 256]", "range: [17, 256]", "outside the range", "paper_default: 8"),
    "range_the_wrong_way": ("range: [1, 256]", "range: [256, 1]", "smallest and a largest", "rank"),
    "size_that_is_none": ("value: 1.25e+8", "value: 125.0", "no size of a model", "125.0"),
    "smallest_above_largest": ("value: 1.25e+8", "value: 1.25e+12", "above largest_scale", "1.25e+12"),
    "rate_that_is_none": ("value: 2.0e-4", "value: -2.0e-4", "no learning rate", "-2.0e-4"),
    "finding_that_is_none": (
        "(survey, finding 5)",
        "(survey, findings 5 and 55)",
        "cites finding 55",
        "findings 5 and 55",
    ),
    "alias_of_another_record": ("aliases: [", "aliases: [qlora, ", "already leads to qlora", "aliases"),
    "alias_of_itself": ("aliases: [", "aliases: [lora, ", "is the slug itself", "aliases"),
    "second_baseline": ("status: established", "status: baseline", "write established or research", "status"),
    "baseline_class": (
        "[reparameterization.low_rank]",
        "[baseline]",
        "only full_fine_tuning is the baseline",
        "classes",
    ),
    "reference_without_file": (
        "reference: null",
        "reference: {expected_rung: rename, learning_rate: 0.01, steps: 10, config: {}, note: null}",
        "there is no reference_impls/lora.py",
        "reference:",
    ),
    "placeholder": ("venue: ICLR 2022", "venue: unknown", "is no fact", "venue"),
    "merged_and_yet_slower": (
        "inference_overhead: {value: none",
        "inference_overhead: {value: extra_layers",
        "yet extra_layers remains",
        "mergeable",
    ),
    "slug_of_another_file": ("slug: lora", "slug: lora_two", "rename the file to lora_two.yaml", "slug: lora_two"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_wrong_word_is_reported_where_it_stands(root: Path, case: str) -> None:
    old, new, message, line = EDITS[case]
    edit(root, old, new)
    found = [each for each in complaints(root) if message in each.message]
    assert found, f"no complaint says {message!r}; there are {[str(each) for each in complaints(root)]}"
    place = found[0]
    assert place.file.endswith(RECORD)
    assert line in Path(place.file).read_text(encoding="utf-8").splitlines()[place.line - 1]


def test_a_method_that_extends_its_successor_is_reported(root: Path) -> None:
    edit(root, "year: 2020", "year: 2023", "kb/methods/intrinsic_said.yaml")
    assert any("turn the relation round" in each.message for each in complaints(root))


def test_a_paper_told_twice_is_reported(root: Path) -> None:
    for slug in ("qlora", "ssl"):
        record = yaml.safe_load((root / f"kb/methods/{slug}.yaml").read_text(encoding="utf-8"))
        record["paper"]["arxiv"] = "2001.99999"
        (root / f"kb/methods/{slug}.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    assert [(Path(each.file).name, "also the paper of qlora" in each.message) for each in complaints(root)] == [
        ("ssl.yaml", True)
    ]


def test_an_implementation_without_a_default_run_is_reported(root: Path) -> None:
    (root / "reference_impls").mkdir()
    (root / "reference_impls" / "lora.py").touch()
    assert [each.message for each in complaints(root)] == [
        "is null, but reference_impls/lora.py exists; say how its default run is to be started"
    ]


def test_a_relation_to_an_unreadable_record_is_not_called_one_to_nowhere(root: Path) -> None:
    edit(root, "slug:", "slug: [", "kb/methods/intrinsic_said.yaml")
    messages = [each.message for each in complaints(root)]
    assert messages
    assert not any("there is no record" in each for each in messages)


def test_descent_in_a_circle_is_reported(root: Path) -> None:
    edit(root, "relations: []", "relations: [{kind: extends, to: lora, note: Back.}]", "kb/methods/intrinsic_said.yaml")
    assert any("build on each other in a circle" in each.message for each in complaints(root))


@pytest.mark.parametrize("name", ["classes.yaml", "sources.yaml", "findings.yaml"])
@pytest.mark.parametrize(
    "content", ["", "[", "- 1\n- 2\n", "a: {b: 1}\n", "'text'\n", "\x00", "a: &x [*x]\n", "[" * 3000]
)
def test_a_broken_frame_is_reported_without_a_trace(root: Path, name: str, content: str) -> None:
    (root / "kb" / name).write_text(content, encoding="utf-8")
    found = complaints(root)
    assert found
    assert all(each.line >= 1 and each.message for each in found)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"slug: !!python/object:os.system {}", b"? [a]\n: 1", b"[" * 3000]
)
def test_a_broken_record_is_reported_without_a_trace(root: Path, content: bytes) -> None:
    (root / RECORD).write_bytes(content)
    assert any(each.file.endswith(RECORD) for each in complaints(root))


@pytest.mark.parametrize("name", ["classes.yaml", "sources.yaml", "findings.yaml", "gpus.yaml", "evidence/early.csv"])
def test_a_missing_frame_is_reported_without_a_trace(root: Path, name: str) -> None:
    (root / "kb" / name).unlink()
    assert any("cannot be read" in each.message for each in complaints(root))


def test_an_outdated_json_schema_is_reported(root: Path) -> None:
    jsonschema.write(root / "kb" / "schema.json")
    assert complaints(root) == ()
    (root / "kb" / "schema.json").write_text("{}", encoding="utf-8")
    assert [each.message for each in complaints(root)] == [
        "is not what kb/schema.py says; run peft-atlas check --write-schema"
    ]


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    assert any("holds no record" in each.message for each in complaints(tmp_path))


FRAME_EDITS = {
    "class_written_twice": (
        "classes.yaml",
        "- {id: additive.adapter,",
        "- {id: additive.soft_prompt,",
        "is written twice",
    ),
    "class_before_its_parent": (
        "classes.yaml",
        "- {id: selective, ",
        "- {id: selectiv, ",
        "before the class 'selective'",
    ),
    "circle_that_is_a_base": (
        "classes.yaml",
        "survey: false, circle: false",
        "survey: false, circle: true",
        "is a circle of the figure",
    ),
    "group_without_description": (
        "classes.yaml",
        "{id: extension,",
        "{id: expansion,",
        "'extension' stands on one side only",
    ),
    "scheme_of_nobody": (
        "classes.yaml",
        "ref: critical_review",
        "ref: critical_reviw",
        "did you mean 'critical_review'?",
    ),
    "finding_of_nobody": ("findings.yaml", "ref: survey_v2", "ref: survey_v9", "survey_v9"),
    "finding_counted_twice": ("findings.yaml", "number: 2,", "number: 1,", "is taken"),
    "model_with_a_wrong_count": ("models/bert-base-uncased.yaml", "  computed: ", "  computed: 1", "correct one"),
    "card_without_its_source": ("gpus.yaml", "source_memory: ", "source_memory: null #", "has no source"),
    "study_of_another_name": ("evidence/early.yaml", "id: early", "id: late", "write early"),
    "study_of_no_record": ("evidence/early.yaml", "[lora]", "[loora]", "did you mean 'lora'?"),
    "study_that_cannot_be_looked_up": ("evidence/early.yaml", '"2301.00001"', "null", "neither arxiv nor url"),
    "study_with_a_mistyped_number": ("evidence/early.yaml", '"2301.00001"', '"2301.1"', "arxiv"),
    "study_of_one_method": ("evidence/early.csv", "bitfit,", "lora,rank 4", "compares only lora"),
    "result_without_value": ("evidence/early.csv", "72.2", "", "has no value"),
    "result_that_is_no_number": ("evidence/early.csv", "72.2", "nan", "write a number"),
    "result_without_direction": ("evidence/early.csv", "accuracy,yes", "accuracy,", "the direction of accuracy"),
    "result_with_a_cell_too_few": ("evidence/early.csv", "rte,", "", "15 cells; write 16"),
    "result_over_two_lines": ("evidence/early.csv", "rank 8", '"rank\n8"', "over several lines"),
    "result_of_half_a_run": ("evidence/early.csv", ",3,2.4M", ",0,2.4M", "a whole number above zero"),
    "columns_of_another_table": ("evidence/early.csv", "task_group", "group", "the columns must be table,"),
    "result_of_no_table": ("evidence/early.csv", "Table 1,", ",", "names no table"),
    "result_of_no_task": ("evidence/early.csv", ",rte,", ",,", "task is empty"),
    "result_of_an_unknown_kind": ("evidence/early.csv", "understanding", "understand", "did you mean 'understanding'?"),
    "metric_of_two_directions": ("evidence/later.csv", "matthews,yes", "matthews,no", "better when lower here"),
    "result_of_a_name_that_is_no_slug": ("evidence/early.csv", "bitfit", "Bit-Fit", "is no slug"),
    "result_under_an_alias": (
        "evidence/early.csv",
        "bitfit",
        "lo_ra",
        "another name of a record; write its slug, lora",
    ),
    "result_written_twice": (
        "evidence/early.csv",
        ",bitfit,,70.1,0.9,3,0.2M",
        ",lora,rank 8,72.2,0.4,3,2.4M",
        "line 2",
    ),
    "baseline_copied_from_another_study": (
        "evidence/later.csv",
        "72.3",
        "72.2",
        "has the digits of early in 3 of 3 cells",
    ),
    "reading_named_like_a_record": ("sources.yaml", "survey_v1:", "lora:", "also the slug of a record"),
}


@pytest.mark.parametrize("case", FRAME_EDITS)
def test_a_wrong_word_in_the_frame_is_reported(root: Path, case: str) -> None:
    name, old, new, message = FRAME_EDITS[case]
    edit(root, old, new, f"kb/{name}")
    found = [each for each in complaints(root) if message in each.message]
    assert found, [str(each) for each in complaints(root)]
    assert found[0].file.endswith(name)


@lru_cache(maxsize=1)
def project() -> KnowledgeBase:
    kb, _ = read(KB.parent)
    assert kb is not None
    return kb


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: rules.Rule) -> None:
    found: Iterator[Problem] = rule(project())
    assert [str(each) for each in found] == []


def test_every_rule_complains_about_some_case_above(root: Path) -> None:
    told_apart = {"descent_has_no_circle", "papers_are_not_told_twice"}
    cases = [(RECORD, old, new) for old, new, _, _ in EDITS.values()]
    cases += [(f"kb/{name}", old, new) for name, old, new, _ in FRAME_EDITS.values()]
    complaining = set()
    for file, old, new in cases:
        text = (root / file).read_text(encoding="utf-8")
        edit(root, old, new, file)
        kb, _ = read(root)
        if kb is not None:
            complaining |= {rule.__name__ for rule in rules.RULES if any(rule(kb))}
        (root / file).write_text(text, encoding="utf-8")
    assert complaining == {rule.__name__ for rule in rules.RULES} - told_apart


def test_walks_reach_nested_values() -> None:
    lora = load_record(KB / "methods" / "lora.yaml", Method)
    assert ("counts", "rank", "source", "where") in dict(texts_in(lora))
    assert ("efficiency", "survey_table1", "source") in dict(sources_in(lora))
