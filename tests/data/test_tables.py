"""CSV, TSV and Excel: cells as text, preambles, double names, and where a quote went wrong."""

from __future__ import annotations

import datetime as dt
import gzip

import pytest

from finetune.data.source import read_source
from finetune.errors import DataError
from finetune.recipe_data import SourceSection


def read(tmp_path, name: str, content: bytes | None = None, **keys) -> tuple[list[tuple[int, dict]], list[str]]:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    notes: list[str] = []
    rows = read_source(SourceSection(path=str(tmp_path / name), **keys), notes)
    return [(row.line, row.values) for row in rows], [note.removeprefix(f"{tmp_path}/") for note in notes]


def refusal(tmp_path, name: str, content: bytes | None = None, **keys) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content, **keys)
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


WELL_FORMED = {
    "quotes and empty cells": (b'a,b\n1,"x, y"\n2,\n', [(2, ("1", "x, y")), (3, ("2", None))]),
    "lines inside a cell": (b'a,b\n"x\r\ny\n""z""",1\n2,3\n', [(2, ('x\r\ny\n"z"', "1")), (5, ("2", "3"))]),
    "numbers and dates stay text": (
        b"a,b\n007,2022-10-22\n1e5,NaN\n",
        [(2, ("007", "2022-10-22")), (3, ("1e5", "NaN"))],
    ),
    "CR CR LF": (b"a,b\r\r\n1,2\r\r\n3,4\r\r\n", [(2, ("1", "2")), (3, ("3", "4"))]),
    "lone CR": (b"a,b\r1,2\r", [(2, ("1", "2"))]),
    "mark, blank lines": (b"\xef\xbb\xbf\na,b\r\n\r\n1,2", [(4, ("1", "2"))]),
    "a quote inside a plain cell": (b'a,b\n3" pipe,4\n', [(2, ('3" pipe', "4"))]),
    "one column": (b"a\n1\n2\n", [(2, ("1",)), (3, ("2",))]),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_csv(tmp_path, name):
    """T44: odd but correct CSV gives exactly these rows."""
    content, expected = WELL_FORMED[name]
    rows = [(line, dict(zip("ab", cells, strict=False))) for line, cells in expected]
    assert read(tmp_path, "x.csv", content) == (rows, [])


MALFORMED = {
    "too few and too many cells": (
        b"a,b\n1\n1,2\n1,2,3\n",
        ["2: 1 cells, the header has 2", "4: 3 cells, the header has 2"],
    ),
    "text behind a closing quote": (
        b'a,b\n1,"x"y\n"ok",2\n3,"x" \n',
        [
            "2:6: 'y' follows a closing quote; a quote inside a cell is written \"\"",
            "4:6: ' ' follows a closing quote; a quote inside a cell is written \"\"",
        ],
    ),
    "a quote never closed": (b'a,b\n1,2\n3,"x\n4,5\n6,7\n', ["3:3: a quote is opened here and never closed"]),
    "a NUL byte": (b"a,b\n1,2\n3,x\0y\n4,5\n", ["3:4: a NUL byte"]),
    "only a header": (b"a,b\n", [" holds no rows"]),
    "empty": (b"", [" holds no rows"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_csv(tmp_path, name):
    """T44: every malformed record by line, and by column where a quote or byte is the reason."""
    content, expected = MALFORMED[name]
    assert refusal(tmp_path, "x.csv", content) == [f"x.csv:{problem}" for problem in expected]


PREAMBLE = b"No errors\nNo warnings\n2 ms\ndata source=metars\n3 results\n"


def test_preamble(tmp_path):
    """The five lines the aviation weather center puts before its header: named by `header`, else asked for."""
    table = PREAMBLE + b"raw_text,station_id\nA,1\nB,2\nC,3\n"
    expected = [(n + 7, {"raw_text": "ABC"[n], "station_id": str(n + 1)}) for n in range(3)]
    assert read(tmp_path, "x.csv", table, header="raw_text") == (expected, [])
    assert refusal(tmp_path, "x.csv", table) == [
        "x.csv:1: 1 cells here, but 2 from line 6 on; if that line holds the column names, say `header: raw_text`"
    ]
    assert refusal(tmp_path, "x.csv", b"No errors\na,b\n1,2\n", header="raw") == [
        "x.csv: no line begins with the column 'raw' (`header:`); "
        "the first lines are: line 1: No errors; line 2: a,b; line 3: 1,2"
    ]
    stray = b'5" gauge\n"never closed\n' + table
    assert read(tmp_path, "x.csv", stray, header="raw_text")[0][0] == (9, {"raw_text": "A", "station_id": "1"})


def test_double_and_missing_names(tmp_path):
    """As in METAR tables (sky_cover four times) and pandas indexes (no name): made distinct, and said."""
    rows, notes = read(tmp_path, "x.csv", b",sky,base,sky,sky_2,sky,\n0,a,b,c,d,e,f\n")
    names = ["column_1", "sky", "base", "sky_3", "sky_2", "sky_4", "column_7"]
    assert rows == [(2, dict(zip(names, "0abcdef", strict=True)))]
    assert notes == [
        "x.csv:1: column names made distinct: '' in column 1 is column_1; 'sky' in column 4 is sky_3; "
        "'sky' in column 6 is sky_4; '' in column 7 is column_7"
    ]


def test_tsv_and_other_separators(tmp_path):
    assert read(tmp_path, "x.tsv", b"a\tb\n1,5\t2\n") == ([(2, {"a": "1,5", "b": "2"})], [])
    expected = [(2, {"a": "1,5", "b": "2"})]
    assert read(tmp_path, "x.csv", b"a;b\n1,5;2\n") == (expected, ["x.csv: cells are separated by ';'"])
    assert read(tmp_path, "x.csv", b"t\na;b\n1,5;2\n", header="a")[0] == [(3, {"a": "1,5", "b": "2"})]


EUROPEAN = {
    "a comma in a name": ("Höhe (m, NN);Wert\n120;3,5\n130;4\n140;6\n", {"Höhe (m, NN)": "120", "Wert": "3,5"}),
    "decimal commas": ("a;b;c\n1,5;2,5;3,5\n1,5;2,5;3,5\n", {"a": "1,5", "b": "2,5", "c": "3,5"}),
    "as many commas, fewer cells": ("a;b;c,d\n1;2;3,4\n", {"a": "1", "b": "2", "c,d": "3,4"}),
    "quoted": ('"a, x";"b"\n"1;5";"2,5"\n', {"a, x": "1;5", "b": "2,5"}),
    "lines in a cell": ('a;b\n"1\n2,5";"x"\n3;4\n', {"a": "1\n2,5", "b": "x"}),
    "one short row among many": ("a,x;b\n1;2\n" * 5 + "7\n", None),
}


@pytest.mark.parametrize("name", EUROPEAN)
def test_semicolons_are_told_from_decimal_commas(tmp_path, name):
    """T44: the mark that cuts every record as it cuts the header, and cuts it most; cells stay text."""
    content, first = EUROPEAN[name]
    if first is None:
        assert refusal(tmp_path, "x.csv", content.encode()) == ["x.csv:11: 1 cells, the header has 2"]
        return
    rows, notes = read(tmp_path, "x.csv", content.encode())
    assert rows[0][1] == first and notes == ["x.csv: cells are separated by ';'"]
    assert read(tmp_path, "x.csv", content.encode(), delimiter=";") == (rows, [])


def test_commas_stay_commas(tmp_path):
    """A header or cells with semicolons in them, fewer of them than commas."""
    content = b"id,range (low;high),note\n1,2,a;b;c\n2,3,d;e\n"
    assert read(tmp_path, "x.csv", content)[0][0] == (2, {"id": "1", "range (low;high)": "2", "note": "a;b;c"})


def test_two_marks_that_fit_alike_are_asked_for(tmp_path):
    """`a;b,c` above `1;2,5` is two columns either way."""
    content = b"a;b,c\n1;2,5\n"
    assert refusal(tmp_path, "x.csv", content) == ["x.csv:1: cells may be separated by ',' or ';'; say `delimiter:`"]
    assert read(tmp_path, "x.csv", content, delimiter=";") == ([(2, {"a": "1", "b,c": "2,5"})], [])


def test_a_wrong_delimiter_is_named_with_the_likely_one(tmp_path):
    content = b"a;b;c\n1;2;3\n"
    assert refusal(tmp_path, "x.csv", content, delimiter=",") == [
        "x.csv:1: ',' makes one column of this header; cells look separated by ';' (`delimiter:`)"
    ]
    assert read(tmp_path, "x.csv", b"a^b\n1^2\n", delimiter="^")[0] == [(2, {"a": "1", "b": "2"})]
    assert refusal(tmp_path, "x.tsv", content) == [
        "x.tsv:1: '\\t' makes one column of this header; cells look separated by ';' (`delimiter:`)"
    ]
    assert refusal(tmp_path, "x.csv", b"Report 2024\n\na;b;c\n1;2;3\n4;5;6\n") == [
        "x.csv:1: 1 cells here, but 3 from line 3 on; if that line holds the column names, say `header: a`"
    ]
    assert "delimiter: only for CSV" in refusal(tmp_path, "x.tsv", b"a\tb\n", delimiter=",")[0]
    for wrong in (";;", "a", '"', ""):
        with pytest.raises(ValueError, match="delimiter"):
            SourceSection(path="x.csv", delimiter=wrong)


def test_a_compressed_table(tmp_path):
    """T44: the kind is that of the ending before .gz."""
    assert read(tmp_path, "x.CSV.gz", gzip.compress(b"a,b\n1,2\n"))[0] == [(2, {"a": "1", "b": "2"})]
    assert read(tmp_path, "x.tsv.gz", gzip.compress(b"a\tb\n1\t2\n"))[0] == [(2, {"a": "1", "b": "2"})]


def test_a_long_cell(tmp_path):
    """Longer than the csv module's own limit of 131,072 characters."""
    assert read(tmp_path, "x.csv", b"a\n" + b"x" * 300_000)[0] == [(2, {"a": "x" * 300_000})]


def workbook(tmp_path, **sheets):
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(tmp_path / "x.xlsx")


def test_excel(tmp_path):
    """Typed cells become plain values: dates ISO text, whole numbers int; empty rows and columns don't count."""
    rows = [
        ["矿", "t", "when", "n", "ok"],
        ["甲", 1.5, dt.date(2022, 10, 22), 3, True],
        [],
        ["乙", None, dt.datetime(2022, 10, 22, 9, 30), None, None],
    ]
    workbook(tmp_path, data=rows)
    assert read(tmp_path, "x.xlsx") == (
        [
            (2, {"矿": "甲", "t": 1.5, "when": "2022-10-22", "n": 3, "ok": True}),
            (4, {"矿": "乙", "t": None, "when": "2022-10-22T09:30:00", "n": None, "ok": None}),
        ],
        [],
    )


def test_excel_sheets_and_titles(tmp_path):
    workbook(tmp_path, notes=[["read me"]], data=[["Report 2022"], ["a", "b", "a"], [1, 2, 3], [4, None, None]])
    assert refusal(tmp_path, "x.xlsx") == ["x.xlsx: 2 sheets; say `sheet:` with one of notes, data"]
    assert refusal(tmp_path, "x.xlsx", sheet="dat") == ["x.xlsx: no sheet 'dat'; say `sheet:` with one of notes, data"]
    assert refusal(tmp_path, "x.xlsx", sheet="data") == [
        "x.xlsx:1: 1 cells here, but 3 from line 2 on; if that line holds the column names, say `header: a`"
    ]
    assert read(tmp_path, "x.xlsx", sheet="data", header="a") == (
        [(3, {"a": 1, "b": 2, "a_2": 3}), (4, {"a": 4, "b": None, "a_2": None})],
        ["x.xlsx:2: column names made distinct: 'a' in column 3 is a_2"],
    )
    assert refusal(tmp_path, "x.xlsx", sheet="data", header="c") == [
        "x.xlsx: no row begins with the column 'c' (`header:`); "
        "the first lines are: line 1: Report 2022; line 2: a; line 3: 1; line 4: 4"
    ]


def test_excel_errors(tmp_path):
    """#N/A is Excel's missing value; every other error value stops the run, as does a file that is no workbook."""
    workbook(tmp_path, data=[["a", "b"], ["#N/A", 1], ["#DIV/0!", 2], [3, "#REF!"], [5, 6, 7]])
    assert refusal(tmp_path, "x.xlsx") == [
        "x.xlsx:3:1: Excel's error value #DIV/0!",
        "x.xlsx:4:2: Excel's error value #REF!",
        "x.xlsx:5: 3 cells, the header has 2",
    ]
    workbook(tmp_path, data=[["a", "b"], ["#N/A", 1]])
    assert read(tmp_path, "x.xlsx") == ([(2, {"a": None, "b": 1})], ["x.xlsx: #N/A is read as an empty cell"])
    assert refusal(tmp_path, "y.xlsx", b"a,b\n1,2\n") == [
        "y.xlsx: not an Excel workbook (.xlsx): File is not a zip file"
    ]
