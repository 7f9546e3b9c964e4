"""The recipes and data templates that come with the package, wherever it is installed, and how they are named:
`pack:meteorology/metar_decode`."""

from __future__ import annotations

import os
from pathlib import Path

from finetune.errors import RecipeError, did_you_mean

PREFIX = "pack:"


def shipped_folder() -> Path:
    """The folder that has recipes/, data_templates/ and constraints.txt: finetune/packs/ of an installed wheel
    (scripts/build_packs.py puts them there), else the checkout."""
    package = Path(__file__).resolve().parent
    return package / "packs" if (package / "packs").is_dir() else package.parent


def shipped_recipes() -> dict[str, Path]:
    """Every shipped recipe's file by its name, `meteorology/metar_decode`; parents of others, as `smollm2_cpu`, too."""
    folder = shipped_folder() / "recipes"
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}


def recipe_file(name: str) -> Path:
    """The file that a recipe's name means: a shipped one's for `pack:NAME`, else the path itself.

    Raises:
        RecipeError: no shipped recipe has that name.
    """
    if not name.startswith(PREFIX):
        return Path(name)
    known = shipped_recipes()
    wanted = name.removeprefix(PREFIX).removesuffix(".yaml")
    if wanted not in known:
        raise RecipeError(
            f"{name}: no shipped recipe has that name (`finetune new recipe` lists them){did_you_mean(wanted, known)}"
        )
    return known[wanted]


def data_file(folder: Path, path: str) -> Path:
    """A path of a recipe made absolute: `pack:mining/gas_alarm.yaml` lies among the shipped data templates, else from
    the recipe's folder."""
    if path.startswith(PREFIX):
        return (shipped_folder() / "data_templates" / path.removeprefix(PREFIX)).resolve()
    return (folder / path).resolve()


def name_from(folder: Path, file: Path) -> str:
    """What a recipe in `folder` calls a recipe or a file of data: `pack:NAME` where it came with an installed wheel, whose
    place is another after an upgrade; else its path from there."""
    place, packs = file.resolve(), shipped_folder()
    if packs.name == "packs":
        if place.is_relative_to(recipes := packs / "recipes"):
            return PREFIX + place.relative_to(recipes).with_suffix("").as_posix()
        if place.is_relative_to(data := packs / "data_templates"):
            return PREFIX + place.relative_to(data).as_posix()
    return os.path.relpath(place, folder)
