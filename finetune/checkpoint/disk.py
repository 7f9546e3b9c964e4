"""What makes files last: fsync, replacing a file whole, and telling a full disk from other failures."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

# What a full disk looks like where it is no OSError: safetensors (Rust), and torch.save, whose C++ writer finds fewer
# bytes written than it meant to ("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598").
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")


def disk_full(error: BaseException) -> bool:
    """Whether a failure, or one that it was raised in the wake of, comes from a full disk or quota."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in text for words in FULL_TEXTS) or ("inline_container" in text and "unexpected pos" in text):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def sync(path: Path) -> None:
    """A file's bytes, or the names in a folder, are on the disk when this returns."""
    if os.name == "nt" and path.is_dir():
        return  # Windows can't open a folder, and orders its names itself
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network file systems can't sync a folder
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """A folder, a file, or a symbolic link (itself, never what it points to); nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_file(file: Path, text: str) -> None:
    """The file has this text, or after a kill at any moment still its old one; a link at its name is replaced."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(file.parent)


def megabytes(size: int) -> str:
    """`12.3 MB`"""
    return f"{size / 1e6:.1f} MB"
