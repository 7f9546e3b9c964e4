"""Signals to the launcher, to one process of several, and to a lonely trainer: one checkpoint, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from finetune.checkpoint.lock import RunLock
from finetune.checkpoint.store import Store
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import FSDP2, TORCHRUN, start
from tests.equivalence.test_batches import assert_same_run
from tests.equivalence.test_resume import LONG, assert_same_bits, exact, state

CHANGES = [part for item in LONG for part in ("--set", item)]
WORKER = str(ROOT / "tests/faults/signalled.py")


def two(*signalled: str, file: Path, resume: bool = False) -> subprocess.CompletedProcess[str]:
    more = ["--resume", "auto"] if resume else []
    return start([*TORCHRUN, WORKER, *signalled, "train", str(file), *CHANGES, *more])


@pytest.fixture(scope="module")
def two_processes(tiny_base, tiny_data, tmp_path_factory) -> Path:
    """The long tiny recipe under torchrun, undisturbed: a signal at call 0 never comes."""
    folder = tmp_path_factory.mktemp("two")
    file = write_tiny_recipe(folder, tiny_base, tiny_data)
    done = two("0", "0", "self", "SIGTERM", file=file)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "target"), [("0", "parent"), pytest.param("1", "self", marks=pytest.mark.long)])
def test_two_processes_stop_together_and_resume(tiny_base, tiny_data, tmp_path, two_processes, rank, target):
    """T7, T42: a signal to torchrun, or to rank 1 only, within step 5; bit for bit the undisturbed run afterwards."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    stopped = two(rank, "5", target, "SIGTERM", file=file)
    assert stopped.returncode != 0
    status, step = state(tmp_path / "run")
    assert status == "preempted"
    assert 4 < step < 20
    assert [found.step for found in [Store(tmp_path / "run/checkpoints", 2).newest()[0]]] == [step]
    assert 'Traceback (most recent call last):\n  File "/' not in stopped.stderr.split("torch/distributed")[0]
    done = two("0", "0", "self", "SIGTERM", file=file, resume=True)
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "run", two_processes)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param({}, marks=pytest.mark.long), FSDP2], ids=["ddp", "fsdp2"])
def test_another_number_of_processes_goes_on(tiny_base, tiny_data, tmp_path, engine):
    """T8: 2 -> 1 processes; no row twice or never (losses of 20 steps as with one process), rounding apart."""
    whole = load_recipe(write_tiny_recipe(tmp_path, tiny_base, tiny_data, "one"), [*LONG, "lora.lora_dropout=0.0"])
    whole = whole.model_copy(update={"output_dir": tmp_path / "one"})
    run(whole)
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    command = [*TORCHRUN, WORKER, "1", "5", "self", "SIGUSR1", "train", str(file), *CHANGES]
    stopped = start([*command, "--set", "lora.lora_dropout=0.0"], engine)
    assert ("fsdp2" if engine else "ddp") in stopped.stdout
    assert state(tmp_path / "run")[0] == "preempted"
    run(load_recipe(file, [*LONG, "lora.lora_dropout=0.0"]), resume="auto")
    assert len(exact(tmp_path / "run")) == 10
    assert_same_run(tmp_path / "run", tmp_path / "one")


@pytest.mark.slow
def test_a_killed_peer_ends_the_run(tiny_base, tiny_data, tmp_path, two_processes):
    """T43: SIGKILL of rank 1 in step 9; the end comes within a minute, step 6 is valid, nobody holds the run."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    begun = time.monotonic()
    done = two("1", "9", "self", "SIGKILL", file=file)
    assert done.returncode != 0
    assert time.monotonic() - begun < 60
    assert Store(tmp_path / "run/checkpoints", 2).newest()[0].step == 6
    with RunLock(tmp_path / "run"):
        pass
    again = two("0", "0", "self", "SIGTERM", file=file, resume=True)
    assert again.returncode == 0, again.stderr
    assert_same_bits(tmp_path / "run", two_processes)


@pytest.mark.slow
def test_a_trainer_notices_that_its_launcher_died(tiny_base, tiny_data, tmp_path):
    """T41: `accelerate launch` dies of SIGTERM and would leave the trainer alone: it stops with a checkpoint."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    launcher = [str(Path(sys.executable).parent / "accelerate"), "launch", "--cpu", "--num_processes", "1"]
    done = start([*launcher, WORKER, "0", "9", "parent", "SIGTERM", "train", str(file), *CHANGES])
    assert done.returncode == -signal.SIGTERM
    deadline = time.monotonic() + 30
    while state(tmp_path / "run")[0] == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert state(tmp_path / "run")[0] == "preempted"
    time.sleep(0.5)
    with RunLock(tmp_path / "run"):  # the trainer is gone
        pass


