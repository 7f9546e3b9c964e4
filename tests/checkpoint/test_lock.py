"""One living process a run folder."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time

import pytest

from finetune.checkpoint.lock import RunLock
from finetune.errors import RecipeError
from tests.conftest import ROOT

HOLD = """
import os, sys, time
from pathlib import Path
from finetune.checkpoint.lock import RunLock
with RunLock(Path(sys.argv[1])):
    if sys.argv[2:] and os.fork() == 0:
        os.close(1)
        time.sleep(20)  # a worker that outlives its parent
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder, *more: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *more],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_living_process_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    folder = tmp_path / "runs/mine"
    process = holder(folder)
    with pytest.raises(RecipeError) as error, RunLock(folder):
        pass
    assert error.value.problems == [
        f"output_dir: {folder} is in use by process {process.pid} on {platform.node()}; wait for it, or give another "
        "with --set output_dir=..."
    ]
    with RunLock(tmp_path / "runs/other"):
        pass
    process.kill()
    process.communicate()
    with RunLock(folder) as lock:
        assert lock.file == tmp_path / "runs/.mine.lock"


def test_a_worker_that_outlives_a_killed_holder_does_not_keep_the_lock(tmp_path):
    process = holder(tmp_path / "mine", "fork")
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()
    for _ in range(200):  # the worker lets go as it begins, which a busy machine may put off
        try:
            with RunLock(tmp_path / "mine"):
                return
        except RecipeError:
            time.sleep(0.05)
    pytest.fail("the worker keeps the lock")


def test_emptying_the_folder_keeps_the_lock_and_its_other_names_share_it(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "alias").symlink_to(folder)
    with RunLock(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        for name in (folder, tmp_path / "alias"):
            with pytest.raises(RecipeError, match=f"in use by process {os.getpid()} on"), RunLock(name):
                pass
    with RunLock(tmp_path / "alias"):
        assert list(folder.iterdir()) == []


def test_a_link_at_the_locks_name_is_not_written_through(tmp_path):
    """T48"""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RecipeError, match=r"its lock .*\.run\.lock: a symbolic link"), RunLock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_without_locks_the_run_goes_on_and_says_so(tmp_path, monkeypatch):
    import fcntl

    said: list[str] = []
    refusing = lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported"))  # noqa: E731
    monkeypatch.setattr(fcntl, "flock", refusing)
    with RunLock(tmp_path / "run", said.append):
        pass
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with RunLock(tmp_path / "run", said.append):
        pass
    assert said == [
        f"{tmp_path}/.run.lock: Operation not supported: nothing keeps a second run out of {tmp_path}/run",
        f"no file locks on Windows: nothing keeps a second run out of {tmp_path}/run",
    ]
