"""`stages:` and `mixture:` of a recipe: what each stage of a chain, or part of a mixture, says on top of what all share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import did_you_mean
from finetune.origin import SET, Origin, laid_over, said
from finetune.recipe import IN_MIXTURES, OF_ONE_PART, OF_ONE_STAGE, Recipe
from finetune.recipe_peft import PROMPTED
from finetune.yamlfile import parse_scalar

FOLDER = "stages"  # in the run's folder: one folder for each stage but the last


def split_stages(
    data: dict[str, Any], origin: Origin, overrides: Sequence[str], problems: list[str]
) -> tuple[list[tuple[dict[str, Any], Origin]], list[str]]:
    """The keys of each stage's own recipe, with where each comes from.

    An entry's sections go over those of the whole key by key; `--set` goes over both.

    Returns:
        One (keys, origin) a stage, and the problems with those found here.
    """
    where = origin.get(("stages",), "--set")
    entries = data["stages"]
    problems = list(problems)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        return [], [*problems, f"{where}: stages: a list of stages is needed, each with `stage`, `data` and `train`"]
    if "stage" in data:
        problems.append(f"{origin.get(('stage',), '--set')}: stage: is given by each of `stages`")
    shared = {key: value for key, value in data.items() if key not in ("stages", "stage")}
    found = []
    for index, entry in enumerate(entries):
        at = ("stages", str(index))
        for key in entry:
            if key not in OF_ONE_STAGE:
                place = origin.get((*at, key), where)
                problems.append(f"{place}: stages.{index}.{key}: not a key of a stage{did_you_mean(key, OF_ONE_STAGE)}")
        own = {key: value for key, value in entry.items() if key in OF_ONE_STAGE}
        merged = _over(shared, own)
        _override(merged, overrides, "stages", index)
        name = str(own.get("name", own.get("stage", "sft")))
        merged["name"] = f"{data.get('name')}.{name}"
        merged["output_dir"] = str(Path(str(data.get("output_dir"))) / FOLDER / f"{index + 1}-{name}")
        found.append((merged, _entry_origin(shared, origin, own, at)))
    return found, problems


def chain_problems(recipes: Sequence[Recipe], origin: Origin) -> list[str]:
    """What only the whole chain can tell: what a stage goes on from."""
    problems = []
    for index, recipe in enumerate(recipes):

        def place(key: str, index: int = index) -> str:
            return f"{origin.get(('stages', str(index), key), origin.get(('stages',), '--set'))}: stages.{index}.{key}"

        if recipe.settings.score_names and index + 1 < len(recipes):
            problems.append(
                f"{place('stage')}: {recipe.stage}: a model under a score head writes no text; make it the last"
            )
        if index == 0:
            if recipe.continue_from is not None:
                problems.append(f"{place('continue_from')}: the first stage has no earlier one to continue from")
        elif recipe.continue_from == "merged" and recipes[index - 1].peft_type in PROMPTED:
            problems.append(
                f"{place('continue_from')}: {recipes[index - 1].peft_type} of the stage before is never merged; "
                "continue_from: adapter goes on with it"
            )
        elif recipe.continue_from != "merged" and recipe.adapter != recipes[index - 1].adapter:
            problems.append(
                f"{place('lora')}: differs from the stage before, whose adapter is trained on; the same settings, or "
                "continue_from: merged (a fresh adapter on the merged model)"
            )
    return problems


def split_mixture(
    data: dict[str, Any], origin: Origin, overrides: Sequence[str]
) -> tuple[list[tuple[dict[str, Any], Origin]], list[str]]:
    """The keys of each part's own recipe, with where each comes from.

    The top level's `data` holds for all parts, an entry's goes over it key by key; `--set` goes over both.

    Returns:
        One (keys, origin) a part, and problems.
    """
    where = origin.get(("mixture",), "--set")
    entries = data["mixture"]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        return [], [f"{where}: mixture: a list of parts is needed, each with `stage`, `weight` and `data`"]
    problems = [
        f"{origin.get((key,), '--set')}: {key}: {why}"
        for key, why in (
            ("stages", "a chain can't be a mixture"),
            *((key, "is given by each part of `mixture`") for key in OF_ONE_PART if key not in ("name", "data")),
        )
        if key in data
    ]
    shared = {key: value for key, value in data.items() if key != "mixture"}
    names = [str(entry.get("name", entry.get("stage", "sft"))) for entry in entries]
    found = []
    for index, (entry, name) in enumerate(zip(entries, names, strict=True)):
        at = ("mixture", str(index))
        place = origin.get(at, where)
        problems += [
            f"{origin.get((*at, key), place)}: mixture.{index}.{key}: not a key of a part{did_you_mean(key, OF_ONE_PART)}"
            for key in entry
            if key not in OF_ONE_PART
        ]
        if names.count(name) > 1:
            problems.append(f"{place}: mixture.{index}: several parts are called {name!r}; give each a `name`")
        if entry.get("stage", "sft") not in IN_MIXTURES:
            problems.append(
                f"{place}: mixture.{index}.stage: {entry.get('stage')!r} can't be a part; {', '.join(IN_MIXTURES)} can"
            )
        if "weight" not in entry:
            problems.append(f"{place}: mixture.{index}.weight: is missing: the part's share of the items of a batch")
        own = {key: value for key, value in entry.items() if key in OF_ONE_PART}
        merged = _over(shared, own)
        _override(merged, overrides, "mixture", index)
        merged["name"] = f"{data.get('name')}.{name}"
        found.append((merged, _entry_origin(shared, origin, own, at)))
    return found, problems


def mixture_problems(recipes: Sequence[Recipe], origin: Origin) -> list[str]:
    """What only the parts together can tell."""
    problems = []
    for index, recipe in enumerate(recipes):
        if recipe.settings.precomputes_reference:
            place = origin.get(("mixture", str(index), recipe.stage), origin.get(("mixture",), "--set"))
            key = f"mixture.{index}.{recipe.stage}.precompute_ref_log_probs"
            problems.append(f"{place}: {key}: not in a mixture, where each step computes its own; set it to false")
    return problems


def _entry_origin(shared: dict[str, Any], origin: Origin, own: dict[str, Any], at: tuple[str, str]) -> Origin:
    """Where the keys of the entry `at` were said: by it, else by the whole; `--set` of the whole goes over both."""
    of_all = {key: place for key, place in origin.items() if key[0] != at[0]}
    of_entry = {key[2:]: place for key, place in origin.items() if key[:2] == at and len(key) > 2}
    found = laid_over(shared, of_all, own, of_entry)
    for key, place in of_all.items():
        if place == SET:
            said(found, key, SET)
    for key, place in of_entry.items():
        if place == SET:
            said(found, key, SET)
    return found


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections key by key, anything else replaced; a copy, all the way down."""
    result = {key: _over(value, {}) if isinstance(value, dict) else value for key, value in below.items()}
    for key, value in above.items():
        if isinstance(value, dict):
            result[key] = _over(result[key] if isinstance(result.get(key), dict) else {}, value)
        else:
            result[key] = value
    return result


def _override(target: dict[str, Any], overrides: Sequence[str], lists: str, index: int) -> None:
    """`--set` over the keys of one entry: what is said for all of them, then what is said for it."""
    own = f"{lists}.{index}."
    said = [override.partition("=") for override in overrides]
    for key, _, text in said:
        if not key.startswith(f"{lists}."):
            _put(target, key.split("."), parse_scalar(text))
    for key, _, text in said:
        if key.startswith(own):
            _put(target, key.removeprefix(own).split("."), parse_scalar(text))


def _put(target: dict[str, Any], words: list[str], value: Any) -> None:
    for word in words[:-1]:
        inner = target.get(word)
        target[word] = inner if isinstance(inner, dict) else {}
        target = target[word]
    target[words[-1]] = value
