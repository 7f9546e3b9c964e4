"""The loop's arithmetic by hand, and what stops it."""

from __future__ import annotations

import json
import math

import pytest
import torch

from finetune.errors import RecipeError, TrainingError
from finetune.recipe import TrainSection
from finetune.schedule import batch_indices, learning_rate, plan


def test_each_epoch_is_a_permutation_of_its_own():
    """10 examples in batches of 4: 3 steps an epoch, the last with 2."""
    first = [batch_indices(7, step, 10, 4) for step in range(3)]
    second = [batch_indices(7, step, 10, 4) for step in range(3, 6)]
    assert [len(batch) for batch in first] == [4, 4, 2]
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(10))
    assert first != second
    assert first == [batch_indices(7, step, 10, 4) for step in range(3)]
    assert first != [batch_indices(8, step, 10, 4) for step in range(3)]


def test_learning_rate_by_hand():
    """10 steps, warm-up of 2: 0.5, 1, then cosine from 1: step 6 is half-way, (1 + cos(pi/2)) / 2 = 0.5."""
    section = TrainSection(max_steps=10, learning_rate=1.0, warmup_ratio=0.2)
    rates = [learning_rate(section, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)
    linear = TrainSection(max_steps=10, learning_rate=1.0, warmup_ratio=0.0, lr_scheduler_type="linear")
    assert [learning_rate(linear, step, 10) for step in (0, 5, 9)] == pytest.approx([1.0, 0.5, 0.1])


def test_batch_arithmetic():
    def section(**more) -> TrainSection:
        return TrainSection(**{"global_batch_size": 16, "max_steps": 5} | more)

    assert plan(section(), 100, 1, 16).accumulation == 1
    assert plan(section(), 100, 2, 4) == plan(section(micro_batch_size=4), 100, 2, 16)
    assert plan(section(micro_batch_size=4), 100, 2, 16).accumulation == 2
    assert plan(TrainSection(global_batch_size=16, num_train_epochs=2), 100, 1, 16).steps == 14
    with pytest.raises(RecipeError, match=r"16 sequences / 3 processes = 5.33; use a multiple of 3"):
        plan(section(), 100, 3, 16)
    with pytest.raises(
        RecipeError, match=r"16 sequences / 1 processes / 5 = 3.20 micro-batches; allowed: 1, 2, 4, 8, 16"
    ):
        plan(section(micro_batch_size=5), 100, 1, 16)


def test_a_loss_that_is_not_finite_stops_before_the_step(tiny_recipe, monkeypatch):
    """T40 (part): parameters are those before the step and the rows are named."""
    from finetune.run import run
    from finetune.stages.sft import Sft

    seen = {}
    plain = Sft.loss

    def poisoned(self, model, batch):
        loss = plain(self, model, batch)
        seen.setdefault("steps", 0)
        seen["steps"] += 1
        if seen["steps"] == 3:
            seen["before"] = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            seen["model"] = model
            return type(loss)(loss.value * math.inf, loss.sums)
        return loss

    monkeypatch.setattr(Sft, "loss", poisoned)
    recipe = tiny_recipe()
    with pytest.raises(TrainingError, match=r"step 3: .* not finite; nothing of it was applied; its rows: .*jsonl:\d+"):
        run(recipe)
    after = dict(seen["model"].named_parameters())
    assert all(torch.equal(after[name], before) for name, before in seen["before"].items())
    assert not (recipe.output_dir / "bundle").exists()


def poison_steps(monkeypatch, steps: set[int]) -> None:
    """Losses of these steps (one micro-batch each, counted from 1) are infinite."""
    from finetune.stages.sft import Sft

    plain, seen = Sft.loss, []

    def poisoned(self, model, batch):
        seen.append(1)
        loss = plain(self, model, batch)
        return type(loss)(loss.value * math.inf, loss.sums) if len(seen) in steps else loss

    monkeypatch.setattr(Sft, "loss", poisoned)


def test_skipping_steps_that_are_not_finite_has_a_cap(tiny_recipe, monkeypatch):
    """T40: two steps are left out and counted, shown as text in metrics.jsonl; the third ends the run."""
    from finetune.run import run

    skipping = ("train.on_nonfinite=skip", "train.max_skipped_steps=2", "train.micro_batch_size=4")
    poison_steps(monkeypatch, {2, 5})
    recipe = tiny_recipe(*skipping)
    result = run(recipe)
    assert result.manifest["training"]["nonfinite_steps"] == 2
    lines = [json.loads(line) for line in (recipe.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["loss"] == "inf"] == [2, 5]
    assert [line["step"] for line in lines if line["loss"] != "inf"] == [1, 3, 4, 6, 7, 8, 9]
    poison_steps(monkeypatch, {2, 5, 6})
    with pytest.raises(TrainingError, match="step 6: loss inf"):
        run(recipe, overwrite=True)


def test_a_leap_of_the_loss_is_said(tiny_recipe, monkeypatch, capsys):
    """Losses near 5 for 50 steps, then 500: said with the rows; nothing else changes."""
    from finetune.run import run
    from finetune.stages.sft import Sft

    plain, seen = Sft.loss, []

    def leaping(self, model, batch):
        seen.append(1)
        loss = plain(self, model, batch)
        return type(loss)(loss.value * (100 if len(seen) == 52 else 1), loss.sums)

    monkeypatch.setattr(Sft, "loss", leaping)
    run(tiny_recipe("train.max_steps=53", "train.learning_rate=1e-9", "train.logging_steps=53", "evaluate.rows=1"))
    said = [line for line in capsys.readouterr().out.splitlines() if "the loss jumps" in line]
    assert len(said) == 1
    assert said[0].startswith("step 52: the loss jumps to 5")
    assert "larger.jsonl:" in said[0]


def starve(monkeypatch, most: int) -> None:
    """Memory suffices for `most` sequences."""
    from finetune.stages.sft import Sft

    plain = Sft.loss

    def starving(self, model, batch):
        if len(batch["input_ids"]) > most:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 20.00 GiB")
        return plain(self, model, batch)

    monkeypatch.setattr(Sft, "loss", starving)


def test_out_of_memory_says_what_to_change(tiny_recipe, tmp_path, monkeypatch, capsys):
    from finetune.cli import main

    starve(monkeypatch, 2)
    tiny_recipe()
    assert main(["train", str(tmp_path / "tiny.yaml")]) == 5
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("step 1: not enough memory for a micro-batch of 4; try train.micro_batch_size=2 (the run")


@pytest.mark.slow
def test_the_micro_batch_is_halved_and_the_run_is_the_same(tiny_recipe, tmp_path, monkeypatch, capsys):
    from finetune.cli import main
    from tests.equivalence.test_batches import assert_same_run

    tiny_recipe()
    file = str(tmp_path / "tiny.yaml")
    assert main(["train", file]) == 0
    (tmp_path / "run").rename(tmp_path / "plain")
    starve(monkeypatch, 2)
    capsys.readouterr()
    assert main(["train", file, "--set", "train.auto_find_batch_size=true"]) == 0
    assert "9 steps of 4 sequences = 1 process(es) x 2 x micro-batch of 2" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", tmp_path / "plain")
    starve(monkeypatch, 0)
    assert main(["train", file, "--overwrite", "--set", "train.auto_find_batch_size=true"]) == 5
    assert "not even one example of 4" in capsys.readouterr().err


def test_metrics_file_and_result(finished_run):
    recipe, result = finished_run
    lines = [json.loads(line) for line in (recipe.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert set(lines[0]) == {
        "step", "loss", "token_accuracy", "learning_rate", "grad_norm", "tokens_per_second",
        "trained_tokens_per_second", "peak_memory_gib",
    }  # fmt: skip
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert abs(lines[0]["loss"] - math.log(258)) < 0.5  # an untrained model knows nothing: ln(vocabulary)
    assert result.manifest["training"]["steps"] == 9


def test_an_output_folder_is_never_overwritten_in_silence(finished_run, tmp_path):
    from finetune.run import run

    recipe, _ = finished_run
    with pytest.raises(RecipeError, match="already exists"):
        run(recipe)
    stranger = tmp_path / "mine"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("x")
    with pytest.raises(RecipeError, match="does not look like a run"):
        run(recipe.model_copy(update={"output_dir": stranger}), overwrite=True)
    assert (stranger / "thesis.txt").read_text() == "x"


def test_trackers_receive_the_metrics(tiny_recipe):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from finetune.run import run

    recipe = tiny_recipe("report_to=[tensorboard]", "train.max_steps=2")
    run(recipe)
    events = next(recipe.output_dir.rglob("events.out.tfevents.*"))
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("loss")] == [1, 2]


def test_a_gate_that_is_not_reached_exports_nothing(tiny_recipe, tmp_path, capsys):
    from finetune.cli import main

    tiny_recipe()
    code = main(["train", str(tmp_path / "tiny.yaml"), "--set", "gate.min.all_fields=0.99"])
    assert code == 3
    assert "gate.min.all_fields: 0.0000 is below 0.9900" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "adapter", "answers.base.jsonl", "answers.tuned.jsonl", "checkpoints",
        "golden.json", "golden.jsonl", "metrics.jsonl", "release.json", "release.md", "release.zh-CN.md",
        "report.html", "run.json", "run_state.json", "scores.json",
    ]  # fmt: skip


def test_overwrite_keeps_the_old_run_until_the_new_one_can_start(tiny_recipe, tmp_path, capsys):
    from finetune.cli import main
    from finetune.run import run

    recipe = tiny_recipe("train.max_steps=1")
    bundle = run(recipe).bundle
    wrong = ["train", str(tmp_path / "tiny.yaml"), "--overwrite", "--set", "lora.target_modules=[q_projj]"]
    assert main(wrong) == 2
    assert "lora.target_modules: 'q_projj' matches no layer; did you mean 'q_proj'?" in capsys.readouterr().err
    wrong[-1] = "train.micro_batch_size=3"
    assert main(wrong) == 2
    assert (bundle / "MANIFEST.json").is_file()
    assert main([*wrong[:3], "--set", "train.max_steps=1"]) == 0
