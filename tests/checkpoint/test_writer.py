"""The background writer: one job at a time, and no failure lost."""

from __future__ import annotations

import threading

import pytest

from finetune.checkpoint.writer import BackgroundWriter


def test_jobs_run_beside_the_caller_and_one_after_the_other():
    go, order = threading.Event(), []

    def first() -> None:
        assert go.wait(5)
        order.append("first")

    writer = BackgroundWriter()
    writer.submit(first)
    assert order == [] and writer.failed is None  # submit came back while the job waits
    threading.Timer(0.05, go.set).start()
    writer.submit(lambda: order.append("second"))  # waits for the first
    writer.wait()
    assert order == ["first", "second"]
    writer.wait()  # nothing to wait for


def test_a_failure_is_seen_and_raised_once():
    def fails() -> None:
        raise OSError(28, "No space left on device")

    ran: list[int] = []
    writer = BackgroundWriter()
    writer.submit(fails)
    with pytest.raises(OSError, match="No space left"):
        writer.submit(lambda: ran.append(1))
    assert ran == [] and writer.failed is None  # not started; the failure has been handed over
    writer.submit(fails)
    while writer.failed is None:
        pass
    assert writer.failed.errno == 28
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    writer.submit(lambda: ran.append(2))
    writer.wait()
    assert ran == [2]


def test_a_failure_at_the_end_is_raised_by_the_with():
    with pytest.raises(SystemExit, match="7"), BackgroundWriter() as writer:
        writer.submit(lambda: exec("raise SystemExit(7)"))


def test_a_failure_beside_another_error_goes_along_with_it():
    with pytest.raises(KeyError) as error, BackgroundWriter() as writer:
        writer.submit(lambda: 1 / 0)
        raise KeyError("the loop's own")
    assert error.value.__notes__ == ["a checkpoint failed as well: ZeroDivisionError: division by zero"]
