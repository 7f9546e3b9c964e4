"""`finetune new recipe [NAME]`: the shipped recipes as a list, or a recipe of one's own that begins as one of them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from posixpath import normpath

from finetune.errors import RecipeError
from finetune.newpack.files import refuse_those_there, write_files
from finetune.recipefile import load_recipe
from finetune.shipped import PREFIX, recipe_file, shipped_recipes
from finetune.yamlfile import read_yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # as recipe.py has it


def new_recipe_command(options: argparse.Namespace) -> list[str]:
    """Writes the recipe; the lines to print. Without a name the list of what is shipped.

    Raises:
        RecipeError: no such recipe, one without rows of its own, a file that is there already or names no run.
        OSError: the disk is full; nothing is left.
    """
    if options.name is None:
        if options.output or options.copy:
            raise RecipeError("--output, --copy: of which recipe? `finetune new recipe` alone lists them")
        return shipped_list()
    name = options.name.removeprefix(PREFIX).removesuffix(".yaml")
    source = recipe_file(f"{PREFIX}{name}")
    if "name" not in read_yaml(source)[0]:
        raise RecipeError(
            f"{PREFIX}{name}: is what other recipes extend and has no rows of its own; `extends: {PREFIX}{name}` in yours, "
            "or begin with `finetune new pack`"
        )
    target = options.output or Path(f"{source.stem}.yaml")
    if not _NAME.fullmatch(target.stem):
        raise RecipeError(f"--output: {target}: its name is the run's: letters a to z, digits, . _ and - are needed")
    refuse_those_there([target])
    text = copy_of(name, source) if options.copy else child_of(name, target.stem, _in_parts(source))
    write_files(target.parent, {target.name: text})
    return [f"wrote {target}", "next:", f"  finetune check {target}", f"  finetune train {target}"]


def shipped_list() -> list[str]:
    """A line a recipe that can be run: its name, and the first comment of its file."""
    names = {name: file for name, file in shipped_recipes().items() if "name" in read_yaml(file)[0]}
    width = max(map(len, names), default=0)
    return [f"{name:<{width}}  {_about(file)}".rstrip() for name, file in names.items()]


def child_of(name: str, own: str, in_parts: bool) -> str:
    """A recipe that extends the shipped one and says, as comments, what people change first.

    Args:
        in_parts: it is a chain or a mixture, whose list of parts holds the data.
    """
    rows = (
        f"# The rows stand in its parts, a list that is replaced as a whole: finetune new recipe {name} --copy"
        if in_parts
        else "# data: {train: my_rows.jsonl}  # your own rows, with the columns of the parent's data template"
    )
    lines = [
        f"# What differs from the shipped recipe {name}; everything else is as it says.",
        f"extends: {PREFIX}{name}",
        f"name: {own}",
        f"output_dir: runs/{own}",
        rows,
        "# model: {name_or_path: Qwen/Qwen2.5-7B-Instruct, gguf_file: null}  # another base",
    ]
    return "\n".join(lines) + "\n"


def copy_of(name: str, source: Path) -> str:
    """The shipped recipe's own text, its paths as `pack:` names: it means the same in any folder.

    Relative names in shipped recipes are of three kinds: parents (`extends`), files of data_templates/, and folders of
    runs, which are those of the copy's own folder.
    """
    text = source.read_text(encoding="utf-8")

    def parent(match: re.Match[str]) -> str:
        return f"extends: {PREFIX}{normpath(f'{name}/../{match[1]}').removesuffix('.yaml')}"

    text = re.sub(r"^extends: (\S+)", parent, text, count=1, flags=re.MULTILINE)
    text = re.sub(r"(?:\.\./)+data_templates/", PREFIX, text)
    return re.sub(r"(?:\.\./)+runs/", "./runs/", text)


def _in_parts(source: Path) -> bool:
    recipe = load_recipe(source)
    return bool(recipe.mixture or recipe.stages)


def _about(file: Path) -> str:
    """The first line of comment that is written for people."""
    lines = [
        line.lstrip("# ").strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    return next((line for line in lines if line and not line.startswith("yaml-language-server")), "")
