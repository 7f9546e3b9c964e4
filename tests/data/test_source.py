"""Files to rows: what is malformed is named by file, line and column, never repaired in silence."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import pytest

from finetune.data.prepare import prepare
from finetune.data.rows import Sample
from finetune.data.source import read_source, stream_source
from finetune.data.split import split_rows
from finetune.data.spool import SampleFile
from finetune.errors import DataError
from finetune.recipe_data import DataSection, SourceSection


def source(path: Path, **keys) -> SourceSection:
    return SourceSection(path=str(path), **keys)


def problems(folder: Path, name: str, content: bytes, **keys) -> list[str]:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_source(source(folder / name, **keys))
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def good(folder: Path, name: str, content: bytes, **keys) -> list[tuple[int, dict]]:
    (folder / name).write_bytes(content)
    return [(row.line, row.values) for row in read_source(source(folder / name, **keys))]


NESTED = "nested too deeply"
MALFORMED = {
    "trailing comma in an object": (b'{"a": 1}\n{"a": 1,}\n', ["2:8" if sys.version_info >= (3, 13) else "2:9"]),
    "two objects on a line": (b'{"a": 1} {"a": 2}\n', ["1:10: more follows after the value"]),
    "NaN": (b'{"a": NaN}\n', ["1: NaN is not JSON"]),
    "infinity": (b'{"a": -Infinity}\n', ["1: -Infinity is not JSON"]),
    "beyond a float": (b'{"a": 1e999}\n', ["1: 1e999 is beyond the range of a number"]),
    "beyond int parsing": (b'{"a": ' + b"9" * 5000 + b"}\n", ["1: Exceeds the limit (4300 digits) for integer"]),
    "double key": (b'{"a": 1, "a": 2}\n', ["1: key given twice: 'a'"]),
    "double key inside": (b'{"m": [{"role": "user", "role": "tool"}]}\n', ["1: key given twice: 'role'"]),
    "no objects": (b'[1]\n"x"\n', ["1: an object is needed, got list", "2: an object is needed, got str"]),
    "null": (b"null\n", ["1: an object is needed, got NoneType"]),
    "lone surrogate": (b'{"a": "\\ud800"}\n', ["1: a lone surrogate (\\ud800 to \\udfff) is not text"]),
    "cut off line": (b'{"a": 1\n{"a": 2}\n', ["1:8: Expecting ',' delimiter"]),
    "cut off in a string": (b'{"a": "x', ["1:7: Unterminated string starting at"]),
    "deep nesting": (b"[" * 100_000 + b"\n", [f"1: {NESTED}"]),
    "a NUL byte": (b'{"a": "x\0y"}\n', ["1:9: Invalid control character at"]),
    "a raw tab in a string": (b'{"a": "x\ty"}\n', ["1:9: Invalid control character at"]),
    "single quotes": (b"{'a': 1}\n", ["1:2: Expecting property name enclosed in double quotes"]),
    "a comment": (b'// x\n{"a": 1}\n', ["1:1: Expecting value"]),
    "a second byte order mark": (b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n', ["2:1: Expecting value"]),
    "pretty-printed": (b'[\n{"a": 1}\n]\n', ["1:2: one object a line is needed; for one JSON value say `kind: json`"]),
    "damaged UTF-8": (
        '{"a": "你好"}\n{"a": "你'.encode()[:-1] + b'"}\n',
        ["2:8: not UTF-8 (byte 0xe4), but the text before it"],
    ),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), [" looks like UTF-16 without a byte order mark"]),
    "empty": (b"", [" holds no rows"]),
    "blank": (b"\n \r\n\t\n", [" holds no rows"]),
    "only a mark": (b"\xef\xbb\xbf", [" holds no rows"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_json_lines(tmp_path, name):
    """T44: every malformed line as `file:line:column: reason`, one problem each, and nothing else."""
    content, expected = MALFORMED[name]
    got = problems(tmp_path, "x.jsonl", content)
    assert len(got) == len(expected)
    for problem, start in zip(got, expected, strict=True):
        assert problem.startswith(f"x.jsonl:{start}")


WELL_FORMED = {
    "byte order mark, CR LF, blank lines, no last line end": (
        b'\xef\xbb\xbf{"a": "2022-10-22"}\r\n\r\n{"a": "b\\nc"}',
        [(1, {"a": "2022-10-22"}), (3, {"a": "b\nc"})],
    ),
    "CR CR LF": (b'{"a": 1}\r\r\n\r\r\n{"a": 2}\r\r\n', [(1, {"a": 1}), (3, {"a": 2})]),
    "lone CR": (b'{"a": 1}\r{"a": 2}\r\r{"a": 3}', [(1, {"a": 1}), (2, {"a": 2}), (4, {"a": 3})]),
    "UTF-16 with a mark": ('{"a": "矿"}\n{"a": 2}\n'.encode("utf-16"), [(1, {"a": "矿"}), (2, {"a": 2})]),
    "U+2028 is no line end": ('{"a": "x\u2028y\x85z"}\n'.encode(), [(1, {"a": "x\u2028y\x85z"})]),
    "mixed types, missing keys, large integers": (
        b'{"a": "x"}\n{"a": ["x"]}\n{"b": 12345678901234567890123}\n{"a": null, "c": 0.1}\n',
        [(1, {"a": "x"}), (2, {"a": ["x"]}), (3, {"b": 12345678901234567890123}), (4, {"a": None, "c": 0.1})],
    ),
    "tool arguments keep exactly their keys": (
        b'{"tool_calls": [{"arguments": {"a": 1}}, {"arguments": {"b": []}}, {"arguments": "{\\"c\\":1}"}]}\n',
        [(1, {"tool_calls": [{"arguments": {"a": 1}}, {"arguments": {"b": []}}, {"arguments": '{"c":1}'}]})],
    ),
    "a surrogate pair": (b'{"a": "\\ud83d\\ude00"}\n', [(1, {"a": "\U0001f600"})]),
    "a line of 20 MB": (
        b'{"a": "' + b"x" * 20_000_000 + b'"}\n{"a": 2}',
        [(1, {"a": "x" * 20_000_000}), (2, {"a": 2})],
    ),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_json_lines(tmp_path, name):
    """T44: odd but correct files give exactly these rows; text that looks like a date stays text."""
    content, expected = WELL_FORMED[name]
    assert good(tmp_path, "x.jsonl", content) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_line_ends_across_blocks(tmp_path, monkeypatch, size):
    """T44 (part): the same lines whatever the size of the blocks read."""
    monkeypatch.setattr("finetune.data.encoding.BLOCK", size)
    content = '{"a": "矿"}\r\r\n{"a": 1}\r\n\n{"a": 2}\r{"a": 3}\r'.encode()
    assert [line for line, _ in good(tmp_path, "x.jsonl", content)] == [1, 2, 4, 5]


def test_json_arrays(tmp_path):
    """T44: rows of an array keep the line they begin at; after a bad row the reading goes on."""
    content = b' [\n {"a": 1},\n {"a": NaN},\n\n {"a": 2, "a": 3}, 7, {"a":\n 4}\n]\n'
    assert problems(tmp_path, "x.json", content) == [
        "x.json:3: NaN is not JSON",
        "x.json:5: key given twice: 'a'",
        "x.json:5: an object is needed, got int",
    ]
    assert good(tmp_path, "x.json", b'[\n{"a": 1},\n\n{"a":\n2}, {"a": 3}]\n') == [
        (2, {"a": 1}), (4, {"a": 2}), (5, {"a": 3}),
    ]  # fmt: skip
    assert good(tmp_path, "x.json", b'{"a":\n{"b": []}}') == [(1, {"a": {"b": []}})]
    assert good(tmp_path, "x.json", '[{"a": "é"}]'.encode("utf-16")) == [(1, {"a": "é"})]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"a": 1},\n]', "x.json:1:10: a comma before the end of the array"),
        (b'[{"a": 1}\n{"a": 2}]', "x.json:2:1: ',' or ']' is needed"),
        (b'[{"a": 1}', "x.json:1:10: the array is never closed"),
        (b'[{"a": 1}]\nx', "x.json:2:1: more follows after the value"),
        (b'[{"a": 1},\n {"a" 2}]', "x.json:2:7: Expecting ':' delimiter"),
        (b"[" * 100_000, f"x.json:1: {NESTED}"),
        (b'"x"', "x.json:1: an object is needed, got str"),
        (b"[]", "x.json: holds no rows"),
        (b" \n", "x.json: holds no rows"),
    ],
)
def test_malformed_json(tmp_path, content, expected):
    """T44: malformed arrays."""
    assert problems(tmp_path, "x.json", content) == [expected]


def test_all_problems_of_all_sources_at_once(tmp_path):
    """T44 (part): the first 50 word for word, the others counted; no row comes out."""
    (tmp_path / "a.jsonl").write_text("x\n" * 60)
    (tmp_path / "b.csv").write_text("a,b\n1\n")
    with pytest.raises(DataError) as caught:
        sources = [{"path": str(tmp_path / name)} for name in ("a.jsonl", "b.csv", "c.csv")]
        prepare(DataSection(format="auto", train=sources, split={"eval_rows": 1}), 0)
    got = caught.value.problems
    assert got[:50] == [f"{tmp_path}/a.jsonl:{line}:1: Expecting value" for line in range(1, 51)]
    assert got[50:] == ["... and 12 more problems"]


def test_json_lines_under_other_endings(tmp_path):
    """JSON Lines named .json or .txt are recognised and said; a declared kind is obeyed."""
    for name in ("x.json", "x.txt"):
        (tmp_path / name).write_text('{"a": 1}\n\n{"a": 2}\n')
        notes: list[str] = []
        assert [row.values for row in read_source(source(tmp_path / name), notes)] == [{"a": 1}, {"a": 2}]
        assert notes == [f"{tmp_path}/{name}: read as JSON Lines, not as its ending says; `kind:` overrides this"]
    assert good(tmp_path, "y.txt", b'{"a": 1}\n{"a": 2}\n', kind="text") == [
        (1, {"text": '{"a": 1}\n{"a": 2}\n', "name": "y.txt"})
    ]
    assert problems(tmp_path, "y.json", b'{"a": 1}\n{"a": 2}\n', kind="json") == [
        "y.json:2:1: more follows after the value"
    ]
    assert good(tmp_path, "y.dat", b'{"a": 1}\n', kind="jsonl") == [(1, {"a": 1})]


def test_text_keeps_every_character(tmp_path):
    """A bulletin's CR CR LF and control characters reach the template as they are."""
    raw = b"000 \r\r\nTTAA00 KDMX 051200\r\r\n\x1eSA\x03\r\r\n"
    assert good(tmp_path, "x.txt", raw) == [(1, {"text": raw.decode(), "name": "x.txt"})]
    assert problems(tmp_path, "y.md", b" \n") == ["y.md: holds no rows"]


