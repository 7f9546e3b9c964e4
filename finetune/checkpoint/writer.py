"""Writing while training goes on: one job at a time in a thread, its failure kept until someone has taken it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class BackgroundWriter:
    """Runs one job at a time. As a context manager it waits for the last one at the end.

    Attributes:
        failed: what the last job raised, until `wait` or `submit` has raised it.
    """

    def __init__(self) -> None:
        self.failed: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Starts a job after the one before has ended.

        Raises:
            what the job before raised; the new job is not started then.
        """
        self.wait()
        # Not a daemon: at the interpreter's end it is waited for, a checkpoint is not cut off.
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Returns when no job runs.

        Raises:
            what the job raised, once.
        """
        self.join()
        failed, self.failed = self.failed, None
        if failed is not None:
            raise failed

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.wait()
            return
        self.join()
        if self.failed is not None and self.failed is not error:  # the first error goes on, and takes this one along
            error.add_note(f"a checkpoint failed as well: {type(self.failed).__name__}: {self.failed}")

    def join(self) -> None:
        """Returns when no job runs; what the last one raised stays in `failed`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            self.failed = error
