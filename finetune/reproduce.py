"""`finetune reproduce`: a bundle's recipe run again from the same base and data, and what came out compared."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune.device import local_rank
from finetune.errors import DataError, GateError, RecipeError
from finetune.export.comparison import verdict_of
from finetune.recipe import Recipe, resolved
from finetune.recipefile import load_recipe
from finetune.told import tell
from finetune.yamlfile import read_yaml

# May differ between the bundle's run and this one without being another run.
PLACES = ("output_dir", "data.cache", "data.workers", "data.template", "model.revision", "report_to")


def reproduce_command(options: argparse.Namespace) -> list[str]:
    """Runs the bundle's recipe into a new folder and compares; lines to print.

    Raises:
        RecipeError: every reason why it can't be the same run: no such bundle, files of it changed, another base, other
            data.
        GateError: data counts differ, or scores by more than the tolerance.
    """
    bundle: Path = options.bundle
    output = options.output or bundle.absolute().with_name(f"{bundle.absolute().name}.reproduced")
    manifest = read_manifest(bundle)
    recipe, notes = checked(bundle, manifest, output, options.set)
    if local_rank() == 0:  # said before the hours of a run, not after them
        print(*notes, sep="\n", end="\n" if notes else "", flush=True)
    from finetune.run import run

    try:
        result = run(recipe)
    except GateError as error:
        raise GateError(f"not reproduced: the run stopped: {error}") from None
    if result is None:  # not the main process
        return []
    lines, verdict, same = verdict_of(bundle, manifest, result.bundle, result.manifest)
    told = {"bundle": str(bundle), "again": str(result.bundle), "same": same, "verdict": verdict, "compared": lines}
    tell(options.json, told)
    if not same:
        raise GateError("\n".join([*lines, verdict]))
    return [*lines, verdict]


def read_manifest(bundle: Path) -> dict[str, Any]:
    """MANIFEST.json of a bundle that holds all that running it again needs.

    Raises:
        RecipeError: it is no bundle of a run, or its recipe or template are not what the manifest says.
    """
    from finetune.data.filehash import file_sha256

    file = bundle / "MANIFEST.json"
    if not file.is_file():
        raise RecipeError(f"{bundle}: not a bundle: no MANIFEST.json in it")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        hashes = manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{file}: not a bundle's manifest: {error}") from None
    lacking = [key for key in ("base", "data", "training", "scores", "versions") if key not in manifest]
    if lacking or "recipe.yaml" not in hashes:
        what = ", ".join(lacking) or "recipe.yaml"
        raise RecipeError(f"{bundle}: not the bundle of a run: no {what}; there is nothing to be run again")
    problems = []
    for name in ("recipe.yaml", "data_template.yaml", "adapter/adapter_model.safetensors"):
        if name not in hashes:
            continue
        if not (bundle / name).is_file():
            problems.append(f"{bundle / name}: is missing")
        elif (found := file_sha256(bundle / name)) != hashes[name]:
            problems.append(f"{bundle / name}: sha256 {found}, the manifest says {hashes[name]}")
    if problems:
        raise RecipeError(problems)
    return manifest


def checked(
    bundle: Path, manifest: Mapping[str, Any], output: Path, overrides: Sequence[str]
) -> tuple[Recipe, list[str]]:
    """The recipe to run, and what differs without forbidding it.

    The data template is the bundle's own copy; a base of the hub is taken at its recorded commit.

    Raises:
        RecipeError: everything that makes it another run.
    """
    if output.exists():
        raise RecipeError(f"--output: {output} already exists")
    given, _lines = read_yaml(bundle / "recipe.yaml")
    fixed = [f"output_dir={json.dumps(str(output.absolute()))}", "data.cache=false"]
    if (bundle / "data_template.yaml").is_file() and "mixture" not in given:  # parts may have several templates
        fixed.append(f"data.template={json.dumps(str((bundle / 'data_template.yaml').absolute()))}")
    if manifest["base"].get("commit"):
        fixed.append(f"model.revision={manifest['base']['commit']}")
    try:
        recipe = load_recipe(bundle / "recipe.yaml", [*fixed, *overrides])
    except RecipeError as error:
        raise RecipeError([_with_advice(problem) for problem in error.problems]) from None
    problems = [*_base_problems(recipe, manifest["base"]), *_data_problems(recipe, manifest["data"])]
    if problems:
        raise RecipeError(problems)
    return recipe, [*_version_notes(manifest), *_recipe_notes(given, resolved(recipe))]


def _with_advice(problem: str) -> str:
    for key, example in (("data.train", "/new/place/rows.jsonl"), ("data.eval", "/new/place/rows.jsonl"),
                         ("data.screen.benchmarks", "[/new/place/rows.jsonl]"),
                         ("model.name_or_path", "/new/place/model"), ("evaluate.previous", "/new/place/bundle")):  # fmt: skip
        if f"{key}: no such" in problem:
            return f"{problem}; say where it is now: --set {key}={example}"
    suite = re.search(r"(evaluate\.suites\.[\w-]+\.\w+): no such", problem)
    return f"{problem}; say where it is now: --set {suite[1]}=/new/place" if suite else problem


def _base_problems(recipe: Recipe, recorded: Mapping[str, Any]) -> list[str]:
    """Weight files by sha256 for a folder, package or GGUF file; the hub's id and commit otherwise."""
    from finetune.data.filehash import file_sha256
    from finetune.model.load import locate

    try:
        name = locate(recipe.model)
    except RecipeError as error:
        return [_with_advice(problem) for problem in error.problems]
    hashes = recorded.get("sha256")
    if hashes is None:
        if name != recorded["name_or_path"] or (recorded.get("commit") and recipe.model.revision != recorded["commit"]):
            was = f"{recorded['name_or_path']}@{recorded.get('commit')}"
            return [f"model.name_or_path: {name}@{recipe.model.revision}; the bundle's base is {was}"]
        return []
    if not Path(name).is_dir():
        return [f"model.name_or_path: {name!r}: no such folder; the bundle's base was one; say where it is now: "
                "--set model.name_or_path=/new/place/model"]  # fmt: skip
    problems = []
    for file, digest in hashes.items():
        path = Path(name) / file
        found = file_sha256(path) if path.is_file() else "no such file"
        if found != digest:
            problems.append(f"model.name_or_path: {path}: {found}; the bundle's base has sha256 {digest}")
    return problems


