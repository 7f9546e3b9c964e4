"""`finetune doctor [RECIPE]`: look at the machine, say it to people and, as JSON, to pipelines."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from finetune import __version__
from finetune.device import cuda_probe
from finetune.device.compatibility import processor
from finetune.device.machine import Machine
from finetune.device.npu_probe import Probe
from finetune.doctor.ascend import check_ascend
from finetune.doctor.cuda import check_cuda
from finetune.doctor.finding import ERROR, OK, WARNING, Finding, error, ok
from finetune.doctor.host import BF16_FLAGS, check_host
from finetune.doctor.packages import check_packages
from finetune.doctor.variables import check_variables
from finetune.errors import RecipeError
from finetune.told import STDOUT, tell

if TYPE_CHECKING:
    from finetune.doctor.fits import Here

STYLE = {OK: "green", WARNING: "yellow", ERROR: "bold red"}
EXIT_WRONG = 2  # a line is an error


def doctor_command(options: argparse.Namespace, machine: Machine | None = None) -> int:
    """Prints the report; 0 where no line is an error, else 2.

    Raises:
        RecipeError: --set without a recipe; the file of --json can't be written.
    """
    if options.set and options.recipe is None:
        raise RecipeError("--set: overrides a key of a recipe; name one")
    findings = examine(machine or Machine(), options.recipe, options.set)
    tell(options.json, report(findings))
    if options.json != STDOUT:
        show(findings, sys.stdout)
    return EXIT_WRONG if any(finding.status == ERROR for finding in findings) else 0


def examine(machine: Machine, recipe: Path | None = None, overrides: Sequence[str] = ()) -> list[Finding]:
    """Every line, from the machine up to the recipe. Never imports torch or a device's package in this process."""
    findings = check_host(machine) + check_packages(machine)
    torch = cuda_probe.probe(machine) if machine.version("torch") else {}
    if torch and "torch" not in torch:
        findings.append(
            error("import torch", torch["error"], "install torch again; `python -c 'import torch'` shows more")
        )
    elif torch:
        findings.append(ok("import torch", f"{torch['torch']} imports"))
    ascend, probed = check_ascend(machine)
    findings += check_cuda(machine, torch) + ascend + check_variables(machine)
    if recipe is not None:
        from finetune.doctor.fits import check_recipe

        findings += check_recipe(recipe, overrides, here(machine, torch, probed))
    return findings


def here(machine: Machine, torch: dict[str, Any], probed: Probe) -> Here:
    """What a job can compute on, by the probes."""
    from finetune.doctor.fits import Here

    flags = (machine.read("/proc/cpuinfo") or "").split()
    bf16, idle = {"cpu": any(flag in flags for flag in BF16_FLAGS)}, []
    if torch.get("sum") == 16.0:
        bf16["cuda"] = all(device["capability"] >= [8, 0] for device in torch["devices"])
    if probed.status == "ok":
        known = [processor(name) for name in probed.facts["names"]]
        bf16["npu"] = bool(probed.facts["bf16"])
        idle = ["npu"] if any(row and row.purpose != "training" for row in known) else []
    return Here(bf16, idle)


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for machines: `findings` in the order of the lines, and how many there are of each status."""
    counts = {status: sum(finding.status == status for finding in findings) for status in (OK, WARNING, ERROR)}
    return {"finetune": __version__, "counts": counts, "findings": [asdict(finding) for finding in findings]}


def show(findings: Sequence[Finding], stream: TextIO) -> None:
    """A line each, aligned, the remedy below: wrapped and coloured on a terminal (not with NO_COLOR, rich sees to it),
    one line a finding however long elsewhere, for grep. Needs no library there: the doctor also looks at broken ones."""
    counts = report(findings)["counts"]
    total = f"{counts[ERROR]} error(s), {counts[WARNING]} warning(s), {counts[OK]} ok"
    if stream.isatty() and importlib.util.find_spec("rich") is not None:
        _show_on_terminal(findings, total, stream)
        return
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<8} {finding.subject:<{width}}  {finding.what}", file=stream)
        if finding.remedy:
            print(f"{'':<8} {'':<{width}}  do: {finding.remedy}", file=stream)
    print(total, file=stream)


def _show_on_terminal(findings: Sequence[Finding], total: str, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for finding in findings:
        table.add_row(Text(finding.status, STYLE[finding.status]), finding.subject, Text(finding.what))
        if finding.remedy:
            table.add_row("", "", Text(f"do: {finding.remedy}", "dim"))
    console = Console(file=stream, highlight=False)
    console.print(table)
    console.print(total, markup=False)
