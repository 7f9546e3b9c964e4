"""Suites, the release before and the gate: what is asked, what is compared, what is written down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.errors import GateError, RecipeError
from finetune.evaluate.gate import judge, pass_gate
from finetune.evaluate.intervals import Intervals
from finetune.evaluate.results import Evaluated, groups_of
from finetune.inputs import load_stages
from finetune.recipe_evaluate import GateSection
from finetune.recipefile import load_recipe
from finetune.suites import load_suites
from tests.conftest import write_tiny_recipe

QUESTIONS = """name: questions
description: sums
columns: {question: {type: str}, answer: {type: str}}
messages:
  - {role: user, content: "{{ question }}"}
  - {role: assistant, content: "{{ answer }}"}
metric: {name: exact_match}
examples:
  - {row: {question: "1 2?", answer: "3"}, prompt: "1 2?", answer: "3"}
"""
SCORES = {
    "base": {"exact": 0.5, "general/right": 0.8},
    "previous": {"exact": 0.7, "general/right": 0.8},
    "tuned": {"exact": 0.72, "general/right": 0.75},
}


def test_every_check_by_hand():
    """0.72 is 0.02 above the previous release and 0.22 above the base; 0.05 of the general score was forgotten."""
    asked = GateSection(
        min={"exact": 0.7}, better_than_base=True, max_drop={"general/right": 0.06}, better_than_previous=True,
        max_drop_previous={"exact": 0.0},
    )  # fmt: skip
    checks = judge(asked, Evaluated(SCORES))
    assert [check.key for check in checks] == [
        "gate.min.exact", "gate.better_than_base", "gate.max_drop.general/right", "gate.better_than_previous",
        "gate.max_drop_previous.exact",
    ]  # fmt: skip
    assert all(check.passed for check in checks)
    pass_gate(checks)
    tight = GateSection(max_drop={"general/right": 0.04, "exact": 0.0}, max_drop_previous={"nothing": 0.1})
    with pytest.raises(GateError) as error:
        pass_gate(judge(tight, Evaluated(SCORES)))
    assert str(error.value).splitlines()[1:] == [
        "gate.max_drop.general/right: 0.7500 of the tuned model, 0.8000 of the base: more than 0.0400 lower",
        "gate.max_drop_previous.nothing: no row has this score",
    ]


def test_a_confident_gate_looks_at_the_lower_end_of_the_difference():
    """tuned - base in [-0.08, -0.02]: 0.08 may be forgotten, not 0.07; tuned - previous in [-0.01, 0.05] is not surely better."""
    ends = Intervals(
        {}, {}, {}, {}, {"exact": (0.1, 0.3), "general/right": (-0.08, -0.02)}, {}, {"exact": (-0.01, 0.05)}
    )

    def failed(**asked) -> list[str]:
        checks = judge(GateSection(confident=True, better_than_base=False, **asked), Evaluated(SCORES, ends))
        return [check.said for check in checks if not check.passed]

    assert failed(max_drop={"general/right": 0.08}, max_drop_previous={"exact": 0.01}) == []
    assert failed(max_drop={"general/right": 0.07}) == [
        "gate.max_drop.general/right: 0.7500 of the tuned model, 0.8000 of the base: tuned - base lies in "
        "[-0.0800, -0.0200], which is more than 0.0700 lower (gate.confident)"
    ]
    assert failed(better_than_previous=True) == [
        "gate.better_than_previous: exact: tuned - previous lies in [-0.0100, 0.0500]: the lower end is not above 0 "
        "(gate.confident)"
    ]


def write_suite(folder: Path, rows: int = 6) -> list[str]:
    (folder / "questions.yaml").write_text(QUESTIONS)
    lines = [json.dumps({"question": f"{i} plus {i}?", "answer": str(2 * i)}) for i in range(rows)]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return [
        f"evaluate.suites.general.template={folder}/questions.yaml",
        f"evaluate.suites.general.data={folder}/questions.jsonl",
        "evaluate.suites.general.likelihood=true",
        "evaluate.suites.general.max_new_tokens=4",
    ]


def test_rows_of_a_suite_are_taken_evenly(tiny_base, tiny_data, tmp_path):
    """3 of 6, in order, first and last among them: a file sorted by kind of question gives some of each."""
    suite = write_suite(tmp_path)
    recipe = load_recipe(write_tiny_recipe(tmp_path, tiny_base, tiny_data), [*suite, "evaluate.suites.general.rows=3"])
    its = load_suites(recipe, load_stages(recipe))["general"]
    assert [sample.answer for sample in its.evaluate] == ["0", "4", "10"]


def test_held_out_rows_are_taken_evenly(tiny_base, tiny_data, tmp_path):
    """Held-out rows lie group by group: nine in four groups, whose first three are of two, give three groups in three rows."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    whole, split = load_stages(load_recipe(file))[0], load_recipe(file).data.split
    assert groups_of(whole, split).tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3]
    some = load_stages(load_recipe(file, ["evaluate.rows=3"]))[0]
    assert [sample.where for sample in some.evaluate] == [whole.evaluate[place].where for place in (0, 4, 8)]
    assert groups_of(some, split).tolist() == [0, 1, 2]
    as_many = load_stages(load_recipe(file, ["evaluate.rows=9"]))[0]
    assert [sample.where for sample in as_many.evaluate] == [sample.where for sample in whole.evaluate]


