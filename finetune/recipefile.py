"""From YAML to a Recipe: one file, its parents, `--set` overrides; every mistake with file, line and key, all at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from finetune.errors import RecipeError, did_you_mean, plainly
from finetune.origin import SET, Origin
from finetune.recipe import Recipe, Section
from finetune.recipe_export import ExportSection
from finetune.recipe_peft import PEFT_SECTIONS, section_problems
from finetune.recipechain import chain_problems, mixture_problems, split_mixture, split_stages
from finetune.recipelayers import apply_overrides, with_parents
from finetune.recipepaths import folder_of, missing_files, near_file, resolve_paths
from finetune.tokenlist import read_words


@dataclass(frozen=True)
class Given:
    """What was said for one run: its keys as they are checked (paths absolute), and where each was said."""

    data: dict[str, Any]
    origin: Origin


@dataclass(frozen=True)
class Loaded:
    """A recipe and what it was made of.

    Attributes:
        whole: the file on top of its parents, with `--set`. runs: what each stage or part of it came to; one where the
            recipe is of one run.
    """

    recipe: Recipe
    whole: Given
    runs: tuple[Given, ...]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` on top of its parents, with `--set` overrides on top of all.

    Raises:
        RecipeError: every problem found, each with file, line and key.
    """
    return load_traced(path, overrides).recipe


