"""`finetune smoke RECIPE`: the whole line in seconds, on a tiny random model of the base's architecture."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import device
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.recipefile import load_recipe
from finetune.smoke.small import Small, Tiny, device_of, small_recipe
from finetune.smoke.table import Table
from finetune.told import tell

if TYPE_CHECKING:
    from finetune.run import Result

ROWS = 32  # samples to train on, of each stage
BYTES = 4  # to a token: how much longer texts are under the byte-level tokenizer
SAID = {"base": ("cut to", "lora:"), "training": ("step 3/3",), "export": ("merged = adapter", "the adapter on disk:")}


def smoke_command(options: argparse.Namespace) -> list[str]:
    """Runs the recipe made small; the verdict as lines to print. Steps are printed as they end.

    Raises:
        RecipeError, DataError, TrainingError, GateError: as the run itself; the folder is kept then.
    """
    if device.launched():
        raise RecipeError("smoke runs in one process: start it without accelerate launch")
    recipe = load_recipe(options.recipe, options.set)
    folder, keep = _folder(options)
    table, told = Table(_print), {"recipe": recipe.name, "passed": False}
    try:
        bundle = smoke(recipe, folder, table, told)
        told["passed"] = True
    finally:
        tell(options.json, told | {"folder": str(folder), "steps": [asdict(step) for step in table.steps]})
        if keep or not told["passed"]:
            _print(f"kept: {folder} (what the run said: run.log)")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = sum(step.seconds for step in table.steps)
    return [f"smoke {recipe.name}: passed in {seconds:.0f} s", *([f"bundle: {bundle}"] if keep else [])]


def smoke(recipe: Recipe, folder: Path, table: Table, told: dict[str, Any]) -> Path:
    """The steps of a smoke test in an empty folder; the tiny model's bundle.

    Args:
        told: for `--json`: what is known of the run is added.
    """
    device.quiet_libraries()
    folder.mkdir(parents=True, exist_ok=True)
    small = _prepared(recipe, folder, table, told)
    log = folder / "run.log"
    from finetune.run import Extent, run

    with table.parts(lambda part: _said(log, part)) as entering, _into(log):
        run(small.recipe, extent=Extent(ROWS, until="adapter", entering=entering))
    result = _resumed(small.recipe, folder, table)
    told["proof"] = result.manifest.get("merge_proof") or result.manifest.get("adapter_proof")
    _asked(small.recipe, result.bundle, folder, table, told)
    return result.bundle


def _resumed(recipe: Recipe, folder: Path, table: Table) -> Result:
    """The run taken up after its first step, held against the whole one before it goes on to scores and export."""
    from finetune.run import Extent, run
    from finetune.runfolder import AUTO
    from finetune.smoke.checks import back_to_first_step, same_adapters

    log, whole = folder / "run.log", folder / "whole"
    back_to_first_step(recipe.output_dir, whole)
    compared: list[str] = []
    with (
        table.parts(lambda part: compared[0] if part == "resume" and compared else _said(log, part)) as enter,
        _into(log),
    ):

        def entering(part: str) -> None:
            if part in ("data", "base", "training"):
                enter("resume")
                return
            if not compared:
                compared.append(same_adapters(recipe.output_dir, whole, exact=recipe.device == "cpu"))
            enter(part)

        result = run(recipe, resume=AUTO, extent=Extent(ROWS, entering=entering))
    assert result is not None  # one process
    return result


def _asked(recipe: Recipe, bundle: Path, folder: Path, table: Table, told: dict[str, Any]) -> None:
    """What is asked of the bundle and of the base."""
    from finetune.smoke import checks

    log, trust = folder / "run.log", recipe.model.trust_remote_code
    with table.step("reload") as step, _into(log):
        if next(bundle.glob("*.safetensors"), None):
            apart = told["reload_difference"] = checks.reload(bundle, trust)
            same = "" if apart is None else f"; logits differ from the adapter's by {apart:.1e} at most"
            step.what = f"all weights in place{same}"
        else:
            step.status, step.what = "left out", "this adapter is never merged"
    with table.step("verify") as step, _into(log):
        verified = checks.verify_bundle(bundle, trust)
        step.status, step.what = (
            ("ok", verified) if verified else ("left out", "the last stage gives no answers to verify")
        )
    with table.step("packing") as step, _into(log):
        attention, _ = device.attentions(recipe.model.attn_implementation, device.DEVICES[recipe.device])
        reason = checks.packing(folder / "base", recipe.device, attention, trust)
        step.status, step.what = ("no", reason) if reason else ("ok", "documents of a packed row do not see each other")


def _prepared(recipe: Recipe, folder: Path, table: Table, told: dict[str, Any]) -> Small:
    """The tiny base (and teacher) on disk, and the recipe made small."""
    from finetune.basefit import serving_notes
    from finetune.model.tiny_base import write_tiny_base

    kind = device_of(recipe, lambda name: device.DEVICES[name].available())
    for stage in recipe.stages or recipe.mixture or (recipe,):
        serving_notes(stage)  # of the real base and the real targets
    with table.step("tiny base") as step, _into(folder / "run.log"):
        base = write_tiny_base(recipe.model, folder / "base", recipe.seed)
        step.what = base.line()
        teacher, notes = tiny_teacher(recipe, folder)
    tokens = 1 if base.own_tokenizer else BYTES
    small = small_recipe(recipe, Tiny(folder / "base", teacher, kind, tokens), folder)
    told |= {"architecture": base.architecture, "notes": [*base.notes, *notes, *small.notes]}
    for note in told["notes"]:
        table.note(note)
    return small


def tiny_teacher(recipe: Recipe, folder: Path) -> tuple[Path | None, list[str]]:
    """A tiny teacher of the teacher's own architecture; of the base's where the teacher is not there yet."""
    from finetune.model.tiny_base import write_tiny_base
    from finetune.recipe import ModelSection

    sections = [part.distill for part in recipe.stages or recipe.mixture or (recipe,) if part.distill]
    if not sections:
        return None, []
    own = sections[0].teacher
    section = ModelSection(**own.model_dump(exclude={"adapter_name_or_path", "dtype"}))
    try:
        write_tiny_base(section, folder / "teacher", recipe.seed + 1)
    except RecipeError as error:
        write_tiny_base(recipe.model, folder / "teacher", recipe.seed + 1)
        return folder / "teacher", [f"distill.teacher: {error.problems[0]}; a second tiny base teaches"]
    return folder / "teacher", []


def _folder(options: argparse.Namespace) -> tuple[Path, bool]:
    """Where it works, and whether that stays there."""
    if options.output is None:
        return Path(tempfile.mkdtemp(prefix="finetune-smoke-")), options.keep
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise RecipeError(f"--output: {options.output} already exists; give a folder that does not, or is empty")
    return options.output.absolute(), True


@contextmanager
def _into(log: Path) -> Iterator[None]:
    """What a run says goes to a file; what its libraries warn of stays on stderr."""
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file):
        yield


def _said(log: Path, part: str) -> str:
    """What the run said of a part of it, in a line."""
    lines = log.read_text(encoding="utf-8").splitlines()
    found = {start: line for line in lines for start in SAID.get(part, ()) if start in line}
    return "; ".join(found[start].partition(start)[1] + found[start].partition(start)[2] for start in SAID.get(part, ())
                     if start in found)  # fmt: skip


def _print(line: str) -> None:
    print(line, flush=True)
