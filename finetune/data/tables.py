"""Tables to rows: CSV and TSV by file, line and column, and Excel sheets; preambles, double column names."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import Any

from finetune.data.encoding import lines
from finetune.data.findings import DataFile, Findings
from finetune.data.plain import plain
from finetune.data.rows import Row

Record = tuple[int, list[Any]]  # line of its first cell, cells
PEEK = 50  # records looked at to tell a preamble from a header

DELIMITERS = ",;\t|"
TELL_LINES, TELL_CHARACTERS = 30, 1 << 16  # looked at behind the header to tell the delimiter
LONGEST_CELL = 1 << 30  # characters; csv's own limit of 131072 is less than a long document


def read_csv(
    file: DataFile, encoding: str, header: str | None, tabs: bool, findings: Findings, delimiter: str | None = None
) -> Iterator[Row]:
    """Rows of strings; an empty cell is None.

    Args:
        header: the first column's name, where a preamble stands before the line with the names.
        tabs: the file is TSV.
        delimiter: what stands between cells; None: told from the header and the lines behind it, and said.
    """
    text = iter(lines(file, encoding, findings))
    skipped: list[tuple[int, str | None]] = []
    allowed = "\t" if tabs else delimiter or DELIMITERS
    for number, line in text:
        if line is None or not line.strip():
            findings.blank += line is not None
            continue
        if header is not None and all(_cells(line, mark)[0].strip() != header for mark in allowed):
            skipped.append((number, line))
            continue
        ahead = _ahead(text)
        marks = "".join(mark for mark in allowed if header is None or _cells(line, mark)[0].strip() == header)
        found = _delimiter([line, *(ahead_line for _, ahead_line in ahead if ahead_line is not None)], marks)
        problem = _doubtful(line, found, marks)
        if problem:
            findings.problem(f"{file.label}:{number}: {problem}")
            return
        if found not in ",\t" and delimiter is None:
            findings.note(f"{file.label}: cells are separated by {found!r}")
        records = _records(file, chain([(number, line)], ahead, text), found[0], findings)
        yield from _rows(file, records, header, findings)
        return
    if skipped:
        findings.problem(f"{file.label}: no line begins with the column {header!r} (`header:`); {_first(skipped)}")


def read_excel(file: DataFile, sheet: str | None, header: str | None, findings: Findings) -> Iterator[Row]:
    """Rows of one sheet as plain values: dates as ISO text, the error value #N/A as None."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        findings.problem(f"{file.label}: reading Excel needs openpyxl; pip install 'finetune[excel]'")
        return
    try:
        book = load_workbook(file.path, read_only=True, data_only=True)
    except Exception as error:  # of zipfile, of the XML reader, of openpyxl: they have no common base
        findings.problem(f"{file.label}: not an Excel workbook (.xlsx): {error}")
        return
    with closing(book):
        sheets = {page.title: page for page in book.worksheets}
        if len(sheets) > 1 if sheet is None else sheet not in sheets:
            wrong = f"no sheet {sheet!r}" if sheet else f"{len(sheets)} sheets"
            findings.problem(f"{file.label}: {wrong}; say `sheet:` with one of {', '.join(sheets)}")
            return
        page = sheets[sheet] if sheet else next(iter(sheets.values()))
        page.reset_dimensions()  # what the file claims about its size is often wrong
        records = _sheet_records(file, page.iter_rows(), findings)
        skipped: list[tuple[int, str | None]] = []
        for line, cells in records:
            if header is None or str(cells[0]).strip() == header:
                yield from _rows(file, chain([(line, cells)], records), header, findings, pad=True)
                return
            skipped.append((line, str(cells[0])))
        if skipped:
            shown = _first(skipped)
            findings.problem(f"{file.label}: no row begins with the column {header!r} (`header:`); {shown}")


