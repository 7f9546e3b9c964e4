"""What is decided of a trained model, for people and machines: release.md (English, Chinese) and release.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.prepare import Prepared
from finetune.evaluate.gate import Check, judge, pass_gate
from finetune.evaluate.intervals import with_ends
from finetune.evaluate.metrics import Scores
from finetune.evaluate.previous import Previous, held_out_notes
from finetune.evaluate.results import Evaluated
from finetune.pages import cell, render
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.evaluate.generate import Answer

FILE = "release.json"
REPORTS = ("_report.md", "_report.zh-CN.md")  # how the names of pages end that show questions and answers of a suite
PAGES = {"release.md": "release.md.jinja", "release.zh-CN.md": "release.zh-CN.md.jinja"}


def decide(recipe: Recipe, evaluated: Evaluated, previous: Previous | None) -> list[Check]:
    """Holds the recipe's gate against an evaluation; what came of it lies in the run's folder, whether it passed or not.

    Returns:
        Every check; all of them passed.

    Raises:
        GateError: those that did not.
    """
    checks = judge(recipe.gate, evaluated)
    write_release(recipe, evaluated, checks, previous)
    pass_gate(checks)
    return checks


def write_release(recipe: Recipe, evaluated: Evaluated, checks: Sequence[Check], previous: Previous | None) -> None:
    """The three files into the run's folder; the bundle takes them from there."""
    facts = release_facts(recipe, evaluated, checks, previous)
    text = json.dumps(facts, ensure_ascii=False, indent=2) + "\n"
    (recipe.output_dir / FILE).write_text(text, encoding="utf-8")
    for name, template in PAGES.items():
        page = render("evaluate", template, facts | {"sections": _sections(facts)}, {"cell": cell})
        (recipe.output_dir / name).write_text(page, encoding="utf-8")


def write_safety_report(
    recipe: Recipe,
    suite: str,
    data: Prepared,
    answers: Mapping[str, Sequence[Answer]],
    rows: Mapping[str, Sequence[Scores]],
) -> None:
    """`<suite>_report.md` and its Chinese twin into the run's folder, of a suite whose metric is `refusal`.

    Args:
        answers, rows: of each model, what it said and its scores.
    """
    from finetune.evaluate.safety_report import Asked, safety_report

    asked = []
    for place, sample in enumerate(data.evaluate):
        told = {key: str(sample.record.get(key, "")) for key in ("id", "category", "question")}
        said = {who: (answers[who][place].text, rows[who][place]) for who in answers}
        asked.append(Asked(**told, expect=sample.answer, answers=said))
    for name, page in safety_report(asked, recipe.name).items():
        (recipe.output_dir / name.replace("safety", suite, 1)).write_text(page, encoding="utf-8")


def release_files(folder: Path) -> list[Path]:
    """What of all this lies in a run's folder and goes into its bundle."""
    there = [folder / name for name in (FILE, *PAGES) if (folder / name).is_file()]
    return [*there, *(file for ending in REPORTS for file in sorted(folder.glob(f"*{ending}")))]


def release_facts(
    recipe: Recipe, evaluated: Evaluated, checks: Sequence[Check], previous: Previous | None
) -> dict[str, Any]:
    """What release.json says."""
    split = recipe.data.split
    told = None
    if previous is not None:
        plain = split.model_dump(mode="json", exclude_none=True) if split else None
        notes = held_out_notes(previous, recipe.seed, plain)
        told = {"name": previous.name, "created": previous.created, "notes": notes}
    return {
        "name": recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": all(check.passed for check in checks),
        "checks": [asdict(check) for check in checks],
        "confident": recipe.gate.confident,
        "previous": told,
        "scores": evaluated.scores,
        "intervals": evaluated.intervals.record() if evaluated.intervals else None,
        "suites": list(recipe.evaluate.suites),
    }


def _sections(facts: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """The table of each suite, the run's own rows first (with an empty name): score, models, differences."""
    scores, suites = facts["scores"], facts["suites"]
    models = list(scores)
    found: dict[str, list[list[str]]] = {"": [], **{name: [] for name in suites}}
    for name in scores["tuned"]:
        suite, _, rest = name.partition("/")
        line = [with_ends(scores[who].get(name), _ends(facts, who, name)) for who in models]
        for other, key in (("base", "difference"), ("previous", "difference_previous")):
            if other in scores:
                before = scores[other].get(name)
                between = None if before is None else scores["tuned"][name] - before
                line.append(with_ends(between, _ends(facts, key, name), signed=True))
        found[suite if suite in suites else ""].append([rest if suite in suites else name, *line])
    return [(name, lines) for name, lines in found.items() if lines]


def _ends(facts: Mapping[str, Any], who: str, name: str) -> Sequence[float] | None:
    return ((facts["intervals"] or {}).get(who) or {}).get(name)
