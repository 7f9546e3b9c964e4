"""Checkpoints of one run, each a folder that appears whole or not at all: `<folder>/step-00000050/`.

While it is written a checkpoint is `.step-00000050.<writer>.tmp`; the one it replaces is `.old` for the instant
between two renames, and a rotated one `.gone` while its files are removed. None of these counts as a checkpoint.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.checkpoint.disk import disk_full, megabytes, remove, sync
from finetune.checkpoint.manifest import MANIFEST, list_files, make_manifest, verify
from finetune.errors import CheckpointError

STATE = "state.json"
_FINAL = re.compile(r"step-(\d{8}|[1-9]\d{8,})")
_LEFTOVER = re.compile(r"\.(?P<final>step-\d{8,})\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.(?P<id>\w+)\.(?P<kind>tmp|old|gone)")
_PROCESS = secrets.token_hex(4)  # tells this process from an earlier one with its number (the first in a container)
_STALE = 3600.0  # seconds without a change after which another machine's writer counts as dead


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. `state` is its state.json."""

    folder: Path
    step: int
    state: dict[str, Any]


class Store:
    """Checkpoints of one run. One process writes; others may `open` what it has named to them.

    Args:
        folder: made when the first checkpoint is written.
        keep: complete checkpoints kept, at least 1, besides protected ones and the one just written.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint is kept")
        self.folder = folder
        self.keep = keep

    def write(
        self,
        step: int,
        state: dict[str, Any],
        fill: Callable[[Path], None],
        protect: Collection[int] = (),
        needs: int = 0,
    ) -> Checkpoint:
        """A new checkpoint, on the disk when this returns; then older ones are removed.

        Args:
            state: goes into state.json; what JSON can hold.
            fill: writes the other files into the folder it is given.
            protect: steps that are not removed.
            needs: bytes that will be written; 0: as many as the newest checkpoint has.

        Raises:
            OSError: with ENOSPC when the disk is or would be full, whatever library noticed.
            CheckpointError: `fill` left something that a checkpoint may not hold.

        After any exception the checkpoints are those from before, and nothing half-written lies around.
        """
        self._refuse_link()
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self._final(step)
        self._check_space(final.name, needs)
        draft = self._beside(final.name, "tmp")
        text = json.dumps(state, indent=1) + "\n"
        try:
            remove(draft)  # what an earlier failure could not remove
            draft.mkdir()  # not mkdtemp: the folder's mode follows the umask
            fill(draft)
            _write_new(draft / STATE, text)
            _to_disk(draft, step)
            self._commit(draft, final)
        except BaseException as error:
            with suppress(OSError):
                remove(draft)
            if disk_full(error):
                why = (str(error).splitlines() or [type(error).__name__])[0]
                raise self._full(final.name, f"writing it failed ({why})") from error
            raise
        self._rotate(step, protect)
        return Checkpoint(final, step, json.loads(text))

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The valid checkpoint of the highest step, and a line for each higher one that was skipped, with the reason.

        First removes what dead writers left; a checkpoint that one was just replacing comes back.
        """
        if not self.folder.is_dir():
            return None, []
        self._refuse_link()
        self._tidy()
        skipped: list[str] = []
        for step in sorted(self._named(), reverse=True):
            try:
                return self.open(self._final(step)), skipped
            except CheckpointError as error:
                skipped.append("; ".join(error.problems))
        return None, skipped

    def open(self, folder: Path) -> Checkpoint:
        """One checkpoint, every file verified before anything of it is read; it may lie outside this store.

        Raises:
            CheckpointError: each bad file in a line of its own.
        """
        manifest = verify(folder)
        if STATE not in manifest.files:
            raise CheckpointError(f"{folder}: {STATE}: missing")
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{folder}: {STATE}: {error}") from None
        named = _FINAL.fullmatch(folder.name)
        if named and int(named[1]) != manifest.step:
            raise CheckpointError(f"{folder}: its {MANIFEST} says step {manifest.step}")
        return Checkpoint(folder, manifest.step, state)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending: every file there with its size; contents are not read."""
        return [step for step in sorted(self._named()) if self._size(step) is not None]

    def _final(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _named(self) -> list[int]:
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        return [int(match[1]) for entry in entries if (match := _FINAL.fullmatch(entry.name))]

    def _beside(self, name: str, kind: str) -> Path:
        return self.folder / f".{name}.{_host()}.{os.getpid()}.{_PROCESS}.{kind}"

    def _size(self, step: int) -> int | None:
        """Bytes of a complete checkpoint."""
        try:
            return verify(self._final(step), contents=False).size
        except (CheckpointError, OSError):
            return None

    def _refuse_link(self) -> None:
        if self.folder.is_symlink():
            raise CheckpointError(f"{self.folder}: a symbolic link; checkpoints are written to a real folder")

    def _check_space(self, name: str, needs: int) -> None:
        steps = [] if needs else self.steps()
        needs = needs or (self._size(steps[-1]) or 0 if steps else 0)
        free = shutil.disk_usage(self.folder).free
        if needs > free:
            raise self._full(name, f"it needs about {megabytes(needs)}, {megabytes(free)} are free")

    def _full(self, name: str, why: str) -> OSError:
        text = f"No space left on device for checkpoint {name}: {why}; earlier checkpoints are as they were"
        return OSError(errno.ENOSPC, text, str(self.folder))

    def _commit(self, draft: Path, final: Path) -> None:
        """Gives the finished draft its name. At every instant the old or the new checkpoint is whole and found again."""
        old = self._beside(final.name, "old")
        remove(old)
        try:
            if os.path.lexists(final):
                final.rename(old)
            draft.rename(final)
            sync(self.folder)
        except BaseException:
            if not draft.exists():
                final.rename(draft)
            if os.path.lexists(old):
                old.rename(final)
            raise
        with suppress(OSError):  # the new one is there; `newest` tries again
            remove(old)

    def _rotate(self, written: int, protect: Collection[int]) -> None:
        """Removes complete checkpoints beyond the newest `keep`. One that resists is tried again after the next."""
        free = [step for step in self.steps() if step not in protect]
        for step in free[: -self.keep]:
            if step != written:  # higher numbers of an earlier run may lie there
                final = self._final(step)
                gone = self._beside(final.name, "gone")
                with suppress(OSError):
                    remove(gone)
                    final.rename(gone)  # a kill while its files go leaves nothing that looks like a checkpoint
                    remove(gone)

    def _tidy(self) -> None:
        for left in sorted(self.folder.iterdir()):
            match = _LEFTOVER.fullmatch(left.name)
            if match is None or (match["pid"], match["id"]) == (str(os.getpid()), _PROCESS):
                continue
            final = self.folder / match["final"]
            if match["kind"] == "old" and not os.path.lexists(final):
                with suppress(CheckpointError, OSError):
                    verify(left)
                    left.rename(final)
                    sync(self.folder)
                    continue
            if not _alive(left, match["host"], int(match["pid"])):
                with suppress(OSError):
                    remove(left)


def _to_disk(draft: Path, step: int) -> None:
    """Every file and folder synced; the manifest after what it lists."""
    manifest = make_manifest(draft, step)
    mode = draft.stat().st_mode & 0o666
    for file in list_files(draft)[0].values():
        file.chmod(mode)  # safetensors 0.8 writes 0600 whatever the umask
        sync(file)
    _write_new(draft / MANIFEST, manifest.text())
    sync(draft / MANIFEST)
    for place, _, _ in os.walk(draft, topdown=False):
        sync(Path(place))


def _write_new(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as stream:  # x: neither a file nor a link may be there
        stream.write(text)


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node()) or "host"


def _alive(left: Path, host: str, pid: int) -> bool:
    """Whether the writer of a leftover may still be at it. On this machine its number tells, on another its age."""
    import psutil

    if host == _host() and (pid == os.getpid() or not psutil.pid_exists(pid)):
        return False
    try:
        return time.time() - max(entry.lstat().st_mtime for entry in [left, *left.rglob("*")]) < _STALE
    except OSError:  # it is being worked on
        return True
