"""Encoding in several processes, and its result kept under a key that everything it depends on goes into."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.data.chat import Example
from finetune.data.escape import domain_tokens
from finetune.data.filehash import known_sha256
from finetune.data.findings import DataFile
from finetune.data.flat import Columns, StoreWriter, columns
from finetune.data.processes import map_chunks
from finetune.data.store import BrokenStoreError, ExampleStore
from finetune.errors import DataError
from finetune.recipe_data import DataSection

KEEP = 8  # entries of a cache folder, the one in use included
KEEP_BYTES = 100 * 2**30  # of all of them
LIBRARIES = ("tokenizers", "transformers", "jinja2")  # whose versions can change ids

# A chunk (a list of rows or samples) to its examples, and how many rows each thing happened to.
EncodeChunk = Callable[[Any], tuple[list[Example], Mapping[str, int]]]


def encode_cached(
    chunks: Iterable[Any], make_encode: Callable[[], EncodeChunk], key: str, folder: Path, workers: int
) -> tuple[ExampleStore, bool]:
    """The examples of all chunks, in their order: out of the cache, or encoded now and kept there.

    Args:
        chunks: read only when the cache does not have the key; each is picklable. May be a stream; a DataError at
            its end joins those of the chunks.
        make_encode: picklable; called once in each process.
        key: see `cache_key`. The store is `folder / key`.
        workers: processes that encode. With 0 or 1, or a single chunk, it is this process. The result is the same.

    Returns:
        The store, and whether the cache had it. `store.counts` are the summed counts of the chunks.

    Raises:
        DataError: the problems of all chunks, in their order; nothing is left to train on.
        RecipeError: a worker process died.
    """
    place = folder / key
    with suppress(BrokenStoreError):
        store = ExampleStore(place)
        store.verify()
        os.utime(place)  # for `evict`: used now
        return store, True
    if place.exists():  # damaged: it can't be read
        shutil.rmtree(place)
    problems: dict[str, None] = {}  # in order, each once: a mistake in the settings comes from every chunk
    unread: list[str] = []
    counts: Counter[str] = Counter()
    results = map_chunks(_until_error(chunks, unread), partial(_Worker, make_encode), workers)
    with StoreWriter(place) as writer, closing(results):
        for part in results:
            counts.update(part.counts)
            problems.update(dict.fromkeys(part.problems))
            if part.columns is not None and not problems:
                writer.add(part.columns)
        problems.update(dict.fromkeys(unread))
        if problems:
            raise DataError(list(problems))
        if not writer.examples:
            raise DataError(f"data: of {counts['rows']} rows none is left to train on{_reasons(counts)}")
        with suppress(FileExistsError):  # another process was at the same work and came first
            writer.finish(counts)
    return ExampleStore(place), False


def encode_uncached(chunks: Iterable[Any], make_encode: Callable[[], EncodeChunk], workers: int) -> ExampleStore:
    """The same in a temporary folder that goes when the store does.

    Raises:
        DataError, RecipeError: as `encode_cached`.
    """
    folder = Path(tempfile.mkdtemp(prefix="finetune-"))
    try:
        store, _ = encode_cached(chunks, make_encode, "encoded", folder, workers)
    except BaseException:
        shutil.rmtree(folder)
        raise
    weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
    return store


def evict(folder: Path, keep: str, entries: int = KEEP, size: int = KEEP_BYTES) -> tuple[int, int]:
    """Removes what was not used for longest until `entries` stores of `size` bytes in all are left.

    Args:
        keep: the key in use; it stays whatever its size.

    Returns:
        How many were removed, and their bytes.
    """
    stores = [
        place for place in folder.iterdir() if not place.name.startswith(".") and (place / "index.json").is_file()
    ]
    used = {place: place.stat().st_mtime for place in stores}
    newest_first = sorted(stores, key=lambda place: (place.name == keep, used[place]), reverse=True)
    total, removed, freed = 0, 0, 0
    for number, place in enumerate(newest_first):
        own = sum(file.stat().st_size for file in place.iterdir())
        total += own
        if place.name != keep and (number >= entries or total > size):
            shutil.rmtree(place, ignore_errors=True)
            removed, freed = removed + 1, freed + own
    return removed, freed


def _until_error(chunks: Iterable[Any], problems: list[str]) -> Iterator[Any]:
    """The chunks; what their reader complains about at its end goes to `problems`."""
    try:
        yield from chunks
    except DataError as error:
        problems += error.problems


def _reasons(counts: Counter[str]) -> str:
    said = [f"{count} {reason}" for reason, count in sorted(counts.items()) if reason != "rows"]
    return f" ({', '.join(said)})" if said else ""


@dataclass(frozen=True)
class _Part:
    """What a chunk became."""

    columns: Columns | None
    counts: Mapping[str, int]
    problems: tuple[str, ...] = ()


class _Worker:
    """Encodes chunks in this process; what it needs is made at the first one, so that its errors are the chunk's."""

    def __init__(self, make_encode: Callable[[], EncodeChunk]) -> None:
        self._make_encode = make_encode
        self._encode_chunk: EncodeChunk | None = None

    def __call__(self, chunk: Any) -> _Part:
        try:
            if self._encode_chunk is None:
                self._encode_chunk = self._make_encode()
            examples, counts = self._encode_chunk(chunk)
        except DataError as error:
            return _Part(None, {}, tuple(error.problems))
        return _Part(columns(examples), dict(counts))


def cache_key(
    files: Sequence[Path], tokenizer: Any, data: DataSection, template: str | None = None, rest: Sequence[str] = ()
) -> str:
    """sha256 over everything that examples depend on; 64 hexadecimal digits.

    That is: each file's path and content (sources, benchmarks of the screen), the tokenizer (its pipeline and
    vocabulary, special tokens, chat template), the data template's text, the data section without `workers` and
    `cache`, the source text of finetune/data and the versions of LIBRARIES. A chat template that asks for the date
    adds today's.

    Args:
        rest: what else decides: stage, seed, which of train and eval this is.
    """
    ingredients = {
        "files": [[str(file), known_sha256(file)] for file in files],
        "tokenizer": tokenizer_digest(tokenizer),
        "data": data.model_dump(mode="json", exclude={"workers", "cache"}),
        "template": template,
        "rest": list(rest),
        "code": code_digest(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "date": str(date.today()) if "strftime_now" in str(tokenizer.chat_template) else None,
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def files_sha256(files: Sequence[DataFile]) -> str:
    """sha256 of one file; of several, that of their names and hashes in order (as `sha256sum` lists them)."""
    if len(files) == 1:
        return known_sha256(files[0].path)
    listed = "".join(f"{known_sha256(file.path)}  {file.name}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of all of a fast tokenizer that ids depend on; not of its padding and truncation, which calls change."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline = {key: value for key, value in pipeline.items() if key not in ("padding", "truncation")}
    special = {str(key): str(value) for key, value in tokenizer.special_tokens_map.items()}
    control = [str(token) for token in getattr(tokenizer, "chat_control_tokens", None) or ()]
    whole = [
        type(tokenizer).__name__,
        pipeline,
        special,
        control,
        sorted(domain_tokens(tokenizer)),
        tokenizer.chat_template,
    ]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def code_digest(folder: Path = Path(__file__).parent) -> str:
    """sha256 of the Python sources of a folder: names and contents."""
    sources = [[file.name, known_sha256(file)] for file in sorted(folder.glob("*.py"))]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()
