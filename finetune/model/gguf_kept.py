"""A GGUF base de-quantised once: as a plain folder under the file's hash, beside the runs that are trained on it.

transformers 5.23 reads a file's header anew for its tokenizer, its configuration and its tensors, and gguf's table of
tensor names anew for each module: 20 s of a processor's time for SmolLM2-135M, 0.5 s for the folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.data.cache import evict
from finetune.data.filehash import known_sha256
from finetune.model.load import locate
from finetune.recipe import ModelSection

INDEX = "index.json"
KEEP = 2  # folders in a cache, the one in use included: each is as large as the base
LIBRARIES = ("gguf", "tokenizers", "transformers")  # that read the file
CODE = ("gguf_base.py", "gguf_kept.py", "load.py")


def plain_section(section: ModelSection, dtype: Any, cache: Path) -> ModelSection | None:
    """The same base as a plain folder in `cache`, made now where it is not there.

    None where only the GGUF file itself will do: it is on a hub, its tokenizer is from elsewhere, no folder can be written.
    """
    file = _file_of(section)
    if file is None:
        return None
    place = cache / _key(file, dtype)
    if not _whole(place):
        with suppress(OSError):
            _keep(section, dtype, place)
        if not _whole(place):
            return None
    return section.model_copy(update={"name_or_path": str(place.resolve()), "gguf_file": None, "revision": None})


def copy_kept(section: ModelSection, dtype: Any, cache: Path, folder: Path) -> bool:
    """Whether `cache` has the folder, and `folder`, which is new, holds its files now; weights as links where that goes."""
    file = _file_of(section)
    place = cache / _key(file, dtype) if file else None
    if place is None or not _whole(place):
        return False
    folder.mkdir(parents=True)
    for name in _files(place):
        try:
            if not name.endswith(".safetensors"):
                raise OSError
            (folder / name).hardlink_to(place / name)
        except OSError:
            shutil.copyfile(place / name, folder / name)
    return True


def _file_of(section: ModelSection) -> Path | None:
    folder = Path(locate(section))
    return (
        folder / section.gguf_file
        if section.gguf_file and folder.is_dir() and not section.tokenizer_name_or_path
        else None
    )


def _key(file: Path, dtype: Any) -> str:
    """sha256 over all that the folder depends on: the file, the dtype, the libraries and the source text here."""
    here = Path(__file__).parent
    code = [known_sha256(here / name) for name in CODE]
    ingredients = [known_sha256(file), str(dtype), [version(name) for name in LIBRARIES], code]
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()


def _keep(section: ModelSection, dtype: Any, place: Path) -> None:
    """Writes the folder with a list of its files' hashes; whole or not there."""
    from finetune.model.gguf_base import write_plain

    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        write_plain(section, dtype, draft)
        told = {"files": {file.name: known_sha256(file) for file in sorted(draft.iterdir())}}
        (draft / INDEX).write_text(json.dumps(told, indent=1), encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp lets nobody else read
        if place.exists() and not _whole(place):
            shutil.rmtree(place)
        draft.rename(place)
        evict(place.parent, place.name, KEEP)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _files(place: Path) -> dict[str, str]:
    """Names and hashes of the files; empty where the folder is not there."""
    try:
        return dict(json.loads((place / INDEX).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _whole(place: Path) -> bool:
    """Whether every file is what was written."""
    files = _files(place)
    try:
        return bool(files) and all(known_sha256(place / name) == told for name, told in files.items())
    except OSError:
        return False


@contextmanager
def read_once() -> Iterator[None]:
    """Within it gguf's reader, and its table of tensor names, are made once for the same arguments; nothing of it stays."""
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    read = lru_cache(maxsize=1)(reader)
    gguf.GGUFReader = lambda path: read(str(path))
    gguf.get_tensor_name_map = lru_cache(maxsize=1)(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names
