"""Sources to samples: the same whatever the workers, counted, and each sample's way back to its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data import convert
from finetune.data.prepare import Lineage, Prepared, prepare
from finetune.data.processes import CHUNK
from finetune.data.template import load_template
from finetune.errors import DataError, RecipeError
from finetune.recipe_data import DataSection

TEMPLATE = """
name: assay
description: what a sample holds
columns:
  hole: {type: str}
  depth_m: {type: float, unit: m, null: keep}
  grade: {type: float, minimum: 0, null: drop}
tasks:
  - name: depth
    when: depth_m is not none
    messages:
      - {role: user, content: "Depth of {{ hole }}?"}
      - {role: assistant, content: "depth_m: {{ depth_m | number }}"}
  - name: grade
    messages:
      - {role: user, content: "Grade of {{ hole }}?"}
      - {role: assistant, content: "{{ grade | number }}"}
    metric: {name: number, tolerance: 0.1}
metric: {name: fields}
examples:
  - {row: {hole: A, depth_m: 3, grade: 2}, task: depth, answer: "depth_m: 3"}
  - {row: {hole: A, depth_m: 3, grade: 2}, task: grade, answer: "2"}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "t.yaml").write_text(TEMPLATE, encoding="utf-8")
    return tmp_path


def record(n: int, **changes) -> dict:
    return {"hole": f"H{n}", "depth_m": n % 7 or None, "grade": n % 5 or None} | changes


def write(path: Path, rows: list[dict], blank_after: int = 0) -> None:
    """JSON Lines; a blank line after each of the first `blank_after` rows."""
    ends = ["\n\n"] * blank_after + ["\n"] * (len(rows) - blank_after)
    path.write_text("".join(json.dumps(row) + end for row, end in zip(rows, ends, strict=True)), encoding="utf-8")


def section(folder: Path, *sources: str | dict, **changes) -> DataSection:
    train = [
        {"path": str(folder / s)} if isinstance(s, str) else s | {"path": str(folder / s["path"])} for s in sources
    ]
    keys = {"template": folder / "t.yaml", "train": train, "split": {"by": "hole", "eval_rows": 20}}
    return DataSection(**keys | changes)


def everything(data: Prepared) -> tuple:
    sources = [(s.name, s.rows, s.blank, s.dropped, s.samples, s.format) for s in data.sources]
    return (
        list(data.train), list(data.evaluate), sources, data.dropped, data.findings, data.counts, data.notes,
        data.refusals,
    )  # fmt: skip


def test_workers_change_nothing(folder):
    """T6 (part): three chunks and a second source by format, in one process and in two: all of the result is equal."""
    write(folder / "a.jsonl", [record(n) for n in range(2 * CHUNK + 40)])
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"call 1380013{n:04d} on {n}"},
                {"role": "assistant", "content": "ok"},
            ]
        }
        for n in range(CHUNK + 10)
    ]
    write(folder / "b.jsonl", [{**chat, "hole": f"B{n}"} for n, chat in enumerate(chats)])
    sources = ["a.jsonl", {"path": "b.jsonl", "format": "auto"}]
    screen = {"personal_data": "redact", "exact_duplicates": "drop", "train_eval_overlap": "drop"}
    one, two = (prepare(section(folder, *sources, screen=screen, workers=n), 1) for n in (1, 2))
    assert everything(one) == everything(two)
    dropped = [n for n in range(2 * CHUNK + 40) if n % 5 == 0]
    assert one.dropped == [(f"{folder}/a.jsonl:{n + 1}", "grade: is null") for n in dropped]
    asked = sum(2 if n % 7 else 1 for n in range(2 * CHUNK + 40) if n % 5)
    assert [(s.rows, s.dropped, s.samples, s.format) for s in one.sources] == [
        (2 * CHUNK + 40, len(dropped), asked, "template assay"), (CHUNK + 10, 0, CHUNK + 10, "messages"),
    ]  # fmt: skip
    assert one.counts["phone"] == CHUNK + 10 and one.train[-1].messages[0]["content"].startswith("call [PHONE] on ")


