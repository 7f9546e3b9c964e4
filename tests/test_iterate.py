"""The wheel: what a turn adds, what it is compared with, what a turn that is no release leaves behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from finetune.cli import main
from finetune.errors import GateError
from finetune.inputs import load_data
from finetune.iterate import read_wheel, turn_lines
from finetune.recipefile import load_recipe
from tests.conftest import write_tiny_recipe


def log_of(file: Path, pairs: range, rating: str = "up") -> Path:
    """Answers to questions that no row of the tiny data asks, judged."""
    lines = []
    for a in pairs:
        messages = [
            {"role": "user", "content": f"{a} {a + 1}?"},
            {"role": "assistant", "content": f"larger {a + 1}\nsame no"},
        ]
        lines.append(json.dumps({"id": f"r{a}", "messages": messages, "rating": rating}))
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def turned(finished_run, tiny_base, tiny_data, tmp_path_factory):
    """Three turns after a first release: one that is released, one that is not, and one begun after it: (folder, recipe)."""
    folder = tmp_path_factory.mktemp("wheel")
    recipe = write_tiny_recipe(folder, tiny_base, tiny_data)
    told = yaml.safe_load(recipe.read_text())
    told["gate"] = {"better_than_base": False, "max_drop_previous": {}}
    recipe.write_text(yaml.safe_dump(told))
    wheel = folder / "wheel"
    release = str(finished_run[1].bundle)
    first = ["iterate", str(recipe), str(log_of(folder / "one.jsonl", range(20, 26))), "--into", str(wheel)]
    assert main([*first, "--release", release, "--max-drop", "1"]) == 0
    hopeless = wheel / "recipes/v0001.yaml"
    kept = hopeless.read_text()
    hopeless.write_text(yaml.safe_dump(yaml.safe_load(kept) | {"gate": {"min": {"all_fields": 1.01}}}))
    second = ["iterate", str(recipe), str(log_of(folder / "two.jsonl", range(24, 30))), "--into", str(wheel)]
    assert main(second) == 3
    hopeless.write_text(kept)
    third = [
        "iterate",
        str(recipe),
        str(log_of(folder / "three.jsonl", range(24, 32))),
        "--into",
        str(wheel),
        "--prepare",
    ]
    assert main(third) == 0
    return wheel, recipe


def test_what_each_turn_came_to(turned):
    """Six rows, released beside the given bundle; four new ones of six (two are known), not released: the release stays."""
    wheel = read_wheel(turned[0])
    assert [(turn["version"], turn["passed"], turn["rows"]["sft.jsonl"]) for turn in wheel.turns] == [
        ("v0001", True, 6), ("v0002", False, 4),
    ]  # fmt: skip
    assert wheel.turns[1]["left_out"] == {"known": 2}
    assert wheel.release is not None and wheel.release["version"] == "v0001"
    assert all(set(turn["scores"]) == {"base", "previous", "tuned"} for turn in wheel.turns)
    assert wheel.turns[0]["scores"]["tuned"] == wheel.turns[1]["scores"]["previous"]
    assert (turned[0] / "runs/v0001/bundle/release.md").is_file() and not (turned[0] / "runs/v0002/bundle").exists()
    lines = turn_lines(wheel.turns)
    assert lines[0].split() == ["turn", "rows", "score", "base", "previous", "tuned"]
    assert [line.endswith(said) for line, said in zip(lines[1:], ("  released", "not released"), strict=True)] == [
        True
    ] * 2


def test_what_the_next_turn_trains_on(turned):
    """The rows of the release and its own; those of the turn that was none are neither trained on nor known. The rows that are
    held out are those of the first recipe."""
    folder, recipe = turned
    third = load_recipe(folder / "recipes/v0003.yaml")
    assert [Path(source.path).parent.name for source in third.data.train[1:]] == ["v0001", "v0003"]
    assert third.evaluate.previous == (folder / "runs/v0001/bundle").resolve()
    data, first = load_data(third), load_data(load_recipe(recipe))
    assert len(data.train) == len(first.train) + 6 + 6  # of 24..31 the release knows 24 and 25
    assert [sample.record for sample in data.evaluate] == [sample.record for sample in first.evaluate]


def test_an_unfinished_turn(turned, capsys):
    """It is ended before another begins; then there is none to end."""
    folder, recipe = turned
    log = log_of(folder.parent / "four.jsonl", range(40, 42))
    assert main(["iterate", str(recipe), str(log), "--into", str(folder)]) == 2
    assert "the turn of v0003 is unfinished; without logs the same command ends it" in capsys.readouterr().err
    assert main(["iterate", str(recipe), "--into", str(folder)]) == 0
    assert f"release: {folder}/runs/v0003/bundle" in capsys.readouterr().out
    assert main(["iterate", str(recipe), "--into", str(folder)]) == 2
    assert "no turn is unfinished; give the logs of a new one" in capsys.readouterr().err
    assert json.loads((folder / "data/v0003/version.json").read_text())["used_by"][0]["recipe"].endswith("v0003.yaml")


def test_a_proof_that_says_no_ends_the_turn_too(turned, monkeypatch, capsys):
    """It would say so again: the turn is written down as no release, and another can begin."""
    from finetune.export import bundle

    def fails(*_, **__):
        raise GateError("export stopped: the merged model is not the adapter (float32): mean_kl 1, limit 1e-06")

    folder, recipe = turned
    before = read_wheel(folder)
    log = log_of(folder.parent / "five.jsonl", range(50, 54))
    monkeypatch.setattr(bundle, "prove", fails)
    assert main(["iterate", str(recipe), str(log), "--into", str(folder)]) == 3
    assert "the merged model is not the adapter" in capsys.readouterr().err
    now = read_wheel(folder)
    assert len(now.turns) == len(before.turns) + 1 and now.unfinished is None and now.release == before.release
    last = now.turns[-1]
    assert (last["passed"], last["bundle"]) == (False, None)
    assert last["reason"] == "export stopped: the merged model is not the adapter (float32): mean_kl 1, limit 1e-06"
    assert not (folder / last["run"] / "bundle").exists() and (folder / last["run"] / "adapter").is_dir()


def test_a_turn_of_which_nothing_was_scored_stays_unfinished(turned, monkeypatch, capsys):
    """The adapter's file was not what was to be saved: the same command tries again."""

    def fails(*_, **__):
        raise GateError("the adapter's file is not what was to be saved")

    folder, recipe = turned
    log = log_of(folder.parent / "six.jsonl", range(60, 64))
    monkeypatch.setattr(sys.modules["finetune.run"], "run", fails)
    before = read_wheel(folder).turns
    assert main(["iterate", str(recipe), str(log), "--into", str(folder)]) == 3
    assert "not what was to be saved" in capsys.readouterr().err
    assert read_wheel(folder).turns == before and read_wheel(folder).unfinished is not None
    monkeypatch.undo()
    assert main(["iterate", str(recipe), "--into", str(folder)]) == 0
    assert read_wheel(folder).unfinished is None


def test_logs_of_which_nothing_can_be_used_begin_no_turn(tiny_base, tiny_data, tmp_path, capsys):
    """Exit code 2, and no version, recipe or wheel is left."""
    recipe = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    log = tmp_path / "log.jsonl"
    log.write_text("{broken\n")
    assert main(["iterate", str(recipe), str(log), "--into", str(tmp_path / "wheel")]) == 2
    assert capsys.readouterr().err.startswith(f"{log}:1:")
    assert not (tmp_path / "wheel").exists()
