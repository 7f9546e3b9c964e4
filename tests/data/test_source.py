"""Files to rows: what is malformed is named by file and line, never repaired in silence."""

from __future__ import annotations

import pytest

from finetune.data.rows import Sample
from finetune.data.source import read_rows
from finetune.data.split import split_rows
from finetune.errors import DataError


def problems(tmp_path, name: str, content: bytes) -> list[str]:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows([file])
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n{"a": 1,}\n', ["x.jsonl:2: column 9: Illegal trailing comma before end of object"]),
        (b'{"a": 1} {"a": 2}\n', ["x.jsonl:1: column 10: Extra data"]),
        (b'{"a": NaN}\n', ["x.jsonl:1: NaN is not JSON"]),
        (b'{"a": 1, "a": 2}\n', ["x.jsonl:1: key given twice: 'a'"]),
        (b'[1]\n"x"\n', ["x.jsonl:1: an object is needed, got list", "x.jsonl:2: an object is needed, got str"]),
        (b'{"a": "caf\xe9"}\n', ["x.jsonl:1: not UTF-8 (byte 0xe9)"]),
        (b'{"a": "\\ud800"}\n', ["x.jsonl:1: a lone surrogate (\\ud800 to \\udfff) is not text"]),
        (b"", ["x.jsonl: holds no rows"]),
        (b"\n\n", ["x.jsonl: holds no rows"]),
        (b'{"a": 1\n', ["x.jsonl:1: column 8: Expecting ',' delimiter"]),
        (b"[" * 100_000 + b"\n", ["x.jsonl:1: nested too deeply"]),
    ],
)
def test_malformed_json_lines(tmp_path, content, expected):
    """T44 (part): every malformed line as path:line: reason."""
    got = problems(tmp_path, "x.jsonl", content)
    if "trailing comma" in expected[0]:  # the wording differs between Python versions
        assert got[0].startswith("x.jsonl:2: column ")
    else:
        assert got == expected


def test_bom_crlf_and_blank_lines_are_fine(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": "2022-10-22"}\r\n\r\n{"a": "b\\nc"}')
    rows = read_rows([file])
    assert [(row.values, row.line) for row in rows] == [({"a": "2022-10-22"}, 1), ({"a": "b\nc"}, 3)]


def test_csv(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text('a,b\n1,"x, y"\n2,\n')
    assert [row.values for row in read_rows([file])] == [{"a": "1", "b": "x, y"}, {"a": "2", "b": None}]
    assert problems(tmp_path, "y.csv", b"a,b\n1\n") == ["y.csv:2: 1 cells, the header has 2"]
    assert problems(tmp_path, "y.csv", b"a,a\n1,2\n") == ["y.csv:1: column given twice: a"]


def test_json_array_and_unknown_ending(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('[{"a": 1}, {"a": 2}]')
    assert [row.values["a"] for row in read_rows([file])] == [1, 2]
    assert problems(tmp_path, "x.xyz", b"")[0].startswith("x.xyz: can't read .xyz; allowed: .jsonl")


def samples(groups: list[str]) -> list[Sample]:
    return [Sample({"g": group, "n": i}, (), f"f:{i}") for i, group in enumerate(groups)]


def test_no_group_falls_on_both_sides_and_row_order_does_not_matter():
    rows = samples([f"s{i % 30}" for i in range(100)])
    train, held_out = split_rows(rows, "g", 20, seed=1)
    assert not {s.record["g"] for s in train} & {s.record["g"] for s in held_out}
    assert 20 <= len(held_out) < 24 and len(train) + len(held_out) == 100
    again = split_rows(rows[::-1], "g", 20, seed=1)[1]
    assert {s.where for s in again} == {s.where for s in held_out}
    assert {s.where for s in split_rows(rows, "g", 20, seed=2)[1]} != {s.where for s in held_out}


def test_copies_of_a_record_stay_together_without_a_group_column():
    rows = [Sample({"n": i // 2}, (), f"f:{i}") for i in range(40)]
    train, held_out = split_rows(rows, None, 10, seed=0)
    assert not {s.record["n"] for s in train} & {s.record["n"] for s in held_out}


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="leave nothing to train on"):
        split_rows(samples(["a"] * 10), "g", 2, seed=0)
