"""The paths in a recipe: made absolute from the folder of the file that gives them, and looked for."""

from __future__ import annotations

import difflib
import glob
from functools import partial
from pathlib import Path
from typing import Any

from finetune.origin import Origin
from finetune.recipe import Recipe
from finetune.shipped import data_file

# Keys that hold paths: resolved against the folder of the file that gives them.
PATH_KEYS = (
    ("model", "name_or_path"), ("model", "tokenizer_name_or_path"), ("model", "adapter_name_or_path"),
    ("data", "template"), ("data", "train"), ("data", "eval"), ("data", "screen", "benchmarks"), ("export", "targets"),
    ("export", "adapters"), ("evaluate", "previous"), ("evaluate", "suites"),
    ("evaluate", "lm_eval", "include_path"), ("evaluate", "vllm", "python"),
    ("distill", "teacher", "name_or_path"), ("distill", "teacher", "adapter_name_or_path"),
)  # fmt: skip


def folder_of(where: str) -> Path:
    """The folder that a value's relative paths start from: of its file, or the current one for `--set`."""
    return Path() if where == "--set" else Path(where.rpartition(":")[0]).parent


def resolve_paths(data: dict[str, Any], origin: Origin) -> None:
    """Every path made absolute, from the folder of the file that names it; a source that is plain text made one."""
    for location in PATH_KEYS:
        *sections, key = location
        values: Any = data
        for section in sections:
            values = values.get(section) if isinstance(values, dict) else None
        if not isinstance(values, dict) or values.get(key) is None:
            continue
        folder = folder_of(origin.get(location, "--set"))
        value = values[key]
        if key.endswith("name_or_path"):
            # A hub id looks like a relative path: only what exists, or starts with a dot, is one.
            if isinstance(value, str) and (value.startswith(".") or (folder / value).is_dir()):
                values[key] = str((folder / value).resolve())
        elif key == "adapters":
            if isinstance(value, dict):
                values[key] = {n: (folder / f).resolve() if isinstance(f, str) else f for n, f in value.items()}
        elif key in ("template", "previous", "include_path"):
            values[key] = data_file(folder, value) if isinstance(value, str) else value
        elif key == "python":  # a virtual environment's is a link that must not be followed
            values[key] = (folder / value).absolute() if isinstance(value, str) else value
        elif key == "suites":
            if isinstance(value, dict):
                values[key] = {name: _suite(suite, name, origin) for name, suite in value.items()}
        else:
            items = value if isinstance(value, list) else [value]
            place = _target if key == "targets" else partial(_located, as_source=key != "benchmarks")
            values[key] = [place(item, folder) for item in items]


def _suite(suite: Any, name: str, origin: Origin) -> Any:
    """A suite of questions with the paths of its template and data absolute."""
    if not isinstance(suite, dict):
        return suite
    found = dict(suite)
    for key in ("template", "data"):
        at = ("evaluate", "suites", name, key)
        folder = folder_of(next((origin[at[:n]] for n in range(4, 0, -1) if at[:n] in origin), "--set"))
        value = suite.get(key)
        if key == "template" and isinstance(value, str):
            found[key] = data_file(folder, value)
        elif key == "data" and value is not None:
            found[key] = [_located(item, folder, True) for item in (value if isinstance(value, list) else [value])]
    return found


def _target(item: Any, folder: Path) -> Any:
    """A target (or an engine's plain name) with its converter's path absolute."""
    if isinstance(item, str):
        return {"engine": item}
    if isinstance(item, dict) and isinstance(item.get("converter"), str):
        return item | {"converter": (folder / item["converter"]).resolve()}
    return item


def _located(item: Any, folder: Path, as_source: bool) -> Any:
    """A source (or a plain path) with its path absolute. Glob characters pass through."""
    if isinstance(item, str):
        path = data_file(folder, item)
        return {"path": str(path)} if as_source else path
    if isinstance(item, dict) and isinstance(item.get("path"), str):
        return item | {"path": str(data_file(folder, item["path"]))}
    if isinstance(item, dict) and isinstance(item.get("hub"), str):
        name, at, revision = item["hub"].rpartition("@")
        if not at or (folder / item["hub"]).is_dir():
            name, at, revision = item["hub"], "", ""
        if name.startswith(".") or (folder / name).is_dir():  # a copy on this machine, else a hub id
            return item | {"hub": f"{(folder / name).resolve()}{at}{revision}"}
    return item


def missing_files(recipe: Recipe, origin: Origin) -> list[str]:
    wanted: list[tuple[str, str]] = [("template", str(recipe.data.template))] if recipe.data.template else []
    for key, sources in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        wanted += [(key, source.path) for source in sources if source.path is not None]
        copies = [source.hub for source in sources if source.hub is not None and Path(source.hub).is_absolute()]
        wanted += [(key, name if Path(name).is_dir() else name.rpartition("@")[0] or name) for name in copies]
    wanted += [("screen.benchmarks", str(path)) for path in recipe.data.screen.benchmarks]
    wanted = [(f"data.{key}", path) for key, path in wanted]
    if recipe.evaluate.previous is not None:
        wanted.append(("evaluate.previous", str(recipe.evaluate.previous)))
    for name, suite in recipe.evaluate.suites.items():
        wanted += [(f"evaluate.suites.{name}.template", str(suite.template))] if suite.template else []
        wanted += [(f"evaluate.suites.{name}.data", source.path) for source in suite.data if source.path is not None]
    problems = []
    for key, path in wanted:
        found = glob.has_magic(path) or Path(path).exists()
        if not found:
            at = tuple(key.split("."))
            where = next((origin[at[:n]] for n in range(len(at), 0, -1) if at[:n] in origin), "--set")
            problems.append(f"{where}: {key}: no such file: {path}{near_file(Path(path))}")
    return problems


def near_file(path: Path) -> str:
    """The nearest name in the folder where a file was expected."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.85)
    return f"; did you mean {near[0]!r}?" if near else ""