def test_folders_and_globs(tmp_path):
    for name in ("b/2.md", "a.md", "b/10.md", ".git/x.md", "b/NOTICE"):
        (tmp_path / "laws" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "laws" / name).write_text(name)
    notes: list[str] = []
    rows = read_source(source(tmp_path / "laws"), notes)
    assert [row.values["name"] for row in rows] == ["a.md", "b/10.md", "b/2.md"]
    assert notes == [f"{tmp_path}/laws: 3 files; left out: 1 NOTICE"]
    rows = read_source(source(tmp_path / "laws/**/*.md"), notes)
    assert [row.values["name"] for row in rows] == ["a.md", "b/10.md", "b/2.md"]
    (tmp_path / "laws/t.csv").write_text("a\n1\n")
    assert refusal(source(tmp_path / "laws")) == [
        f"{tmp_path}/laws: files of several kinds (1 csv, 3 text); say `kind:`, or use a glob such as *.csv"
    ]
    assert len(read_source(source(tmp_path / "laws", kind="text"))) == 3
    (tmp_path / "[1].csv").write_text("a\n1\n")
    assert len(read_source(source(tmp_path / "[1].csv"))) == 1  # a file of that name goes before the pattern


def refusal(section: SourceSection) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_source(section)
    return caught.value.problems


