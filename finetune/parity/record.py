"""The report for programs: every number of a comparison."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from typing import Any

from finetune.parity.command import Parity
from finetune.parity.compare import ELEMENT, FLOAT32, GRADIENT, OWN, OWN_ELEMENT, STEP, TRAINED
from finetune.parity.judge import Told, Verdict


def as_json(parity: Parity) -> dict[str, Any]:
    """Everything; losses also as exact hexadecimal floats."""
    found = {
        "recipe": parity.recipe,
        "reference": parity.reference.name,
        **asdict(parity.shared),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "left_out": parity.left_out,
        "notes": parity.notes,
        "limits": {
            "float32": FLOAT32, "element": ELEMENT, "gradient": GRADIENT, "trained": TRAINED,
            "own": OWN, "own_element": OWN_ELEMENT, "step": STEP,
        },
        "runs": {name: _run(told) for name, told in parity.runs.items()},
        "verdicts": {
            name: {"verdict": verdict.word, "at": verdict.at or None, "unseen": verdict.unseen} | _numbers(verdict)
            for name, verdict in parity.verdicts.items()
        },
    }  # fmt: skip
    return _plain(found)


def _run(told: Told) -> dict[str, Any]:
    steps = [
        {key: float(step[key]) for key in ("loss", "grad_norm")}
        | {f"{key}_hex": float(step[key]).hex() for key in ("loss", "grad_norm")}
        for step in told.steps
    ]
    return {"died": told.died or None, "seconds": told.seconds, "facts": told.facts, "steps": steps}


def _numbers(verdict: Verdict) -> dict[str, Any]:
    parts = {"modules": verdict.modules, "gradients": verdict.gradients, "losses": verdict.losses}
    told: dict[str, Any] = {key: [asdict(one) for one in part] for key, part in parts.items()}
    for when, (found, own) in verdict.logits.items():
        told[f"logits_{when}"] = {"device": asdict(found), "own": asdict(own) if own else None}
    return told


def _plain(value: Any) -> Any:
    """JSON has no infinity: it stands there as text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
