"""`finetune parity RECIPE --devices cpu,npu`: a mini-run on each device, each in a process of its own, and the comparison."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import device
from finetune.device import DEVICES, Device
from finetune.errors import GateError, RecipeError, TrainingError, writing
from finetune.recipe import Recipe, resolved
from finetune.recipefile import load_recipe
from finetune.told import tell

if TYPE_CHECKING:
    from finetune.parity.judge import Told, Verdict
    from finetune.parity.mini import Shared

REPORT = "parity.json"
FLOAT32 = ".float32"  # behind the reference's name: the same run there in float32
LOG = "log.txt"
NEXT = (
    "next: the same with --dtype float32, with --set model.fused_ops=false, with --set model.attn_implementation=eager; what "
    "each says: docs/parity.md"
)


@dataclass
class Parity:
    """All that the report says.

    Attributes:
        runs: by name, the reference first. verdicts: of the devices that finished, by name.
        left_out: devices that are not here, with the reason. notes: what is otherwise than in the recipe.
    """

    recipe: str
    shared: Shared
    left_out: dict[str, str]
    notes: list[str]
    runs: dict[str, Told] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def reference(self) -> Told:
        return next(iter(self.runs.values()))


def parity_command(options: argparse.Namespace) -> list[str]:
    """Runs and compares; the table as lines to print. What takes its time is said as it happens.

    Raises:
        RecipeError: a mistake in the recipe or the options; fewer than two devices are here.
        GateError: a device diverges; the report is written.
        TrainingError: a device's run ended early; what the others gave is in the report.
    """
    if device.launched():
        raise RecipeError("parity starts its own processes, one a device: start it without accelerate launch")
    recipe = load_recipe(options.recipe, options.set)
    rows, left_out = devices_here(options.devices)
    output = (options.output or Path(f"{recipe.output_dir}.parity")).absolute()
    from finetune.parity.mini import first_stage, shared_settings

    recipe, notes = first_stage(recipe)
    _empty(output)
    if options.tiny:
        recipe, found = tiny(recipe, output)
        notes += found
    shared, found = shared_settings(recipe, rows, options.steps, options.dtype)
    parity = Parity(recipe.name, shared, left_out, [*notes, *found])
    names = named(rows)
    _say(f"parity {recipe.name}: {shared.steps} steps in {shared.dtype} on {', '.join(names)}; reference: {names[0]}")
    for name, reason in left_out.items():
        _say(f"left out: {name}: {reason}")
    runs = _prepared(parity, recipe, dict(zip(names, rows, strict=True)), output)
    for note in parity.notes:
        _say(f"note: {note}")
    _run(parity, runs, output)
    return _concluded(parity, output, options.json)


def devices_here(asked: str | None) -> tuple[list[Device], dict[str, str]]:
    """The rows of `--devices` that are on this machine, and of the others why not. By default the CPU and all others.

    Raises:
        RecipeError: one is not a device; fewer than two are here.
    """
    names = [name.strip() for name in asked.split(",")] if asked is not None else list(DEVICES)
    unknown = [name for name in names if name not in DEVICES]
    if unknown:
        allowed = ", ".join(DEVICES)
        raise RecipeError([f"--devices: {name!r} is not a device; allowed: {allowed}" for name in unknown])
    reasons = {name: DEVICES[name].why_not() for name in dict.fromkeys(names)}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    rows = [DEVICES[name] for name in names if name not in left_out]
    if len(rows) < 2:
        here = rows[0].name if rows else "none"
        lines = [f"--devices: {name} is not to be had on this machine: {reason}" for name, reason in left_out.items()]
        raise RecipeError([*lines, f"--devices: two are needed to compare, here: {here}"])
    return rows, left_out


def named(rows: Sequence[Device]) -> list[str]:
    """A name for each run: the device's; of a device that comes again with its number (cpu-2)."""
    names: list[str] = []
    for row in rows:
        times = sum(name.partition("-")[0] == row.name for name in names)
        names.append(f"{row.name}-{times + 1}" if times else row.name)
    return names


def tiny(recipe: Recipe, output: Path) -> tuple[Recipe, list[str]]:
    """The recipe on a tiny random base of its base's architecture, as `finetune smoke` has it."""
    device.quiet_libraries()
    from finetune.model.tiny_base import write_tiny_base
    from finetune.smoke.command import BYTES, tiny_teacher
    from finetune.smoke.small import Tiny, small_recipe

    base = write_tiny_base(recipe.model, output / "base", recipe.seed)
    teacher, notes = tiny_teacher(recipe, output)
    stand_in = Tiny(output / "base", teacher, "cpu", 1 if base.own_tokenizer else BYTES)
    small = small_recipe(recipe, stand_in, output).recipe
    kept = {key: getattr(recipe.model, key) for key in ("dtype", "attn_implementation")}
    of_loop = {"optim": recipe.train.optim, "optim_args": recipe.train.optim_args, "micro_batch_size": None}
    own = {"model": small.model.model_copy(update=kept), "train": small.train.model_copy(update=of_loop)}
    return small.model_copy(update=own), [f"base: {base.line()}", *base.notes, *notes]


