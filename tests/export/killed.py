"""A program: merges again and again, each time killed (SIGKILL) one operation later than before.

    python -m tests.export.killed BASE ADAPTER FOLDER

FOLDER/<point>/ is what was left by the process killed before its operation number <point>: every open, write of a block,
rename and unlink counts. Prints a JSON list with what each was killed at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from finetune.export import shards
from finetune.export.merge import merge

OPERATIONS = ("open", "os.rename", "os.remove", "os.truncate")


def arm(point: int, report: int) -> None:
    """The process dies before its operation number `point`, after telling `report` (a pipe) which one that is."""
    count = 0
    lock = threading.Lock()

    def operation(name: str) -> None:
        nonlocal count
        with lock:
            count += 1
            if count == point:
                os.write(report, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in OPERATIONS and (event != "open" or arguments[1] != "r"):
            operation(f"{event} {Path(str(arguments[0])).name}")

    plain = shards.write_at

    def write_at(*arguments: object) -> int:
        operation("write")
        return plain(*arguments)

    shards.write_at = write_at
    sys.addaudithook(hook)


def main(base: Path, adapter: Path, root: Path) -> None:
    killed_at: list[str] = []
    while True:
        folder = root / str(len(killed_at) + 1)
        folder.mkdir(parents=True)
        told, report = os.pipe()
        child = os.fork()
        if child == 0:
            arm(len(killed_at) + 1, report)
            merge(base, adapter, folder, None, "100KB", threads=1)
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
    main(*(Path(argument) for argument in sys.argv[1:]))
