"""Checkpoints that somebody tampered with: pickles and links."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest

from finetune.checkpoint.manifest import MANIFEST, Manifest, make_manifest
from finetune.checkpoint.store import Store
from finetune.errors import CheckpointError
from tests.checkpoint.made import FILES, contents, filled, holds
from tests.conftest import ROOT

PLANTED = [
    "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "rng_state.pth", "custom_checkpoint_0.pkl",
    "adapter_model.bin", ".metadata", "__0_0.distcp", "rng/0.pt",
]  # fmt: skip


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "checkpoints", keep=2)


class Evil:
    """Unpickling it makes the file."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return Path.touch, (self.flag,)


def plant(file: Path, flag: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(Evil(flag)))


def test_the_planted_pickle_works(tmp_path):
    """Otherwise the next tests would prove nothing."""
    plant(tmp_path / "a.pkl", tmp_path / "flag")
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert (tmp_path / "flag").exists()


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_pickle_is_refused(store, tmp_path, name):
    """T46: as a file too many; and still when the manifest was made to fit. Nothing is ever run."""
    good = store.write(10, {}, filled(1))
    folder = store.write(20, {}, filled(2)).folder
    plant(folder / name, tmp_path / "flag")
    for _ in range(2):
        with pytest.raises(CheckpointError) as error:
            store.open(folder)
        assert (
            f"{folder}: {name}: a format that may run code when loaded; checkpoints hold none" in error.value.problems
        )
        found, skipped = store.newest()
        assert found == good and len(skipped) == 1 and name in skipped[0]
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][name] = {"size": (folder / name).stat().st_size, "sha256": "0" * 64}
        (folder / MANIFEST).write_text(Manifest(manifest["step"], manifest["files"]).text())
    assert not (tmp_path / "flag").exists()


def test_pickles_under_our_own_names_are_damage(store, tmp_path):
    """T46: every file of a checkpoint replaced by a pickle."""
    folder = store.write(10, {}, filled(1)).folder
    for name in [*FILES, "state.json"]:
        plant(folder / name, tmp_path / "flag")
    with pytest.raises(CheckpointError) as error:
        store.open(folder)
    assert len(error.value.problems) == len(FILES) + 1 and not (tmp_path / "flag").exists()
    plant(folder / MANIFEST, tmp_path / "flag")
    with pytest.raises(CheckpointError, match=r"MANIFEST.json: damaged"):
        store.open(folder)
    assert not (tmp_path / "flag").exists()


def test_nothing_here_writes_a_pickle_either(store):
    """T46: a `fill` that leaves one fails, and leaves nothing."""
    with pytest.raises(CheckpointError, match=r"optimizer.bin: a format that may run code when loaded"):
        store.write(10, {}, lambda folder: (folder / "optimizer.bin").write_bytes(b"x"))
    assert list(store.folder.iterdir()) == []


def test_no_code_of_ours_unpickles():
    """T46: weights_only=False, torch.load, pickle and what else runs a file. One place is excepted: the spool, a file
    without a name that only the process that writes it can read."""
    unpickling = re.compile(
        r"weights_only\s*=\s*False|\btorch\.load\(|\bpickle\b.*\b(load|loads|Unpickler)\b|allow_pickle\s*=\s*True"
        r"|\b(joblib|dill|cloudpickle|shelve|marshal)\b|load_state_dict_from_url|\.load_state\(|register_for_checkpointing"
    )
    assert unpickling.search("torch.load(file)") and unpickling.search("from pickle import loads")
    files = [file for folder in ("finetune", "scripts") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 80
    files.remove(ROOT / "finetune/data/spool.py")
    lines = [(file, line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert [f"{file.relative_to(ROOT)}: {line.strip()}" for file, line in lines if unpickling.search(line)] == []


@pytest.mark.parametrize("name", [*FILES, "state.json", MANIFEST, "tokenizer"])
def test_a_link_in_a_checkpoint_is_refused(store, tmp_path, name):
    """T48: though what it points to has the very bytes."""
    folder = store.write(10, {}, filled(1)).folder
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=f"{name}: a symbolic link"):
        store.open(folder)
    assert store.steps() == [] and store.newest()[0] is None


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "a/../../outside.txt", "./state.json"])
def test_a_manifest_cannot_name_files_outside(store, tmp_path, name):
    """T48"""
    folder = store.write(10, {}, filled(1)).folder
    (store.folder / "outside.txt").write_text("x")
    files = make_manifest(folder, 10).files | {name: {"size": 1, "sha256": "0" * 64}}
    (folder / MANIFEST).write_text(Manifest(10, files).text())
    with pytest.raises(CheckpointError, match=r"leaves the folder"):
        store.open(folder)


def test_links_at_our_names_are_never_written_through(store, tmp_path):
    """T48: a link where the step's folder goes, and one where the store's goes; their targets stay as they are."""
    precious = tmp_path / "precious"
    precious.mkdir()
    filled(9)(precious)
    before = contents(precious)
    store.write(10, {}, filled(1))
    (store.folder / "step-00000020").symlink_to(precious)
    with pytest.raises(CheckpointError, match="a symbolic link"):
        store.open(store.folder / "step-00000020")
    assert store.newest()[0].step == 10
    written = store.write(20, {}, filled(2))
    assert not written.folder.is_symlink() and holds(written.folder, 2) and contents(precious) == before
    for step in (30, 40, 50):
        store.write(step, {}, filled(3))
        (store.folder / f"step-000000{step + 5}").symlink_to(precious)
    assert contents(precious) == before and store.steps() == [40, 50]  # rotated; links are no checkpoints

    linked = Store(tmp_path / "linked", keep=1)
    linked.folder.symlink_to(precious)
    for act in (linked.newest, lambda: linked.write(60, {}, filled(1))):
        with pytest.raises(CheckpointError, match=r"linked: a symbolic link"):
            act()
    assert contents(precious) == before


def test_a_link_left_by_fill_is_refused(store, tmp_path):
    """T48: neither state.json nor anything else is written through it."""
    target = tmp_path / "precious"
    target.write_text("mine")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors: a symbolic link"):
        store.write(10, {}, lambda folder: (folder / "optimizer.safetensors").symlink_to(target))
    for name in ("state.json", MANIFEST):
        with pytest.raises((FileExistsError, CheckpointError)):
            store.write(10, {}, lambda folder, name=name: (folder / name).symlink_to(target))
    assert target.read_text() == "mine" and list(store.folder.iterdir()) == []


def test_a_pipe_is_refused_not_waited_for(store):
    folder = store.write(10, {}, filled(1)).folder
    os.mkfifo(folder / "rng-1.safetensors")
    with pytest.raises(CheckpointError, match=r"rng-1.safetensors: neither a file nor a folder"):
        store.open(folder)
