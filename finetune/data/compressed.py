"""Files of rows that are kept compressed: gzip and Zstandard, known by their first bytes, read as if they were not."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PACKED = {b"\x1f\x8b\x08": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}  # first bytes, which no text has


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file; of a gzip or Zstandard file, known by its first bytes, those inside.

    Raises:
        OSError: it can't be opened or unpacked, at whatever byte it shows; zstandard is not installed.
    """
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        packed = next((ending for mark, ending in PACKED.items() if head.startswith(mark)), None)
        try:
            yield _unpacked(file, packed) if packed else file
        except (EOFError, zlib.error) as error:
            raise OSError(f"the {packed} file is damaged or cut off: {error}") from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "zstandard":
                raise
            raise OSError(f"the {packed} file is damaged or cut off: {error}") from None


def _unpacked(file: BinaryIO, packed: str) -> BinaryIO:
    if packed == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    try:
        import zstandard
    except ImportError:
        raise OSError("reading .zst needs zstandard; pip install 'finetune[zstd]'") from None
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))


def plain_suffix(path: Path) -> str:
    """The ending that names the kind, in small letters: `.jsonl` of `a.jsonl` and of `a.JSONL.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED.values() else suffix
