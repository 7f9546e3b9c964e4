"""A model shared among processes trains as a model in one: DDP and FSDP2, two gloo processes, against one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.engine_worker import KEEP, ROWS, work
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_batches import assert_same_run
from tests.equivalence.tiny_models import tiny_model

WORKER = ROOT / "tests/equivalence/engine_worker.py"
CHANGES = ("train.micro_batch_size=1", "lora.lora_alpha=16", "evaluate.batch_size=3")  # 8 rows: 2 batches, 1 batch


def metrics(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one_process(tiny_base, tiny_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    recipe = load_recipe(write_tiny_recipe(folder, tiny_base, tiny_data), CHANGES)
    run(recipe)
    return recipe.output_dir


@pytest.mark.slow
def test_fsdp2(tiny_base, tiny_data, tmp_path, one_process):
    """T18: FSDP2 over two processes from data to bundle = one process: losses, gradient norms, adapter, answers."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    changes = [word for change in (*CHANGES, "train.gradient_checkpointing=true") for word in ("--set", change)]
    said = torchrun(29621, [ROOT / "scripts/train.py", file, *changes], FSDP2)
    assert "cpu, float32, 2 process(es), fsdp2" in said
    assert "= 2 process(es) x 2 x micro-batch of 1" in said
    assert_same_run(tmp_path / "run", one_process)
    assert metrics(tmp_path / "run", "grad_norm") == pytest.approx(metrics(one_process, "grad_norm"), abs=1e-5)
    for name in ("answers.base.jsonl", "answers.tuned.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (one_process / name).read_text()
    one, two = (json.loads((f / "bundle/MANIFEST.json").read_text()) for f in (one_process, tmp_path / "run"))
    assert two["scores"] == one["scores"]
    assert two["merge_proof"]["greedy_agreement"] == 1.0
    assert (two["training"]["processes"], two["training"]["engine"]) == (2, "fsdp2")


def read(folder: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.{rank}.safetensors")


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """The same names; values to 2e-5: float32 sums in another order, through Adam's division by a root."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one_worker")
    work(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("port", "engine"), [(29622, {}), (29624, FSDP2)], ids=["ddp", "fsdp2"])
def test_state_is_the_same_for_every_engine(tmp_path, one_worker, port, engine):
    """T8, T18: weights and Adam's state under the same names with the same values; a run goes on under another engine.

    Two processes -> one (their state after step 2, loaded by one process, gives their third step), one -> two, and two
    -> two bit for bit. Besides: the pass with the adapter off gives the base's logits, and whole models can make
    different numbers of passes on the two processes.
    """
    (tmp_path / "two").mkdir()
    torchrun(port, [WORKER, tmp_path / "two"], engine)
    for name in ("second", "third"):
        assert_close(read(tmp_path / "two", name), read(one_worker, name))
        for key, tensor in read(tmp_path / "two", name, rank=1).items():
            assert torch.equal(tensor, read(tmp_path / "two", name)[key]), key
    second = tmp_path / "two/second.0.safetensors"
    (tmp_path / "on_one").mkdir()
    work(tmp_path / "on_one", second)
    assert_same(read(tmp_path / "on_one", "second"), load_file(second))
    assert_close(read(tmp_path / "on_one", "third"), read(tmp_path / "two", "third"))

    (tmp_path / "on_two").mkdir()
    torchrun(port + 1, [WORKER, tmp_path / "on_two", second], engine)
    assert_same(read(tmp_path / "on_two", "second"), load_file(second))
    assert_same(read(tmp_path / "on_two", "third"), read(tmp_path / "two", "third"))

    base = tiny_model("llama")(input_ids=ROWS).logits[:, KEEP].flatten(0, 1)
    for rank in (0, 1):
        found = read(tmp_path / "two", "logits", rank)
        torch.testing.assert_close(found["reference"], base, rtol=0, atol=1e-5)
        torch.testing.assert_close(found["alone"], read(one_worker, "logits")["alone"], rtol=0, atol=1e-4)
    assert not torch.allclose(found["alone"], base[:7], atol=1e-3)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
