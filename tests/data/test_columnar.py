"""Parquet, Arrow, saved datasets and local copies of hub datasets give plain Python values."""

from __future__ import annotations

import datetime as dt
import decimal
import tracemalloc

import pytest

from finetune.data.source import read_source, stream_source
from finetune.errors import DataError
from finetune.recipe_data import SourceSection

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")


def refusal(**keys) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_source(SourceSection(**keys))
    return caught.value.problems


def typed_table():
    """One column of every kind that needs a decision, two rows, the second all null."""
    columns = {
        "text": pa.array(["2022-10-22", None]),
        "small": pa.array([2**63 - 1, None], pa.int64()),
        "real": pa.array([1.5, None], pa.float64()),
        "missing": pa.array([float("nan"), None], pa.float64()),
        "day": pa.array([dt.date(2022, 10, 22), None]),
        "time": pa.array([dt.datetime(2022, 10, 22, 2, 53, tzinfo=dt.UTC), None], pa.timestamp("us", "UTC")),
        "price": pa.array([decimal.Decimal("12.30"), None], pa.decimal128(6, 2)),
        "raw": pa.array(["矿".encode(), None], pa.binary()),
        "choice": pa.array(["a", None]).dictionary_encode(),
        "messages": pa.array([[{"role": "user", "content": "x"}], None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
    }
    return pa.table(columns)


PLAIN = {
    "text": "2022-10-22", "small": 2**63 - 1, "real": 1.5, "missing": None, "day": "2022-10-22",
    "time": "2022-10-22T02:53:00+00:00", "price": "12.30", "raw": "矿", "choice": "a",
    "messages": [{"role": "user", "content": "x"}], "map": {"k": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "stream.arrow", "x.feather"])
def test_values_are_plain(tmp_path, name):
    """Dates and decimals become text exactly, NaN null (said), nested values dicts and lists."""
    table, path = typed_table(), tmp_path / name
    if name == "x.parquet":
        parquet.write_table(table, path)
    elif name == "x.feather":
        feather.write_feather(table, path)
    else:
        writer = pa.ipc.new_stream if name.startswith("stream") else pa.ipc.new_file
        with writer(str(path), table.schema) as sink:
            sink.write_table(table)
    notes: list[str] = []
    rows = read_source(SourceSection(path=str(path)), notes)
    assert [row.line for row in rows] == [1, 2]
    assert rows[0].values == PLAIN
    assert rows[1].values == dict.fromkeys(PLAIN)
    assert {type(value) for value in rows[0].values.values()} == {str, int, float, type(None), list, dict}
    assert notes == [f"{path}: missing: NaN is read as null"]


def test_values_without_a_plain_form(tmp_path):
    path = tmp_path / "x.parquet"
    maps = pa.array([[("k", 1), ("k", 2)], None], pa.map_(pa.string(), pa.int64()))
    parquet.write_table(pa.table({"raw": pa.array([b"ok", b"\xff\xfe"]), "map": maps}), path)
    assert refusal(path=str(path)) == [
        f"{path}:1: map: a map needs text keys, each once",
        f"{path}:2: raw: 2 bytes that are not UTF-8 text",
    ]
    path.write_bytes(b"PAR1 not really PAR1")
    assert refusal(path=str(path))[0].startswith(f"{path}: not a readable Parquet file: ")
    (tmp_path / "x.arrow").write_bytes(b"ARROW1 no")
    assert refusal(path=str(tmp_path / "x.arrow"))[0].startswith(f"{tmp_path}/x.arrow: not a readable Arrow file: ")
    parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    assert refusal(path=str(path)) == [f"{path}: holds no rows"]


def test_parquet_streams_in_flat_memory(tmp_path):
    """64 MB of text in row groups of 1,000: neither Python nor Arrow holds more than a few groups."""
    path = tmp_path / "x.parquet"
    with parquet.ParquetWriter(path, pa.schema({"n": pa.int64(), "a": pa.string()})) as writer:
        for start in range(0, 64_000, 1000):
            numbers = list(range(start, start + 1000))
            writer.write_table(pa.table({"n": numbers, "a": [f"{n:01000d}" for n in numbers]}), row_group_size=1000)
    tracemalloc.start()
    before, held, total = pa.total_allocated_bytes(), 0, 0
    for row in stream_source(SourceSection(path=str(path))):
        total += row.values["n"]
        if row.line % 1000 == 0:
            held = max(held, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == sum(range(64_000))
    assert peak < 8_000_000
    assert held < 8_000_000


def test_saved_datasets(tmp_path):
    """Folders of `save_to_disk`: one split as it is, several by `split`; shards in order."""
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_dict({"a": [f"r{n}" for n in range(5)]})
    train.save_to_disk(tmp_path / "one", num_shards=2)
    rows = read_source(SourceSection(path=str(tmp_path / "one")))
    assert [row.values for row in rows] == [{"a": f"r{n}"} for n in range(5)]
    assert [row.where.removeprefix(f"{tmp_path}/one/") for row in rows[2:4]] == [
        "data-00000-of-00002.arrow:3",
        "data-00001-of-00002.arrow:1",
    ]
    assert refusal(path=str(tmp_path / "one"), split="test") == [
        f"{tmp_path}/one: split: this saved dataset is one split; leave `split` out"
    ]
    datasets.DatasetDict({"dev": train.select([1, 3]), "test": train.select([4])}).save_to_disk(tmp_path / "two")
    for key in ("path", "hub"):
        rows = read_source(SourceSection(**{key: str(tmp_path / "two")}, split="dev"))
        assert [row.values for row in rows] == [{"a": "r1"}, {"a": "r3"}]
    assert refusal(path=str(tmp_path / "two")) == [
        f"{tmp_path}/two: no split chosen; say `split:` with one of dev, test"
    ]


@pytest.fixture
def hub_copy(tmp_path):
    """A clone of a hub dataset with two configurations, as its README.md declares them."""
    pytest.importorskip("datasets")
    copy = tmp_path / "copy"
    for name, text in {
        "en/train.jsonl": '{"a": "2022-10-22"}\n{"a": 1}\n',
        "en/test.jsonl": '{"a": "t"}\n',
        "zh/part-1.csv": "a,b\n1,\n",
        "zh/part-2.csv": "a,b\n2,x\n",
        "README.md": (
            "---\nconfigs:\n- config_name: en\n  data_files:\n  - {split: train, path: en/train.jsonl}\n"
            "  - {split: test, path: en/test.jsonl}\n"
            "- config_name: zh\n  data_files:\n  - {split: train, path: zh/*.csv}\n---\n"
        ),
    }.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    return copy


def test_hub_dataset_from_a_local_copy(hub_copy):
    """`datasets` names the files; our readers read them, so text that looks like a date stays text."""
    notes: list[str] = []
    rows = read_source(SourceSection(hub=str(hub_copy), subset="en"), notes)
    assert [row.values for row in rows] == [{"a": "2022-10-22"}, {"a": 1}]
    assert notes == [f"{hub_copy}: split train, 1 files"]
    assert [row.values for row in read_source(SourceSection(hub=str(hub_copy), subset="en", split="test"))] == [
        {"a": "t"}
    ]
    rows = read_source(SourceSection(hub=str(hub_copy), subset="zh"))
    assert [row.values for row in rows] == [{"a": "1", "b": None}, {"a": "2", "b": "x"}]


def test_hub_mistakes(hub_copy):
    assert refusal(hub=str(hub_copy)) == [
        f"{hub_copy}: Config name is missing. Please pick one among the available configs: ['en', 'zh']"
    ]
    assert refusal(hub=str(hub_copy), subset="fr") == [
        f"{hub_copy}: BuilderConfig 'fr' not found. Available: ['en', 'zh']"
    ]
    assert refusal(hub=str(hub_copy), subset="zh", split="test") == [
        f"{hub_copy}: no split 'test'; say `split:` with one of train"
    ]
    (hub_copy / "en/train.jsonl").write_text('{"a": 1,}\n')
    (problem,) = refusal(hub=str(hub_copy), subset="en")
    assert problem.startswith(f"{hub_copy}/en/train.jsonl:1:")


def test_hub_files_are_fetched_at_the_commit_that_datasets_resolved(tmp_path, monkeypatch):
    """Without the network: `datasets` and the hub client are stood in for; names, revisions and labels are ours."""
    datasets, hub = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    asked = []

    class Builder:
        class config:  # noqa: N801 - as `datasets` names it
            data_files = {"train": [f"hf://datasets/org/name@{commit}/data/x.jsonl"]}  # noqa: RUF012

    Builder.__module__ = "datasets.packaged_modules.json.json"

    def load_dataset_builder(name, subset, revision):
        asked.append((name, subset, revision))
        return Builder()

    def hf_hub_download(name, path, repo_type, revision):
        asked.append((name, path, repo_type, revision))
        return str(tmp_path / "x.jsonl")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    notes: list[str] = []
    rows = read_source(SourceSection(hub="org/name@v1.0", subset="en"), notes)
    assert [row.where for row in rows] == [f"org/name@{commit}/data/x.jsonl:{line}" for line in (1, 2)]
    assert asked == [("org/name", "en", "v1.0"), ("org/name", "data/x.jsonl", "dataset", commit)]
    assert notes == ["org/name@v1.0: split train, 1 files"]
    read_source(SourceSection(hub="org/name"), notes)
    assert asked[2] == ("org/name", None, None)
    assert notes[1:] == [f"org/name: split train, 1 files; no revision given, this is `hub: org/name@{commit}`"]
