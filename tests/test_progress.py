"""How far long work is: a bar in a terminal, a line now and then elsewhere, nothing for short work."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from finetune import progress as module
from finetune.progress import progress, track
from tests.conftest import ROOT


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_lines_where_nobody_watches(clock, capsys):
    done = []
    for item in track(range(10), "answers", 10):
        done.append(item)
        clock(16)
    assert done == list(range(10))
    # a line at 32, 64, ... s; none at the end, which another line tells
    assert capsys.readouterr().out.splitlines() == [
        "answers: 2 of 10, 0:02:08 left", "answers: 4 of 10, 0:01:36 left",
        "answers: 6 of 10, 0:01:04 left", "answers: 8 of 10, 0:00:32 left",
    ]  # fmt: skip


def test_work_that_goes_on_counts_what_was_done_before_as_done_and_not_as_fast(clock, capsys):
    with progress("encoding", 1000, done=900) as advance:
        clock(40)
        advance(50)
    assert capsys.readouterr().out == "encoding: 950 of 1,000, 0:00:40 left\n"


def test_an_unknown_total_has_no_time_left(clock, capsys):
    with progress("reading rows") as advance:
        clock(31)
        advance(1_234_567)
    assert capsys.readouterr().out == "reading rows: 1,234,567\n"


def test_short_work_and_work_with_its_own_lines_say_nothing(clock, capsys):
    list(track(range(1000), "a", 1000))
    for _ in track(range(5), "training", 5, lines=False):
        clock(100)
    assert capsys.readouterr().out == ""


def test_work_inside_other_work_is_quiet(clock, capsys):
    for _ in track(range(2), "outer", 2):
        for _ in track(range(3), "inner", 3):
            clock(20)
    assert {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()} == {"outer"}


def test_one_process_a_machine(clock, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    for _ in track(range(3), "a", 3):
        clock(60)
    assert capsys.readouterr().out == ""


def test_a_bar_in_a_terminal():
    """A real one: the bar with the time left, other lines above it, and gone at the end."""
    code = """
import time
from rich.console import Console
from finetune.progress import track
for number in track(range(30), "merging tensors", 30):
    time.sleep(0.05)
    if number == 15:
        Console().print("a line")
print("the end")
"""
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave, cwd=ROOT, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the child has ended
            break
        if not part:
            break
        seen += part
    assert child.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert re.search(r"merging tensors .* \d+/30 .*left \d+:\d\d:\d\d", text)
    assert "a line" in text and text.rstrip().endswith("the end")
