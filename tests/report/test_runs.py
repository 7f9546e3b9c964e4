"""Runs listed and compared; curves and pictures by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.report.compare import recipe_differences, scores_of
from finetune.report.curves import broken_steps, charts_of, thinned
from finetune.report.found import find_runs, summary_of
from finetune.report.plots import curve_svg, scores_svg
from finetune.report.read import base_of
from finetune.report.tables import Cell, Line
from tests.report.test_report import rewrite, run_of

LINES = [{"step": step, "loss": 8.0 / step, "learning_rate": 1e-4, "grad_norm": 0.5} for step in (1, 2, 4)]


@pytest.fixture
def some_runs(tmp_path) -> Path:
    """Three runs as their files: one finished, one that failed its gate, one that is going on."""
    for name, tuned, rate in (("a/good", 0.9, 1e-4), ("a/bad", 0.2, 1e-2)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        scores = {"base": {"exact": 0.1}, "tuned": {"exact": tuned}}
        ends = {"rows": {"": 30}, "base": {}, "tuned": {"exact": [tuned - 0.05, tuned + 0.05]}, "difference": {}}
        recipe = {
            "name": name[2:], "output_dir": name, "seed": 1, "model": {"name_or_path": "org/tiny"},
            "train": {"learning_rate": rate, "betas": [0.9, 0.95]}, "stages": [{"stage": "cpt"}, {"stage": "sft"}],
        }  # fmt: skip
        passed = tuned > 0.5
        checks = [{"key": "gate.min.exact", "passed": passed, "said": "gate.min.exact: as it is"}]
        release = {"name": name[2:], "created": f"2026-11-30T1{rate:.0f}:0{len(name)}:00+00:00", "passed": passed}
        state = {"status": "finished" if passed else "failed", "step": 4}
        for file, told in (("scores.json", {"scores": scores, "intervals": ends}), ("run.json", {"recipe": recipe}),
                           ("release.json", release | {"checks": checks}), ("run_state.json", state)):  # fmt: skip
            (folder / file).write_text(json.dumps(told), encoding="utf-8")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    going = tmp_path / "runs/going"
    going.mkdir()
    (going / "run_state.json").write_text('{"status": "running", "step": 0}')
    (going / "stages/1-cpt").mkdir(parents=True)
    (going / "stages/1-cpt/metrics.jsonl").touch()  # a stage's folder is not a run of its own
    (tmp_path / "runs/.encoded").mkdir()
    return tmp_path / "runs"


def test_runs_are_found_and_told_in_a_line_each(some_runs):
    found = [summary_of(run, some_runs) for run in find_runs(some_runs)]
    assert [(one.run, one.state, one.step, one.gate) for one in found] == [
        ("a/good", "finished", 4, "passed"), ("a/bad", "failed", 4, "failed"), ("going", "running", 0, "unasked"),
    ]  # fmt: skip
    assert found[0].cells() == [
        "a/good", "2026-11-30 10:06", "good", "org/tiny", "finished", "exact", "0.100 → 0.900", "[0.850, 0.950]",
        "passed",
    ]  # fmt: skip
    assert found[2].cells()[4:] == ["running, step 0", "–", "–", "", "unasked"]


def test_recipes_differ_in_keys_and_scores_in_intervals(some_runs):
    a, b = (run for run in find_runs(some_runs) if run.recipe)
    assert [(one.key, one.values) for one in recipe_differences([a, b])] == [
        ("name", ("good", "bad")), ("train.learning_rate", ("0.0001", "0.01")),
    ]  # fmt: skip
    (score,) = scores_of([a, b])
    assert score.moved == pytest.approx(-0.7) and score.apart is True
    nested = [run_of(recipe=recipe) for recipe in ({"stages": [{"stage": "cpt"}], "gate": {}}, {"lora": {"r": 8}}, {})]
    assert [(one.key, one.values) for one in recipe_differences(nested)] == [
        ("stages.0.stage", ("cpt", "–", "–")), ("lora.r", ("–", "8", "–")),
    ]  # fmt: skip


def test_the_command_lists_compares_and_writes(some_runs, tmp_path, capsys):
    assert main(["runs", str(some_runs), "--json", str(tmp_path / "list.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a/good", "a/bad", "going"]
    assert main(["runs", str(some_runs), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "list.json").read_text())
    assert told["runs"][0]["interval"] == pytest.approx([0.85, 0.95])
    assert main(["runs", "compare", str(some_runs / "a/good"), str(some_runs / "a/bad"), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"][1] == {"key": "train.learning_rate", "a": "0.0001", "b": "0.01"}
    assert told["scores"][0]["intervals_apart"] and told["notes"] == []
    assert main(["runs", "compare", str(some_runs / "a/good"), str(some_runs / "going")]) == 0
    shown = capsys.readouterr().out
    assert "note: no recipe is known of going" in shown and "recipe: no difference" in shown
    page = tmp_path / "runs.html"
    assert main(["runs", str(some_runs), "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('class="plot"') == 2  # the first score, training loss; no held-out loss was logged
    assert "失败，第 4 步" in text and "已结束，第 4 步" in text and "Said(" not in text
    assert "Not logged." in text and "learning_<wbr>rate" in text and "0.850, 0.950" in text


def test_mistakes_are_told(some_runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        (["compare", "a"], "two runs' folders are needed, got 1: finetune runs compare A B"),
        (["a", "b"], "one folder is needed, got 2"),
        ([str(tmp_path / "no")], "no: no such folder; name the one that holds your runs"),
        ([str(tmp_path / "empty")], "no run in it (run_state.json, metrics.jsonl), 4 folders deep"),
        (["compare", str(some_runs), str(some_runs)], "not the folder of a run"),
        ([str(some_runs), "--html", str(tmp_path)], "can't be written"),
    ):
        assert main(["runs", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_a_damaged_run_is_in_the_list(some_runs):
    (some_runs / "a/good/run_state.json").write_text("{")
    (some_runs / "a/bad/scores.json").write_text("[1")
    found = {run.folder.name: run for run in find_runs(some_runs)}
    assert summary_of(found["good"], some_runs).state == "unknown" and "damaged" in found["good"].notes[0]
    assert found["bad"].notes[0].startswith("scores.json: can't be read") and found["bad"].main is None
    rewrite(some_runs / "a/good/run.json", recipe=None)
    shutil.rmtree(some_runs / "a/bad")
    assert {run.folder.name for run in find_runs(some_runs)} == {"good", "going"}


def test_a_base_is_called_as_a_person_does():
    for given, called in (("org/model", "org/model"), ("/models/tiny", "tiny"), ("./tiny", "tiny"), ("pkg:x", "pkg:x")):
        assert base_of(run_of(recipe={"model": {"name_or_path": given}})) == called


def test_curves_by_hand():
    charts = charts_of([*LINES, {"step": 5, "loss": "nan", "grad_norm": 1.0}, {"step": 4, "eval_loss": 1.5}])
    assert [chart.name for chart in charts] == [
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "peak_memory_gib",
    ]
    train, held_out = charts[0].series
    assert (train.steps, train.values) == ([1, 2, 4], [8, 4, 2]) and (held_out.steps, held_out.values) == ([4], [1.5])
    assert charts[0].last == 2 and charts[3].series == [] and charts[3].last is None
    assert broken_steps([{"step": 5, "loss": "nan"}, {"step": 6, "loss": 1.0}, {"step": 7, "grad_norm": "inf"}]) == [
        5,
        7,
    ]
    assert [chart.name for chart in charts_of([{"step": 1, "reward": 0.5, "eval_reward": 0.25}])][1] == "reward"


def test_long_curves_are_means_of_blocks():
    """1,201 points in blocks of 3: the first is the mean of 0, 1 and 2, the last is a single point."""
    steps, values = thinned([float(n) for n in range(1201)], [2.0 * n for n in range(1201)])
    assert len(steps) == 401 and (steps[0], values[0], steps[-1], values[-1]) == (1.0, 2.0, 1200.0, 2400.0)
    assert thinned([1.0], [2.0]) == ([1.0], [2.0])


def test_pictures_take_colours_and_font_from_the_page():
    (loss, *_) = charts_of(LINES)
    svg = curve_svg(loss, "x/y-loss")
    assert svg.startswith("<svg") and "var(--tuned)" in svg and "var(--soft)" in svg
    assert "font-family" not in svg and "metadata" not in svg and "<style" not in svg and "#0" not in svg
    assert svg == curve_svg(loss, "x/y-loss")  # the same run gives the same picture
    names = ("a" * 40 + "<b>", "$x^2$", "字段/瓦斯浓度处置措施等级判定结果")
    drawn = scores_svg(
        [Line(name, (Cell(0.1, None), Cell(0.9, (0.8, 1.0))), ()) for name in names], ("base", "tuned"), "s"
    )
    assert "<b>" not in drawn and "var(--base)" in drawn
    shown = re.findall(r">([^<>]+)</text>", drawn)
    assert shown[-3:] == ["aaaaaaaaaaaa…aaaaaaaaa&lt;b&gt;", "$x^2$", "字段/瓦斯浓…等级判定结果"]
