"""The store: whole or not at all, verified before it is used, rotated only after the new one is there."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from finetune.checkpoint.disk import disk_full
from finetune.checkpoint.manifest import MANIFEST
from finetune.checkpoint.store import Store
from finetune.errors import CheckpointError
from tests.checkpoint.made import FILES, contents, filled, holds

ALL = sorted([*FILES, "state.json", MANIFEST])


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "checkpoints", keep=2)


def names(store: Store) -> list[str]:
    return sorted(entry.name for entry in store.folder.iterdir())


def test_what_a_checkpoint_holds(store):
    written = store.write(50, {"consumed": 800, "best": 0.1, "list": [1, 2]}, filled(7))
    assert (written.folder.name, written.step) == ("step-00000050", 50)
    assert sorted(contents(written.folder)) == ALL and holds(written.folder, 7)
    manifest = json.loads((written.folder / MANIFEST).read_text())
    assert (manifest["format"], manifest["step"], sorted(manifest["files"])) == (1, 50, sorted([*FILES, "state.json"]))
    assert manifest["files"][FILES[0]] == {"size": 300, "sha256": hashlib.sha256(b"\x07" * 300).hexdigest()}
    assert store.newest() == (written, [])
    assert written.state == {"consumed": 800, "best": 0.1, "list": [1, 2]}
    assert names(store) == ["step-00000050"]


def test_an_empty_store(store):
    assert store.newest() == (None, []) and store.steps() == []


def test_modes_follow_the_umask(store):
    """safetensors writes 0600; a serving account must read a checkpoint."""

    def fill(folder: Path) -> None:
        filled(1)(folder)
        (folder / FILES[0]).chmod(0o600)

    before = os.umask(0o027)
    try:
        folder = store.write(1, {}, fill).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ALL} == {0o640}


@pytest.mark.parametrize("name", [name for name in ALL if name != MANIFEST])
def test_a_flipped_bit_is_found(store, name):
    """T13: one bit in each file; T10: a rank's RNG file among them."""
    folder = store.write(50, {"a": 1}, filled(7)).folder
    whole = (folder / name).read_bytes()
    for place in {0, len(whole) // 2, len(whole) - 1}:
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=name):
            store.open(folder)
    (folder / name).write_bytes(whole)
    assert store.open(folder).step == 50


def test_every_bit_of_the_manifest_counts(store):
    """T13: the file that nothing else vouches for; no flip of it is taken for a whole checkpoint."""
    folder = store.write(50, {"a": 1}, lambda folder: None).folder
    whole = (folder / MANIFEST).read_bytes()
    assert len(whole) > 150
    for bit in range(len(whole) * 8):
        place, mask = bit // 8, 1 << bit % 8
        (folder / MANIFEST).write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            store.open(folder)


@pytest.mark.parametrize("name", [name for name in ALL if name != MANIFEST])
def test_a_missing_or_shortened_file_is_named(store, name):
    """T10: the RNG file of a rank, and every other file, is required."""
    folder = store.write(50, {"a": 1}, filled(7)).folder
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"{name}: {len(whole) - 1} bytes, {len(whole)} were written"):
        store.open(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError) as error:
        store.open(folder)
    assert error.value.problems == [f"{folder}: {name}: missing"]
    assert store.steps() == []


def test_every_bad_file_has_a_line(store):
    folder = store.write(50, {}, filled(7)).folder
    (folder / FILES[0]).unlink()
    (folder / FILES[1]).write_bytes(b"x" * 300)
    (folder / "stranger.txt").write_text("x")
    with pytest.raises(CheckpointError) as error:
        store.open(folder)
    assert error.value.problems == [
        f"{folder}: {FILES[0]}: missing",
        f"{folder}: {FILES[1]}: damaged (its sha256 is not the one written)",
        f"{folder}: stranger.txt: not part of this checkpoint",
    ]


def test_auto_resume_skips_what_is_not_valid(store):
    """T16: the newest is not complete, the one before is damaged: the third is taken and the others are named."""
    good = store.write(10, {"n": 1}, filled(1))
    damaged = store.write(20, {"n": 2}, filled(2)).folder
    (damaged / FILES[1]).write_bytes(b"\0" * 300)
    incomplete = store.folder / "step-00000030"
    shutil.copytree(good.folder, incomplete)
    (incomplete / MANIFEST).unlink()
    found, skipped = store.newest()
    assert found == good
    assert skipped == [
        f"{incomplete}: MANIFEST.json is missing (never completed)",
        f"{damaged}: {FILES[1]}: damaged (its sha256 is not the one written)",
    ]
    with pytest.raises(CheckpointError, match="never completed"):
        store.open(incomplete)
    with pytest.raises(CheckpointError, match="no such folder"):
        store.open(store.folder / "step-00000040")


