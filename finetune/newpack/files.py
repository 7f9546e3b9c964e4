"""The files of a new pack: tried in a temporary folder first, then written all or none, never over another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.errors import RecipeError, writing

Content = str | Path  # a text, or a file to be copied byte for byte


def refuse_those_there(paths: Sequence[Path]) -> None:
    """Raises RecipeError that names every path that is taken."""
    problems = [f"{path}: is there already" for path in paths if path.exists() or path.is_symlink()]
    if problems:
        raise RecipeError(problems)


def held_out_in(
    folder: Path, files: Mapping[str, Content], around: Sequence[str], recipes: Sequence[str]
) -> list[tuple[int, int]]:
    """The recipes checked as `finetune check` does, in a temporary folder; samples to train on and held out, of each.

    Args:
        folder: where the files are to lie; errors name their places there.
        around: files of the folder that the recipes need.

    Raises:
        DataError, RecipeError: whatever is wrong.
    """
    from finetune.inputs import load_stages
    from finetune.recipefile import load_recipe

    with tempfile.TemporaryDirectory() as name:
        trial = Path(name).resolve()
        for path, content in [*files.items(), *((path, folder / path) for path in around)]:
            target = trial / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                target.write_text(content, encoding="utf-8")
            else:
                target.symlink_to(content.resolve())
        found = []
        try:
            for recipe in recipes:
                data = load_stages(load_recipe(trial / recipe), keep=False)
                found.append((sum(len(d.train) for d in data), sum(len(d.evaluate) for d in data)))
        except RecipeError as error:
            said = [
                problem.replace(f"{trial}/", f"{folder}/" if str(folder) != "." else "") for problem in error.problems
            ]
            raise type(error)(list(dict.fromkeys(said))) from None
    return found


def write_files(folder: Path, files: Mapping[str, Content]) -> None:
    """Every file, or, when one can't be written, none; folders that were made for them go, too.

    Raises:
        RecipeError: a place that can't be written, or where a file has come to lie in the meantime.
        OSError: the disk is full.
    """
    made: list[Path] = []
    try:
        for path, content in files.items():
            target = folder / path
            with writing(target):
                _make_folders(target.parent, made)
                with target.open("xb") as file:
                    made.append(target)
                    if isinstance(content, str):
                        file.write(content.encode("utf-8"))
                    else:
                        with content.open("rb") as source:
                            shutil.copyfileobj(source, file)
    except BaseException:
        for place in reversed(made):
            place.rmdir() if place.is_dir() else place.unlink(missing_ok=True)
        raise


def _make_folders(folder: Path, made: list[Path]) -> None:
    if not folder.is_dir():
        _make_folders(folder.parent, made)
        folder.mkdir()
        made.append(folder)
