"""`finetune import`: a peer's configuration read, translated, told about, and written as a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.errors import RecipeError, writing
from finetune.migrate.draft import Draft, Given
from finetune.migrate.peers import PEERS, guess
from finetune.migrate.read import read_given
from finetune.migrate.training import run_name, settle
from finetune.migrate.write import TITLES, recipe_text
from finetune.recipefile import load_recipe


def import_command(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Lines for stdout (the files written) and for stderr (all there is to tell).

    Raises:
        RecipeError: everything that can't be read or translated; files that are there already. Nothing is written then.
    """
    given = read_given(options.file)
    output = options.output or options.file.with_name(f"{options.file.stem}.recipe.yaml")
    draft = drafted(given, options.source, output, options.processes, options.stage)
    files = {output: recipe_text(draft)} | {output.parent / name: text for name, text in draft.files.items()}
    problems = draft.problems + _taken(options.file, files, options.overwrite)
    if problems:
        raise RecipeError(problems)
    for path, text in files.items():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return [str(path) for path in files], told(draft) + _not_yet(output)


def drafted(given: Given, source: str | None, output: Path, processes: int | None, stage: str | None) -> Draft:
    """The recipe of a file, and everything there is to tell; its `problems` are what can't be translated.

    Args:
        source: a name out of PEERS, None to tell it by the keys. processes: that share a batch; None: as its launcher
            says, else 1. stage: the command of TRL.
    """
    file, name = given.file, source or guess(given)
    if stage is not None:
        if name != "trl":
            raise RecipeError(
                f"--stage: is for configurations of TRL; {file} is one of {PEERS[name].name}, and says it itself"
            )
        given = Given(file, given.values, given.where, given.processes, stage)
    peer = PEERS[name]
    started = given.values.get("num_processes")  # TRL hands it on to its launcher
    count = processes or given.processes or (started if isinstance(started, int) and started > 0 else 1)
    draft = Draft(peer.name, given, peer.table, output, count)
    draft.write("name", run_name(file.stem))
    draft.take()
    peer.translate(draft)
    settle(draft)
    draft.finish()
    return draft


def _taken(file: Path, files: dict[Path, str], overwrite: bool) -> list[str]:
    """Files that would be written over."""
    problems = [
        f"{path}: is the file that is read; give the recipe another name" for path in files if _same(path, file)
    ]
    if not overwrite:
        problems += [
            f"{path}: is there already; --overwrite writes over it"
            for path in files
            if path.exists() and not _same(path, file)
        ]
    return problems + [f"{path}: is a directory" for path in files if path.is_dir()]


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def told(draft: Draft) -> list[str]:
    """Every note with its place in the file, those without an equivalent first."""
    lines = []
    for kind, title in TITLES.items():
        notes = [note for note in draft.notes if note.kind == kind]
        lines += [title] if notes else []
        lines += [f"  {note.where}: {note}" for note in notes]
    return lines


def _not_yet(recipe: Path) -> list[str]:
    """What `finetune check` would say of the recipe before it looks at rows."""
    try:
        load_recipe(recipe)
    except RecipeError as error:
        return ["To be mended before it runs:", *(f"  {problem}" for problem in error.problems)]
    return []
