"""run_state.json is whole or the one from before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune.checkpoint.runstate import read_run_state, write_run_state
from finetune.errors import CheckpointError


def test_what_is_written_is_read(tmp_path):
    assert read_run_state(tmp_path) is None
    write_run_state(tmp_path, "running", 0)
    write_run_state(tmp_path, "preempted", 120, signal="SIGTERM", checkpoint="checkpoints/step-00000120")
    assert read_run_state(tmp_path) == {
        "status": "preempted", "step": 120, "signal": "SIGTERM", "checkpoint": "checkpoints/step-00000120",
    }  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["run_state.json"]
    with pytest.raises(ValueError, match="'done'; allowed: running, preempted, finished, failed"):
        write_run_state(tmp_path, "done", 1)


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    write_run_state(tmp_path, "running", 7)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as broken:
            broken.setattr(os, name, lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                write_run_state(tmp_path, "finished", 9)
        assert read_run_state(tmp_path) == {"status": "running", "step": 7}
        assert [file.name for file in tmp_path.iterdir()] == ["run_state.json"]


def test_a_link_is_replaced_never_written_through(tmp_path):
    """T48"""
    target = tmp_path / "precious.json"
    target.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "run_state.json").symlink_to(target)
    with pytest.raises(CheckpointError, match="a symbolic link"):
        read_run_state(run)
    write_run_state(run, "finished", 9)
    assert target.read_text() == "mine" and not (run / "run_state.json").is_symlink()
    assert read_run_state(run) == {"status": "finished", "step": 9}


@pytest.mark.parametrize("text", ["", "[]", '{"status": "running"}', '{"status": "odd", "step": 1}', "\xff"])
def test_damage_is_named(tmp_path: Path, text: str):
    (tmp_path / "run_state.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"run_state.json: damaged"):
        read_run_state(tmp_path)
