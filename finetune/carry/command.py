"""`finetune carry RECIPE...`: lists, or copies, what a machine without a network needs to run the recipes."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import metadata
from pathlib import Path

from finetune.carry.collect import HUB, Carried, collect
from finetune.carry.item import Item, total
from finetune.carry.needs import Needs, add_needs
from finetune.carry.write import OWN, as_json, refuse_full, write_folder
from finetune.errors import RecipeError, did_you_mean
from finetune.told import tell


def carry_command(options: argparse.Namespace) -> list[str]:
    """The lines to print; none beside the JSON where that goes to stdout.

    Raises:
        RecipeError, DataError: recipes that are wrong, of all of them; what is not on this machine and not to be had.
        OSError: the disk is full; nothing is left.
    """
    extras = _extras(options.extras)
    if options.output:
        refuse_full(options.output)
    needs, problems = Needs(), []
    for recipe in options.recipes:
        try:
            add_needs(needs, recipe)
        except RecipeError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise RecipeError(problems)
    carried = collect(needs, extras)
    listed = _listed(carried)
    wheels = write_folder(options.output, carried, listed, options.wheels) if options.output else []
    tell(options.json, listed | {"wheels": [as_json(one) for one in wheels]})
    return [*_lines(carried), *(_after(options.output, carried, wheels) if options.output else [])]


def _extras(text: str) -> list[str]:
    """The names of `--extras`; raises RecipeError for one that finetune does not have."""
    known = [name for name in metadata(OWN).get_all("Provides-Extra") or [] if name != "dev"]
    names = [name for name in re.split(r"[,\s]+", text) if name]
    problems = [
        f"--extras: {name!r} is none of finetune's{did_you_mean(name, known)}" for name in names if name not in known
    ]
    if problems:
        raise RecipeError(problems)
    return names


def _listed(carried: Carried) -> dict[str, object]:
    """The list as JSON."""
    return {
        "packages": [vars(package) for package in carried.packages],
        "models": [
            {"key": model.key, "name": model.name, "commit": model.commit, "package": model.package,
             "files": [as_json(one) for one in model.items]}
            for model in carried.models
        ],
        "files": [{"key": key, "in_finetune": one.to is None} | as_json(one) for key, one in carried.files],
        "rows": {name: [as_json(one) for one in items] for name, items in carried.rows.items()},
        "notes": list(carried.notes),
    }  # fmt: skip


def _lines(carried: Carried) -> list[str]:
    """The list for people."""
    lines = [f"packages ({len(carried.packages)}), name, version and sha256 of what is installed here:"]
    lines += [
        f"  {one.name} {one.version}  {one.record_sha256 or 'editable: build its wheel'}" for one in carried.packages
    ]
    for model in carried.models:
        where = f"in the package {model.package}" if model.package else _sum(model.items)
        lines.append(f"{model.key}: {model.name}{f' at {model.commit}' if model.commit else ''}: {where}")
        lines += map(_inside if model.package else _line, model.items)
    own = [(key, one) for key, one in carried.files if one.to is not None]
    inside = [one for _key, one in carried.files if one.to is None]
    lines.append(f"recipes, data templates and rows: {_sum([one for _key, one in own])}")
    lines += [f"{_line(one)}  {key}" for key, one in own]
    if inside:
        lines.append(f"in finetune's own wheel: {len(inside)} files")
        lines += map(_inside, inside)
    for name, items in carried.rows.items():
        lines.append(f"data set {name}: {_sum(items)}")
        lines += map(_line, items)
    lines += [f"note: {note}" for note in carried.notes]
    return [*lines, f"to carry beside the wheels: {total(carried.items()):,} bytes"]


def _line(one: Item) -> str:
    return f"  {one.sha256}  {one.bytes:>13,}  {one.to}"


def _inside(one: Item) -> str:
    """A file that a wheel has: where it lies here."""
    return f"  {one.sha256}  {one.bytes:>13,}  {one.path}"


def _sum(items: list[Item] | tuple[Item, ...]) -> str:
    return f"{len(items)} files, {total(items):,} bytes"


def _after(folder: Path, carried: Carried, wheels: list[Item]) -> list[str]:
    """What was written, and what to do here and over there."""
    lines = [f"wrote {folder}" + (f" with {len(wheels)} wheels, {total(wheels):,} bytes" if wheels else "")]
    if not wheels:
        lines.append(f"here: pip download --no-deps -r {folder}/requirements.txt -d {folder}/wheels")
    lines.append(f"here: pip wheel --no-deps -w {folder}/wheels CHECKOUT  # finetune's own")
    lines.append(f"there: (cd {folder.name} && sha256sum --quiet -c SHA256SUMS)")
    lines.append(
        f"there: pip install --no-index --no-deps --find-links {folder.name}/wheels -r {folder.name}/requirements.txt finetune"
    )
    if any(one.to and one.to.startswith(f"{HUB}/") for one in carried.items()):
        lines.append(f"there: export HF_HUB_OFFLINE=1 HF_HUB_CACHE=$PWD/{folder.name}/{HUB}")
    lines += [
        f"there: a recipe reads {name} by `hub: {folder.name}/{items[0].to.rsplit('/', 1)[0]}`"
        for name, items in carried.rows.items() if items and items[0].to
    ]  # fmt: skip
    return lines