def _data_problems(recipe: Recipe, recorded: Mapping[str, Any]) -> list[str]:
    """Every source's files with the sha256 of the manifest, in the manifest's order: training rows, then held-out ones."""
    from finetune.data.cache import files_sha256
    from finetune.data.findings import Findings
    from finetune.data.source import source_files

    if recipe.mixture:
        return [
            f"mixture.{i}.{problem}".replace("--set data", f"--set mixture.{i}.data")
            for i, (part, its) in enumerate(zip(recipe.mixture, recorded["parts"].values(), strict=True))
            for problem in _data_problems(part, its)
        ]
    sections = [
        *(("data.train", item) for item in recipe.data.train),
        *(("data.eval", item) for item in recipe.data.eval),
    ]
    sources = recorded["sources"]
    if len(sections) != len(sources):
        return [f"data: {len(sections)} sources; the bundle was made from {len(sources)}"]
    problems = _template_problems(recipe, recorded)
    for (key, section), source in zip(sections, sources, strict=True):
        try:
            files = source_files(section, Findings())
        except DataError as error:
            problems += [_with_advice(f"{key}: {problem}") for problem in error.problems]
            continue
        digest = files_sha256(files)
        if digest != source["sha256"]:
            where = section.path or section.hub
            problems.append(f"{key}: {where}: sha256 {digest}; the bundle was made from {source['name']}, "
                            f"sha256 {source['sha256']}")  # fmt: skip
    return problems


def _template_problems(recipe: Recipe, recorded: Mapping[str, Any]) -> list[str]:
    from finetune.data.filehash import file_sha256

    found = file_sha256(recipe.data.template) if recipe.data.template else None
    wanted = recorded.get("template_sha256")
    if found == wanted:
        return []
    return [f"data.template: {recipe.data.template}: sha256 {found}; the bundle was made with {wanted}"]


def _version_notes(manifest: Mapping[str, Any]) -> list[str]:
    notes = []
    for package, before in manifest["versions"].items():
        try:
            now = version(package)
        except PackageNotFoundError:
            now = "not installed"
        if now != before:
            notes.append(f"differs: {package} {now} here, {before} then")
    return notes


def _recipe_notes(given: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys of the recipe that are not as in the bundle, those aside that only say where things lie."""
    before, after = _flat(given), _flat(now)
    keys = [key for key in after if key not in PLACES and not key.endswith((".path", "name_or_path"))]
    return [
        f"differs: {key}: {after[key]!r} here, {before.get(key)!r} then"
        for key in keys
        if after[key] != before.get(key)
    ]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, Mapping):
        return {k: v for key, value in values.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}
    if isinstance(values, list) and values and isinstance(values[0], Mapping):
        return {k: v for i, value in enumerate(values) for k, v in _flat(value, f"{prefix}.{i}").items()}
    return {prefix: values}