def _empty(output: Path) -> None:
    """A folder to write to; an earlier report goes.

    Raises:
        RecipeError: there is something else in it, or it can't be written.
    """
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / REPORT).is_file())):
        raise RecipeError(f"--output: {output} already exists and holds no {REPORT}; give another folder")
    with writing(output):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        (output / REPORT).write_text("{}\n", encoding="utf-8")  # ours, also where nothing comes of it


def _prepared(parity: Parity, recipe: Recipe, rows: dict[str, Device], output: Path) -> dict[str, list[str]]:
    """A folder with its recipe for each run; the runs of each process, by the name of the first."""
    import yaml

    from finetune.parity.mini import mini_recipe
    from finetune.parity.run import RECIPE, RUN

    shared = parity.shared
    processes: dict[str, list[str]] = {}
    for name, row in rows.items():
        dtypes = {name: shared.dtype}
        if not processes and shared.dtype != "float32":
            dtypes[f"{name}{FLOAT32}"] = "float32"
        processes[name] = list(dtypes)
        for run, dtype in dtypes.items():
            folder = output / run
            folder.mkdir()
            own, notes = mini_recipe(recipe, row, shared, dtype, folder / RUN)
            parity.notes += [note for note in notes if note not in parity.notes]
            text = yaml.safe_dump(resolved(own), sort_keys=False, allow_unicode=True)
            (folder / RECIPE).write_text(text, encoding="utf-8")
    return processes


def _run(parity: Parity, processes: dict[str, list[str]], output: Path) -> None:
    """One process after the other: each has the machine, and its memory, for itself."""
    from finetune.parity.judge import read_run

    for first, runs in processes.items():
        log = output / first / LOG
        _say(f"{', '.join(runs)}: running, {log}")
        code = launch([output / run for run in runs], log)
        said = log.read_text(encoding="utf-8", errors="replace")
        for run in runs:
            told = parity.runs[run] = read_run(run, output / run, code, parity.shared.steps, said)
            _say(f"{run}: died {told.died}" if told.died else f"{run}: {_went(told)}")
        if parity.reference.mistakes:
            raise RecipeError(list(parity.reference.mistakes))
        if parity.reference.died:
            return  # there is nothing to compare with


def launch(folders: Sequence[Path], log: Path, module: str = "finetune.parity.run") -> int:
    """The exit code of a process that makes these runs; what it says goes to `log`."""
    crash = ["-X", "faulthandler"]  # of a kernel: it says where Python was
    command = [sys.executable, *crash, "-m", module, *map(str, folders)]
    with log.open("w", encoding="utf-8") as file:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode


def _went(told: Told) -> str:
    return (
        f"{len(told.steps)} steps, loss {told.losses[0]:.4f} to {told.losses[-1]:.4f}, {told.facts['attention']} attention, "
        f"{told.seconds:.0f} s"
    )


def _concluded(parity: Parity, output: Path, place: str | None) -> list[str]:
    """Verdicts, the report on disk (and in `place`, of --json), and the command's end."""
    from finetune.parity.judge import DIVERGES, judge
    from finetune.parity.record import as_json
    from finetune.parity.report import table, write_report

    reference = parity.reference
    exact = parity.runs.get(f"{reference.name}{FLOAT32}")
    for told in parity.runs.values():
        if told not in (reference, exact) and not any(run.died for run in (told, reference, exact) if run):
            parity.verdicts[told.name] = judge(told, reference, exact)
    files = write_report(parity, exact, output)
    tell(place, as_json(parity))
    lines = [*table(parity, exact), *(f"report: {file}" for file in files)]
    over = {name: verdict for name, verdict in parity.verdicts.items() if verdict.word == DIVERGES}
    dead = {name: told.died for name, told in parity.runs.items() if told.died}
    if over or dead:
        _say(*lines, *([NEXT] if over else []))
    if over:
        raise GateError("\n".join(f"{name} {verdict.line()}" for name, verdict in over.items()))
    if dead:
        raise TrainingError("\n".join(f"{name} died {how}" for name, how in dead.items()))
    return lines


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)
