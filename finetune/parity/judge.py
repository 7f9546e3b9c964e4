"""From what two devices left in their folders to a verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from finetune.parity.compare import (
    FLOAT32,
    GRADIENT,
    TRAINED,
    Compared,
    Logits,
    Read,
    compare_logits,
    compare_losses,
    compare_tensors,
    compared,
    first_over,
    gap,
    rms,
)
from finetune.parity.look import GRADIENTS, LOGITS, MODULES
from finetune.parity.run import EVENTS, RUN

EQUAL, WITHIN, DIVERGES, DIED = "equal", "within the dtype's own error", "diverges", "died"
GRADIENT_OF, IN_PEFT = "gradient of ", "base_model.model."
NEGLIGIBLE = 1e-3  # of the largest gradient's RMS: what is smaller is held against that share of it


@dataclass(frozen=True)
class Told:
    """What a run left: its facts, how far it came, why it ended early ("" where it did not), the recipe's mistakes."""

    name: str
    folder: Path
    facts: dict[str, Any]
    steps: list[dict[str, float]]
    seconds: float | None
    died: str = ""
    mistakes: tuple[str, ...] = ()

    @property
    def losses(self) -> list[float]:
        return [float(step["loss"]) for step in self.steps]


@dataclass(frozen=True)
class Verdict:
    """Of a device against the reference.

    Attributes:
        word: EQUAL, WITHIN, DIVERGES.
        at: the first thing that diverges; for people.
        unseen: modules beside it and before it that the device did not call: a fused op does their work.
        logits: at the start and at the end, each beside the dtype's own error (None in float32).
    """

    word: str
    at: str
    modules: list[Compared]
    gradients: list[Compared]
    losses: list[Compared]
    logits: dict[str, tuple[Logits, Logits | None]]
    unseen: tuple[str, ...] = ()

    def line(self) -> str:
        fused = f" (or in {', '.join(self.unseen)}, computed by a fused op)" if self.unseen else ""
        return f"{self.word} at {self.at}{fused}" if self.at else self.word


def read_run(name: str, folder: Path, code: int | None, steps: int, log: str) -> Told:
    """What is on disk of a run.

    Args:
        code: the exit code of its process, negative: the signal that ended it.
        steps: that it was to take.
        log: what its process said.
    """
    events = [json.loads(line) for line in _lines(folder / EVENTS)]
    taken = [json.loads(line) for line in _lines(folder / RUN / "metrics.jsonl")]
    told: dict[str, Any] = {key: value for event in events for key, value in event.items()}
    died = ""
    if not told.get("done"):
        where = f"after step {len(taken)} of {steps}" if taken else f"in: {told.get('at', 'its start')}"
        ended = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        said = told.get("error") or [line for line in log.splitlines() if line.strip()][-3:]
        died = f"{where} ({ended}): " + " / ".join(map(str, said))
    mistakes = tuple(told.get("error", ())) if told.get("mistake") else ()
    return Told(name, folder, told.get("facts", {}), taken, told.get("seconds"), died, mistakes)


def _lines(file: Path) -> list[str]:
    """Whole lines: the last of a process that was killed may be cut."""
    if not file.is_file():
        return []
    return [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def judge(device: Told, reference: Told, exact: Told | None) -> Verdict:
    """Everything compared, in the order in which it is computed: forward, backward, steps, the trained model.

    Args:
        exact: the reference in float32, where the run is in another dtype.
    """
    modules = _modules(device, reference, exact)
    gradients = _gradients(device, reference, exact)
    losses = compare_losses(device.losses, reference.losses, exact.losses if exact else None)
    language = bool(reference.facts.get("language", True))
    logits, ends = {}, []
    for when, floor in (("start", FLOAT32), ("end", TRAINED * FLOAT32)):
        wanted = _logits(reference, when)
        found, true = _logits(device, when), _logits(exact, when) if exact else None
        own = None if true is None else compare_logits(wanted, true, language)
        logits[when] = (compare_logits(found, wanted, language), own)
        what = "the logits before training" if when == "start" else "the logits after training"
        ends.append(compared(what, gap(found, wanted), None if true is None else gap(wanted, true), floor))
    in_order = [*modules, ends[0], *gradients, *losses, ends[1]]
    over = first_over(in_order)
    if over is not None:
        unseen = _unseen(over.name, {one.name for one in modules}, _order(reference, MODULES))
        return Verdict(DIVERGES, over.name, modules, gradients, losses, logits, unseen)
    word = EQUAL if all(one.equal for one in in_order) else WITHIN
    return Verdict(word, "", modules, gradients, losses, logits)


def _unseen(at: str, seen: set[str], order: list[str]) -> tuple[str, ...]:
    """Of the reference's modules those beside `at` and before it that the device has not."""
    before = order[: order.index(at)] if at in order else []
    parent = at.rpartition(".")[0]
    return tuple(name for name in before if name.rpartition(".")[0] == parent and name not in seen)


def _modules(device: Told, reference: Told, exact: Told | None) -> list[Compared]:
    return compare_tensors(
        _order(reference, MODULES), _read(device, MODULES), _read(reference, MODULES),
        _read(exact, MODULES) if exact else None, FLOAT32,
    )  # fmt: skip


def _gradients(device: Told, reference: Told, exact: Told | None) -> list[Compared]:
    """By parameter, from the last layer back."""
    read, names = _read(reference, GRADIENTS), _order(reference, GRADIENTS)
    largest = max((rms(tensor) for name in names if (tensor := read(name)) is not None), default=0.0)
    told = compare_tensors(
        names, _read(device, GRADIENTS), read, _read(exact, GRADIENTS) if exact else None, GRADIENT * FLOAT32,
        NEGLIGIBLE * largest,
    )  # fmt: skip
    return [replace(one, name=f"{GRADIENT_OF}{one.name.removeprefix(IN_PEFT)}") for one in told]


def _order(run: Told, file: str) -> list[str]:
    with safe_open(run.folder / file, framework="pt") as opened:
        return [name for name in (opened.metadata() or {}).get("order", "").split("\n") if name]


def _read(run: Told, file: str) -> Read:
    """A tensor by name, one at a time: together they may be gigabytes."""
    path = run.folder / file

    def read(name: str) -> torch.Tensor | None:
        with safe_open(path, framework="pt") as opened:
            return opened.get_tensor(name) if name in opened.keys() else None  # noqa: SIM118

    return read


def _logits(run: Told, when: str) -> torch.Tensor:
    return load_file(run.folder / LOGITS[when])["logits"]
