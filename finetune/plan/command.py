"""`finetune plan RECIPE`: memory, time and cost before anything is loaded; whether it fits, and what to change."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from finetune.errors import RecipeError
from finetune.plan.advice import advise
from finetune.plan.estimate import Estimate, Shapes, estimate, refuse
from finetune.plan.hardware import Hardware, device_of, find
from finetune.plan.memory import Share
from finetune.plan.report import Planned, advice_lines, as_json, lines
from finetune.plan.rows import Rows, count_rows
from finetune.recipe import Recipe
from finetune.recipefile import load_recipe
from finetune.told import STDOUT, tell

EXIT_TOO_MUCH = 3  # as the gate's: the answer is no


def plan_command(options: argparse.Namespace) -> int:
    """Prints the plan; 0 where every stage fits, else 3.

    Raises:
        RecipeError, DataError: mistakes in recipe or data; what the arithmetic does not cover; unknown hardware.
    """
    overrides = [*options.set, *([f"device={device_of(options.hardware)}"] if options.hardware else [])]
    recipe = load_recipe(options.recipe, overrides)
    stages = recipe.stages or (recipe,)
    for stage in (recipe, *recipe.stages):
        refuse(stage)
    share = share_of(options.processes, options.engine)
    from finetune.device import quiet_libraries

    quiet_libraries()
    hardware = shared(find(options.hardware, recipe.device), options.processes)
    with reading(recipe):
        planned = plans(options.recipe, overrides, recipe, stages, hardware, share)
    told = [as_json(one, hardware, share, options.price_per_hour) for one in planned]
    tell(options.json, {"stages": told} if recipe.stages else told[0])
    for one in planned if options.json != STDOUT else ():
        show(one, hardware, share, options.price_per_hour, sys.stdout)
    return 0 if all(one.estimate.fits(hardware) for one in planned) else EXIT_TOO_MUCH


def reading(recipe: Recipe) -> AbstractContextManager[None]:
    """Inside, a GGUF base's header, which tokenizer and configuration each ask for, is read once."""
    if not recipe.model.gguf_file or importlib.util.find_spec("gguf") is None:
        return nullcontext()
    from finetune.model.gguf_kept import read_once

    return read_once()


def share_of(processes: int, engine: str | None) -> Share:
    """How the model is shared.

    Raises:
        RecipeError: an engine for one process.
    """
    if processes == 1 and engine:
        raise RecipeError(f"--engine: {engine} shares a model among processes; give --processes 2 or more")
    return Share(processes, engine or ("ddp" if processes > 1 else "single"))


def plans(
    file: Path, overrides: Sequence[str], whole: Recipe, stages: Sequence[Recipe], hardware: Hardware, share: Share
) -> list[Planned]:
    """The plan of each stage, with advice."""
    from finetune.inputs import load_stages
    from finetune.ready import recipe_cache

    data, shapes, planned = load_stages(whole), Shapes(), []
    for number, (stage, its) in enumerate(zip(stages, data, strict=True)):
        rows = count_rows(stage, its, recipe_cache(whole))
        now = estimate(stage, rows, hardware, share, shapes)

        def again(settings: Sequence[str], number: int = number, rows: Rows = rows) -> Estimate:
            own = [_for_stage(word, number if whole.stages else None) for word in settings]
            changed = load_recipe(file, [*overrides, *own])
            stage = changed.stages[number] if changed.stages else changed
            own_rows = rows.under(stage.data.max_length, stage.data.too_long, stage.data.packing)
            return estimate(stage, own_rows, hardware, share, shapes)

        planned.append(Planned(stage.name if whole.stages else "", now, advise(stage, now, hardware, again)))
    return planned


def shared(hardware: Hardware, processes: int) -> Hardware:
    """What each process has of it: of a CPU its part of memory, cores and bandwidth; of accelerators one device."""
    if hardware.device != "cpu" or processes == 1:
        return hardware
    flops = {dtype: peak / processes for dtype, peak in hardware.flops.items()}
    memory, bandwidth = hardware.memory // processes, hardware.bandwidth / processes
    return replace(hardware, memory=memory, flops=flops, bandwidth=bandwidth)


def _for_stage(word: str, number: int | None) -> str:
    """`KEY=VALUE` for one stage of a chain; what is the whole chain's (the model) stays so."""
    alone = number is None or word.startswith("model.")
    return word if alone else f"stages.{number}.{word}"


def show(planned: Planned, hardware: Hardware, share: Share, price: float | None, stream: TextIO) -> None:
    """The lines, aligned: wrapped and coloured on a terminal, one line each elsewhere, for grep."""
    told = lines(planned, hardware, share, price)
    changes = advice_lines(planned)
    title = f"stage {planned.name}" if planned.name else ""
    if stream.isatty():
        _show_on_terminal(title, told, changes, planned.estimate.fits(hardware), stream)
        return
    width = max(len(name) for name, _ in told)
    for line in ([f"=== {title}"] if title else []) + [f"{name:<{width}}  {value}" for name, value in told]:
        print(line, file=stream)
    for change in changes:
        print(f"{'change':<{width}}  {change}", file=stream)


def _show_on_terminal(
    title: str, told: Sequence[tuple[str, str]], changes: Sequence[str], fits: bool, stream: TextIO
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table: Any = Table.grid(padding=(0, 2))
    for name, value in told:
        style = ("bold green" if fits else "bold red") if name == "memory" else ""
        table.add_row(Text(name, "bold" if name == "memory" else "dim"), Text(value, style))
    for change in changes:
        table.add_row(Text("change", "yellow"), Text(change))
    console = Console(file=stream, highlight=False)
    if title:
        console.rule(title, align="left")
    console.print(table)