def _rows(
    file: DataFile, records: Iterable[Record], header: str | None, findings: Findings, pad: bool = False
) -> Iterator[Row]:
    """The first record names the columns; every other one must have as many cells (`pad`: or fewer)."""
    rest = iter(records)
    peeked = list(islice(rest, PEEK))
    if not peeked:
        return
    (first, names), body = peeked[0], peeked[1:]
    if header is None and (late := _late_header(peeked, pad)):
        line, cells = late
        findings.problem(
            f"{file.label}:{first}: {len(names)} cells here, but {len(cells)} from line {line} on; "
            f"if that line holds the column names, say `header: {cells[0]}`"
        )
        return
    columns = _column_names(file, first, names, findings)
    for line, cells in chain(body, rest):
        cells += [None] * (len(columns) - len(cells)) if pad else []
        if len(cells) != len(columns):
            findings.problem(f"{file.label}:{line}: {len(cells)} cells, the header has {len(columns)}")
            continue
        yield Row({name: None if cell == "" else cell for name, cell in zip(columns, cells, strict=True)},
                  file.label, line)  # fmt: skip


def _late_header(peeked: list[Record], pad: bool) -> Record | None:
    """The record that seems to hold the column names when the first one does not, as behind a preamble.

    CSV: from it on all records are equally wide, and wider than the first. Excel (`pad`), where empty cells at the end
    of a row don't count: the first of the widest records, when the first record is a single cell.
    """
    widths = [len(cells) for _, cells in peeked]
    if pad:
        return peeked[widths.index(max(widths))] if widths[0] == 1 < max(widths) else None
    index = next(i for i in range(len(widths)) if set(widths[i:]) == {widths[-1]})
    return peeked[index] if widths[-1] > widths[0] and len(widths) - index >= 2 else None


def _column_names(file: DataFile, line: int, cells: list[Any], findings: Findings) -> list[str]:
    """Names without spaces around them, made distinct: `a`, `a_2`; without a name `column_N`. Changes are said."""
    given = [str(cell).strip() if cell is not None else "" for cell in cells]
    names: list[str] = []
    renamed: list[str] = []
    for number, name in enumerate(given, start=1):
        new = name or f"column_{number}"
        count = 2
        while new in names or (new != name and new in given):
            new = f"{name or 'column'}_{count}"
            count += 1
        if new != name:
            renamed.append(f"{name!r} in column {number} is {new}")
        names.append(new)
    if renamed:
        findings.note(f"{file.label}:{line}: column names made distinct: {'; '.join(renamed)}")
    return names


def _records(
    file: DataFile, text: Iterable[tuple[int, str | None]], delimiter: str, findings: Findings
) -> Iterator[Record]:
    """Records by the csv module; where it gives up, a slow look at the record's own lines says at which column."""
    taken: list[tuple[int, str]] = []  # lines of the record being read

    def feed() -> Iterator[str]:
        for number, line in text:
            if line is not None and "\0" in line:
                findings.problem(f"{file.label}:{number}:{line.index(chr(0)) + 1}: a NUL byte")
            taken.append((number, line or ""))
            yield line or ""

    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        before = findings.count
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            findings.problem(f"{file.label}:{_csv_problem(taken, delimiter) or f'{taken[0][0]}: {error}'}")
            continue
        findings.blank += not cells
        if cells and findings.count == before:
            yield taken[0][0], cells


def _csv_problem(taken: list[tuple[int, str]], delimiter: str) -> str | None:
    """`line:column: reason` of the first mistake in a record: text behind a closing quote, or a quote never closed."""
    state = "start"  # of a cell; or plain, quoted, closed
    opened = (0, 0)
    for number, line in taken:
        for column, letter in enumerate(line, start=1):
            if state == "quoted":
                state = "closed" if letter == '"' else "quoted"
            elif letter == delimiter or letter in "\r\n":
                state = "start"
            elif letter == '"' and state in ("start", "closed"):  # two quotes inside a quoted cell stand for one
                opened = opened if state == "closed" else (number, column)
                state = "quoted"
            elif state == "closed":
                return f'{number}:{column}: {letter!r} follows a closing quote; a quote inside a cell is written ""'
            else:
                state = "plain"
    return f"{opened[0]}:{opened[1]}: a quote is opened here and never closed" if state == "quoted" else None


