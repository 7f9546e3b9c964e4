"""What a recipe needs, out of the recipe alone: paths, hub ids, packages that hold a base, extras of finetune."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune.carry.extras import extras_of, extras_of_rows
from finetune.data.findings import Findings
from finetune.data.source import source_files
from finetune.recipe import Recipe
from finetune.recipe_data import DataSection, SourceSection
from finetune.recipefile import load_recipe
from finetune.recipelayers import parent_file
from finetune.yamlfile import read_yaml


@dataclass
class Needs:
    """What one or several recipes need.

    Attributes:
        models: the key that names each, by `(name, revision)`: hub ids, folders, `pkg:NAME`.
        gguf: the GGUF file that is read of a model, by its name.
        files: single files by the key that names them: recipes, templates, rows.
        folders: whole folders by their key.
        rows: files of hub data sets, by `name@revision`.
        extras: of finetune.
        notes: what can't be listed.
    """

    models: dict[tuple[str, str | None], str] = field(default_factory=dict)
    gguf: dict[str, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    folders: dict[Path, str] = field(default_factory=dict)
    rows: dict[str, list[Path]] = field(default_factory=dict)
    extras: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def add_needs(needs: Needs, path: Path) -> None:
    """Adds all of the recipe in `path`.

    Raises:
        RecipeError, DataError: it is wrong; its files are not here; a hub data set that can't be had.
    """
    recipe = load_recipe(path)
    for file in _with_parents(path):
        needs.files.setdefault(file, "recipe")
    for key, name, revision in _models(recipe):
        needs.models.setdefault((name, revision), key)
    needs.gguf |= {recipe.model.name_or_path: recipe.model.gguf_file} if recipe.model.gguf_file else {}
    for part in recipe.stages or recipe.mixture or (recipe,):
        _add_data(needs, part.data)
        if part.distill is not None and part.distill.teacher.gguf_file:
            needs.gguf[part.distill.teacher.name_or_path] = part.distill.teacher.gguf_file
    for name, suite in recipe.evaluate.suites.items():
        if suite.template:
            needs.files.setdefault(suite.template, f"evaluate.suites.{name}.template")
        for source in suite.data:
            _add_source(needs, f"evaluate.suites.{name}.data", source)
    for target in recipe.export.targets:
        if target.converter:
            needs.folders.setdefault(target.converter, "export.targets")
    harness = recipe.evaluate.lm_eval
    if harness is not None:
        needs.notes.append(
            f"{path}: evaluate.lm_eval: {', '.join(harness.tasks)}: lm-eval keeps its data sets in the hub's cache, which it "
            "fills when it runs; run `finetune check` on this recipe here, and carry that cache (~/.cache/huggingface) over"
        )
        if harness.include_path:
            needs.folders.setdefault(harness.include_path, "evaluate.lm_eval.include_path")
    needs.extras |= extras_of(recipe)


def _with_parents(path: Path) -> Iterator[Path]:
    """The recipe's file and those it extends (load_recipe has found no circle)."""
    yield path.resolve()
    data, lines = read_yaml(path)
    tokens = data.get("model", {}).get("add_tokens") if isinstance(data.get("model"), dict) else None
    if isinstance(tokens, str):
        yield (path.parent / tokens).resolve()
    if "extends" in data:
        yield from _with_parents(parent_file(path, data["extends"], f"{path}:{lines[('extends',)]}"))


def _models(recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """(key, name, revision) of base, tokenizer, earlier adapter, teachers, the release before, further adapters."""
    base = recipe.model
    yield "model.name_or_path", base.name_or_path, base.revision
    if base.tokenizer_name_or_path:
        yield "model.tokenizer_name_or_path", base.tokenizer_name_or_path, base.revision
    if base.adapter_name_or_path:
        yield "model.adapter_name_or_path", base.adapter_name_or_path, None
    for part in recipe.stages or recipe.mixture or (recipe,):
        if part.distill is not None:
            teacher = part.distill.teacher
            yield "distill.teacher.name_or_path", teacher.name_or_path, teacher.revision
            if teacher.adapter_name_or_path:
                yield "distill.teacher.adapter_name_or_path", teacher.adapter_name_or_path, None
    if recipe.evaluate.previous is not None:
        yield "evaluate.previous", str(recipe.evaluate.previous), None
    for name, folder in recipe.export.adapters.items():
        yield f"export.adapters.{name}", str(folder), None


def _add_data(needs: Needs, data: DataSection) -> None:
    if data.template:
        needs.files.setdefault(data.template, "data.template")
    for key, sources in (("data.train", data.train), ("data.eval", data.eval)):
        for source in sources:
            _add_source(needs, key, source)
    for benchmark in data.screen.benchmarks:
        (needs.folders if benchmark.is_dir() else needs.files).setdefault(benchmark, "data.screen.benchmarks")


def _add_source(needs: Needs, key: str, source: SourceSection) -> None:
    """The files that its rows are read from; of a hub data set those of its split."""
    files = [found.path for found in source_files(source, Findings())]
    needs.extras |= extras_of_rows(files) | ({"hub"} if source.hub is not None else set())
    if source.hub is not None and not Path(source.hub.rpartition("@")[0] or source.hub).is_dir():
        needs.rows.setdefault(source.hub, []).extend(
            file for file in files if file not in needs.rows.get(source.hub, [])
        )
        return
    for file in files:
        needs.files.setdefault(file, key)
