"""What a comparison came to: parity.json with every number, parity.md and a short table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.errors import writing
from finetune.parity.command import REPORT, Parity
from finetune.parity.compare import ELEMENT, FLOAT32, GRADIENT, OWN, OWN_ELEMENT, STEP, TRAINED, Compared, Logits
from finetune.parity.judge import DIVERGES, Told, Verdict
from finetune.parity.record import as_json

SHOWN = 20  # rows of a table that is longer in the JSON
AROUND = 3  # modules before and after the one that diverges


def write_report(parity: Parity, exact: Told | None, output: Path) -> list[Path]:
    """Writes both files."""
    files = [output / REPORT, output / "parity.md"]
    with writing(output):
        text = json.dumps(as_json(parity), indent=1, ensure_ascii=False, allow_nan=False)
        files[0].write_text(text + "\n", encoding="utf-8")
        files[1].write_text("\n".join(markdown(parity, exact)) + "\n", encoding="utf-8")
    return files


def table(parity: Parity, exact: Told | None) -> list[str]:
    """A line a run, for the terminal."""
    head = ("run", "dtype", "largest loss difference", "logits at the end", "other greedy tokens", "verdict")
    rows = [head]
    for name, told in parity.runs.items():
        dtype = str(told.facts.get("dtype", "?"))
        verdict = parity.verdicts.get(name)
        if told.died:
            rows.append((name, dtype, "", "", "", f"died {told.died}"))
        elif verdict is not None:
            rows.append((name, dtype, *_summary(verdict.losses, verdict.logits["end"][0]), verdict.line()))
        elif told is parity.reference:
            rows.append((name, dtype, "", "", "", "the reference"))
        elif told is exact and parity.verdicts:
            any_ = next(iter(parity.verdicts.values()))
            own = any_.logits["end"][1]
            apart = max((abs(a - b) for a, b in zip(told.losses, parity.reference.losses, strict=False)), default=0.0)
            rows.append((name, dtype, _e(apart), *_of_logits(own), f"{parity.shared.dtype}'s own error"))
        else:
            rows.append((name, dtype, "", "", "", "not compared"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _summary(losses: Sequence[Compared], logits: Logits) -> tuple[str, str, str]:
    return (_e(max((one.gap.max_abs for one in losses), default=0.0)), *_of_logits(logits))


def _of_logits(logits: Logits | None) -> tuple[str, str]:
    if logits is None:
        return "", ""
    return _e(logits.max_abs), "" if logits.greedy is None else f"{logits.greedy:.1%} of {logits.positions}"


def _e(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def markdown(parity: Parity, exact: Told | None) -> list[str]:
    """The report for people."""
    shared, reference = parity.shared, parity.reference
    batch = reference.facts.get("batch", ["?", "?"])
    lines = [
        f"# Parity of {parity.recipe}",
        "",
        f"{shared.steps} steps of {batch[0]} sequences (micro-batch {batch[1]}) in {shared.dtype}, without dropout, the same "
        f"rows and the same fresh adapter everywhere. Reference: {reference.name}.",
        "",
        *_verdicts(parity),
        "",
        *(f"- {note}" for note in parity.notes),
        *(f"- left out: {name}: {reason}" for name, reason in parity.left_out.items()),
        "",
        "## Runs",
        "",
        *_table(
            ("run", "chip", "dtype", "attention", "fused ops", "optimizer", "seconds", "libraries"),
            map(_facts, parity.runs.values()),
        ),
        "",
        "## Loss",
        "",
        *_losses(parity),
        "",
        "## Logits",
        "",
        *_logits(parity, exact),
    ]
    for name, verdict in parity.verdicts.items():
        lines += ["", f"## Modules: {name}", "", *_modules(verdict), "", f"## Gradients: {name}", ""]
        lines += [*_how_many(verdict.gradients), *_compared(_near(verdict.gradients))]
    return [*lines, "", "## How it is judged", "", *_rules(parity)]


def _verdicts(parity: Parity) -> list[str]:
    lines = [f"**{name}: {verdict.line()}.**" for name, verdict in parity.verdicts.items()]
    lines += [f"**{name}: died {told.died}**" for name, told in parity.runs.items() if told.died]
    return [line for one in lines for line in (one, "")][:-1] or ["Nothing was compared."]


def _facts(told: Told) -> tuple[str, ...]:
    facts = told.facts
    libraries = ", ".join(f"{name} {found}" for name, found in facts.get("versions", {}).items())
    seconds = "" if told.seconds is None else f"{told.seconds:.0f}"
    fused = ", ".join(f"{kind} x{modules}" for kind, modules in facts.get("fused_ops", {}).items())
    chip, dtype, attention, optimizer = (
        str(facts.get(key) or "") for key in ("chip", "dtype", "attention", "optimizer")
    )
    return (told.name, chip, dtype, attention, fused, optimizer, seconds, libraries)


def _losses(parity: Parity) -> list[str]:
    """The curves side by side, and the difference from the reference under each device's own."""
    runs = [told for told in parity.runs.values() if told.steps]
    others = [told for told in runs if told is not parity.reference]
    head = ["step", *(told.name for told in runs), *(f"{told.name} - {parity.reference.name}" for told in others)]
    longest = max((len(told.steps) for told in runs), default=0)
    chosen = (
        sorted({round(i * (longest - 1) / (SHOWN - 1)) for i in range(SHOWN)}) if longest > SHOWN else range(longest)
    )
    rows = []
    for step in chosen:
        losses = [f"{told.losses[step]:.6f}" if step < len(told.losses) else "" for told in runs]
        apart = [
            f"{told.losses[step] - parity.reference.losses[step]:+.1e}"
            if step < min(len(told.losses), len(parity.reference.losses)) else ""
            for told in others
        ]  # fmt: skip
        rows.append((str(step + 1), *losses, *apart))
    return _table(head, rows)


