"""sha256 of files, each read once a process as long as nobody writes to it."""

from __future__ import annotations

import hashlib
import time
from functools import lru_cache
from pathlib import Path

SETTLED = 2.0  # seconds since a file's last change after which its time stamp is taken to tell the next change


def file_sha256(file: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(file: Path) -> str:
    """The same, out of memory where inode, size and time of change are those it was last read with.

    A file that changed a moment ago is read anew: a second change within one tick of the clock would not show.
    """
    facts = file.stat()
    if time.time() - facts.st_mtime < SETTLED:
        return file_sha256(file)
    return _of_version(file, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _of_version(file: Path, device: int, inode: int, size: int, changed: int) -> str:
    return file_sha256(file)