def test_what_names_no_rows_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("a\n1\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "LICENSE").write_text("x")
    assert refusal(source(tmp_path / "*.jsonl")) == [f"{tmp_path}/*.jsonl: matches no file"]
    assert refusal(source(tmp_path / "trian.csv")) == [
        f"{tmp_path}/trian.csv: no such file or folder; did you mean 'train.csv'?"
    ]
    assert refusal(source(tmp_path / "empty"))[0].startswith(f"{tmp_path}/empty: no file of a known kind; a glob")
    assert refusal(source(tmp_path / "LICENSE"))[0].startswith(
        f"{tmp_path}/LICENSE: can't tell the kind of a file without ending; say `kind:`, or use one of .jsonl"
    )


def test_a_key_that_nothing_reads_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    section = source(tmp_path / "x.jsonl", split="train", subset="en", sheet="s", header="a")
    where = f"{tmp_path}/x.jsonl"
    assert refusal(section) == [
        f"{where}: split: only for a hub dataset or a saved one",
        f"{where}: subset: only for a hub dataset",
        f"{where}: sheet: only for Excel",
        f"{where}: header: only for a table (CSV, TSV, Excel)",
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_streaming_is_flat_in_memory(tmp_path, kind):
    """24 MB of rows pass through while less than 8 MB are held; the problem comes at the end."""
    line = {"jsonl": '{"a": "%s"}\n', "csv": '"%s"\n'}[kind] % ("x" * 1000)
    with (tmp_path / f"x.{kind}").open("w") as file:
        file.write("a\n" if kind == "csv" else "")
        file.writelines(line for _ in range(24_000))
        file.write('"x')
    tracemalloc.start()
    rows, count = stream_source(source(tmp_path / f"x.{kind}")), 0
    where = "24001:1: Unterminated string" if kind == "jsonl" else "24002:1: a quote is opened here and never closed"
    with pytest.raises(DataError, match=where):
        for _ in rows:
            count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 24_000
    assert peak < 8_000_000


def samples(groups: list[str]) -> SampleFile:
    return SampleFile.of(Sample({"g": group, "n": i}, (), f"f:{i}") for i, group in enumerate(groups))


def test_no_group_falls_on_both_sides_and_row_order_does_not_matter():
    rows = samples([f"s{i % 30}" for i in range(100)])
    train, held_out = split_rows(rows, "g", 20, seed=1)
    assert not {s.record["g"] for s in train} & {s.record["g"] for s in held_out}
    assert 20 <= len(held_out) < 24 and len(train) + len(held_out) == 100
    again = split_rows(rows[::-1], "g", 20, seed=1)[1]
    assert {s.where for s in again} == {s.where for s in held_out}
    assert {s.where for s in split_rows(rows, "g", 20, seed=2)[1]} != {s.where for s in held_out}


def test_copies_of_a_record_stay_together_without_a_group_column():
    rows = SampleFile.of(Sample({"n": i // 2}, (), f"f:{i}") for i in range(40))
    train, held_out = split_rows(rows, None, 10, seed=0)
    assert not {s.record["n"] for s in train} & {s.record["n"] for s in held_out}


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="leave nothing to train on"):
        split_rows(samples(["a"] * 10), "g", 2, seed=0)


NESTED_ROWS = (
    b'[{"page": 1, "asked": [{"q": "a"}, {"q": "b"}]}, {"page": 2, "asked": []}, {"page": 3, "asked": [{"q": "c"}]}]'
)


def test_explode_gives_a_row_for_each_item_of_a_list(tmp_path):
    """As pandas' explode, but that an empty list gives no row (pandas: one with NaN), which is said."""
    (tmp_path / "pages.json").write_bytes(NESTED_ROWS)
    notes: list[str] = []
    rows = read_source(source(tmp_path / "pages.json", explode="asked"), notes)
    assert [row.values for row in rows] == [
        {"page": 1, "asked": {"q": "a"}}, {"page": 1, "asked": {"q": "b"}}, {"page": 3, "asked": {"q": "c"}},
    ]  # fmt: skip
    assert notes[-1] == f"{tmp_path / 'pages.json'}: explode: 1 rows whose asked is empty give none"


def test_explode_refuses_what_is_no_list(tmp_path):
    assert problems(tmp_path, "rows.jsonl", b'{"asked": "x"}\n{"aksed": [1]}\n', explode="asked") == [
        "rows.jsonl:1: explode: asked is no list: 'x'",
        "rows.jsonl:2: explode: no column asked; did you mean 'aksed'?",
    ]
    assert problems(tmp_path, "none.jsonl", b'{"asked": []}\n', explode="asked") == ["none.jsonl: holds no rows"]
