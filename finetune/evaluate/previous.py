"""The release before: its merged model, asked the same questions as base and tuned model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.device import Placement

KEY = "evaluate.previous"


@dataclass(frozen=True)
class Previous:
    """What is known of it without loading it.

    Attributes:
        folder: its bundle. name: of its recipe. created: when its bundle was written.
        recipe: as it was trained by; empty where the bundle does not say.
    """

    folder: Path
    name: str
    created: str
    recipe: dict[str, Any]


def find_previous(folder: Path) -> Previous:
    """The release in `folder`: a bundle, or a run's folder that has one.

    Raises:
        RecipeError: there is no bundle, or one without a merged language model.
    """
    from finetune.yamlfile import read_yaml

    bundle = folder if (folder / "MANIFEST.json").is_file() else folder / "bundle"
    file = bundle / "MANIFEST.json"
    if not file.is_file():
        raise RecipeError(
            f"{KEY}: {folder}: neither a bundle (MANIFEST.json) nor a run with one (bundle/MANIFEST.json)"
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        name, created = str(manifest["name"]), str(manifest.get("created", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{KEY}: {file}: not a bundle's manifest: {error}") from None
    if not (bundle / "config.json").is_file():
        raise RecipeError(
            f"{KEY}: {bundle}: there is no merged model in it (config.json); such a release is not compared"
        )
    if manifest.get("rewards"):
        raise RecipeError(f"{KEY}: {bundle}: a reward model, which answers nothing")
    recipe = read_yaml(bundle / "recipe.yaml")[0] if (bundle / "recipe.yaml").is_file() else {}
    return Previous(bundle, name, created, recipe)


def held_out_notes(previous: Previous, seed: int, split: dict[str, Any] | None) -> list[str]:
    """What makes the comparison unsure: rows held out now that the previous release may have been trained on."""
    data = previous.recipe.get("data") or {}
    if split is None or not data:
        return []
    before = {key: value for key, value in (data.get("split") or {}).items() if value is not None}
    if (previous.recipe.get("seed"), before) == (seed, split):
        return []
    return [
        f"{KEY}: {previous.name} was trained with another `seed` or `data.split`: it may have seen rows that are held out "
        "here, and look better than it is"
    ]


def load_previous(previous: Previous, placement: Placement, trust_remote_code: bool) -> tuple[Any, Any]:
    """Its merged model in the run's dtype on the device, ready to answer, and its tokenizer.

    Raises:
        RecipeError: it can't be loaded.
    """
    from finetune.model.load import load_base
    from finetune.recipe import ModelSection

    section = ModelSection(name_or_path=str(previous.folder), trust_remote_code=trust_remote_code)
    try:
        base = load_base(section, placement, previous.folder)
    except RecipeError as error:
        raise RecipeError([problem.replace("model.name_or_path", KEY) for problem in error.problems]) from None
    return base.model.to(placement.accelerator.device).eval(), base.tokenizer
