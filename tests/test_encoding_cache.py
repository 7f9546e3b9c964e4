"""Encoded rows and where they are kept: every kind of source, what is a hit and what is not, what is removed."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from finetune.data.cache import evict, files_sha256
from finetune.data.findings import DataFile
from finetune.data.length import encode_all
from finetune.data.prepare import Prepared
from finetune.data.store import BrokenStoreError, ExampleStore
from finetune.evaluate.generate import Answer
from finetune.evaluate.metrics import mean
from finetune.evaluate.results import rows_of, scored, write_answers
from finetune.inputs import data_record, encode, known_scores, load_data, make_stage
from finetune.recipe import Recipe
from finetune.recipefile import load_recipe
from tests.conftest import byte_tokenizer
from tests.data.test_prepare import TEMPLATE, record, write


class Lines:
    """A log that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def encoded(recipe: Recipe, data: Prepared | None = None) -> tuple[ExampleStore, str, Prepared]:
    """The examples, `hit` or `miss`, and the data."""
    data = data or load_data(recipe)
    _, encoder = make_stage(recipe, byte_tokenizer())
    log = Lines()
    store = encode(recipe, data, encoder, recipe.output_dir.parent / ".encoded", log)
    counts = store.counts
    expected, _ = encode_all(encoder, data.train, recipe.data.max_length, recipe.data.too_long)
    assert list(store) == expected and counts["rows"] == len(data.train)
    said = "".join(log.lines)
    return store, "hit" if "from the cache" in said else "miss" if "now in the cache" in said else said, data


def rows(folder, first: int, count: int = 12) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    write(folder, [{"a": n % 8, "b": n % 5, "group": f"g{n}"} for n in range(first, first + count)])


@pytest.mark.parametrize("kind", ["glob", "folder", "saved", "hub"])
def test_every_kind_of_source_is_cached(tiny_recipe, tmp_path, kind):
    """A second time it is a hit; another content of one file, or one file more, is a miss."""
    place = tmp_path / "rows"
    rows(place / "one.jsonl", 0)
    rows(place / "two.jsonl", 12)
    source = {"path": str(place)}
    if kind == "glob":
        source = {"path": str(place / "*.jsonl")}
    if kind == "saved":
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        datasets.Dataset.from_json(str(place / "one.jsonl"), cache_dir=str(tmp_path / "hf")).save_to_disk(place / "s")
        source = {"path": str(place / "s")}
    if kind == "hub":
        pytest.importorskip("datasets")
        source = {"hub": str(place)}
    changes = ["data.split={by: group, eval_rows: 3}", "data.screen.train_eval_overlap=drop"]
    recipe = tiny_recipe(f"data.train=[{json.dumps(source)}]", *changes)
    assert encoded(recipe)[1] == "miss"
    _, said, data = encoded(recipe)
    assert said == "hit"
    assert [source.files for source in data.sources] != [()]
    if kind == "saved":
        arrow = next((place / "s").glob("*.arrow"))
        datasets.Dataset.from_dict({"a": [*range(9)], "b": [2] * 9, "group": [*"abcdefghi"]}).save_to_disk(
            tmp_path / "t"
        )
        arrow.write_bytes(next((tmp_path / "t").glob("*.arrow")).read_bytes())
        assert encoded(recipe)[1] == "miss"
        return
    rows(place / "two.jsonl", 13)
    assert encoded(recipe)[1] == "miss"
    rows(place / "three.jsonl", 40)
    assert encoded(recipe)[1] == "miss"
    assert encoded(recipe)[1] == "hit"


def test_a_benchmark_is_part_of_the_key(tiny_recipe, tmp_path):
    """Rows that hold a passage of it are dropped: another passage, other rows."""
    benchmark = tmp_path / "bench.txt"
    benchmark.write_text("nothing of these rows stands in this line\n")
    recipe = tiny_recipe(f"data.screen={{benchmarks: [{benchmark}], benchmark_overlap: drop}}")
    assert [encoded(recipe)[1], encoded(recipe)[1]] == ["miss", "hit"]
    benchmark.write_text("nor does anything of them stand in this one\n")
    assert encoded(recipe)[1] == "miss"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_without_a_cache_the_examples_are_the_same_and_go_with_the_run(tiny_recipe, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    store, said, _ = encoded(tiny_recipe("data.cache=false", f"data.workers={workers}"))
    assert said == "" and not (tmp_path / ".encoded").exists()
    assert [place.name for place in store.folder.iterdir() if place.suffix == ".json"] == ["index.json"]
    del store
    assert list((tmp_path / "tmp").iterdir()) == []


def test_bytes_that_changed_on_disk_are_seen(tiny_recipe):
    """The same size, one bit other: a miss, and the store is as it was."""
    store, _, data = encoded(recipe := tiny_recipe())
    whole = {file.name: file.read_bytes() for file in store.folder.iterdir()}
    for name in ("ids.npy", "trained.npy", "line.npy"):
        damaged = bytearray(whole[name])
        damaged[-1] ^= 1
        (store.folder / name).write_bytes(damaged)
        with pytest.raises(BrokenStoreError, match=f"{name} has another checksum than index.json says"):
            ExampleStore(store.folder).verify()
        again, said, _ = encoded(recipe, data)
        assert said == "miss"
        assert {file.name: file.read_bytes() for file in again.folder.iterdir()} == whole
    assert encoded(recipe, data)[1] == "hit"


def test_what_was_not_used_for_longest_goes(tiny_recipe, tmp_path):
    """Of stores used at 1, 2, 3 (twelve bytes more than the index each) the oldest go, never the one in use."""

    def fill() -> None:
        for number, name in enumerate(("aa", "bb", "cc"), start=1):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "index.json").write_text("{}")
            (tmp_path / name / "ids.npy").write_bytes(b"x" * 10)
            os.utime(tmp_path / name, (number, number))
        (tmp_path / ".bb.part").mkdir(exist_ok=True)  # somebody is writing it
        (tmp_path / "other").mkdir(exist_ok=True)  # no store

    def left() -> list[str]:
        return sorted(place.name for place in tmp_path.iterdir() if len(place.name) == 2)

    fill()
    assert evict(tmp_path, "aa", entries=3) == (0, 0)
    assert evict(tmp_path, "aa", entries=2) == (1, 12) and left() == ["aa", "cc"]
    fill()
    assert evict(tmp_path, "aa", size=24) == (1, 12) and left() == ["aa", "cc"]
    fill()
    assert evict(tmp_path, "cc", size=1) == (2, 24) and left() == ["cc"]
    assert (tmp_path / ".bb.part").is_dir() and (tmp_path / "other").is_dir()


