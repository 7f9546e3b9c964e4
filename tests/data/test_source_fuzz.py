"""Whatever the bytes: rows, or problems that name the file. Whatever the rows: they come back as they were written."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.source import read_source
from finetune.errors import DataError
from finetune.recipe_data import SourceSection

FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ODD = st.sampled_from(
    [b'"', b",", b"\r", b"\n", b"{", b"}", b"[", b"]", b":", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"a", b"\xe9"]
)


def values(path, kind: str) -> list[dict]:
    return [row.values for row in read_source(SourceSection(path=str(path), kind=kind))]


@FAST
@given(content=st.binary(max_size=60) | st.lists(ODD, max_size=12).map(b"".join))
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "text", "parquet", "arrow", "excel"])
def test_any_bytes_give_rows_or_named_problems(tmp_path, kind, content):
    """T44 (part): no other exception, and every problem begins with the file."""
    (tmp_path / "x").write_bytes(content)
    try:
        rows = values(tmp_path / "x", kind)
    except DataError as error:
        assert all(problem.startswith(f"{tmp_path}/x:") for problem in error.problems)
    else:
        assert rows
        assert all(isinstance(row, dict) for row in rows)


@FAST
@given(rows=st.lists(st.dictionaries(TEXT, VALUE, max_size=4), min_size=1, max_size=5), ascii_only=st.booleans())
def test_json_round_trip(tmp_path, rows, ascii_only):
    written = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    (tmp_path / "x.jsonl").write_bytes("\n".join(written).encode())
    (tmp_path / "x.json").write_bytes(f"[{','.join(written)}]".encode())
    assert values(tmp_path / "x.jsonl", "jsonl") == rows
    assert values(tmp_path / "x.json", "json") == rows


@FAST
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]))
def test_csv_round_trip(tmp_path, rows, end):
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    (tmp_path / "x.csv").write_bytes(out.getvalue().encode())
    assert values(tmp_path / "x.csv", "csv") == [{"a": first, "b": second} for first, second in rows]
