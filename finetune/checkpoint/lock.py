"""One living process a run folder: a lock that the system frees when its holder dies, however it dies."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

from finetune.errors import RecipeError


class RunLock:
    """Holds `<parent>/.<name>.lock` from enter to exit. The file lies beside the run's folder, which may be emptied.

    The file stays there afterwards: removing it would let two processes lock two files of one name.

    Args:
        folder: the run's; it need not exist.
        say: told in one line when this system has no such locks; the run goes on without.

    Raises:
        RecipeError: on entering, when another living process holds it, with its number and machine.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self.folder = folder.resolve()
        self.file = self.folder.with_name(f".{self.folder.name}.lock")
        self._say = say
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        try:
            import fcntl
        except ImportError:
            self._say(f"no file locks on {platform.system()}: nothing keeps a second run out of {self.folder}")
            return self
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            why = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise RecipeError(f"output_dir: its lock {self.file}: {why}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise RecipeError(
                f"output_dir: {self.folder} is in use by {holder}; wait for it, or give another with --set output_dir=..."
            ) from None
        except OSError as error:  # some network file systems
            os.close(descriptor)
            self._say(f"{self.file}: {error.strerror}: nothing keeps a second run out of {self.folder}")
            return self
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        self._descriptor = descriptor
        # A forked child shares the lock, and would hold on to it after this process was killed.
        os.register_at_fork(after_in_child=self._let_go)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, LookupError, TypeError):  # it has the lock and has not written yet
        return "another process"
