"""A recipe that trains on a version of feedback data beside what another recipe trains on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.data.formats import ROWS_OF_STAGE
from finetune.data.mix import name_of
from finetune.errors import RecipeError
from finetune.feedback.rows import LABELLED, PREFERENCE, SFT
from finetune.feedback.version import Version
from finetune.recipe import Recipe
from finetune.recipe_data import SourceSection
from finetune.recipefile import load_recipe
from finetune.shipped import name_from

# The file of a version, and its format, for the rows that a stage trains on.
FILE_OF_ROWS = {
    "conversation": (SFT, "messages"), "preference": (PREFERENCE, "preference"), "labelled": (LABELLED, "labelled"),
}  # fmt: skip

_VERSION = re.compile(r"_v[0-9]{4,}$")  # at the end of the name of a recipe made here


def extending_recipe(
    recipe: Path,
    version: Version,
    target: Path,
    repeat: int = 1,
    share: float | None = None,
    licence: str | None = None,
) -> str:
    """The YAML text of a recipe at `target` that extends `recipe` by a further source, the version's rows.

    Lists are replaced where a recipe extends another, so all sources are said again, with paths from the target's folder.
    The new rows are never held out (`hold_out: false`): parent and child are scored on the same rows. Nothing is written.

    Args:
        repeat: how many times each new row is used; with `share`, at most.
        share: of the new rows in what is drawn, above 0 and below 1; the old sources keep their ratio. Needs weights of
            several old sources.
        licence: of the new rows, where the recipe asks for one.

    Raises:
        RecipeError, DataError: the recipe is wrong, holds several stages, has this version already, or trains on rows
            that the version has none of; a share that can't be.
    """
    loaded = load_recipe(recipe)
    if loaded.stages or loaded.mixture:
        parts = ", ".join(part.name for part in loaded.stages or loaded.mixture)
        raise RecipeError(f"{recipe}: holds several stages ({parts}); add the source to the one it is for by hand")
    file, format = _rows_for(loaded, recipe, version)
    new: dict[str, Any] = {"path": str((version.folder / file).resolve()), "format": format}
    if any(source.path and Path(source.path).resolve() == Path(new["path"]) for source in loaded.data.train):
        raise RecipeError(f"{recipe}: data.train: has {version.name} already")
    if repeat < 1:
        raise RecipeError(f"repeat: a whole number from 1 on is needed, got {repeat}")
    new |= {"repeat": repeat} if repeat > 1 else {}
    new |= {"hold_out": False} if loaded.data.split else {}
    new |= {"licence": licence} if licence else {}
    new["provenance"] = f"feedback {version.name}"
    weights = _weights(recipe, loaded.data.train, share)
    old = [source.model_dump(exclude_defaults=True, mode="json") for source in loaded.data.train]
    sources = [
        source | ({"weight": w} if w is not None else {}) for source, w in zip([*old, new], weights, strict=True)
    ]
    folder = target.resolve().parent
    name = f"{_VERSION.sub('', loaded.name)}_{version.name}"
    values = {
        "extends": name_from(folder, recipe),
        "name": name,
        "output_dir": str(loaded.output_dir.parent / name),
        "data": {"train": [_from(folder, source) for source in sources]},
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _rows_for(recipe: Recipe, file: Path, version: Version) -> tuple[str, str]:
    rows = ROWS_OF_STAGE[recipe.stage]
    if rows not in FILE_OF_ROWS:
        raise RecipeError(f"{file}: stage {recipe.stage} trains on {rows}; feedback gives {', '.join(FILE_OF_ROWS)}")
    name, format = FILE_OF_ROWS[rows]
    if name not in version.files:
        raise RecipeError(f"{version.folder}: has no {name}, which stage {recipe.stage} needs")
    return name, format


def _weights(recipe: Path, old: Sequence[SourceSection], share: float | None) -> list[float | None]:
    """Weights of the old sources and of the new one, as shares of all; None for all where there are none."""
    given = [source.weight for source in old]
    if share is None:
        if any(weight is not None for weight in given):
            raise RecipeError(f"{recipe}: data.train: its sources have weights; say the share of the new rows")
        return [None] * (len(old) + 1)
    if not 0 < share < 1:
        raise RecipeError(f"share: a number above 0 and below 1 is needed, got {share:g}")
    if len(old) == 1:
        given = [1.0]
    without = [name_of(source) for source, weight in zip(old, given, strict=True) if weight is None]
    if without:
        raise RecipeError(f"{recipe}: data.train: without a weight no share can be had: {', '.join(without)}")
    total = sum(weight for weight in given if weight is not None)
    return [*(round(weight / total * (1 - share), 6) for weight in given if weight is not None), share]


def _from(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    """The source with paths from this folder; a hub's name stays as it is."""
    if "path" in source:
        return source | {"path": name_from(folder, Path(source["path"]))}
    name, at, revision = source["hub"].rpartition("@")
    place = name if at else source["hub"]
    if not Path(place).is_absolute():
        return source
    near = os.path.relpath(place, folder)
    return source | {"hub": f"{near if near.startswith('.') else f'./{near}'}{at}{revision}"}
