"""What a machine is asked: commands, files, environment, installed distributions. Tests hand in recorded answers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.shipped import shipped_folder


@dataclass(frozen=True)
class Answer:
    """What a command said. `code`: its exit code, negative: the signal that ended it; None: it did not end in time."""

    code: int | None
    out: str = ""
    err: str = ""


@dataclass(frozen=True)
class Machine:
    """This machine.

    Attributes:
        env: the environment as it was when the machine was first looked at.
        arch: of the processor, `x86_64` or `aarch64`. python: its version.
        cwd, home: the folder of the process, the user's own.
    """

    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    arch: str = field(default_factory=platform.machine)
    python: str = field(default_factory=platform.python_version)
    cwd: str = field(default_factory=lambda: str(Path.cwd()))
    home: str = field(default_factory=lambda: str(Path.home()))

    def run(self, command: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Answer | None:
        """A command's answer; None: there is no such program.

        It gets a session of its own, which is killed as a whole when the time is up: CANN's compilers are children of
        the process that uses the NPU, and would keep the pipes open.

        Args:
            timeout: seconds.
            env: variables beside those of this machine.
        """
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**self.env, **(env or {})},
                start_new_session=True,
            )
        except OSError:
            return None
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return Answer(None, out, err)
        except BaseException:  # Ctrl-C: the session of its own did not hear it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return Answer(process.returncode, out, err)

    def read(self, path: str) -> str | None:
        """A small text file; None when it is not there or can't be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def paths(self, pattern: str) -> list[str]:
        """Paths that match an absolute shell pattern, sorted."""
        return sorted(str(path) for path in Path("/").glob(pattern.removeprefix("/")))

    def is_link(self, path: str) -> bool:
        """Whether the path itself is a symbolic link."""
        return Path(path).is_symlink()

    def resolve(self, path: str) -> str:
        """The path without symbolic links."""
        return str(Path(path).resolve())

    def free_bytes(self, path: str) -> int | None:
        """What an ordinary user may still write there, bytes; None when there is no such folder."""
        try:
            status = os.statvfs(path)
        except OSError:
            return None
        return status.f_bavail * status.f_frsize

    def writable(self, path: str) -> bool:
        """Whether this user may write into the folder."""
        return os.access(path, os.W_OK | os.X_OK)

    def cores(self) -> int:
        """Logical cores that this process may run on, by its affinity."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def version(self, distribution: str) -> str | None:
        """The version of an installed distribution by its metadata; None: not installed."""
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def requires(self, distribution: str) -> list[str]:
        """What an installed distribution's metadata requires, `name>=1,<2; marker` each."""
        try:
            return importlib.metadata.requires(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return []

    def requires_python(self, distribution: str) -> str | None:
        """The Pythons that an installed distribution's metadata allows, `>=3.11`; None: it does not say, or is not here."""
        try:
            said = importlib.metadata.metadata(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None
        return (said.get_all("Requires-Python") or [None])[0]

    def tested(self) -> dict[str, str]:
        """The tested set, name to version: the constraints.txt of the checkout or of the wheel."""
        text = self.read(str(shipped_folder() / "constraints.txt")) or ""
        pairs = [line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#")]
        return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pairs}
