"""A recipe's rows, ready to encode: sources read, rendered, held-out rows taken, both sets screened, sources mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.formats import detect, to_samples
from finetune.data.mix import mix, name_of
from finetune.data.rows import Row, Sample
from finetune.data.screen import Finding, check_licences, look, refusals
from finetune.data.source import read_sources
from finetune.data.split import split_samples
from finetune.data.template import DataTemplate, Metric, load_template
from finetune.errors import DataError, RecipeError, did_you_mean
from finetune.recipe import DataSection, SourceSection, SplitSection

PLAIN_METRIC = Metric(name="exact_match", tolerance=0.0)  # of ready conversations, which have no template to name one


@dataclass(frozen=True)
class SourceFacts:
    """One source as it was read: the recipe's section, its records, and what their conversations were taken from."""

    section: SourceSection
    rows: int
    format: str

    @property
    def name(self) -> str:
        return name_of(self.section)


@dataclass(frozen=True)
class Prepared:
    """Samples of one recipe and everything that was said and done on the way to them.

    Attributes:
        template: None for ready conversations.
        train, evaluate: what training and evaluation use.
        sources: of the training rows, then of the held-out files.
        source_of: `file:line` to the index of its source.
        dropped: (`file:line`, reason) of rows that a template's null rule left out.
        findings, counts: of screening.
        notes: what was decided while reading and mixing, one line each.
        refusals: what stops a run, found by screening.
    """

    template: DataTemplate | None
    metric: Metric
    train: list[Sample]
    evaluate: list[Sample]
    sources: list[SourceFacts]
    source_of: dict[str, int]
    dropped: list[tuple[str, str]]
    findings: list[Finding]
    counts: dict[str, int]
    notes: list[str]
    refusals: list[str]


def prepare(section: DataSection, seed: int) -> Prepared:
    """Rows of all sources to the samples of a run; nothing here needs a model or a tokenizer.

    Raises:
        DataError, RecipeError: everything that is wrong with sources, template, rows and split. What screening
            refuses is in `refusals`, so that an audit can show it beside the rest.
    """
    sources = (*section.train, *section.eval)
    problems = check_licences(sources, section.require_licence)
    if problems:
        raise RecipeError(problems)
    template = load_template(section.template) if section.template else None
    if section.split:
        _check_split(section.split, template)
    notes: list[str] = []
    rows = read_sources(sources, notes)
    taken = _render(sources, rows, section, template)
    by_source = taken.by_source
    source_of: dict[str, int] = {}
    for index, part in enumerate(by_source):
        for sample in part:
            source_of.setdefault(sample.where, index)  # a file that is trained and held out counts as trained
    samples = [sample for taken_part in by_source[: len(section.train)] for sample in taken_part]
    if section.split:
        train, evaluate = split_samples(samples, section.split, seed)
    else:
        train, evaluate = samples, [sample for part in by_source[len(section.train) :] for sample in part]
    screened = look(train, evaluate, section.screen)
    parts = _by_source(screened.train, source_of, len(section.train))
    mixed = mix(section.train, parts, seed, notes)
    facts = [SourceFacts(s, len(read), name) for s, read, name in zip(sources, rows, taken.formats, strict=True)]
    stops = refusals(screened, train, evaluate)
    return Prepared(
        template, template.metric if template else PLAIN_METRIC, mixed, screened.evaluate, facts, source_of,
        taken.dropped, screened.findings, screened.counts, notes, stops,
    )  # fmt: skip


def files_of(section: DataSection) -> list[Path]:
    """The single files among the sources, for their hashes in the manifest."""
    paths = [Path(source.path) for source in (*section.train, *section.eval) if source.path is not None]
    return [path for path in paths if path.is_file()]


@dataclass
class _Taken:
    """Samples by source, the format of each, and the rows that rules left out."""

    by_source: list[list[Sample]] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)


def _render(
    sources: Sequence[SourceSection], rows: Sequence[list[Row]], section: DataSection, template: DataTemplate | None
) -> _Taken:
    """Every source's rows as samples, by the template or by a format of conversations.

    Raises:
        DataError: the problems of all sources.
    """
    taken = _Taken()
    problems: list[str] = []
    for source, part in zip(sources, rows, strict=True):
        name: str = source.format or ("template" if template else section.format or "auto")
        try:
            if name == "template":
                if template is None:
                    raise DataError(f"{name_of(source)}: format: template, but the recipe names no data.template")
                rendered = template.render_rows(part)
                samples = rendered.samples
                taken.dropped += [_where_and_reason(line) for line in rendered.dropped]
                name = f"template {template.name}"
            else:
                name = detect(part) if name == "auto" else name
                samples = to_samples(part, name)
        except DataError as error:
            problems += error.problems
            continue
        taken.by_source.append(samples)
        taken.formats.append(name)
    if problems:
        raise DataError(problems)
    return taken


def _where_and_reason(line: str) -> tuple[str, str]:
    """`file:17: column: is null` as ("file:17", "column: is null")."""
    where, _, reason = line.partition(": ")
    return where, reason


def _by_source(samples: Sequence[Sample], source_of: dict[str, int], sources: int) -> list[list[Sample]]:
    parts: list[list[Sample]] = [[] for _ in range(sources)]
    for sample in samples:
        parts[source_of[sample.where]].append(sample)
    return parts


def _check_split(split: SplitSection, template: DataTemplate | None) -> None:
    """Raises RecipeError for a column that the template does not declare; without a template rows decide."""
    if template is None:
        return
    for key in ("by", "time_column"):
        column = getattr(split, key)
        if column is not None and column not in template.columns:
            raise RecipeError(
                f"data.split.{key}: {column!r} is not a column of {template.path}{did_you_mean(column, template.columns)}"
            )
