"""report.html: everything of a run on one page that loads nothing and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune.checkpoint.disk import replace_file
from finetune.errors import first_line, writing
from finetune.report.curves import broken_steps, charts_of
from finetune.report.plots import SCORES, curve_svg, scores_svg
from finetune.report.read import Run, base_of, of_models, read_run
from finetune.report.rows import cleaner_policies, parts_of
from finetune.report.samples import BECAME, samples_of
from finetune.report.serve import engines_of
from finetune.report.tables import Section, made_up_lines, perplexities, sections_of, worst_drop
from finetune.report.verdict import proof_of, verdict_of
from finetune.report.words import Said, duration, set_ends, set_number, small, visible

FILE = "report.html"


def report_at_end(folder: Path, say: Callable[[str], None]) -> None:
    """The report of a run that has just ended, well or not. That it can't be written is said, and is nothing else."""
    try:
        say(f"report: {write_report(folder)}")
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        say(f"report: not written ({why}); the run itself is whole; try again: finetune report {folder}")


def write_report(folder: Path, output: Path | None = None) -> Path:
    """The page of the run in `folder`, there or at `output`; whole or not at all.

    Raises:
        RecipeError: there is no run, or the page can't be written.
    """
    run = read_run(folder)
    file = output or run.folder / FILE
    page = to_html(run)
    with writing(file):
        replace_file(file, writable(page))
    return file


def to_html(run: Run) -> str:
    """The page. Text from data and models is escaped; what of it looks like personal data or a secret is masked."""
    sections = sections_of(run)
    facts: dict[str, Any] = {
        "run": run,
        "base": base_of(run),
        "models": of_models(run),
        "verdict": verdict_of(run),
        "sections": sections,
        "pictures": {section.name: _picture(run, section) for section in sections},
        "perplexities": {section.name: perplexities(run, section) for section in sections},
        "forgetting": [(section, worst_drop(section)) for section in sections if section.kind == "forgetting"],
        "safety": [section for section in sections if section.kind == "safety"],
        "made_up": made_up_lines(run),
        "curves": _curves(run),
        "samples": samples_of(run.folder, _cleaner(run)),
        "became": BECAME,
        "parts": parts_of(run),
        "proof": proof_of(run),
        "engines": engines_of(run.bundle),
        "recipe": yaml.safe_dump(run.recipe, allow_unicode=True, sort_keys=False, width=100) if run.recipe else "",
        "seconds": _seconds(run),
    }
    return render("report.html.jinja", facts)


def writable(page: str) -> str:
    """The page with lone surrogates, which JSON can hold and files can't, spelt out."""
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def render(template: str, facts: dict[str, Any]) -> str:
    """A page of this folder's templates; everything is escaped but our own pictures and style sheet."""
    return _environment().get_template(template).render(facts)


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("finetune", "report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=True,
    )  # fmt: skip
    environment.filters |= {
        "both": _both, "score": set_number, "ends": set_ends, "small": small, "n": "{:,}".format, "date": _date,
        "visible": visible, "broken": _broken, "picture": Markup,
    }  # fmt: skip
    environment.globals["say"] = lambda en, zh: _both(Said(en, zh))
    return environment


def _both(said: Said) -> Any:
    """Both languages, of which the page shows one; alike ones once."""
    from markupsafe import Markup

    if said[0] == said[1]:
        return said[0]
    return Markup('<span class="en">{}</span><span class="zh" lang="zh-CN">{}</span>').format(*said)


def _broken(name: str) -> Any:
    """A long name that may go on in the next line after `/`, `_` and `.`."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([/_.])(?=.)", r"\1<wbr>", str(escape(name))))


def _date(text: str) -> str:
    """2026-11-30T20:37:46+00:00 as 2026-11-30 20:37 UTC."""
    return f"{text[:10]} {text[11:16]} UTC" if text[10:11] == "T" and text.endswith("+00:00") else text


def _picture(run: Run, section: Section) -> str:
    """The scores of a section that lie between 0 and 1; empty where there are none."""
    models = of_models(run)
    within = [
        line
        for line in section.lines
        if all(0 <= cell.value <= 1 for cell in line.models if cell.value is not None) and "logprob" not in line.name
    ]
    return scores_svg(within[:SCORES], models, f"scores-{section.name}") if within else ""


def _curves(run: Run) -> list[dict[str, Any]]:
    """Of each stage of a chain, the last without a name: charts with their pictures, steps that were not finite."""
    found = []
    for stage, lines in run.metrics.items():
        charts = [
            (chart, curve_svg(chart, f"{stage}-{chart.name}") if chart.series else "") for chart in charts_of(lines)
        ]
        found.append({"stage": stage, "lines": len(lines), "charts": charts, "broken": broken_steps(lines)})
    return found


def _seconds(run: Run) -> Said | None:
    seconds = (run.manifest.get("training") or {}).get("seconds")
    return None if seconds is None else duration(float(seconds))


def _cleaner(run: Run) -> Callable[[str], str]:
    """What takes personal data and secrets out of a text, as far as the recipe had them looked for."""
    from finetune.data.personal import PERSONAL, SECRETS, redact_text

    personal, secrets = cleaner_policies(run.recipe)
    kinds = (PERSONAL if personal else frozenset()) | (SECRETS if secrets else frozenset())
    return lambda text: redact_text(text, kinds) if kinds else text
