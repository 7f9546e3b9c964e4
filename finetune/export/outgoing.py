"""A bundle made ready to leave this machine: verified, without local paths, without held-out rows where all may read."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import RecipeError
from finetune.evaluate.release import REPORTS
from finetune.export.sbom import NAME as SBOM
from finetune.export.sbom import update_files

MANIFEST = "MANIFEST.json"
HELD_OUT = ("golden.jsonl", "golden.json")  # rows of the data, for `finetune verify`
TEXT = (".json", ".jsonl", ".yaml", ".yml", ".md", ".sh", ".txt", ".env", ".toml", "")
TEXT_BYTES = 4 << 20
PATH_KEYS = {
    "path", "hub", "output_dir", "name_or_path", "base_model_name_or_path", "tokenizer_name_or_path", "template",
    "adapter_name_or_path", "benchmarks", "converter", "adapters", "previous", "include_path", "python",
}  # fmt: skip


@dataclass(frozen=True)
class Outgoing:
    """A folder to upload as it is.

    Attributes:
        folder: links to the bundle's files, and changed copies of a few; gone when the upload is done.
        files: their names.
        notes: what is not as in the bundle, and what was found, one line each.
    """

    folder: Path
    files: list[str]
    notes: list[str]


@contextmanager
def outgoing(bundle: Path, public: bool) -> Iterator[Outgoing]:
    """The bundle as it may be uploaded; its own files are not touched.

    Paths of this machine (of base, data and run) become bare names. In a public place the golden samples are left out, and
    reports that show questions and answers.
    MANIFEST.json and sbom.cdx.json are those of what is uploaded.

    Raises:
        RecipeError: a file that is missing, changed, unknown to the manifest, or a link: all of them.
    """
    manifest = verified(bundle)
    with tempfile.TemporaryDirectory(prefix="finetune-upload-") as name:
        folder = Path(name)
        hashes = dict(manifest["files"])
        notes: list[str] = []
        if public:
            left_out = [name for name in hashes if name in HELD_OUT or name.endswith(REPORTS)]
            hashes = {name: its for name, its in hashes.items() if name not in left_out}
            notes += [f"left out of a public place: {name}, which holds held-out rows" for name in left_out]
        replaced = _local_paths(bundle, manifest)
        changed = []
        for file in hashes:
            text = _without(bundle / file, replaced)
            place = folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            if text is None or file == SBOM:
                place.symlink_to((bundle / file).resolve())
            else:
                place.write_text(text, encoding="utf-8")
                hashes[file] = _sha256(place)
                changed.append(file)
        if SBOM in hashes:
            _copy_sbom(bundle, folder, hashes)
        content = json.loads(_substitute(json.dumps(manifest, ensure_ascii=False), replaced)) | {"files": hashes}
        (folder / MANIFEST).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if changed:
            notes.append(f"paths of this machine made bare names in {', '.join(changed)}")
        notes += _still_local(folder)
        yield Outgoing(folder, sorted([*hashes, MANIFEST]), notes)


def verified(bundle: Path) -> dict[str, Any]:
    """The manifest of a bundle whose files are exactly those that it names.

    Raises:
        RecipeError: every file that is not.
    """
    file = bundle / MANIFEST
    if not file.is_file():
        raise RecipeError(f"{bundle}: not a bundle: no {MANIFEST} in it")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        hashes = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{file}: not a bundle's manifest: {error}") from None
    entries = sorted(bundle.rglob("*"))
    problems = [f"{entry}: is a link; put the file itself there" for entry in entries if entry.is_symlink()]
    found = {entry.relative_to(bundle).as_posix(): entry for entry in entries
             if entry.is_file() and not entry.is_symlink()}  # fmt: skip
    problems += [f"{found[name]}: not named by {MANIFEST}; take it out" for name in found.keys() - {*hashes, MANIFEST}]
    for name, digest in hashes.items():
        if name not in found:
            problems += [] if (bundle / name).is_symlink() else [f"{bundle / name}: is missing"]
        elif _sha256(found[name]) != digest:
            problems.append(f"{found[name]}: changed since the export (sha256 is not that of {MANIFEST}); export again")
    if problems:
        raise RecipeError(sorted(problems))
    return manifest


def _sha256(file: Path) -> str:
    from finetune.data.filehash import file_sha256

    return file_sha256(file)


def _local_paths(bundle: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Absolute paths that recipe, manifest and adapter name, the longest first, each with the bare name it becomes."""
    found = set(_under_path_keys(manifest))
    for name in ("recipe.yaml", "adapter/adapter_config.json"):
        file = bundle / name
        found |= set(_under_path_keys(yaml.safe_load(file.read_text(encoding="utf-8")))) if file.is_file() else set()
    absolute = [text for text in found if re.match(r"(/|[A-Za-z]:[\\/]).*\w", text)]
    bare = {text: re.split(r"[\\/]", text.rstrip("\\/"))[-1] for text in absolute}
    return dict(sorted(bare.items(), key=lambda item: -len(item[0])))


def _under_path_keys(value: Any, key: str = "") -> Iterator[str]:
    """Texts at keys that hold paths; others (a prompt `/no_think`) may begin with a slash as well."""
    if isinstance(value, str):
        if key in PATH_KEYS:
            yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():  # of further adapters the keys are their names
            yield from _under_path_keys(item, key if key == "adapters" else name)
    elif isinstance(value, list):
        for item in value:
            yield from _under_path_keys(item, key)


def _text(file: Path) -> str | None:
    if file.suffix not in TEXT or file.stat().st_size > TEXT_BYTES:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _without(file: Path, replaced: Mapping[str, str]) -> str | None:
    """The file's text without local paths; None when there are none in it."""
    text = _text(file)
    changed = None if text is None else _substitute(text, replaced)
    return None if changed == text else changed


def _substitute(text: str, replaced: Mapping[str, str]) -> str:
    for path, name in replaced.items():
        plain = name.replace("\\", r"\\")  # nothing in it is a group of the pattern
        text = re.sub(rf"(?<![\w./\\-]){re.escape(path)}(?!\w)", plain, text)
    return text


def _copy_sbom(bundle: Path, folder: Path, hashes: dict[str, str]) -> None:
    place = folder / SBOM
    place.unlink()
    place.write_bytes((bundle / SBOM).read_bytes())
    update_files(place, hashes)
    hashes[SBOM] = _sha256(place)


def _still_local(folder: Path) -> list[str]:
    """Files that name this user's home: perhaps meant (a container's), so it is only said."""
    home = str(Path.home())
    if len(Path(home).parts) < 2:
        return []
    pattern = re.compile(rf"(?<![\w./-]){re.escape(home)}/")
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [
        f"look before it is seen: {file.relative_to(folder).as_posix()} names a path under {home}"
        for file in files
        if pattern.search(_text(file) or "")
    ]