def load_traced(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """`load_recipe`, with where each of its values comes from."""
    data, origin = with_parents(path)
    problems = apply_overrides(data, origin, overrides)
    whole = Given(data, origin)
    if "mixture" in data:
        return _mixture(path, whole, overrides, problems)
    if "stages" not in data:
        recipe = _recipe(path, data, origin, problems)
        if "weight" in data or "loss_weight" in data:
            key = "weight" if "weight" in data else "loss_weight"
            raise RecipeError(f"{origin.get((key,), SET)}: {key}: is for the parts of a `mixture`")
        return Loaded(recipe, whole, (whole,))
    entries, problems = split_stages(data, origin, overrides, problems)
    recipes = _recipes(path, entries, problems, lambda recipes: chain_problems(recipes, origin))
    own = {"name": data["name"], "output_dir": recipes[-1].output_dir.parents[1], "continue_from": None}
    chain = recipes[-1].model_copy(update=own | {"stages": tuple(recipes)})
    return Loaded(chain, whole, tuple(Given(*entry) for entry in entries))


def _mixture(path: Path, whole: Given, overrides: Sequence[str], problems: list[str]) -> Loaded:
    """The recipe of a run of several stages at once."""
    entries, found = split_mixture(whole.data, whole.origin, overrides)
    recipes = _recipes(path, entries, problems + found, lambda recipes: mixture_problems(recipes, whole.origin))
    own = {"name": whole.data["name"], "weight": None, "loss_weight": 1.0}
    mixture = recipes[0].model_copy(update=own | {"mixture": tuple(recipes)})
    return Loaded(mixture, whole, tuple(Given(*entry) for entry in entries))


def _recipes(
    path: Path,
    entries: Sequence[tuple[dict[str, Any], Origin]],
    problems: Sequence[str],
    together: Callable[[list[Recipe]], list[str]],
) -> list[Recipe]:
    """The recipes of stages or parts; raises RecipeError with every problem of all, or of them `together`."""
    recipes, found = [], list(problems)
    for entry, origin in entries:
        try:
            recipes.append(_recipe(path, entry, origin, []))
        except RecipeError as error:
            found += [problem for problem in error.problems if problem not in found]
    found = found or together(recipes)
    if found:
        raise RecipeError(found)
    return recipes


def _recipe(path: Path, data: dict[str, Any], origin: Origin, problems: list[str]) -> Recipe:
    """The recipe of one run; raises RecipeError with what was found before, too."""
    problems = problems + _peft_problems(data, origin) + _listed_tokens(data, origin)
    resolve_paths(data, origin)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(problems + [_problem(path, item, origin) for item in error.errors()]) from None
    problems = problems or [_of_key(recipe.peft_type, *found, origin) for found in recipe.adapter.conflicts()]
    problems += missing_files(recipe, origin)
    if problems:
        raise RecipeError(problems)
    return recipe


class _Export(Section):
    export: ExportSection = ExportSection()  # type: ignore[call-arg]


def export_section(settings: dict[str, Any], overrides: Sequence[str]) -> ExportSection:
    """The `export` section of a run's recipe with `--set export.KEY=VALUE` on top.

    Raises:
        RecipeError: every problem found, each with its key.
    """
    data: dict[str, Any] = {"export": dict(settings)}
    origin: Origin = {}
    problems = [
        f"--set {override}: only keys of export: can be set here; the rest is as it was trained"
        for override in overrides
        if not override.startswith("export.")
    ]
    problems += apply_overrides(data, origin, overrides)
    resolve_paths(data, origin)
    try:
        section = _Export.model_validate({"export": data["export"]}).export
    except ValidationError as error:
        raise RecipeError(problems + [_problem(Path("--set"), item, origin) for item in error.errors()]) from None
    if problems:
        raise RecipeError(problems)
    return section


def _peft_problems(data: dict[str, Any], origin: Origin) -> list[str]:
    """An adapter's section passes on what peft knows; a key or a value that peft's own dataclass lacks is a mistake."""
    return [
        _of_key(kind, path, text, origin)
        for kind, section in PEFT_SECTIONS.items()
        if isinstance(given := data.get(kind), dict)
        for path, text in section_problems(section, given)
    ]


def _of_key(kind: str, path: tuple[str, ...], text: str, origin: Origin) -> str:
    """`file:line: section.key: what is wrong`, the line of the innermost key that has one."""
    location = (kind, *path)
    where = next((origin[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origin), "--set")
    return f"{where}: {'.'.join(location)}: {text}"


def _listed_tokens(data: dict[str, Any], origin: Origin) -> list[str]:
    """`model.add_tokens` as a list, read out of the file where it names one: a run's recipe says them all."""
    model = data.get("model")
    given = model.get("add_tokens") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(given, str):
        return []
    where = origin.get(("model", "add_tokens"), "--set")
    file = folder_of(where) / given
    if not file.is_file():
        near, model["add_tokens"] = near_file(file), []
        return [f"{where}: model.add_tokens: no such file: {file.resolve()}{near}; tokens are written as a list"]
    model["add_tokens"], problems = read_words(file)
    return problems


def _problem(path: Path, item: Any, origin: Origin) -> str:
    """One pydantic error as `file:line: key: what; got value`."""
    location = tuple(str(part) for part in item["loc"] if part not in ("str", "int", "float", "tuple[str, ...]"))
    where = next((origin[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origin), None)
    within = (
        place for key, place in origin.items() if location and key[: len(location)] == location
    )  # --set trian.x=1
    where = where or next(within, str(path))
    key = ".".join(location)
    lead = f"{where}: {key}: " if key else f"{where}: "
    if item["type"] == "extra_forbidden":
        return f"{lead}unknown key{_near_key(location)}"
    if item["type"] == "missing":
        return f"{lead}is missing"
    given = item["input"]
    return f"{lead}{plainly(item)}" + ("" if isinstance(given, dict | BaseModel) else f"; got {given!r}")


def _near_key(location: tuple[str, ...]) -> str:
    """The nearest key of this section, or the section this key belongs to."""
    word = location[-1]
    for section, field in Recipe.model_fields.items():
        inner = section_class(field.annotation)
        if inner and word in inner.model_fields and location[:-1] != (section,):
            return f"; it belongs under {section}: ({section}.{word})"
        if len(location) > 1 and word == section:
            return f"; it belongs at the top level, not under {location[-2]}:"
    model: type[BaseModel] | None = Recipe
    for part in location[:-1]:
        inside = model.model_fields.get(part) if model else None
        model = section_class(inside.annotation) if inside else None
    return did_you_mean(word, model.model_fields if model else ())


def section_class(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of the recipe holds, if it holds one."""
    candidates = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
