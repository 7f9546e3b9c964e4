"""A program: writes a checkpoint again and again, each time killed (SIGKILL) one operation later than before.

    python -m tests.checkpoint.killed FOLDER STEP

FOLDER/<point>/ is what was left by the process killed before its operation number <point>; every open, mkdir, rename,
chmod, unlink, rmdir and fsync counts. Step 50 is there before; prints a JSON list with what each was killed at.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from finetune.checkpoint.store import Store
from tests.checkpoint.made import filled

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir")


def arm(point: int, report: int) -> None:
    """The process dies before its operation number `point`, after telling `report` (a pipe) which one that is."""
    count = 0

    def operation(name: str) -> None:
        nonlocal count
        count += 1
        if count == point:
            os.write(report, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in OPERATIONS:
            operation(f"{event} {Path(str(arguments[0])).name}")

    plain = os.fsync

    def fsync(descriptor: int) -> None:
        operation("fsync")
        plain(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def main(root: Path, step: int) -> None:
    prepared = root / "prepared"
    Store(prepared, keep=1).write(50, {"value": 1}, filled(1))
    killed_at: list[str] = []
    while True:
        folder = root / str(len(killed_at) + 1)
        shutil.copytree(prepared, folder)
        told, report = os.pipe()
        child = os.fork()
        if child == 0:
            arm(len(killed_at) + 1, report)
            Store(folder, keep=1).write(step, {"value": 2}, filled(2))
            os._exit(0)
        os.close(report)
        status = os.waitpid(child, 0)[1]
        name = os.read(told, 1000).decode()
        os.close(told)
        if status == 0:  # fewer operations than that: it came through
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        killed_at.append(name)
    print(json.dumps(killed_at))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
