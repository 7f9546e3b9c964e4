"""A run's output folder: held by one living run at a time, emptied or taken up again, its end written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from finetune.checkpoint.lock import RunLock
from finetune.checkpoint.runstate import Status, read_run_state, write_run_state
from finetune.checkpoint.store import Checkpoint, Store
from finetune.errors import RecipeError
from finetune.stop import Preempted

if TYPE_CHECKING:
    from accelerate import Accelerator

AUTO = "auto"


class RunFolder:
    """Entered by every process of a run; files are touched by the main one.

    Args:
        overwrite: an earlier run of this tool may be replaced.
        resume: `auto` (the newest valid checkpoint, or from the start when there is none), a checkpoint's folder, or
            None.

    Raises:
        RecipeError: the folder holds something else or an earlier run that is neither to be resumed nor replaced;
            another living run holds it.
    """

    def __init__(
        self, path: Path, accelerator: Accelerator, overwrite: bool = False, resume: str | None = None
    ) -> None:
        self.path = path
        self.resume = resume
        self._accelerator = accelerator
        self._claimed = False
        used = path.exists() and not (path.is_dir() and not any(path.iterdir()))
        if used and not (overwrite or resume):
            raise RecipeError(
                f"output_dir: {path} already exists; go on with it (--resume auto), give another with "
                "--set output_dir=..., or --overwrite it"
            )
        if used and not (path / "metrics.jsonl").is_file():
            raise RecipeError(f"output_dir: {path} does not look like a run of this tool (no metrics.jsonl); remove it")
        self._lock = RunLock(path)

    def __enter__(self) -> RunFolder:
        self._everywhere(lambda: bool(self._lock.__enter__()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._accelerator.is_main_process:
            return
        try:
            if self._claimed:
                status: Status = "finished" if kind is None else "preempted" if kind is Preempted else "failed"
                reason = {} if error is None else {"reason": (str(error).splitlines() or [str(kind)])[0]}
                write_run_state(self.path, status, max(self.store(1).steps(), default=0), **reason)
        finally:
            self._lock.__exit__(kind, error, trace)

    def store(self, keep: int) -> Store:
        return Store(self.path / "checkpoints", keep)

    def checkpoint_folder(self, step: int) -> Path:
        return self.path / f"checkpoints/step-{step:08d}"

    def finished(self) -> dict[str, Any] | None:
        """The manifest of the bundle, when this run is to be resumed and has nothing left to do."""
        manifest = self.path / "bundle/MANIFEST.json"
        state = read_run_state(self.path)
        if self.resume != AUTO or state is None or state["status"] != "finished" or not manifest.is_file():
            return None
        return json.loads(manifest.read_text(encoding="utf-8"))

    def checkpoint(self, keep: int) -> tuple[Checkpoint | None, list[str]]:
        """The checkpoint to go on from, the same on all processes, and a line for each newer one that is not valid.

        Raises:
            RecipeError: the one that was named is not valid; there are checkpoints, but none is valid.
        """
        if self.resume is None:
            return None, []
        store, skipped = self.store(keep), []
        if self.resume != AUTO:
            return store.open(Path(self.resume)), []

        def newest() -> str | None:
            found, lines = store.newest()
            skipped.extend(lines)
            if found is None and lines:
                advice = "no checkpoint of this run is valid; start anew with --overwrite"
                raise RecipeError([*lines, f"{store.folder}: {advice}"])
            return str(found.folder) if found else None

        name = self._everywhere(newest)
        return (store.open(Path(name)) if name else None), skipped

    def claim(self, keep_checkpoints: bool) -> None:
        """From here on what lies in the folder is this run's; what an earlier one left after its checkpoint goes."""
        if self._accelerator.is_main_process:
            if not keep_checkpoints:
                shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True, exist_ok=True)
            for left in (self.path / "adapter", self.path / "bundle", *self.path.glob(".bundle-*")):
                shutil.rmtree(left, ignore_errors=True)
            (self.path / "metrics.jsonl").touch()
            write_run_state(self.path, "running", max(self.store(1).steps(), default=0))
        self._claimed = True
        self._accelerator.wait_for_everyone()

    def _everywhere(self, action: Any) -> Any:
        """What `action` returns on the main process; its RecipeError is raised on all of them."""
        from accelerate.utils import broadcast_object_list

        answer: list[Any] = [None, None]
        if self._accelerator.is_main_process:
            try:
                answer[0] = action()
            except RecipeError as error:
                answer[1] = error.problems
        if self._accelerator.num_processes > 1:
            broadcast_object_list(answer)
        if answer[1]:
            raise RecipeError(answer[1])
        return answer[0]