def _ahead(text: Iterator[tuple[int, str | None]]) -> list[tuple[int, str | None]]:
    """A few lines taken out of the iterator."""
    taken: list[tuple[int, str | None]] = []
    characters = 0
    while len(taken) < TELL_LINES and characters < TELL_CHARACTERS and (item := next(text, None)):
        taken.append(item)
        characters += len(item[1] or "")
    return taken


def _delimiter(lines: Sequence[str], allowed: str) -> str:
    """The mark that cuts the header into two cells or more and most records into as many, then into the most cells.

    Several marks are given back where all records say the same of each: `a;b,c` above `1;2,5`. Where the header is
    cut by none (a preamble), the mark that cuts the last records into most.
    """
    widths = {mark: _widths(lines, mark) for mark in allowed}
    cut = {mark: (found.count(found[0]), found[0]) for mark, found in widths.items() if found[0] > 1}
    if not cut:
        return max(allowed, key=lambda mark: widths[mark][-1] if len(set(widths[mark][-2:])) == 1 else 0)
    best = [mark for mark, score in cut.items() if score == max(cut.values())]
    return "".join(best) if {",", ";"} <= set(best) and len(lines) > 1 else best[0]


def _widths(lines: Sequence[str], mark: str) -> list[int]:
    """Cells of each record; of more than three the last is left out, which the end of the lines may have cut."""
    csv.field_size_limit(LONGEST_CELL)
    widths = [len(cells) for cells in csv.reader(lines, delimiter=mark) if cells]
    return widths[:-1] if len(widths) > 3 else widths or [1]


def _doubtful(line: str, found: str, allowed: str) -> str | None:
    """Why cells can't be told apart: two marks fit, or the one declared makes one column where another makes more."""
    if len(found) > 1:
        return f"cells may be separated by {' or '.join(map(repr, found))}; say `delimiter:`"
    others = [mark for mark in DELIMITERS if mark not in allowed and len(_cells(line, mark)) > 1]
    if others and len(_cells(line, found)) == 1:
        likely = max(others, key=lambda mark: len(_cells(line, mark)))
        return f"{found!r} makes one column of this header; cells look separated by {likely!r} (`delimiter:`)"
    return None


def _cells(line: str, delimiter: str) -> list[str]:
    csv.field_size_limit(LONGEST_CELL)
    return next(csv.reader([line], delimiter=delimiter), [""]) or [""]


def _first(skipped: list[tuple[int, str | None]]) -> str:
    shown = "; ".join(f"line {number}: {(text or '').strip()[:60]}" for number, text in skipped[:8])
    return f"the first lines are: {shown}"


def _sheet_records(file: DataFile, rows: Iterable[Any], findings: Findings) -> Iterator[Record]:
    """Rows of cells as plain values, without the empty cells at their end and without empty rows."""
    for line, row in enumerate(rows, start=1):
        cells: list[Any] = []
        before = findings.count
        for column, cell in enumerate(row, start=1):
            value = cell.value
            if cell.data_type == "e" and value == "#N/A":
                findings.note(f"{file.label}: #N/A is read as an empty cell")
                value = None
            elif cell.data_type == "e":
                findings.problem(f"{file.label}:{line}:{column}: Excel's error value {value}")
            elif isinstance(value, dt.datetime) and value.time() == dt.time() and "h" not in cell.number_format.lower():
                value = value.date()
            cells.append(plain(value))
        while cells and cells[-1] in (None, ""):
            cells.pop()
        findings.blank += not cells
        if cells and findings.count == before:
            yield line, cells
