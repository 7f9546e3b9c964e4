"""What `prepare` came to, kept under a key that everything it depends on goes into.

A run that finds it reads the held-out samples only; those to train on are made again when somebody asks for them, which
a run does not whose encoded examples are in the cache too. What is kept is JSON: nothing in it can run.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune.data.cache import evict
from finetune.data.contamination import benchmark_files
from finetune.data.convert import SourceFacts
from finetune.data.filehash import known_sha256
from finetune.data.findings import DataFile, Findings
from finetune.data.prepare import Prepared, metrics_of, prepare, template_of
from finetune.data.rows import Sample
from finetune.data.screen import Finding
from finetune.data.source import open_source
from finetune.data.spool import SampleFile
from finetune.errors import DataError
from finetune.recipe_data import DataSection
from finetune.recipe_stages import StageSection

FORMAT = 1
INDEX, HELD_OUT = "index.json", "held_out.jsonl"
LIBRARIES = ("datasets", "jinja2", "numpy", "openpyxl", "pyarrow", "pyyaml")  # that read or render rows
TIMES: dict[str, Any] = {"$datetime": dt.datetime, "$date": dt.date, "$time": dt.time}  # as JSON has them here
PACKAGE = Path(__file__).parent.parent


def prepare_kept(
    section: DataSection, seed: int, stage: str, settings: StageSection | None, folder: Path | None
) -> Prepared:
    """As `prepare`; out of `folder` where that has it, and kept there where it has not.

    Kept is only what JSON can say exactly (and times), and what screening does not refuse. A folder that can't be written to is
    left alone.

    Args:
        folder: None: nothing is kept.
    """
    key = prepared_key(section, seed, stage, settings) if folder else None
    if folder is None or key is None:
        return prepare(section, seed, stage, settings)
    with suppress(OSError, ValueError, LookupError, TypeError):
        found = _read(folder / key, section, seed, stage, settings)
        os.utime(folder / key)  # for `evict`: used now
        return found
    prepared = prepare(section, seed, stage, settings)
    # A file that changed meanwhile is not what the key says.
    if not prepared.refusals and key == prepared_key(section, seed, stage, settings):
        with suppress(OSError, ValueError, TypeError):  # what JSON has no word for raises too
            keep(folder / key, prepared)
            evict(folder, key)
    return prepared


def prepared_key(section: DataSection, seed: int, stage: str, settings: StageSection | None) -> str | None:
    """sha256 over all that `prepare` reads; None where a file is not there, which `prepare` has better words for.

    That is: each file's path, name and content (sources, benchmarks, data template), the data section without `workers`
    and `cache`, seed, stage and its settings, the source text of this package, the versions of Python and LIBRARIES.
    """
    findings = Findings()
    try:
        files = [file for source in (*section.train, *section.eval) for file in open_source(source, findings)]
        read = [file.path for file in files] + benchmark_files(section.screen.benchmarks)
        read += [section.template] if section.template else []
        contents = [known_sha256(path) for path in read]
    except (OSError, DataError):
        return None
    if findings.count:
        return None
    ingredients = {
        "files": [[str(path), content] for path, content in zip(read, contents, strict=True)],
        "names": [[file.label, file.name] for file in files],
        "data": section.model_dump(mode="json", exclude={"workers", "cache"}),
        "rest": [seed, stage, settings and settings.model_dump(mode="json")],
        "code": [[str(path.relative_to(PACKAGE)), known_sha256(path)] for path in sorted(PACKAGE.rglob("*.py"))],
        "versions": [platform.python_version(), *map(_version, LIBRARIES)],
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def keep(place: Path, prepared: Prepared) -> None:
    """The folder, whole or not there; not there where some value of a held-out row is none of JSON's."""
    lines = []
    for sample in prepared.evaluate:
        line = json.dumps(_plain(sample), default=_told)
        if _sample(line) != sample:
            return
        lines.append(line)
    content = "".join(f"{line}\n" for line in lines).encode()
    index = {
        "format": FORMAT, "train": len(prepared.train), "held_out": hashlib.sha256(content).hexdigest(),
        "sources": [
            {
                "files": [[str(file.path), file.label, file.name] for file in source.files], "rows": source.rows,
                "blank": source.blank, "dropped": source.dropped, "samples": source.samples, "format": source.format,
            }
            for source in prepared.sources
        ],
        "dropped": prepared.dropped, "findings": [astuple(finding) for finding in prepared.findings],
        "counts": prepared.counts, "notes": prepared.notes,
    }  # fmt: skip
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        (draft / HELD_OUT).write_bytes(content)
        (draft / INDEX).write_text(json.dumps(index), encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp lets nobody else read
        shutil.rmtree(place, ignore_errors=True)  # damaged: it could not be read
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _read(place: Path, section: DataSection, seed: int, stage: str, settings: StageSection | None) -> Prepared:
    """What lies there.

    Raises:
        OSError, ValueError, LookupError, TypeError: nothing, or nothing whole.
    """
    index: dict[str, Any] = json.loads((place / INDEX).read_text(encoding="utf-8"))
    content = (place / HELD_OUT).read_bytes()
    if index["format"] != FORMAT or index["held_out"] != hashlib.sha256(content).hexdigest():
        raise ValueError(place)
    template = template_of(section, stage)
    return Prepared(
        template,
        metrics_of(template),
        SampleFile.later(index["train"], lambda: prepare(section, seed, stage, settings).train),
        SampleFile.of(map(_sample, content.decode().splitlines())),
        _sources(section, index["sources"]),
        [(where, why) for where, why in index["dropped"]],
        [Finding(*values) for values in index["findings"]],
        dict(index["counts"]),
        list(index["notes"]),
        [],
    )


def _sources(section: DataSection, told: Sequence[dict[str, Any]]) -> list[SourceFacts]:
    return [
        SourceFacts(
            section=source,
            files=tuple(DataFile(Path(path), label, name) for path, label, name in its["files"]),
            **{key: its[key] for key in ("rows", "blank", "dropped", "samples", "format")},
        )
        for source, its in zip((*section.train, *section.eval), told, strict=True)
    ]


def _plain(sample: Sample) -> list[Any]:
    return [
        sample.record, sample.messages, sample.where, sample.tools, sample.task, sample.rejected, sample.marks,
    ]  # fmt: skip


def _sample(line: str) -> Sample:
    record, messages, where, tools, task, rejected, marks = json.loads(line, object_hook=_value)
    return Sample(record, tuple(messages), where, tuple(tools), task, tuple(rejected), tuple(marks))


def _told(value: Any) -> Any:
    """A time as JSON; None for anything else, which then is not what it was."""
    kind = f"${type(value).__name__}"
    return {kind: value.isoformat()} if kind in TIMES else None


def _value(found: dict[str, Any]) -> Any:
    """What `_told` said."""
    kind = next(iter(found)) if len(found) == 1 else ""
    return TIMES[kind].fromisoformat(found[kind]) if kind in TIMES else found