def test_mistakes_in_suites(tiny_base, tiny_data, tmp_path):
    """A score that no suite gives, a question that is trained on, a previous release that is none: said before training."""
    suite = write_suite(tmp_path)
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)

    def said(*overrides: str) -> list[str]:
        recipe = load_recipe(file, [*suite, *overrides])
        with pytest.raises(RecipeError) as error:
            load_suites(recipe, load_stages(recipe))
        return error.value.problems

    assert said("gate.max_drop.general/exact_mach=0.1") == [
        "evaluate.suites.general: gate.max_drop.general/exact_mach: not a score of this template's metric; did you mean "
        "'general/exact_match'?"
    ]
    data = load_recipe(file).data
    trained = said(
        f"evaluate.suites.general.template={data.template}", f"evaluate.suites.general.data={data.train[0].path}"
    )
    assert "evaluate.suites.general: " in trained[0] and "held out in general" in trained[0]
    data_of = load_stages(load_recipe(file))
    with pytest.raises(RecipeError, match="a task of the data template has this name"):
        load_suites(load_recipe(file, suite), [replace(its, metrics={"general": its.metrics[""]}) for its in data_of])
    with pytest.raises(RecipeError, match=r"gate\.min\.exact: not a score"):
        load_stages(load_recipe(file, [*suite, "gate.min.exact=0.1"]))


@pytest.fixture(scope="module")
def compared(finished_run, tiny_base, tiny_data, tmp_path_factory):
    """A run of the same recipe and seed with a suite, beside the finished run as the release before: its folder."""
    from finetune.run import run

    folder = tmp_path_factory.mktemp("compared")
    recipe = load_recipe(
        write_tiny_recipe(folder, tiny_base, tiny_data),
        [
            *write_suite(folder),
            f"evaluate.previous={finished_run[1].bundle.parent}",
            "gate.max_drop_previous.finished=0",
        ],
    )
    result = run(recipe)
    assert result is not None
    return folder / "run"


def test_the_same_run_again_is_its_own_previous_release(compared):
    """The merged model of a run gives every answer and score that the tuned model gave: the differences are all 0."""
    said = json.loads((compared / "scores.json").read_text())
    own = {
        name: value for name, value in said["scores"]["tuned"].items() if not name.startswith("general/mean_logprob")
    }
    assert {name: said["scores"]["previous"][name] for name in own} == own
    near = said["scores"]["previous"]["general/mean_logprob"]
    assert near == pytest.approx(said["scores"]["tuned"]["general/mean_logprob"], abs=1e-5)
    assert said["intervals"]["difference_previous"]["field_match"] == [0.0, 0.0]
    assert said["intervals"]["rows"]["general"] == 6
    answers = {who: (compared / f"answers.{who}.jsonl").read_text() for who in ("tuned", "previous")}
    assert answers["tuned"] == answers["previous"]