def test_a_checkpoint_under_another_number_is_refused(store):
    """T16: a renamed copy must not pass for a later one."""
    folder = store.write(10, {}, filled(1)).folder
    renamed = folder.rename(store.folder / "step-00000090")
    with pytest.raises(CheckpointError, match=r"step-00000090: its MANIFEST.json says step 10"):
        store.open(renamed)
    elsewhere = renamed.rename(store.folder / "before-the-change")
    assert store.open(elsewhere).step == 10


def test_rotation(store):
    """T15: the newest two, a protected one besides, nothing else."""
    for step in (10, 20, 30, 40, 50):
        store.write(step, {}, filled(step), protect=[20])
    assert store.steps() == [20, 40, 50] and names(store) == [f"step-000000{step}" for step in (20, 40, 50)]


def test_the_one_just_written_stays(tmp_path):
    """T15: keep=1, and higher numbers of an earlier run lie there."""
    store = Store(tmp_path, keep=1)
    store.write(900, {}, filled(9))
    store.write(100, {}, filled(1))
    assert store.steps() == [100, 900] and holds(tmp_path / "step-00000100", 1)
    store.write(150, {}, filled(2))
    assert store.steps() == [150, 900]


def test_nothing_is_rotated_for_a_write_that_fails(tmp_path):
    """T15: with a smaller `keep` than before, the older ones go only once the new one is there."""
    for step in (10, 20, 30):
        Store(tmp_path, keep=3).write(step, {}, filled(1))
    store = Store(tmp_path, keep=1)
    with pytest.raises(OSError, match="No space left on device"):
        store.write(40, {}, _text_on_a_full_disk)
    assert store.steps() == [10, 20, 30]
    store.write(40, {}, filled(2))
    assert store.steps() == [40]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files")
def test_everything_is_on_the_disk_before_it_has_its_name(store, monkeypatch):
    """T11 for a machine that loses power: fsync of the files, then the manifest, then the folders, rename, parent."""
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noting_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        draft = next((part for part in path.parts if part.endswith(".tmp")), None)
        order.append(str(path.relative_to(store.folder / draft)) if draft else path.name)
        fsync(descriptor)

    def noting_rename(self, target):
        order.append(f"rename {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    store.write(10, {}, filled(1))
    files = sorted([*FILES, "state.json"])
    assert sorted(order[: len(files)]) == files
    assert order[len(files) :] == [MANIFEST, "tokenizer", ".", "rename step-00000010", "checkpoints"]


def test_an_incomplete_folder_does_not_count_as_kept(tmp_path):
    """T15: keep=1 of complete ones; the broken one is not ours to remove."""
    store = Store(tmp_path, keep=1)
    store.write(10, {}, filled(1))
    (tmp_path / "step-00000099").mkdir()
    store.write(20, {}, filled(2))
    assert store.steps() == [20]
    assert names(store) == ["step-00000020", "step-00000099"]


def test_keep_is_at_least_one(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        Store(tmp_path, keep=0)


def _torch_on_a_full_disk(folder: Path) -> None:
    torch.save({"exp_avg": torch.zeros(100_000)}, "/dev/full")  # RuntimeError: ... unexpected pos 704 vs 598


def _text_on_a_full_disk(folder: Path) -> None:
    with Path("/dev/full").open("w") as stream:
        stream.write("x")


def _quota(folder: Path) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.parametrize("full", [_torch_on_a_full_disk, _text_on_a_full_disk, _quota])
@pytest.mark.parametrize("step", [10, 20], ids=["same step", "next step"])
def test_a_full_disk_is_one_error_and_costs_nothing(tmp_path, full, step):
    """T14, T15: keep=1; whatever library notices, ENOSPC is raised; the one before is untouched, nothing lies around."""
    store = Store(tmp_path, keep=1)
    before = store.write(10, {"n": 1}, filled(1))

    def fill(folder: Path) -> None:
        filled(2)(folder)
        full(folder)

    with pytest.raises(OSError, match=f"No space left on device for checkpoint step-000000{step}: writing") as error:
        store.write(step, {"n": 2}, fill)
    assert error.value.errno == errno.ENOSPC
    assert store.newest() == (before, []) and holds(before.folder, 1) and names(store) == ["step-00000010"]


def test_other_failures_stay_what_they_are(store):
    before = store.write(10, {}, filled(1))
    for failure in (ValueError("no"), PermissionError(errno.EACCES, "no"), KeyboardInterrupt()):

        def fill(folder: Path, failure=failure) -> None:
            filled(2)(folder)
            raise failure

        with pytest.raises(type(failure)):
            store.write(20, {}, fill)
        with pytest.raises(type(failure)):
            store.write(10, {}, fill)
        assert names(store) == ["step-00000010"] and store.newest() == (before, [])
    assert not disk_full(RuntimeError("unexpected pos")) and not disk_full(PermissionError(errno.EACCES, "no"))


@pytest.mark.parametrize("fails_at", [1, 2], ids=["old moved aside", "new put in place"])
def test_a_rename_that_fails_puts_the_old_one_back(store, monkeypatch, fails_at):
    """T12: replacing a step, when the system refuses a rename half-way."""
    before = store.write(10, {}, filled(1))
    rename, calls = Path.rename, []

    def refusing(self, target):
        calls.append(target)
        if len(calls) == fails_at:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="Input/output error"):
        store.write(10, {}, filled(2))
    assert names(store) == ["step-00000010"] and store.newest() == (before, []) and holds(before.folder, 1)


def test_space_is_looked_at_before_anything_is_written(store, monkeypatch):
    """T14: as large as the newest one, unless the caller says how many bytes it needs."""
    store.write(10, {}, filled(1, size=1_000_000))
    usage = shutil.disk_usage(store.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3_900_000))
    with pytest.raises(OSError, match=r"it needs about 4.0 MB, 3.9 MB are free; earlier checkpoints are as they were"):
        store.write(20, {}, lambda folder: pytest.fail("something was written"))
    store.write(20, {}, filled(2), needs=3_900_000)
    with pytest.raises(OSError, match=r"it needs about 4.5 MB"):
        store.write(30, {}, filled(2), needs=4_500_000)
    assert store.steps() == [10, 20]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed test may hold a file open


