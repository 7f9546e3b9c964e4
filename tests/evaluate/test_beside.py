"""Support where it is used: beside a metric's own scores, in the gate, in what `finetune check` says, in shipped templates."""

from __future__ import annotations

import json

import pytest
import yaml

from finetune.cli import main
from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.errors import DataError, GateError, RecipeError
from finetune.evaluate.gate import judge, pass_gate
from finetune.evaluate.generate import Answer
from finetune.evaluate.intervals import Rows, intervals
from finetune.evaluate.results import Evaluated, groups_of, rows_of, scored, tasks_of, unsupported_references
from finetune.evaluate.support import problem_of
from finetune.inputs import known_scores, load_data
from finetune.recipe_data import SourceSection
from finetune.recipe_evaluate import GateSection
from tests.conftest import ROOT

NUMBERS = ["numbers_supported", "no_number_made_up"]
TEMPLATES = {
    f"{file.parent.name}/{file.stem}": file
    for file in sorted((ROOT / "data_templates").glob("*/*.yaml"))
    if "grounded:" in file.read_text(encoding="utf-8")
}


def template(folder, metric: dict, **more) -> str:
    content = {
        "name": "one",
        "description": "What was measured.",
        "columns": {"said": {"type": "str"}, "given": {"type": "str"}, "seen": {"type": "list", "items": "str"}},
        "messages": [{"role": "user", "content": "{{ given }}"}, {"role": "assistant", "content": "{{ said }}"}],
        "metric": metric,
        "examples": [{"row": {"said": "5 t", "given": "5 t of ore", "seen": ["5 t"]}, "answer": "5 t"}],
    }
    file = folder / "one.yaml"
    file.write_text(yaml.safe_dump(content | more, allow_unicode=True), encoding="utf-8")
    return str(file)


def recipe_of(tiny_recipe, folder, metric: dict, said, *more: str):
    """Rows i of 30 with the passage "i t of ore" and the answer `said(i)`; 8 held out."""
    rows = [{"said": said(i), "given": f"{i} t of ore", "seen": [f"{i} t"]} for i in range(100, 130)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = (
        f"data.template={template(folder, metric)}",
        f"data.train={folder}/rows.jsonl",
        "data.split={eval_rows: 8}",
    )
    return tiny_recipe(*places, "gate={min: {}}", *more)


GROUNDED = {"name": "exact_match", "grounded": {}}


def test_scores_intervals_and_gate(tiny_recipe, tmp_path):
    """Of 8 answers six say their passage's number, one says another one beside it and one says nothing."""
    recipe = recipe_of(tiny_recipe, tmp_path, GROUNDED, lambda i: f"{i} t", "gate.min={no_number_made_up: 0.9}")
    data = load_data(recipe)
    assert known_scores(data) == ["exact_match", *NUMBERS]
    assert unsupported_references(data) == []
    right = [Answer(sample.answer, True) for sample in data.evaluate]
    answers = [*right[:6], Answer(f"{right[6].text}, 4711 t", True), Answer("", True)]
    rows = {"base": rows_of(data, right), "tuned": rows_of(data, answers)}
    assert rows["tuned"][6] == {"exact_match": 0.0, "numbers_supported": 0.5, "no_number_made_up": 0.0, "finished": 1.0}
    scores = {who: scored(data, its) for who, its in rows.items()}
    assert list(scores["tuned"]) == ["exact_match", *NUMBERS, "finished"]
    assert scores["tuned"]["numbers_supported"] == 6.5 / 8 and scores["tuned"]["no_number_made_up"] == 6 / 8
    ends = intervals({"": Rows(**rows, groups=groups_of(data, None), tasks=tasks_of(data))}, scores["tuned"])
    assert set(NUMBERS) <= set(ends.tuned) & set(ends.difference)
    with pytest.raises(GateError, match=r"no_number_made_up: 0.7500 is below 0.9000"):
        pass_gate(judge(GateSection(min={"no_number_made_up": 0.9}), Evaluated(scores, ends)))


def test_check_notes_references_that_are_not_supported(tiny_recipe, tmp_path, capsys):
    """Every fourth reference says 4711 t: a note with its row; where most do, the setting does not fit."""
    recipe = recipe_of(tiny_recipe, tmp_path, GROUNDED, lambda i: "4711 t" if i % 4 == 0 else f"{i} t")
    notes = unsupported_references(load_data(recipe))
    said = "the reference says 4711, which `grounded` does not find in the passage"
    assert all(f"{tmp_path}/rows.jsonl:" in note and said in note for note in notes[:-1]) and len(notes) > 1
    assert notes[-1] == f"{', '.join(NUMBERS)}: {len(notes) - 1} of 8 held-out references have no 1 themselves"
    assert load_data(recipe).notes[-len(notes) :] == notes
    assert main(["check", str(tmp_path / "tiny.yaml"), *_set(recipe_arguments(tmp_path))]) == 0
    assert f"note: {notes[0]}" in capsys.readouterr().out
    with pytest.raises(DataError, match="the metric's settings do not fit the task"):
        load_data(recipe_of(tiny_recipe, tmp_path, GROUNDED, lambda i: "4711 t"))


def recipe_arguments(folder) -> list[str]:
    return [
        f"data.template={folder}/one.yaml",
        f"data.train={folder}/rows.jsonl",
        "data.split={eval_rows: 8}",
        "gate={min: {}}",
    ]


def _set(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def test_no_reward_for_what_grpo_cannot_see(tiny_recipe, tmp_path):
    """Rewards are given for the text alone; the scores beside are no rewards, and are no hindrance either."""
    grpo = ("stage=grpo", "train.global_batch_size=8", "grpo.num_generations=4")
    said = lambda i: f"{i} t"  # noqa: E731
    load_data(recipe_of(tiny_recipe, tmp_path, GROUNDED, said, *grpo, "grpo.rewards={exact_match: 1.0}"))
    with pytest.raises(RecipeError, match=r"grpo.rewards.numbers_supported: not a score"):
        load_data(recipe_of(tiny_recipe, tmp_path, GROUNDED, said, *grpo, "grpo.rewards={numbers_supported: 1.0}"))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ({"name": "exact_match", "grounded": {"steps": ["minus"]}}, "metric.grounded.steps.0: input should be 'sum'"),
        ({"name": "exact_match", "grounded": {"pasage": "user"}}, "metric.grounded.pasage: unknown key"),
        ({"name": "exact_match", "passages": "seen"}, "`passages` is for metric citations, this is exact_match"),
        ({"name": "citations", "passages": "sen"}, "metric.passages: 'sen' is not a column; did you mean 'seen'?"),
    ],
)
def test_a_wrong_setting_is_named(metric, said, tmp_path):
    with pytest.raises(DataError) as caught:
        load_template(tmp_path / template(tmp_path, metric))
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


def test_the_templates_were_found():
    assert len(TEMPLATES) >= 15


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_shipped_reference_is_supported(name):
    """The first 120 rows of each sample; all were looked at when the setting was made."""
    file = TEMPLATES[name]
    read = load_template(file)
    rows = list(read_source(SourceSection(path=str(file.with_suffix(".sample.jsonl")))))[:120]
    samples = [sample for sample in read.render_chunk(rows).samples if read.metrics[sample.task].beside]
    assert len(samples) >= 20
    assert [f"{one.where}: {said}" for one in samples if (said := problem_of(one, read.metrics[one.task]))] == []
