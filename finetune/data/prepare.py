"""A recipe's rows, ready to encode: sources read, rendered, held-out rows taken, both sets screened, sources mixed.

Rows and samples are never all in memory: rows stream through the renderer into a Spool, and what follows chooses from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.convert import SourceFacts, take
from finetune.data.formats import ROWS_OF_STAGE
from finetune.data.mix import mix
from finetune.data.screen import Finding, check_licences, look, refusals
from finetune.data.split import split_samples
from finetune.data.spool import SampleFile, Spool, place
from finetune.data.template import DataTemplate, Metric, load_template
from finetune.errors import RecipeError, did_you_mean
from finetune.recipe_data import DataSection, SplitSection
from finetune.recipe_stages import StageSection

PLAIN_METRIC = Metric(name="exact_match", tolerance=0.0)  # of ready conversations, which have no template to name one


@dataclass(frozen=True)
class Lineage:
    """Where one sample comes from; the template and its hash are empty for ready conversations.

    Attributes:
        file, line: of the row.
        source: the source as the recipe names it.
        tasks: those of the template's tasks that the row has samples of; empty where the template has one only.
    """

    file: str
    line: int
    source: str
    format: str
    tasks: tuple[str, ...]
    template: str
    template_sha256: str


@dataclass(frozen=True)
class Prepared:
    """Samples of one recipe and everything that was said and done on the way to them.

    Attributes:
        template: None for ready conversations.
        metrics: how answers are scored, by the `task` of their samples.
        train, evaluate: what training and evaluation use; read from disk as they are asked for.
        sources: of the training rows, then of the held-out files.
        dropped: (`file:line`, reason) of rows that a template's null rule left out.
        findings, counts: of screening.
        notes: what was decided while reading and mixing, one line each.
        refusals: what stops a run, found by screening.
    """

    template: DataTemplate | None
    metrics: dict[str, Metric]
    train: SampleFile
    evaluate: SampleFile
    sources: list[SourceFacts]
    dropped: list[tuple[str, str]]
    findings: list[Finding]
    counts: dict[str, int]
    notes: list[str]
    refusals: list[str]

    @property
    def files(self) -> list[Path]:
        """Every file that was read, source by source, in the order read."""
        return [file.path for source in self.sources for file in source.files]

    def source_of(self, where: str) -> int:
        """The number of the source that `file:line` is of; a file that is trained and held out counts as trained."""
        return self.train.spool.source_of_file[place(where)[0]]

    def lineage(self, where: str) -> Lineage:
        """All that is known of where the samples at `file:line` come from.

        Raises:
            KeyError: no sample comes from that file.
        """
        file, line = place(where)
        spool, source = self.train.spool, self.sources[self.source_of(where)]
        facts = spool.facts[(spool.facts["file"] == spool.files[file]) & (spool.facts["line"] == line)]
        names = [*spool.tasks]
        tasks = dict.fromkeys(names[number] for number in facts["task"])
        rendered = self.template if source.format.startswith("template ") else None
        about = (rendered.name, rendered.sha256) if rendered else ("", "")
        return Lineage(file, line, source.name, source.format, tuple(filter(None, tasks)), *about)


# What a template may give, with what makes it so.
GIVES = {
    "conversation": "conversations", "preference": "preferences (a `rejected` beside the answer's `content`)",
    "labelled": "labelled answers (a `label`)", "text": "plain text (one message with the role text)",
}  # fmt: skip


def prepare(section: DataSection, seed: int, stage: str = "sft", settings: StageSection | None = None) -> Prepared:
    """Rows of all sources to the samples that a stage trains on; nothing here needs a model or a tokenizer.

    Args:
        settings: of that stage.

    Raises:
        DataError, RecipeError: everything that is wrong with sources, template, rows and split. What screening
            refuses is in `refusals`, so that an audit can show it beside the rest.
    """
    problems = check_licences((*section.train, *section.eval), section.require_licence)
    if problems:
        raise RecipeError(problems)
    template = template_of(section, stage)
    notes: list[str] = []
    spool = Spool()
    taken = take(section, template, spool, notes, stage, settings)
    samples = spool.samples()
    trained = samples.facts("source") < len(section.train)
    train, evaluate = samples.pick(trained), samples.pick(~trained)
    if section.split:
        train, evaluate = _split(train, section, section.split, seed)
    screened = look(train, evaluate, section.screen, section.workers)
    parts = [np.flatnonzero(screened.train.facts("source") == number) for number in range(len(section.train))]
    drawn = mix(section.train, [len(part) for part in parts], seed, notes)
    mixed = np.concatenate([part[places] for part, places in zip(parts, drawn, strict=True)])
    return Prepared(
        template, metrics_of(template), screened.train.pick(mixed), screened.evaluate,
        [source.facts() for source in taken], [item for source in taken for item in source.dropped],
        screened.findings, screened.counts, notes, refusals(screened, train, evaluate),
    )  # fmt: skip


def template_of(section: DataSection, stage: str) -> DataTemplate | None:
    """The recipe's data template, where it has one.

    Raises:
        DataError, RecipeError: what is wrong with it; it gives other rows than the stage trains on; `split` names a
            column that it does not declare.
    """
    template = load_template(section.template) if section.template else None
    if template and template.rows != ROWS_OF_STAGE[stage]:
        raise RecipeError(
            f"data.template: {template.path} gives {GIVES[template.rows]}; stage {stage} trains on "
            f"{GIVES[ROWS_OF_STAGE[stage]]}"
        )
    if section.split:
        _check_split(section.split, template)
    return template


def metrics_of(template: DataTemplate | None) -> dict[str, Metric]:
    """How answers are scored, by the `task` of their samples."""
    return template.metrics if template else {"": PLAIN_METRIC}


def _split(samples: SampleFile, section: DataSection, split: SplitSection, seed: int) -> tuple[SampleFile, SampleFile]:
    """Training and held-out samples; those of sources with `hold_out: false` are all trained on."""
    held = np.array([source.hold_out for source in section.train])[samples.facts("source")]
    train, evaluate = split_samples(samples.pick(held), split, seed)
    return SampleFile(samples.spool, np.concatenate([train.chosen, samples.pick(~held).chosen])), evaluate


def _check_split(split: SplitSection, template: DataTemplate | None) -> None:
    """Raises RecipeError for a column that the template does not declare; without a template rows decide."""
    if template is None:
        return
    for key in ("by", "time_column"):
        column = getattr(split, key)
        if column is None or column in template.columns:
            continue
        inside = template.columns.get(column.partition(".")[0])
        if key == "time_column" or inside is None or inside.type != "object":
            raise RecipeError(
                f"data.split.{key}: {column!r} is not a column of {template.path}{did_you_mean(column, template.columns)}"
            )
