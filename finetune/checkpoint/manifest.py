"""MANIFEST.json: name, size and sha256 of every file of a folder; written last, verified before anything is loaded."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.filehash import file_sha256
from finetune.errors import CheckpointError

FORMAT = 1
MANIFEST = "MANIFEST.json"
# Formats that may run code when loaded (torch.save, pickle, torch.distributed.checkpoint). We write none of them.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".distcp", ".metadata")


@dataclass(frozen=True)
class Manifest:
    """What a folder says it holds: files by name (relative, with `/`), each {"size": bytes, "sha256": hex}."""

    step: int
    files: dict[str, dict[str, Any]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry["size"] for entry in self.files.values())

    def text(self) -> str:
        """The one spelling of this manifest; any other in a file is damage."""
        return json.dumps({"format": FORMAT, "step": self.step, "files": self.files}, indent=1) + "\n"


def list_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Files of a folder and below, without the manifest, and one line for each thing that must not be there.

    Links are not followed.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    for place, folders, files in os.walk(folder):  # a link to a folder stands in `folders` and is not entered
        for entry in (Path(place) / name for name in sorted([*folders, *files])):
            name, mode = entry.relative_to(folder).as_posix(), entry.lstat().st_mode
            if stat.S_ISLNK(mode):
                problems.append(f"{name}: a symbolic link")
            elif stat.S_ISREG(mode) and (entry.name.lower().endswith(PICKLES)):
                problems.append(f"{name}: a format that may run code when loaded; checkpoints hold none")
            elif stat.S_ISREG(mode):
                found[name] = entry
            elif not stat.S_ISDIR(mode):
                problems.append(f"{name}: neither a file nor a folder")
    found.pop(MANIFEST, None)
    return found, problems


def make_manifest(folder: Path, step: int) -> Manifest:
    """Of the files that lie there now.

    Raises:
        CheckpointError: links and other things that `verify` would refuse.
    """
    found, problems = list_files(folder)
    if problems:
        raise CheckpointError([f"{folder}: {problem}" for problem in problems])
    return Manifest(
        step,
        {name: {"size": file.stat().st_size, "sha256": file_sha256(file)} for name, file in sorted(found.items())},
    )


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest, well-formed, each name inside the folder.

    Raises:
        CheckpointError: missing, a link, damaged, of another format.
    """
    file = folder / MANIFEST
    if folder.is_symlink() or file.is_symlink():
        raise CheckpointError(f"{folder if folder.is_symlink() else file}: a symbolic link")
    if not file.is_file():
        what = f"{MANIFEST} is missing (never completed)" if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{folder}: {what}")
    try:
        text = file.read_bytes()
        content = json.loads(text)
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise CheckpointError(f"{file}: format {content['format']}, this program reads {FORMAT}")
        manifest = Manifest(content["step"], content["files"])
        right = isinstance(manifest.step, int) and manifest.text().encode() == text and manifest.size >= 0
        escaping = [name for name in manifest.files if Path(name).is_absolute() or {"..", "."} & set(name.split("/"))]
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{file}: damaged") from None
    if not right:
        raise CheckpointError(f"{file}: damaged")
    if escaping:
        raise CheckpointError([f"{file}: {name!r} leaves the folder" for name in escaping])
    return manifest


def verify(folder: Path, contents: bool = True) -> Manifest:
    """Every file of the manifest is there with its size (and, with `contents`, its bytes), and nothing else is.

    Raises:
        CheckpointError: each bad file in a line of its own.
    """
    manifest = read_manifest(folder)
    found, problems = list_files(folder)
    for name, entry in manifest.files.items():
        try:
            if name not in found:
                problems.append(f"{name}: missing")
            elif (size := found[name].stat().st_size) != entry["size"]:
                problems.append(f"{name}: {size} bytes, {entry['size']} were written")
            elif contents and file_sha256(found[name]) != entry.get("sha256"):
                problems.append(f"{name}: damaged (its sha256 is not the one written)")
        except OSError as error:  # a disk that can't read it back
            problems.append(f"{name}: {error.strerror}")
    problems += [f"{name}: not part of this checkpoint" for name in found if name not in manifest.files]
    if problems:
        raise CheckpointError([f"{folder}: {problem}" for problem in sorted(problems)])
    return manifest
