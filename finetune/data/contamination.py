"""Contamination: training rows that hold a passage of a benchmark's files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.data.compressed import plain_suffix
from finetune.data.duplicates import BOILERPLATE_ROWS, normalise
from finetune.data.encoding import encoding_of, lines
from finetune.data.findings import DataFile, Findings
from finetune.data.source import ENDINGS, source_files, stream_source
from finetune.errors import DataError
from finetune.recipe_data import SourceSection

SHORT_TEXT = 5  # a benchmark text of fewer words than an n-gram must have at least this many, and be equal as a whole

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_CJK_CHARACTER = re.compile(rf"[{_CJK}]")


class Benchmarks:
    """The n-grams of named benchmark files, and which training texts share one (Brown et al. 2020, appendix C).

    An n-gram is `n` words; in a text that is mostly Chinese, where a word is about one and a half characters, n * 3 / 2
    characters. A text shorter than that (but of `SHORT_TEXT` or more) must be equal to a whole message. N-grams in more
    than `BOILERPLATE_ROWS` rows of one file are instructions that repeat, not content, and don't count.
    """

    def __init__(self, files: Sequence[Path], n: int) -> None:
        """Reads what a source may be (every text in a row, however deep), and text files (a text a line).

        Raises:
            DataError: every file and line that can't be read.
        """
        self.n = n
        self._grams: dict[int, dict[str, str]] = {}  # length -> n-gram -> file:line
        self._short: dict[str, str] = {}
        problems: list[str] = []
        for file in files:
            self._add_file(file, problems)
        if problems:
            raise DataError(problems)

    def find(self, texts: Sequence[str]) -> tuple[str, str] | None:
        """(file:line of the benchmark, the words shared) of the first text that shares something."""
        for text in texts:
            words = _TOKEN.findall(normalise(text))
            joined = " ".join(words)
            if joined in self._short:
                return self._short[joined], joined
            for length, grams in self._grams.items():
                for gram in _grams(words, length):
                    if gram in grams:
                        return grams[gram], gram
        return None

    def _add_file(self, file: Path, problems: list[str]) -> None:
        rows: Counter[tuple[int, str]] = Counter()
        where: dict[tuple[int, str], str] = {}
        for place, texts in _benchmark_rows(file, problems):
            found: set[tuple[int, str]] = set()
            for words in (_TOKEN.findall(normalise(text)) for text in texts):
                length = self._length(words)
                if len(words) >= length:
                    found.update((length, gram) for gram in _grams(words, length))
                elif len(words) >= SHORT_TEXT:
                    found.add((0, " ".join(words)))
            rows.update(found)
            for key in found:
                where.setdefault(key, place)
        for key, first in where.items():
            if rows[key] <= BOILERPLATE_ROWS:
                table = self._grams.setdefault(key[0], {}) if key[0] else self._short
                table.setdefault(key[1], first)

    def _length(self, words: Sequence[str]) -> int:
        chinese = sum(1 for word in words if _CJK_CHARACTER.match(word))
        return self.n * 3 // 2 if chinese * 2 > len(words) else self.n


def _grams(words: Sequence[str], length: int) -> Iterator[str]:
    for start in range(len(words) - length + 1):
        yield " ".join(words[start : start + length])


def benchmark_files(benchmarks: Sequence[Path]) -> list[Path]:
    """The files behind them; a benchmark may be a folder or a glob, as a source may."""
    sources = [SourceSection(path=str(path)) for path in benchmarks]  # type: ignore[call-arg]
    return [file.path for source in sources for file in source_files(source, Findings())]


def _benchmark_rows(file: Path, problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(`file:line`, its texts) of every row, read as a source is; of a text file every line that is not blank."""
    try:
        if ENDINGS.get(plain_suffix(file)) == "text":
            yield from ((where, [line]) for where, line in _text_lines(file))
            return
        kind = ENDINGS.get(plain_suffix(file), "auto")
        headers: set[str] = set()
        for row in stream_source(SourceSection(path=str(file), kind=kind)):  # type: ignore[call-arg,arg-type]
            texts = list(_leaves(row.values))
            if row.file not in headers:  # a table without column names has its first row in their place
                headers.add(row.file)
                texts += row.values
            yield row.where, texts
    except DataError as error:
        problems += [f"data.screen.benchmarks: {problem}" for problem in error.problems]


def _text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """(`file:line`, text) of a text file.

    Raises:
        DataError: not there, or not text.
    """
    findings = Findings()
    data_file = DataFile(file, str(file), file.name)
    try:
        encoding = encoding_of(data_file, "auto", findings)
        for number, line in lines(data_file, encoding, findings) if encoding else ():
            if line is not None and line.strip():
                yield f"{file}:{number}", line
    except OSError as error:
        findings.problem(f"{file}: can't be read: {error.strerror or error}")
    findings.stop_if_any()


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
