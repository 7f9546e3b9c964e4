"""Sources to samples on disk: read in this process, rendered a chunk at a time in whatever process.

By the data template, or by a format of ready conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from finetune.data.aspects import with_marks
from finetune.data.findings import DataFile, Findings
from finetune.data.formats import check_rows, detect, to_samples
from finetune.data.mix import name_of
from finetune.data.processes import chunked, map_chunks
from finetune.data.rows import Row, Sample
from finetune.data.source import open_source, rows_of
from finetune.data.spool import Block, Spool, block
from finetune.data.template import DataTemplate, Rendered
from finetune.errors import DataError
from finetune.progress import progress
from finetune.recipe_data import DataSection, SourceSection
from finetune.recipe_stages import RewardSection, StageSection


@dataclass(frozen=True)
class SourceFacts:
    """One source as it was read.

    Attributes:
        section: of the recipe.
        files: what it came to, in the order read.
        rows: records read; `blank` lines are no records and were skipped.
        dropped: rows that the template's null rules left out.
        samples: what the other rows became, before splitting and screening.
        format: what their conversations were taken from.
    """

    section: SourceSection
    files: tuple[DataFile, ...]
    rows: int
    blank: int
    dropped: int
    samples: int
    format: str

    @property
    def name(self) -> str:
        return name_of(self.section)


@dataclass(frozen=True)
class Chunk:
    """Some rows of one source.

    Attributes:
        source: its number.
        format: `template`, `auto` or a format's name.
        first: the source's first row; all others must have its format.
    """

    source: int
    format: str
    first: Row
    rows: list[Row]


@dataclass(frozen=True)
class Converted:
    """What became of a chunk.

    Attributes:
        samples: with their digests, ready to be written.
        format: the name of the format, detected or not.
        report: what was dropped and what is wrong; without samples.
    """

    source: int
    rows: int
    samples: Block
    format: str
    report: Rendered


@dataclass(frozen=True)
class Convert:
    """Makes the work of one process.

    Attributes:
        stage: what the samples are for.
        settings: of that stage: what else of a row its loss wants to know.
    """

    template: DataTemplate | None
    stage: str
    settings: StageSection | None = None

    def __call__(self) -> Callable[[Chunk], Converted]:
        return self.convert

    def convert(self, chunk: Chunk) -> Converted:
        if chunk.format == "template":
            assert self.template is not None  # `prepare` has seen to it
            report = self.template.render_chunk(chunk.rows)
            samples, report.samples = report.samples, []
            name = f"template {self.template.name}"
        else:
            name, samples, report = _samples(chunk, self.stage)
        if isinstance(self.settings, RewardSection):
            samples, problems = with_marks(samples, self.settings)
            report.problems += problems
        return Converted(chunk.source, len(chunk.rows), block(samples), name, report)


def _samples(chunk: Chunk, stage: str) -> tuple[str, list[Sample], Rendered]:
    name = chunk.format
    try:
        name = detect([chunk.first, *chunk.rows]) if name == "auto" else name
        check_rows(name, stage, chunk.first.file)
    except DataError as error:
        return name, [], Rendered(problems=error.problems, stopped=True)
    try:
        return name, to_samples(chunk.rows, name, stage), Rendered()
    except DataError as error:
        return name, [], Rendered(problems=error.problems)


@dataclass
class _Taken:
    """One source on its way into the spool."""

    section: SourceSection
    format: str
    findings: Findings = field(default_factory=Findings)
    files: dict[DataFile, str] = field(default_factory=dict)
    first: Row | None = None
    rows: int = 0
    samples: int = 0
    dropped: list[tuple[str, str]] = field(default_factory=list)
    whole: Rendered = field(default_factory=Rendered)  # of all chunks, but without lists of rows
    stopped: bool = False

    def add(self, part: Converted, spool: Spool, source: int) -> None:
        """What became of the next chunk."""
        if self.stopped:
            return
        report = part.report
        spool.add(part.samples, source)
        self.format = part.format
        self.rows += part.rows
        self.samples += len(part.samples)
        self.dropped += [_where_and_reason(line) for line in report.dropped]
        self.whole.dropped += report.dropped[: 1 - len(self.whole.dropped)]
        self.whole.dropped_rows += report.dropped_rows
        self.whole.problems += report.problems
        self.whole.seen |= report.seen
        self.stopped = self.whole.stopped = report.stopped

    def problems(self, template: DataTemplate | None) -> list[str]:
        """What is wrong with the rows, once all have been seen; what the reader found is in `findings`."""
        problems = self.whole.problems
        if template and self.first and self.format.startswith("template ") and not self.findings.count:
            problems = problems + template.check_source(self.first.file, self.rows, self.whole)
        return problems

    def facts(self) -> SourceFacts:
        return SourceFacts(
            self.section, tuple(self.files), self.rows, self.findings.blank, self.whole.dropped_rows, self.samples,
            self.format,
        )  # fmt: skip


def take(
    section: DataSection,
    template: DataTemplate | None,
    spool: Spool,
    notes: list[str],
    stage: str = "sft",
    settings: StageSection | None = None,
) -> list[_Taken]:
    """Reads every source here and renders it in `data.workers` processes; the samples go into the spool, in order.

    Raises:
        DataError: the problems of all sources, those of reading first. A source of which one row costs more than the
            template's limits, or is of another format, is not read to its end.
    """
    sources = [
        _Taken(source, source.format or ("template" if template else section.format or "auto"))
        for source in (*section.train, *section.eval)
    ]
    for source in sources:
        if source.format == "template" and template is None:
            source.stopped = True
            problem = f"{name_of(source.section)}: format: template, but the recipe names no data.template"
            source.whole.problems.append(problem)
    convert = Convert(template, stage, settings)
    with (
        closing(map_chunks(_chunks(sources), convert, section.workers)) as results,
        progress("reading rows") as advance,
    ):
        for part in results:
            sources[part.source].add(part, spool, part.source)
            advance(part.rows)
    reading = Findings()
    for source in sources:
        if not source.stopped:  # how far a stopped one was read depends on the workers
            reading.merge(source.findings)
    notes += reading.notes
    for facts in (source.facts() for source in sources if source.findings.blank or source.dropped):
        said = f"{facts.blank:,} blank lines skipped, {facts.dropped:,} rows dropped by null rules"
        notes.append(f"{facts.name}: {facts.rows:,} rows, {said}")
    problems = [*reading.lines(), *(problem for source in sources for problem in source.problems(template))]
    if problems:
        raise DataError(problems)
    return sources


def _chunks(sources: list[_Taken]) -> Iterator[Chunk]:
    for number, source in enumerate(sources):
        if source.stopped:
            continue
        format = source.format
        source.files = open_source(source.section, source.findings)
        for rows in chunked(rows_of(source.section, source.files, source.findings)):
            source.first = source.first or rows[0]
            yield Chunk(number, format, source.first, rows)
            if source.stopped:
                break


def _where_and_reason(line: str) -> tuple[str, str]:
    """`file:17: column: is null` as ("file:17", "column: is null")."""
    where, _, reason = line.partition(": ")
    return where, reason
