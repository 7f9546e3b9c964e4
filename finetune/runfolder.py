"""A run's output folder: held by one living run at a time, emptied or taken up again, its end written down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from finetune.checkpoint.facts import differences
from finetune.checkpoint.lock import RunLock
from finetune.checkpoint.runstate import Status, read_run_state, write_run_state
from finetune.checkpoint.store import Checkpoint, Store
from finetune.errors import RecipeError, writing
from finetune.evaluate.release import PAGES
from finetune.report.about import ABOUT
from finetune.stop import Preempted

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.log import Log

AUTO = "auto"


class RunFolder:
    """Entered by every process of a run; files are touched by the main one.

    Args:
        overwrite: an earlier run of this tool may be replaced.
        resume: `auto` (the newest valid checkpoint, or from the start when there is none), a checkpoint's folder, or
            None.

    Attributes:
        about: what run.json says once the folder is this run's; empty: it is not written.
        at_end: called on the main process when the run has ended by itself, its state written down, well or not.

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
        self.about: dict[str, Any] = {}
        self.at_end: Callable[[], None] = lambda: None
        self._claimed = False
        self._keep: tuple[str, ...] = ()
        used = path.exists() and not (path.is_dir() and not any(path.iterdir()))
        if used and not (overwrite or resume):
            raise RecipeError(
                f"output_dir: {path} already exists; go on with it (--resume auto), give another with "
                "--set output_dir=..., or --overwrite it"
            )
        if used and not (path / "metrics.jsonl").is_file():
            raise RecipeError(f"output_dir: {path} does not look like a run of this tool (no metrics.jsonl); remove it")
        links = [entry.name for entry in path.iterdir() if entry.is_symlink()] if used and path.is_dir() else []
        if links:  # what is written to them would land elsewhere
            raise RecipeError(f"output_dir: {path} holds symbolic links ({', '.join(sorted(links)[:3])}); remove them")
        self._lock = RunLock(path)

    def __enter__(self) -> RunFolder:
        if self.resume not in (None, AUTO):
            self.store(1).open(Path(str(self.resume)))  # before anything else takes its time
        self._everywhere(self._acquire)
        return self

    def _acquire(self) -> None:
        with writing(self.path):
            self._lock.__enter__()

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
                if kind is None or kind is Preempted or issubclass(kind, Exception):  # not when somebody waits for ^C
                    self.at_end()
        finally:
            self._lock.__exit__(kind, error, trace)

    def store(self, keep: int) -> Store:
        return Store(self.path / "checkpoints", keep)

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    def of_step(self, step: int) -> Checkpoint:
        """The checkpoint of one step, verified."""
        return self.store(1).open(self.path / f"checkpoints/step-{step:08d}")

    def finished(self, recipe: dict[str, Any]) -> dict[str, Any] | None:
        """The manifest of the bundle, when this run is to be resumed and has nothing left to do.

        Raises:
            RecipeError: the finished run is that of another recipe.
        """
        import yaml

        manifest = self.bundle / "MANIFEST.json"
        state = read_run_state(self.path)
        if self.resume != AUTO or state is None or state["status"] != "finished" or not manifest.is_file():
            return None
        if yaml.safe_load((self.bundle / "recipe.yaml").read_text(encoding="utf-8")) != recipe:
            raise RecipeError(
                f"output_dir: {self.path} holds the finished run of another recipe (see bundle/recipe.yaml); give "
                "another with --set output_dir=..., or --overwrite it"
            )
        return json.loads(manifest.read_text(encoding="utf-8"))

    def checkpoint(self, keep: int, facts: dict[str, Any], log: Log) -> Checkpoint | None:
        """The checkpoint to go on from, the same on all processes; a newer one that is not valid is said.

        Raises:
            RecipeError: the one that was named is not valid; there are checkpoints, but none is valid; its run has
                other `facts` than this one.
        """
        if self.resume is None:
            return None
        name = self.resume if self.resume != AUTO else self._everywhere(lambda: self._newest(keep, log))
        if name is None:
            return None
        found = self.store(keep).open(Path(name))
        changed = list(differences(found.state["facts"], facts))
        if changed:
            raise RecipeError([*changed, f"{found.folder}: this would be another run; give it another output_dir"])
        log.say(f"resuming after step {found.step}: {found.folder}")
        return found

    def _newest(self, keep: int, log: Log) -> str | None:
        store = self.store(keep)
        found, skipped = store.newest()
        if found is None and skipped:
            advice = "no checkpoint of this run is valid; start anew with --overwrite"
            raise RecipeError([*skipped, f"{store.folder}: {advice}"])
        for line in skipped:
            log.say(f"checkpoint: skipped {line}")
        return str(found.folder) if found else None

    def begin(self, keep: Sequence[str]) -> None:
        """The folder is this run's before its last stage is trained: `claim` leaves what is named `keep` alone then."""
        if self._accelerator.is_main_process and not self._claimed:
            if self.resume is None:
                self._empty()
            self.path.mkdir(parents=True, exist_ok=True)
            self._tell()
            write_run_state(self.path, "running", 0)
        self._keep = tuple(keep)
        self._claimed = True
        self._accelerator.wait_for_everyone()

    def claim(self, checkpoint: Checkpoint | None, log: Log) -> None:
        """From here on what lies in the folder is this run's; what an earlier one left after `checkpoint` goes."""
        if self._accelerator.is_main_process:
            if checkpoint is None:
                self._empty()
            self.path.mkdir(parents=True, exist_ok=True)
            for left in ("adapter", "bundle", ".bundle.old"):  # a draft of a bundle knows itself what it belongs to
                shutil.rmtree(self.path / left, ignore_errors=True)
            self._tell()
            if checkpoint is not None:
                log.rewind(checkpoint.step, checkpoint.state["progress"]["evaluated"])
            write_run_state(self.path, "running", max(self.store(1).steps(), default=0))
        self._claimed = True
        self._accelerator.wait_for_everyone()

    def _tell(self) -> None:
        """What the run sets out to do is written down; what an earlier life of it came to goes, it may come to another."""
        answers = (file.name for file in self.path.glob("answers*.jsonl"))
        for left in ("export.json", "scores.json", "release.json", *PAGES, "report.html", *answers):
            (self.path / left).unlink(missing_ok=True)
        (self.path / "metrics.jsonl").touch()
        if self.about:
            text = json.dumps(self.about, ensure_ascii=False, indent=1)
            (self.path / ABOUT).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")

    def _empty(self) -> None:
        for entry in self.path.iterdir() if self.path.is_dir() else ():
            if entry.name in self._keep:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

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
