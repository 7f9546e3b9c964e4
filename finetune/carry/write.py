"""The folder that is carried: the files, requirements.txt, the wheels by pip, and the hashes of all of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from finetune.carry.collect import Carried
from finetune.carry.item import Item, item
from finetune.carry.packages import Package
from finetune.errors import RecipeError, writing

OWN = "finetune"  # its wheel is not on an index: it is built


def refuse_full(folder: Path) -> None:
    """Raises RecipeError for a place that has something in it."""
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RecipeError(f"--output: {folder}: is there already, with something in it")


def requirements(packages: Sequence[Package]) -> str:
    """requirements.txt of all but finetune itself."""
    return "".join(f"{package.requirement}\n" for package in packages if package.name != OWN)


def write_folder(folder: Path, carried: Carried, listed: dict[str, object], wheels: bool) -> list[Item]:
    """Writes the folder, all or nothing; the wheels.

    Args:
        listed: what `--json` says; goes into carry.json with the wheels.
        wheels: whether pip is asked for them.

    Raises:
        RecipeError: the place can't be written; pip did not get every wheel.
        OSError: the disk is full; nothing is left.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        trial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for one in carried.items():
            if one.to is not None:
                target = trial / one.to
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(one.path, target)
        (trial / "requirements.txt").write_text(requirements(carried.packages), encoding="utf-8")
        got = _wheels(trial) if wheels else []
        text = json.dumps(listed | {"wheels": [as_json(one) for one in got]}, ensure_ascii=False, indent=1)
        (trial / "carry.json").write_text(text + "\n", encoding="utf-8")
        sums = sorted(file for file in trial.rglob("*") if file.is_file())
        lines = [f"{item(file, None).sha256}  {file.relative_to(trial).as_posix()}\n" for file in sums]
        (trial / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
        trial.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        trial.rename(folder)
    except BaseException:
        shutil.rmtree(trial, ignore_errors=True)
        raise
    return got


def _wheels(trial: Path) -> list[Item]:
    """The wheels of requirements.txt, by pip, from whatever index its own settings name."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--requirement", "requirements.txt", "--dest", "wheels"]
    done = subprocess.run(command, cwd=trial, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise RecipeError(
            [*(f"pip download: {line.removeprefix('ERROR: ')}" for line in said),
             "nothing was written; an index of your own is pip's setting (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL); --no-wheels "
             "leaves the wheels out, and requirements.txt says which they are"]
        )  # fmt: skip
    return [item(file, f"wheels/{file.name}") for file in sorted((trial / "wheels").iterdir())]


def as_json(one: Item) -> dict[str, object]:
    """A file as carry.json lists it."""
    return {"path": one.to or str(one.path), "bytes": one.bytes, "sha256": one.sha256}