def test_likelihood_is_transformers_own_loss(compared, tiny_base):
    """Of the base: minus the cross-entropy of transformers over the six references and what ends them, a token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_base), AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    total, count = 0.0, 0
    for line in (compared.parent / "questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        chat = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
        end = max(i for i, token in enumerate(whole) if token == tokenizer.eos_token_id) + 1
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        total += sum(float(logprobs[i - 1, whole[i]]) for i in range(len(prompt), end))
        count += end - len(prompt)
    said = json.loads((compared / "scores.json").read_text())["scores"]["base"]["general/mean_logprob"]
    assert said == pytest.approx(total / count, abs=1e-4)


def test_what_the_release_pages_say(compared):
    """Verdict first, every check, a table for the held-out rows and one for the suite, in both languages; also in the bundle."""
    told = json.loads((compared / "release.json").read_text())
    assert told["passed"] and [check["key"] for check in told["checks"]] == ["gate.max_drop_previous.finished"]
    assert told["previous"]["name"] == "tiny" and told["previous"]["notes"] == []
    page = (compared / "release.md").read_text()
    assert page.startswith("# tiny: passed the gate\n")
    head = "| score | base | previous | tuned | tuned - base | tuned - previous |"
    assert page.count(head) == 2 and "## Suite `general`" in page
    line = next(line for line in page.splitlines() if line.startswith("| `mean_logprob` |"))
    assert len(line.split("|")) == len(head.split("|"))
    chinese = (compared / "release.zh-CN.md").read_text()
    assert chinese.startswith("# tiny：已通过发布门槛\n") and "## 题组 `general`" in chinese
    for name in ("release.md", "release.zh-CN.md", "release.json"):
        assert (compared / "bundle" / name).read_bytes() == (compared / name).read_bytes()


def test_a_run_that_does_not_pass_says_why_on_its_page(tiny_base, tiny_data, tmp_path):
    """Nothing is exported; the page is there, with the numbers."""
    from finetune.run import run

    recipe = load_recipe(
        write_tiny_recipe(tmp_path, tiny_base, tiny_data), ["gate.min.all_fields=1.01", "train.max_steps=1"]
    )
    with pytest.raises(GateError):
        run(recipe)
    page = (tmp_path / "run/release.md").read_text()
    assert page.startswith("# tiny: DID NOT PASS THE GATE") and "gate.min.all_fields: " in page
    assert not (tmp_path / "run/bundle").exists()


def test_evaluating_an_adapter_again(compared, tiny_base, tiny_data, capsys):
    """The same scores to the last digit as at the end of its run; without training, in a folder of its own."""
    from finetune.cli import main

    folder = compared.parent
    suite = [word for override in write_suite(folder) for word in ("--set", override)]
    command = ["evaluate", str(folder / "tiny.yaml"), *suite]
    assert main(command) == 0
    assert f"{folder}/run.evaluation/release.md" in capsys.readouterr().out
    again, before = (json.loads((place / "scores.json").read_text()) for place in (folder / "run.evaluation", compared))
    assert again["scores"] == {who: before["scores"][who] for who in ("base", "tuned")}
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"--output: {folder}/run.evaluation already exists; give another, or --overwrite it\n"
    )
    assert main([*command, "--overwrite", "--set", "lora.r=3"]) == 2
    assert "lora.r: 3, but the adapter in" in capsys.readouterr().err
    kept = json.loads((folder / "run.evaluation/scores.json").read_text())
    assert kept == again  # nothing was measured, and what was before is still there
    assert not (folder / "run.evaluation.before").exists()
    assert main([*command, "--overwrite", "--adapter", f"{compared}/bundle/adapter"]) == 2
    assert (
        "is written for serving, with other settings; the run's own adapter/ is as it was trained"
        in capsys.readouterr().err
    )


def test_the_gate_alone(compared, capsys):
    """Held against the scores of a finished run: exit code 0, 3 with the numbers, or 2 for a score that there is none of."""
    from finetune.cli import main

    command = ["gate", str(compared.parent / "tiny.yaml"), "--scores", str(compared)]
    assert main([*command, "--set", "gate.min.finished=0"]) == 0
    assert "passed: gate.min.finished: " in capsys.readouterr().out
    assert main([*command, "--set", "gate.min.finished=1.5"]) == 3
    assert "gate.min.finished: " in capsys.readouterr().err
    assert (compared / "release.md").read_text().startswith("# tiny: DID NOT PASS THE GATE")
    assert main([*command, "--set", "gate.min.finishd=1"]) == 2
    assert "did you mean 'finished'?" in capsys.readouterr().err
    assert main(["gate", str(compared.parent / "tiny.yaml"), "--scores", "/nowhere"]) == 2
    assert "/nowhere/scores.json: no such file" in capsys.readouterr().err


def test_a_suite_of_refusals_has_its_report(tiny_base, tiny_data, tmp_path):
    """Both pages, in the run's folder and in the bundle; every question was asked of base and tuned."""
    from finetune.run import run
    from tests.conftest import ROOT

    shipped = ROOT / "data_templates/safety/questions"
    recipe = load_recipe(
        write_tiny_recipe(tmp_path, tiny_base, tiny_data),
        [
            f"evaluate.suites.safety.template={shipped}.yaml", f"evaluate.suites.safety.data={shipped}.sample.jsonl",
            "evaluate.suites.safety.rows=40", "evaluate.suites.safety.max_new_tokens=4", "train.max_steps=1",
            "gate.max_drop.safety/refused=1",
        ],
    )  # fmt: skip
    result = run(recipe)
    assert result is not None
    for name in ("safety_report.md", "safety_report.zh-CN.md"):
        assert (result.bundle / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    said = json.loads((tmp_path / "run/scores.json").read_text())
    assert said["intervals"]["rows"]["safety"] == 40
    assert {"safety/right", "safety/refused", "safety/not_refused"} <= said["scores"]["tuned"].keys()