def test_signal_to_the_trainer(tiny_base, tiny_data, tmp_path, monkeypatch, capsys):
    """T41: exit code 75, one line that says how to go on, and a second signal that changes nothing."""
    from finetune.cli import main
    from finetune.stages.sft import Sft

    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    plain, seen = Sft.loss, []

    def twice(self, model, batch):
        seen.append(1)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, model, batch)

    monkeypatch.setattr(Sft, "loss", twice)
    assert main(["train", str(file)]) == 75
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "stopped by SIGTERM after step 5; the same command with --resume auto goes on"
    assert state(tmp_path / "run") == ("preempted", 5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signal_outside_of_training(tiny_base, tiny_data, tmp_path, monkeypatch, capsys):
    """While data are prepared nothing is written yet; while answers are generated training is already on disk."""
    import finetune.data.prepare
    import finetune.evaluate.generate
    from finetune.cli import main

    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)

    def killed(*_args, **_more):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("not reached")

    with monkeypatch.context() as patch:
        patch.setattr(finetune.data.prepare, "look", killed)
        assert main(["train", str(file)]) == 75
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr(finetune.evaluate.generate, "decode", killed)
        assert main(["train", str(file)]) == 75
    assert state(tmp_path / "run") == ("preempted", 9)
    assert main(["train", str(file), "--resume", "auto"]) == 0
    assert "stopped by SIGTERM; the same" in capsys.readouterr().err


WORKING = """
import os, signal, sys, time
from finetune.data.processes import map_chunks

class Work:
    def __call__(self):
        return self.work
    def work(self, chunk):
        if chunk == "kill":
            print(os.getpid(), flush=True)
            os.kill(os.getppid(), getattr(signal, sys.argv[1]))
            time.sleep(20)
        return chunk

if __name__ == "__main__":
    from finetune.stop import Preempted, Stop
    try:
        with Stop():
            list(map_chunks(["a", "kill", "b", "c"], Work(), 2))
    except Preempted:
        print("preempted", flush=True)
        os._exit(75)
"""


def test_no_worker_outlives_its_killed_trainer(tmp_path):
    """SIGKILL of the process that prepares data: its workers, which ignore SIGTERM and SIGINT, are gone as well."""
    (tmp_path / "working.py").write_text(WORKING)
    done = start([sys.executable, tmp_path / "working.py", "SIGKILL"])
    assert done.returncode == -signal.SIGKILL
    worker = int(done.stdout)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_links_in_the_folder_of_a_run_are_not_written_through(tiny_base, tiny_data, tmp_path, capsys):
    """T48: a metrics.jsonl that leads elsewhere."""
    from finetune.cli import main

    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    (tmp_path / "run").mkdir()
    (tmp_path / "precious.txt").write_text("x")
    (tmp_path / "run/metrics.jsonl").symlink_to(tmp_path / "precious.txt")
    for more in ("--overwrite", "--resume=auto"):
        assert main(["train", str(file), more]) == 2
        assert "run holds symbolic links (metrics.jsonl); remove them" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "output_dir=/proc/no/run"], "/proc/no/run: can't be written: No such file or directory"),
        (["--resume", "nothing"], "nothing: no such folder"),
        (["--resume", "{folder}"], "{folder}: MANIFEST.json is missing (never completed)"),
    ],
)
def test_places_that_will_not_do_are_named_before_any_work(tiny_base, tiny_data, tmp_path, capsys, words, said):
    from finetune.cli import main

    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    assert main(["train", str(file), *(word.format(folder=tmp_path) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines() == [said.format(folder=tmp_path)]
    assert "encoded:" not in out


def test_one_living_run_holds_its_folder(tiny_base, tiny_data, tmp_path, capsys):
    from finetune.cli import main

    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    with RunLock(tmp_path / "run"):
        assert main(["train", str(file)]) == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_non_finite_on_one_rank_stops_both(tiny_base, tiny_data, tmp_path):
    """T40: an infinite loss on rank 1 only, in step 3: no rank applies it, exit code 5, the log shows it."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    worker = tmp_path / "poisoned.py"
    worker.write_text(POISONED)
    command = [*TORCHRUN, str(worker), "train", str(file), *CHANGES]
    done = start([*command, "--set", "train.save_steps=1"])
    assert done.returncode != 0
    assert "step 3: loss inf or gradient norm" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3
    assert lines[-1]["loss"] == "inf"
    assert state(tmp_path / "run") == ("failed", 2)
    before = torch.load(tmp_path / "before0.pt", weights_only=True)
    for rank in (0, 1):
        after = torch.load(tmp_path / f"after{rank}.pt", weights_only=True)
        assert all(torch.equal(after[name], before[name]) for name in before)


POISONED = """
import math, os, sys
from pathlib import Path
import torch
from finetune.cli import main
from finetune.stages.sft import Sft

plain, seen, rank, here = Sft.loss, [], os.environ["RANK"], Path(__file__).parent

def poisoned(self, model, batch):
    loss = plain(self, model, batch)
    seen.append(model)
    if len(seen) == 3:
        torch.save({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad},
                   here / f"before{rank}.pt")
        if rank == "1":
            return type(loss)(loss.value * math.inf, loss.sums)
    return loss

Sft.loss = poisoned
code = main(sys.argv[1:])
torch.save({n: p.detach() for n, p in seen[-1].named_parameters() if p.requires_grad}, here / f"after{rank}.pt")
sys.exit(code)
"""