def test_a_hit_counts_as_use_and_removal_is_said(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.cache.evict.__defaults__", (2, 2**40))
    lengths = [tiny_recipe(f"data.max_length={length}") for length in (300, 400, 500)]
    first, second = (encoded(recipe)[0].folder for recipe in lengths[:2])
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    assert encoded(lengths[0])[1] == "hit"
    _, encoder = make_stage(lengths[2], byte_tokenizer())
    encode(lengths[2], load_data(lengths[2]), encoder, first.parent, log := Lines())
    assert log.lines[1].startswith(f"encoding: 1 older cache entries removed from {first.parent}, ")
    assert first.exists() and not second.exists()


def test_the_record_counts_lines_and_hashes_all_files(tiny_recipe, tmp_path):
    """T44: rows, blank lines, dropped rows and samples a source; one hash, of the file or of the list of files."""
    rows(tmp_path / "rows/one.jsonl", 0)
    rows(tmp_path / "rows/two.jsonl", 12)
    (tmp_path / "rows/two.jsonl").write_text((tmp_path / "rows/two.jsonl").read_text() + "\n \n")
    recipe = tiny_recipe(f"data.train={tmp_path}/rows", "data.split={by: group, eval_rows: 3}")
    data = load_data(recipe)
    (source,) = data_record(data, {})["sources"]
    assert {key: source[key] for key in ("name", "files", "rows", "blank_lines", "dropped", "samples")} == {
        "name": "rows", "files": 2, "rows": 24, "blank_lines": 2, "dropped": 0, "samples": 24,
    }  # fmt: skip
    names = [DataFile(tmp_path / f"rows/{name}", "", name) for name in ("one.jsonl", "two.jsonl")]
    assert source["sha256"] == files_sha256(names) != files_sha256(names[::-1])
    assert data_record(data, {})["template_sha256"] == data.template.sha256


def test_scores_by_task(tmp_path, tiny_recipe):
    """Each task by its own metric: depth by fields, grade by number. By hand: of two depths one is right, of three
    grades one is exact and one within a tenth; means over all rows that have a score, then by task."""
    tiny_recipe()
    (tmp_path / "t.yaml").write_text(TEMPLATE)
    write(tmp_path / "a.jsonl", [record(n, depth_m=1, grade=10) for n in range(30)])
    changes = [f"data.template={tmp_path}/t.yaml", f"data.train={tmp_path}/a.jsonl", "data.split={eval_rows: 6}"]
    recipe = load_recipe(tmp_path / "tiny.yaml", [*changes, "gate.min={depth/all_fields: 0.1, exact: 0.1}"])
    data = load_data(recipe)
    depths = [place for place, sample in enumerate(data.evaluate) if sample.task == "depth"][:2]
    grades = [place for place, sample in enumerate(data.evaluate) if sample.task == "grade"][:3]
    chosen = sorted([*depths, *grades])
    answers = {depths[0]: "depth_m: 1", depths[1]: "depth_m: 2", grades[0]: "10", grades[1]: "10.6", grades[2]: "20"}
    recipe.output_dir.mkdir()
    some = replace(data, evaluate=data.evaluate.pick(chosen))
    given = [Answer(answers[place], True) for place in chosen]
    write_answers(recipe.output_dir, some, given, "tuned")
    scores = scored(some, rows_of(some, given))
    fields = {"field_match": 1 / 2, "all_fields": 1 / 2, "field/depth_m": 1 / 2}
    number = {"exact": pytest.approx(1 / 3), "within_tolerance": pytest.approx(2 / 3)}
    assert next(iter(scores)) == "field_match"
    assert scores == {
        **fields, **number, "finished": 1.0, **{f"depth/{name}": value for name, value in fields.items()},
        **{f"grade/{name}": value for name, value in number.items()},
    }  # fmt: skip
    assert set(known_scores(data)) == set(scores) - {"finished"}
    lines = [json.loads(line) for line in (recipe.output_dir / "answers.tuned.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["depth" if place in depths else "grade" for place in chosen]


def test_means_are_over_the_rows_that_have_the_score():
    assert mean([{"a": 1.0}, {"b": 0.5}, {"a": 0.0, "b": 1.0}]) == {"a": 0.5, "b": 0.75}
