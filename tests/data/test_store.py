"""The store: what is in its arrays, what comes back, and what happens when a writer or a file is cut short."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from finetune.data.chat import IGNORED, Example
from finetune.data.flat import Columns, StoreWriter, columns
from finetune.data.pack import join
from finetune.data.store import BrokenStoreError, ExampleStore

THREE = [
    Example((5, 6, 7), (IGNORED, 6, 7), "a.jsonl:1"),
    Example((8,), (IGNORED,), "b.xlsx:Sheet 1:12"),
    Example((9, 2**31 - 1), (9, IGNORED), "a.jsonl:2"),
]


def test_arrays_by_hand(tmp_path):
    """Three examples of 3, 1 and 2 tokens, of which 2, 0 and 1 are trained, out of two files."""
    store = ExampleStore.write(tmp_path / "s", iter(THREE), {"rows": 4, "too_long_dropped": 1})
    assert store.ids.tolist() == [5, 6, 7, 8, 9, 2**31 - 1]
    assert store.trained.tolist() == [False, True, True, False, True, False]
    assert store.offsets.tolist() == [0, 3, 4, 6]
    assert store.lengths.tolist() == [3, 1, 2]
    assert store.trained_counts.tolist() == [2, 0, 1]
    assert store.files == ("a.jsonl", "b.xlsx:Sheet 1")
    assert store.file.tolist() == [0, 1, 0]
    assert store.line.tolist() == [1, 12, 2]
    assert store.counts == {"rows": 4, "too_long_dropped": 1}
    kinds = [store.ids, store.trained, store.offsets, store.trained_counts, store.file, store.line]
    assert [array.dtype for array in kinds] == [np.int32, np.bool_, np.int64, np.int64, np.int32, np.int64]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_stop_tokens_are_the_last_trained_ones(tmp_path, monkeypatch, at_once):
    """7 and 9; the example in the middle has no trained token."""
    monkeypatch.setattr("finetune.data.store.STOPS_AT_ONCE", at_once)
    assert ExampleStore.write(tmp_path / "s", THREE).stops() == {7, 9}


def test_examples_come_back_as_they_were(tmp_path):
    store = ExampleStore.write(tmp_path / "s", THREE)
    assert list(store) == THREE
    assert [store[i] for i in (0, 1, 2, -1, -3)] == [*THREE, THREE[2], THREE[0]]
    assert store[1:] == THREE[1:]
    assert store[::-2] == [THREE[2], THREE[0]]
    assert len(store) == 3
    assert {type(token) for token in (*store[0].ids, *store[0].labels)} == {int}
    for outside in (3, -4):
        with pytest.raises(IndexError):
            store[outside]


@pytest.mark.parametrize(
    ("where", "file", "line"),
    [
        ("rows.jsonl:7", "rows.jsonl", 7),
        ("C:/data/rows.csv:0", "C:/data/rows.csv", 0),
        ("观测/站点.csv:12", "观测/站点.csv", 12),
        ("a:007", "a:007", -1),
        ("a:-1", "a:-1", -1),
        ("a:²", "a:²", -1),
        ("a:1234567890123456789", "a:1234567890123456789", -1),
        ("a:1 and 3 more", "a:1 and 3 more", -1),
        ("prompt", "prompt", -1),
        (":3", "", 3),
        ("", "", -1),
        ("undecodable\udcff.csv:3", "undecodable\udcff.csv", 3),
    ],
)
def test_where_is_kept_to_the_letter(tmp_path, where, file, line):
    """The table and the line number give back exactly the string that went in, whatever its form."""
    store = ExampleStore.write(tmp_path / "s", [Example((1,), (1,), where)])
    assert (store.files, store.line.tolist(), store.where(0)) == ((file,), [line], where)


def test_parts_share_one_table_of_files(tmp_path):
    """Two parts that met their files in another order: file numbers and offsets go on where the first part ended."""
    with StoreWriter(tmp_path / "s") as writer:
        writer.add(columns([Example((1, 2), (1, 2), "a:1"), Example((3,), (3,), "b:1")]))
        writer.add(columns([Example((4,), (IGNORED,), "b:2"), Example((5, 6), (5, IGNORED), "a:2")]))
        writer.add(columns([]))
        writer.finish()
    store = ExampleStore(tmp_path / "s")
    assert store.files == ("a", "b")
    assert store.file.tolist() == [0, 1, 1, 0]
    assert store.offsets.tolist() == [0, 2, 3, 4, 6]
    assert store.trained_counts.tolist() == [2, 1, 0, 1]
    assert [example.where for example in store] == ["a:1", "b:1", "b:2", "a:2"]


def test_more_examples_than_a_batch(tmp_path):
    """2500 examples are written in three batches; example i has i % 3 tokens, all of them trained: none is lost."""
    examples = [Example((i,) * (i % 3), (i,) * (i % 3), f"f:{i}") for i in range(2500)]
    store = ExampleStore.write(tmp_path / "s", iter(examples))
    assert list(store) == examples
    assert store.offsets[-1] == sum(i % 3 for i in range(2500))
    assert (store.trained_counts == np.arange(2500) % 3).all()


def test_an_empty_store(tmp_path):
    store = ExampleStore.write(tmp_path / "s", [])
    assert (len(store), list(store), store.offsets.tolist(), store.lengths.tolist()) == (0, [], [0], [])


def test_arrays_are_mapped_and_read_only(tmp_path):
    store = ExampleStore.write(tmp_path / "s", THREE)
    assert isinstance(store.ids.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.ids[0] = 1


def test_pickles_as_its_path(tmp_path):
    """A process that gets the store opens the files itself; no array goes through the pipe."""
    store = ExampleStore.write(tmp_path / "s", [Example((1,) * 50_000, (1,) * 50_000, "f:1")])
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(store)


def test_a_pickle_in_place_of_an_array_is_refused(tmp_path):
    """An object array would run code when it is loaded."""
    folder = tmp_path / "s"
    ExampleStore.write(folder, THREE)
    np.save(folder / "line.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(BrokenStoreError, match="Python objects in dtype"):
        ExampleStore(folder)


def test_nothing_is_left_of_a_writer_that_failed(tmp_path):
    """The folder appears whole or not at all, and the temporary one goes."""

    def examples():
        yield from THREE
        raise RuntimeError("the reader broke")

    with pytest.raises(RuntimeError, match="the reader broke"):
        ExampleStore.write(tmp_path / "s", examples())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_is_cleaned_up_after_a_day(tmp_path):
    """A fresh temporary folder may belong to a writer that is at work; one of two days ago does not."""
    old, fresh, other = tmp_path / ".s.old", tmp_path / ".s.fresh", tmp_path / ".t.old"
    for folder in (old, fresh, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    ExampleStore.write(tmp_path / "s", THREE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".s.fresh", ".t.old", "s"]


def test_a_store_is_never_overwritten(tmp_path):
    ExampleStore.write(tmp_path / "s", THREE)
    with pytest.raises(FileExistsError):
        ExampleStore.write(tmp_path / "s", THREE[:1])
    assert list(ExampleStore(tmp_path / "s")) == THREE
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_a_store_can_not_hold(tmp_path):
    """A pack would lose its documents, and a label that is another token would be lost in silence."""
    with pytest.raises(TypeError, match="a:1: a store holds plain examples, not Pack"):
        columns([join([Example((1,), (1,), "a:1")])])
    with pytest.raises(ValueError, match="neither its own token nor IGNORED"):
        columns([Example((1, 2), (1, 3), "a:1")])


@pytest.mark.parametrize("name", ["ids", "trained", "offsets", "trained_counts", "file", "line"])
def test_a_column_cut_short_is_seen(tmp_path, name):
    folder = tmp_path / "s"
    ExampleStore.write(folder, THREE)
    file = folder / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BrokenStoreError, match="s: "):
        ExampleStore(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"format": 3}, "format 3, this program reads 2"),
        ({"examples": 2}, "offsets.npy holds"),
        ({"tokens": 5}, "ids.npy holds"),
        ({"files": None}, "NoneType"),
    ],
)
def test_an_index_that_does_not_fit_is_seen(tmp_path, change, what):
    folder = tmp_path / "s"
    ExampleStore.write(folder, THREE)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | change))
    with pytest.raises(BrokenStoreError, match=what):
        ExampleStore(folder)


def test_no_store_there(tmp_path):
    with pytest.raises(BrokenStoreError, match="No such file"):
        ExampleStore(tmp_path / "nothing")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident pages are counted by Linux")
def test_pages_that_were_read_are_let_go_of(tmp_path):
    """40 MB of ids are resident once read, and not after; what is read then is the same."""
    writer = StoreWriter(tmp_path / "s")
    ids = np.arange(10_000_000, dtype=np.int32)
    lengths = np.full(1000, 10_000)
    nothing = np.zeros(1000, np.int32)
    with writer:
        writer.add(Columns(ids, ids > 0, lengths, ("f",), nothing, nothing.astype(np.int64), np.zeros((1000, 0))))
        writer.finish()
    store = ExampleStore(tmp_path / "s")
    total = int(store.ids.sum(dtype=np.int64))
    full = _file_pages()
    store.let_go()
    assert full - _file_pages() > 0.9 * 40e6 / os.sysconf("SC_PAGE_SIZE")
    assert int(store.ids.sum(dtype=np.int64)) == total == 10_000_000 * 9_999_999 // 2
    assert store.stops() == set(range(9_999, 10_000_000, 10_000)) == store.last_ids()


def _file_pages() -> int:
    """Resident pages of files."""
    return int(Path("/proc/self/statm").read_text().split()[2])