def broken(folder: Path) -> list[str]:
    """Bad rows in three chunks of one source and in another, and a malformed line; the problems expected."""
    rows = [record(n, grade=-1.0) if n % CHUNK == 7 else record(n) for n in range(3 * CHUNK)]
    write(folder / "a.jsonl", rows)
    write(folder / "b.jsonl", [record(1, grade="x")])
    with (folder / "b.jsonl").open("a") as file:
        file.write('{"a"\n')
    bad = [f"{folder}/a.jsonl:{n}: grade: -1.0 is below the minimum of 0" for n in (8, CHUNK + 8, 2 * CHUNK + 8)]
    return [f"{folder}/b.jsonl:2:5: ", *bad, f"{folder}/b.jsonl:1: grade: a number is needed, got 'x'"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_problems_of_all_chunks_and_sources_in_order(folder, workers):
    """What the reader found comes first, then the rows in their order, the same for any workers."""
    expected = broken(folder)
    with pytest.raises(DataError) as caught:
        prepare(section(folder, "a.jsonl", "b.jsonl", workers=workers), 1)
    assert len(caught.value.problems) == len(expected)
    assert [problem[: len(start)] for problem, start in zip(caught.value.problems, expected, strict=True)] == expected


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_message_beyond_the_limits_stops_its_source(folder, workers):
    """T47: the rest of the rows would cost as much each; bad rows before it are still named, those after it are not."""
    text = TEMPLATE.replace("Grade of {{ hole }}?", "{{ hole * 30 }}") + "limits: {characters: 60}\n"
    (folder / "t.yaml").write_text(text, encoding="utf-8")
    rows = [record(1) for n in range(2 * CHUNK)]
    rows[3], rows[CHUNK + 2], rows[-1] = record(3, grade=-1), record(2, hole="LONG"), record(4, grade=-1)
    write(folder / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        prepare(section(folder, "a.jsonl", workers=workers), 1)
    first, second = caught.value.problems
    assert first == f"{folder}/a.jsonl:4: grade: -1 is below the minimum of 0"
    assert second.startswith(f"{folder}/a.jsonl:{CHUNK + 3}: the user message of {folder}/t.yaml can't be rendered")


def test_a_row_of_another_format_is_held_against_the_first_row(folder):
    """Also when they are chunks apart; the rows after it are not looked at."""
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    write(folder / "a.jsonl", [chat] * (CHUNK + 1) + [{"instruction": "a", "output": "b"}] + [{"messages": 1}] * CHUNK)
    with pytest.raises(DataError) as caught:
        prepare(section(folder, "a.jsonl", template=None, format="auto"), 1)
    assert caught.value.problems == [
        f"{folder}/a.jsonl:{CHUNK + 2}: format alpaca, but {folder}/a.jsonl:1 is messages; give each its own source"
    ]


def test_rows_of_another_stage_are_refused_once(folder):
    write(folder / "a.jsonl", [{"text": "x"}] * (2 * CHUNK))
    with pytest.raises(DataError) as caught:
        prepare(section(folder, "a.jsonl", template=None, format="auto"), 1)
    assert caught.value.problems == [
        f"{folder}/a.jsonl: format text is for stage cpt; stage sft trains on sharegpt, messages, alpaca, prompt_completion"
    ]


def test_what_only_a_whole_source_can_tell(folder):
    """A nullable column may be missing in one chunk; missing in all of them it is a typo. All rows dropped is an error."""
    rows = [record(n, grade=1) for n in range(2 * CHUNK)]
    for row in rows[1:]:
        del row["depth_m"]
    write(folder / "a.jsonl", rows)
    assert prepare(section(folder, "a.jsonl"), 1).sources[0].rows == 2 * CHUNK
    write(folder / "b.jsonl", rows[1:])
    write(folder / "c.jsonl", [record(n, grade=None) for n in range(2 * CHUNK)])
    with pytest.raises(DataError) as caught:
        prepare(section(folder, "b.jsonl", "c.jsonl"), 1)
    assert caught.value.problems == [
        f"{folder}/b.jsonl: depth_m: no row has this column; allowed: grade, hole",
        f"all {2 * CHUNK} rows are dropped; the first: {folder}/c.jsonl:1: grade: is null",
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "xlsx"])
def test_blank_lines_and_dropped_rows_are_counted(folder, kind):
    """T44: three blank lines and eight rows without a grade among forty, in the facts of their source and in a note."""
    rows = [record(n, depth_m=1) for n in range(40)]
    if kind == "jsonl":
        write(folder / "a.jsonl", rows, blank_after=3)
    else:
        cells = [["hole", "depth_m", "grade"], *([r["hole"], r["depth_m"], r["grade"]] for r in rows)]
        cells[2:2] = [[], [], []]
        write_table(folder / f"a.{kind}", cells)
    write(folder / "b.jsonl", [record(n) for n in range(101, 104)])
    data = prepare(section(folder, f"a.{kind}", "b.jsonl"), 1)
    assert [(s.rows, s.blank, s.dropped) for s in data.sources] == [(40, 3, 8), (3, 0, 0)]
    assert data.notes[0] == f"{folder}/a.{kind}: 40 rows, 3 blank lines skipped, 8 rows dropped by null rules"
    assert len(data.dropped) == 8


def write_table(path: Path, cells: list[list]) -> None:
    if path.suffix == ".csv":
        path.write_text("".join(",".join("" if c is None else str(c) for c in row) + "\n" for row in cells))
        return
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in cells:
        book.active.append(row)
    book.save(path)


def test_every_sample_leads_back_to_its_row(folder):
    """Task on the sample; file, line, source, template and its hash from `where`."""
    write(folder / "a.jsonl", [record(n) for n in range(100)])
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "hole": "x"}
    write(folder / "b.jsonl", [chat])
    data = prepare(section(folder, "a.jsonl", {"path": "b.jsonl", "format": "messages"}), 1)
    sha256 = load_template(folder / "t.yaml").sha256
    file = f"{folder}/a.jsonl"
    facts = (file, "template assay", ("depth", "grade"), "assay", sha256)
    assert data.lineage(f"{file}:9") == Lineage(file, 9, *facts)
    assert data.lineage(f"{file}:8").tasks == ("grade",)  # depth_m is null
    ready = f"{folder}/b.jsonl"
    assert data.lineage(f"{ready}:1") == Lineage(ready, 1, ready, "messages", (), "", "")
    assert (data.source_of(f"{file}:9"), data.source_of(f"{ready}:1")) == (0, 1)
    samples = [*data.train, *data.evaluate]
    assert {sample.task for sample in samples} == {"depth", "grade", ""}
    for sample in samples[:20]:
        assert not sample.task or sample.messages[0]["content"].lower().startswith(sample.task)