def _logits(parity: Parity, exact: Told | None) -> list[str]:
    head = (
        "run",
        "when",
        "positions",
        "largest",
        "mean",
        "relative",
        "largest / spread",
        "other greedy tokens",
        "KL, nats",
    )
    rows = []
    for index, (name, verdict) in enumerate(parity.verdicts.items()):
        for when, (found, own) in verdict.logits.items():
            if own is not None and exact is not None and not index:
                rows.append((f"{exact.name} (own error)", when, *_cells(own)))
            rows.append((name, when, *_cells(found)))
    return _table(head, rows)


def _cells(logits: Logits) -> tuple[str, ...]:
    greedy = "" if logits.greedy is None else f"{logits.greedy:.1%}"
    kl = "" if logits.kl is None else _e(logits.kl)
    numbers = (logits.max_abs, logits.mean_abs, logits.relative, logits.of_spread)
    return (str(logits.positions), *map(_e, numbers), greedy, kl)


def _modules(verdict: Verdict) -> list[str]:
    if verdict.word == DIVERGES and any(one.name == verdict.at for one in verdict.modules):
        place = next(i for i, one in enumerate(verdict.modules) if one.name == verdict.at)
        return [*_how_many(verdict.modules), *_compared(verdict.modules[max(0, place - AROUND) : place + AROUND + 1])]
    return [*_how_many(verdict.modules), *_compared(_near(verdict.modules))]


def _how_many(told: Sequence[Compared]) -> list[str]:
    different, over = sum(one.gap.max_abs > 0 for one in told), sum(one.over > 1 for one in told)
    return [f"{len(told)} compared: {different} differ at all, {over} by more than is allowed.", ""]


def _near(told: Sequence[Compared]) -> list[Compared]:
    """The ones that come nearest to their limits, in the order in which they were computed."""
    nearest = {id(one) for one in sorted(told, key=lambda one: -one.over)[: SHOWN // 2]}
    return [one for one in told if id(one) in nearest]


def _compared(told: Sequence[Compared]) -> list[str]:
    head = ("name", "largest", "mean", "relative", "the dtype's own", "of what is allowed")
    rows = (
        (f"`{one.name}`", _e(one.gap.max_abs), _e(one.gap.mean_abs), _e(one.gap.relative),
         "" if one.own is None else _e(one.own.relative), f"{one.over:.2g}" + (" **over**" if one.over > 1 else ""))
        for one in told
    )  # fmt: skip
    return _table(head, rows)


def _rules(parity: Parity) -> list[str]:
    rounding = parity.shared.dtype != "float32"
    name, dtype = parity.reference.name, parity.shared.dtype
    own = [
        f"- In {dtype}, where that is more: {OWN:g} times what {name} itself differs in {dtype} from {name} in float32 at the "
        f"same place ({OWN_ELEMENT:g} times for a single element), or one step of the dtype, {STEP:.1e} (two). Within that a "
        "device is only as far off as the dtype allows; below the float32 limits it is called equal.",
    ]
    return [
        "`relative` is the RMS of the differences over the RMS of the reference's values, row (position) by row, so that no row "
        "outweighs the others. Allowed are:",
        "",
        f"- 256 times the eps of float32, {FLOAT32:.1e}: what another order of additions comes to; {GRADIENT} times that for "
        f"gradients, {TRAINED} times for losses and for logits after training. A single element may be {ELEMENT} times "
        "further off.",
        *(own if rounding else []),
        "",
        "The first thing over its limit, in the order of computation (forward, backward, steps), is where it diverges. Tables "
        f"of modules and gradients show {SHOWN // 2} at most; all of them, and the losses to the bit, are in {REPORT}.",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return [lines[0], f"|{'---|' * len(head)}", *lines[1:]]
