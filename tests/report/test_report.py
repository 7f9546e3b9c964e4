"""The report of a run in every state: what it says, that it says what is missing, and that data can't write into it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.cli import main
from finetune.errors import GateError
from finetune.report.page import report_at_end, to_html, write_report
from finetune.report.read import Run, read_run
from finetune.report.samples import marks, samples_of
from finetune.report.tables import sections_of, worst_drop
from finetune.report.verdict import gate_of, sentence_of, verdict_of
from finetune.report.words import number
from finetune.runfolder import RunFolder
from finetune.stop import Preempted


def rewrite(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def write_answers(folder: Path, rows: list[tuple[str, str, str, str]], of: str = "") -> None:
    """Rows of (question, reference, base's answer, tuned model's answer)."""
    for who, place in (("base", 2), ("tuned", 3)):
        lines = [
            {"where": f"/far/away/rows.jsonl:{number}", "prompt": [{"role": "user", "content": row[0]}],
             "reference": row[1], "answer": row[place], "finished": True}
            for number, row in enumerate(rows, 1)
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"answers{of}.{who}.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def a_run(finished_run, tmp_path) -> Path:
    """A copy of a finished run, without weights, to be changed."""
    recipe, _ = finished_run
    heavy = shutil.ignore_patterns("*.safetensors", "checkpoints", "tokenizer.json")
    return Path(shutil.copytree(recipe.output_dir, tmp_path / "run", ignore=heavy))


def run_of(**told) -> Run:
    """A run of which only this is known."""
    empty = dict(
        state={}, about={}, manifest={}, release={}, scores={}, intervals={}, recipe={}, metrics={}, bundle=None
    )
    return Run(**{"folder": Path("runs/x"), "name": "x"} | empty | told)


def test_a_finished_run_has_its_report_beside_its_bundle(finished_run):
    recipe, result = finished_run
    page = (recipe.output_dir / "report.html").read_text(encoding="utf-8")
    proof = result.manifest["merge_proof"]
    assert (
        f"{proof['positions']:,} positions" in page
        and "Finished; no gate was set" in page
        and "已结束；未设门槛" in page
    )
    assert f"<code>{proof['dtype']}" not in page and f", {proof['dtype']}." in page
    assert "Said(" not in page and "9 held-out rows" in page and "larger.jsonl" in page and "max_steps: 9" in page
    assert f"<dd>{result.manifest['versions']['torch']}</dd>" in page
    assert page.count('class="plot"') == 6  # scores, loss, learning rate, gradient norm, throughput, memory
    assert page.count('class="en"') == page.count('class="zh"') > 100
    told = json.loads((recipe.output_dir / "run.json").read_text(encoding="utf-8"))
    assert (told["recipe"]["train"]["max_steps"], told["data"]["train_samples"], told["device"]) == (9, 31, "cpu")


def test_a_page_loads_nothing_and_runs_nothing(finished_run):
    recipe, _ = finished_run
    page = (recipe.output_dir / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "<script" not in page and " src=" not in page and "@import" not in page
    assert set(re.findall(r"url\(([^)]*)", page)) <= {f"#{name}" for name in re.findall(r'id="([^"]+)"', page)}
    assert {link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("#")} == {"data:,"}
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert not re.search(r"#0[1-6a]0[0-9]0[0-9]\b", page)  # the colours that pictures are drawn in


def test_a_gate_that_said_no_comes_first_with_its_reasons(a_run):
    shutil.rmtree(a_run / "bundle")
    check = {"key": "gate.min.exact", "passed": False, "said": "gate.min.exact: 0.1000 is below 0.9000 (base 0.0000)"}
    rewrite(a_run / "release.json", passed=False, checks=[check])
    rewrite(a_run / "run_state.json", status="failed", reason="the tuned model did not pass the gate:")
    verdict = verdict_of(read_run(a_run))
    assert (verdict.tone, verdict.title.en, verdict.reasons) == ("bad", "Did not pass its gate", (check["said"],))
    assert [tile.value.en for tile in verdict.tiles] == ["failed", "not made", "0.000 → 0.000"]
    page = write_report(a_run).read_text(encoding="utf-8")
    assert "Did not pass its gate" in page and "There is no bundle to serve." in page
    assert "max_steps: 9" in page and "<dt>torch</dt>" in page  # from run.json


def test_a_run_that_was_stopped_tells_what_was_not_measured(a_run):
    for left in ("scores.json", "release.json", "run.json", "answers.base.jsonl", "answers.tuned.jsonl"):
        (a_run / left).unlink()
    shutil.rmtree(a_run / "bundle")
    rewrite(a_run / "run_state.json", status="preempted", step=7, reason="SIGTERM after step 7")
    lines = [json.dumps({"step": step, "loss": 1.0 / step, "grad_norm": 1.0}) for step in range(1, 8)]
    (a_run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo', encoding="utf-8")
    run = read_run(a_run)
    assert "A signal ended it after step 7; nothing was scored." in sentence_of(run).en
    assert verdict_of(run).reasons == ("SIGTERM after step 7",) and gate_of(run) == "unasked"
    page = to_html(run)
    for missing in ("did not come to its evaluation", "did not come to its gate", "no suite of other questions",
                    "no answers of base and tuned model", "neither a bundle nor run.json tells of the data",
                    "nothing was merged", "There is no bundle to serve", "neither a bundle nor run.json has it"):  # fmt: skip
        assert missing in page, missing
    assert page.count("Not logged.") == 3  # learning rate, throughput, memory


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([0.1, 0.3], "the difference of +0.200 [+0.100, +0.300] is more than chance"),
        ([-0.1, 0.5], "may be chance: its interval includes 0"),
        (None, "the difference of +0.200 has no interval, so chance is not ruled out"),
    ],
)
def test_the_sentence_says_what_the_interval_allows(ends, said):
    scores = {"base": {"exact": 0.5}, "tuned": {"exact": 0.7}}
    run = run_of(scores=scores, intervals={"rows": {"": 40}, "difference": {"exact": ends} if ends else {}})
    assert sentence_of(run).en.startswith("exact on 40 held-out rows: base 0.500, tuned 0.700; ")
    assert said in sentence_of(run).en


def test_a_loss_is_called_one_and_nothing_nothing():
    same = {"base": {"exact": 0.5}, "tuned": {"exact": 0.5}}
    none = "exact: base and tuned model both have 0.500, no difference at all."
    assert sentence_of(run_of(scores=same, intervals={"difference": {"exact": [0.0, 0.0]}})).en == none
    assert [number(value, signed=True) for value in (0.25, -0.25, -0.0001, 0.0, None)] == [
        "+0.250", "-0.250", "0.000", "0.000", "–",
    ]  # fmt: skip
    scores = {"base": {"exact": 0.7}, "tuned": {"exact": 0.5}}
    run = run_of(scores=scores, intervals={"difference": {"exact": [-0.3, -0.1]}})
    assert "is a loss, and more than chance" in sentence_of(run).en and "确有下降" in sentence_of(run).zh


def test_suites_are_forgetting_or_safety_by_their_scores():
    names = ("exact", "general/exact", "general/mean_logprob", "safety/refused", "lm_eval/arc/acc", "field/wind")
    scores = {who: dict.fromkeys(names, value) for who, value in (("base", 0.5), ("tuned", 0.4))}
    scores["tuned"]["general/mean_logprob"] = 0.1
    found = sections_of(run_of(scores=scores, release={"suites": ["general", "safety"]}))
    assert [(one.name, one.kind, [line.name for line in one.lines]) for one in found] == [
        ("", "own", ["exact", "field/wind"]), ("general", "forgetting", ["exact", "mean_logprob"]),
        ("safety", "safety", ["refused"]), ("lm_eval", "forgetting", ["arc/acc"]),
    ]  # fmt: skip
    fell = worst_drop(found[1])
    assert fell.name == "mean_logprob" and fell.differences[0].value == pytest.approx(-0.4)


def test_marks_by_hand():
    """Right are words of the reference that only the tuned model has; a Chinese character is a word."""
    reference, base, tuned = marks("wind 270 at 12 kt", "the wind at 12", "wind 270 at 14 kt")
    assert reference == [("", "wind 270 at "), ("lacking", "12"), ("", " kt")]
    assert base == [("wrong", "the"), ("", " wind at 12")]
    assert tuned == [("", "wind "), ("right", "270"), ("", " at "), ("wrong", "14"), ("", " "), ("right", "kt")]
    assert marks("风速12节", "风速14节", "风速12节")[1:] == (
        [("", "风速"), ("wrong", "14"), ("", "节")], [("", "风速"), ("right", "12"), ("", "节")],
    )  # fmt: skip
    assert marks("", "a b", "c") == ([], [("", "a b")], [("", "c")])
    repeats = "the same again " * 60
    assert marks(repeats, repeats + "x", repeats) == (
        [("", repeats)], [("", repeats), ("wrong", "x")], [("", repeats)],
    )  # fmt: skip
    for text in ("", "  a\n\tb  ", "x" * 50 + "，" + "字" * 9):
        assert all("".join(piece for _, piece in one) == text for one in marks(text, text, text))


def test_samples_are_of_every_kind_in_turn(tmp_path):
    won = [(f"q{n}", "yes", "no", "yes") for n in range(50)]
    write_answers(tmp_path, [*won, ("lost", "yes", "yes", "no"), ("kept", "a", "a", " a\n"), ("other", "a", "b", "c")])
    write_answers(tmp_path, [("suite", "a", "b", "a")], of=".general")
    found = samples_of(tmp_path, lambda text: text)
    assert (found.rows, found.counts) == (54, {"lost": 1, "won": 51, "other": 1, "kept": 1})
    assert len(found.shown) == 20
    assert [one.became for one in found.shown] == ["lost", *["won"] * 17, "other", "kept"]
    assert found.shown[0].where == "rows.jsonl:51" and found.shown[0].prompt == "lost"


def test_data_can_not_write_into_the_page(a_run):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u200b\ud800\x00"
    write_answers(a_run, [(evil, "a " + evil, evil, "</div></main>" + evil)])
    rewrite(a_run / "run_state.json", status="failed", reason=evil)
    page = write_report(a_run).read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "\u202e" not in page and "\x00" not in page
    assert "&lt;script&gt;alert" in page and "⟨U+202E⟩⟨U+200B⟩⟨U+D800⟩⟨U+0000⟩" in page


def test_private_data_in_answers_is_masked_unless_the_recipe_says_off(a_run):
    text = "mail jane.doe@mining.example.org now"
    write_answers(a_run, [("who?", text, "nobody", text)])
    assert "jane.doe@" not in to_html(read_run(a_run)) and "[EMAIL]" in to_html(read_run(a_run))
    recipe = json.loads((a_run / "run.json").read_text(encoding="utf-8"))["recipe"]
    recipe["data"]["screen"]["personal_data"] = "off"
    rewrite(a_run / "run.json", recipe=recipe)
    assert "jane.doe@" in to_html(read_run(a_run))


def test_the_report_can_fail_without_the_run(a_run, monkeypatch):
    said: list[str] = []
    (a_run / "scores.json").write_text("[]")
    report_at_end(a_run, said.append)
    assert said == [f"report: {a_run}/report.html"]
    assert "scores.json: not what this tool writes" in (a_run / "report.html").read_text(encoding="utf-8")

    def broken(folder: Path) -> Path:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr("finetune.report.page.write_report", broken)
    report_at_end(a_run, said.append)
    assert said[1] == (
        "report: not written (ImportError: No module named 'matplotlib'); the run itself is whole; try again: "
        f"finetune report {a_run}"
    )


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(None, "finished", 1), (GateError("no"), "failed", 1), (Preempted("SIGTERM"), "preempted", 1),
     (KeyboardInterrupt(), "failed", 0)],
)  # fmt: skip
def test_a_run_is_reported_when_it_has_ended_by_itself(a_run, error, status, told):
    """Its state stands by then; nobody who pressed ^C waits for it. What an earlier life came to is gone."""
    one = SimpleNamespace(is_main_process=True, num_processes=1, wait_for_everyone=lambda: None)
    found = SimpleNamespace(step=3, state={"progress": {"evaluated": -1}})
    seen: list[str] = []
    with (
        contextlib.suppress(GateError, Preempted, KeyboardInterrupt),
        RunFolder(a_run, one, resume="auto") as folder,
    ):
        folder.about = {"name": "again"}
        folder.at_end = lambda: seen.append(read_run(a_run).status)
        folder.claim(found, SimpleNamespace(rewind=lambda *steps: None))
        left = {file.name for file in a_run.iterdir()}
        assert not left & {"scores.json", "release.json", "release.md", "report.html", "answers.base.jsonl", "bundle"}
        assert read_run(a_run).name == "again" and {"metrics.jsonl", "golden.jsonl"} <= left
        if error is not None:
            raise error
    assert seen == [status] * told and read_run(a_run).status == status


def test_a_chain_has_the_curves_of_every_stage(a_run):
    first = a_run / "stages/1-cpt"
    first.mkdir(parents=True)
    (first / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": "nan"}\n')
    page = to_html(read_run(a_run))
    assert "<h3>1-cpt</h3>" in page and "Not finite, and left out of the curves: steps " in page
    assert read_run(a_run).metrics["1-cpt"][1]["loss"] == "nan"


def test_the_command_and_its_mistakes(a_run, tmp_path, capsys):
    assert main(["report", str(a_run), "--output", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/r.html\n"
    assert main(["report", str(a_run / "bundle")]) == 0
    assert capsys.readouterr().out == f"{a_run}/report.html\n"
    bundle = shutil.copytree(a_run / "bundle", tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([str(bundle)], "a bundle without its run; its files are listed in MANIFEST.json: give --output FILE"),
        (
            [str(tmp_path / "empty")],
            "not the folder of a run: no run_state.json, metrics.jsonl, scores.json or bundle in it",
        ),
        ([str(tmp_path / "no")], "no: no such folder"),
        ([str(a_run), "--output", str(tmp_path)], "is a folder; name a file, as"),
        ([str(a_run), "--output", "/proc/no/r.html"], "can't be written"),
    ):
        assert main(["report", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert main(["report", str(bundle), "--output", str(tmp_path / "b.html")]) == 0
    assert "Evaluated; no gate was asked" not in (tmp_path / "b.html").read_text(encoding="utf-8")
