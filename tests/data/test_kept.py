"""What was prepared and kept is what preparing anew gives; anything that could change it makes it another entry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data import kept
from finetune.data.kept import prepare_kept, prepared_key
from finetune.data.prepare import Prepared, prepare
from finetune.errors import DataError
from finetune.recipe_data import DataSection
from finetune.recipe_stages import SftSection

TEMPLATE = """
name: assay
description: what a sample holds
columns:
  hole: {type: str}
  day: {type: datetime}
  grade: {type: float, minimum: 0, null: drop}
messages:
  - {role: user, content: "Grade of {{ hole }}?"}
  - {role: assistant, content: "{{ grade | number }}"}
metric: {name: number, tolerance: 0.1}
examples:
  - {row: {hole: A, day: "2024-01-01", grade: 2}, answer: "2"}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "t.yaml").write_text(TEMPLATE, encoding="utf-8")
    write(tmp_path, 40)
    return tmp_path


def write(folder: Path, count: int, **last) -> None:
    """So many rows; every seventh has no grade, the second is there twice, and `last` is in the last one."""
    rows = [
        {"hole": f"H{n}", "day": f"2024-01-{n % 28 + 1:02}T05:00:00+08:00", "grade": n % 7 or None}
        for n in range(count)
    ]
    rows = [*rows, rows[1], rows[2] | last]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def section(folder: Path, **changes) -> DataSection:
    whole = {"template": folder / "t.yaml", "train": [{"path": str(folder / "rows.jsonl")}], "split": {"eval_rows": 6}}
    return DataSection.model_validate(whole | changes)


def kept_of(folder: Path, **changes) -> Prepared:
    return prepare_kept(section(folder, **changes), 3, "sft", SftSection(), folder / "kept")


def told(data: Prepared) -> dict:
    """Everything of it but the objects that stand for files on disk."""
    names = ("metrics", "sources", "dropped", "findings", "counts", "notes", "refusals", "files")
    template = data.template and (data.template.name, data.template.sha256)
    return {name: getattr(data, name) for name in names} | {"template": template}


def test_kept_is_what_preparing_gives(folder):
    """Numbers, findings, notes and held-out samples (with their times); then the training samples, made again."""
    first, again, plain = kept_of(folder), kept_of(folder), prepare(section(folder), 3)
    assert len(first.findings) == 2 and len(first.dropped) == 6
    assert told(again) == told(first) == told(plain)
    assert list(again.evaluate) == list(plain.evaluate) and len(plain.evaluate) >= 6
    assert str(again.evaluate[0].record["day"].tzinfo) == "UTC+08:00"
    assert len(again.train) == len(plain.train)
    assert list(again.train) == list(plain.train)
    where = plain.train[0].where
    assert again.lineage(where) == plain.lineage(where)


def test_the_second_time_no_row_is_read(folder, monkeypatch):
    first = kept_of(folder)

    def refuse(*_):
        raise AssertionError("prepared again")

    monkeypatch.setattr(kept, "prepare", refuse)
    again = kept_of(folder)
    assert (len(again.train), len(again.evaluate)) == (len(first.train), len(first.evaluate))
    with pytest.raises(AssertionError, match="prepared again"):
        again.train[0]


def test_what_the_key_depends_on(folder):
    """Workers and the cache's switch give the same rows; all else another entry."""
    key = prepared_key(section(folder), 3, "sft", SftSection())
    assert key == prepared_key(section(folder, workers=4, cache=False), 3, "sft", SftSection())
    other = [
        prepared_key(section(folder), 4, "sft", SftSection()),
        prepared_key(section(folder), 3, "cpt", SftSection()),
        prepared_key(section(folder), 3, "sft", None),
        prepared_key(section(folder, split={"eval_rows": 7}), 3, "sft", SftSection()),
        prepared_key(section(folder, screen={"exact_duplicates": "drop"}), 3, "sft", SftSection()),
    ]
    write(folder, 40, grade=5)
    other.append(prepared_key(section(folder), 3, "sft", SftSection()))
    (folder / "t.yaml").write_text(TEMPLATE.replace("Grade of", "What grade has"), encoding="utf-8")
    other.append(prepared_key(section(folder), 3, "sft", SftSection()))
    assert len({key, *other}) == 8
    (folder / "rows.jsonl").unlink()
    assert prepared_key(section(folder), 3, "sft", SftSection()) is None


def test_mistakes_are_found_every_time(folder):
    """A bad row is none of what is kept, nor is what screening refuses."""
    write(folder, 40, grade=-1)
    said = []
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            kept_of(folder)
        said.append(caught.value.problems)
    assert said[0] == said[1] and "-1" in said[0][0]
    write(folder, 40)
    refused = {"screen": {"exact_duplicates": "error"}}
    assert kept_of(folder, **refused).refusals == kept_of(folder, **refused).refusals != []
    assert not (folder / "kept").exists()


@pytest.mark.parametrize("name", ["held_out.jsonl", "index.json"])
def test_a_damaged_entry_is_made_again(folder, name):
    first = kept_of(folder)
    (entry,) = (folder / "kept").iterdir()
    whole = (entry / name).read_bytes()
    (entry / name).write_bytes(whole[: len(whole) // 2])
    assert told(kept_of(folder)) == told(first)
    assert (entry / name).read_bytes() == whole


def test_values_that_json_has_not_are_not_kept(folder):
    """An object with a key that means a time here would come back as that time: such rows are prepared each time."""
    row = {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "ok"}],
        "x": {"$date": "2024-01-01"},
    }
    lines = [
        json.dumps(row | {"n": n, "messages": [{"role": "user", "content": f"{n}?"}, row["messages"][1]]})
        for n in range(9)
    ]
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    changes = {"template": None, "format": "messages", "train": [{"path": str(folder / "m.jsonl")}]}
    assert list(kept_of(folder, **changes).evaluate) == list(kept_of(folder, **changes).evaluate)
    assert kept_of(folder, **changes).evaluate[0].record["x"] == {"$date": "2024-01-01"}
    assert not (folder / "kept").exists()


def test_a_folder_that_cannot_be_written_is_left_alone(folder):
    (folder / "kept").write_text("a file")
    assert told(kept_of(folder)) == told(prepare(section(folder), 3))
    assert (folder / "kept").read_text() == "a file"