def test_a_source_twice_with_its_own_weight(folder):
    """Each mention of a file is a source of its own: 1 to 2 of 80 samples is 40 and 80, whatever is read as a stream."""
    write(folder / "a.jsonl", [record(n, depth_m=None, grade=1) for n in range(100)])
    sources = [{"path": "a.jsonl", "weight": 1}, {"path": "a.jsonl", "weight": 2}]
    data = prepare(section(folder, *sources, screen={"train_eval_overlap": "off"}), 1)
    left = 200 - len(data.evaluate)
    assert len(data.train) == left // 2 + left // 4
    assert data.train.facts("source").tolist() == [0] * (left // 4) + [1] * (left // 2)


def test_a_group_inside_an_object_is_a_column_and_inside_anything_else_is_not(folder):
    text = TEMPLATE.replace("hole: {type: str}", "hole: {type: str}\n  site: {type: object, nullable: true}")
    (folder / "t.yaml").write_text(text, encoding="utf-8")
    write(folder / "a.jsonl", [record(n, site={"name": f"S{n % 9}"}) for n in range(100)])
    split = {"by": "site.name", "eval_rows": 20}
    data = prepare(section(folder, "a.jsonl", split=split), 1)
    sides = [{sample.record["site"]["name"] for sample in part} for part in (data.train, data.evaluate)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 9
    for by in ("hole.name", "site2.name", "place"):
        with pytest.raises(RecipeError, match=f"data.split.by: '{by}' is not a column"):
            prepare(section(folder, "a.jsonl", split=split | {"by": by}), 1)


def test_rows_stream_through(folder, monkeypatch):
    """A chunk is rendered before the next but one is read: rows are never all in memory."""
    write(folder / "a.jsonl", [record(n) for n in range(6 * CHUNK)])
    order: list[str] = []
    rows_of, work = convert.rows_of, convert.Convert.convert

    def reading(*given):
        for number, row in enumerate(rows_of(*given)):
            if number % CHUNK == 0:
                order.append("read")
            yield row

    def converting(self, chunk):
        order.append("render")
        return work(self, chunk)

    monkeypatch.setattr(convert, "rows_of", reading)
    monkeypatch.setattr(convert.Convert, "convert", converting)
    prepare(section(folder, "a.jsonl"), 1)
    assert order == ["read", "read", *["render", "render", "read"], *["render", "read"] * 3, "render"]