def test_a_disk_too_small_for_the_second_checkpoint(small_disk):
    """T14: a real full disk, under Python's own writes, safetensors and torch; keep=1 (T15)."""
    from finetune.checkpoint.tensors import save_tensors

    store = Store(small_disk / "checkpoints", keep=1)
    before = store.write(10, {"n": 1}, filled(1, size=150_000))
    size = sum(len(content) for content in contents(before.folder).values())
    assert 600_000 < size < 2**20 < 2 * size
    with pytest.raises(OSError, match=r"it needs about 0.6 MB, 0.4 MB are free"):
        store.write(20, {}, filled(2, size=150_000))
    large = torch.zeros(150_000)
    fills = {
        "python": filled(2, size=150_000),
        "safetensors": lambda folder: save_tensors(folder / "a.safetensors", {"a": large}),
        "torch": lambda folder: torch.save(large, folder / "a"),
    }
    for fill in fills.values():
        with pytest.raises(OSError, match="No space left on device for checkpoint step-00000020: writing") as error:
            store.write(20, {}, fill, needs=1)
        assert error.value.errno == errno.ENOSPC
        assert store.newest() == (before, []) and names(store) == ["step-00000010"]
    del error
    gc.collect()  # the exception held torch's open file
    store.write(20, {}, filled(2, size=80_000), needs=1)
    assert store.steps() == [20]


def leave(store: Store, name: str) -> Path:
    folder = store.folder / name
    folder.mkdir()
    (folder / "optimizer.safetensors").write_text("half")
    return folder


def test_what_dead_writers_left_is_removed_and_living_ones_go_on(store):
    """T11: by the writer's number on this machine, by age when another machine shares the disk."""
    from finetune.checkpoint.store import _PROCESS, _host

    good = store.write(10, {}, filled(1))
    gone = subprocess.Popen(["true"])
    gone.wait()
    host, own = _host(), os.getpid()
    leave(store, f".step-00000020.{host}.{gone.pid}.abc.tmp")
    leave(store, f".step-00000030.{host}.{gone.pid}.abc.gone")
    leave(store, f".step-00000010.{host}.{gone.pid}.abc.old")  # its new one is there
    leave(store, f".step-00000040.{host}.{own}.earlier.tmp")  # an earlier process with our number
    old = leave(store, f".step-00000020.elsewhere.{own}.abc.tmp")
    for path in (old / "optimizer.safetensors", old):
        os.utime(path, (0, 0))
    living = {
        leave(store, f".step-00000020.{host}.{os.getppid()}.abc.tmp").name,
        leave(store, f".step-00000020.elsewhere.{gone.pid}.def.tmp").name,
        leave(store, f".step-00000020.{host}.{own}.{_PROCESS}.tmp").name,  # written in our own background
    }
    (store.folder / "notes.txt").write_text("a person's")
    assert store.newest() == (good, [])
    assert set(names(store)) == living | {"step-00000010", "notes.txt"}


def test_a_checkpoint_moved_aside_comes_back_if_it_is_whole(store):
    """T12: killed between the two renames; what is not whole does not come back."""
    good = store.write(10, {}, filled(1))
    good.folder.rename(store.folder / ".step-00000010.elsewhere.1.abc.old")
    leave(store, ".step-00000020.elsewhere.1.abc.old")
    assert store.newest() == (good, []) and holds(good.folder, 1)
