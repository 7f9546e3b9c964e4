"""A model shared among processes trains as a model in one: DDP, FSDP2, ZeRO, two gloo processes, against one process."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from finetune.engine import check_launcher, check_method
from finetune.errors import RecipeError
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.engine_worker import KEEP, ROWS, work
from tests.equivalence.processes import FSDP2, torchrun, zero
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


def assert_one_run(folder: Path, one_process: Path, engine: str) -> None:
    """Losses, gradient norms, adapter, every answer, scores and proof are those of one process."""
    assert_same_run(folder, one_process)
    assert metrics(folder, "grad_norm") == pytest.approx(metrics(one_process, "grad_norm"), abs=1e-5)
    for name in ("answers.base.jsonl", "answers.tuned.jsonl"):
        assert (folder / name).read_text() == (one_process / name).read_text()
    one, two = (json.loads((run / "bundle/MANIFEST.json").read_text()) for run in (one_process, folder))
    assert two["scores"] == one["scores"]
    assert two["merge_proof"]["greedy_agreement"] == 1.0
    assert (two["training"]["processes"], two["training"]["engine"]) == (2, engine)


def train(folder: Path, base: Path, data: Path, environment: dict[str, str], *changes: str) -> str:
    file = write_tiny_recipe(folder, base, data)
    words = [word for change in (*CHANGES, *changes) for word in ("--set", change)]
    return torchrun([ROOT / "scripts/train.py", file, *words], environment)


@pytest.mark.slow
def test_fsdp2(tiny_base, tiny_data, tmp_path, one_process):
    """T18: FSDP2 over two processes from data to bundle = one process; with gradient checkpointing."""
    said = train(tmp_path, tiny_base, tiny_data, FSDP2, "train.gradient_checkpointing=true")
    assert "cpu, float32, 2 process(es), fsdp2" in said
    assert "= 2 process(es) x 2 x micro-batch of 1" in said
    assert_one_run(tmp_path / "run", one_process, "fsdp2")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_zero(tiny_base, tiny_data, tmp_path, one_process, stage):
    """T18: the same with DeepSpeed ZeRO-2 and ZeRO-3, on gloo."""
    said = train(tmp_path, tiny_base, tiny_data, zero(stage), "train.gradient_checkpointing=true", "train.save_steps=0")
    assert f"cpu, float32, 2 process(es), zero{stage}" in said
    assert_one_run(tmp_path / "run", one_process, f"zero{stage}")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_state_is_refused(tmp_path, stage):
    """Adam's state under DeepSpeed can't be saved for another engine: said plainly, not saved wrong."""
    with pytest.raises(AssertionError, match=r"RecipeError: launcher: a run can't be resumed under DeepSpeed"):
        torchrun([WORKER, tmp_path], zero(stage))


def test_zero_without_deepspeed(monkeypatch):
    """What is asked for and not there, or there and not supported, is refused before anything starts."""
    for name, value in zero(3).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="launcher: DeepSpeed is not installed; pip install deepspeed"):
        check_launcher()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_launcher()
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_ZERO3_INIT")
    with pytest.raises(RecipeError, match="launcher: zero3_init_flag: every process loads the base itself"):
        check_launcher()


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
@pytest.mark.parametrize("engine", [pytest.param({}, marks=pytest.mark.long), FSDP2], ids=["ddp", "fsdp2"])
def test_state_is_the_same_for_every_engine(tmp_path, one_worker, engine):
    """T8, T18: weights and Adam's state under the same names with the same values; a run goes on under another engine.

    Two processes -> one (their state after step 2, loaded by one process, gives their third step), and two -> two bit
    for bit. Besides: the pass with the adapter off gives the base's logits.
    """
    (tmp_path / "two").mkdir()
    torchrun([WORKER, tmp_path / "two"], engine)
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
    torchrun([WORKER, tmp_path / "on_two", second], engine)
    assert_same(read(tmp_path / "on_two", "second"), load_file(second))
    assert_same(read(tmp_path / "on_two", "third"), read(tmp_path / "two", "third"))

    base = tiny_model("llama")(input_ids=ROWS).logits[:, KEEP].flatten(0, 1)
    for rank in (0, 1):
        found = read(tmp_path / "two", "logits", rank)
        torch.testing.assert_close(found["reference"], base, rtol=0, atol=1e-5)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(("kind", "engine", "advice"), [
    ("prompt_tuning", "fsdp2", "one process or DDP"), ("prefix_tuning", "zero2", "one process or DDP"),
    ("oft", "zero3", "fsdp2.yaml"), ("ia3", "fsdp2", None), ("lora", "zero3", None), ("prompt_tuning", "ddp", None),
])  # fmt: skip
def test_methods_that_an_engine_does_not_take(kind, engine, advice):
    """Where a method was never tried, or can't work, it is refused before anything is loaded, with what to launch."""
    place = SimpleNamespace(engine=engine)
    if advice is None:
        check_method(place, kind)
        return
    with pytest.raises(RecipeError, match=f"peft_type: {kind} does not run under {engine}; launch with .*{advice}"):
        check_method(place, kind)
