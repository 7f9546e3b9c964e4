"""Splitting a batch changes nothing: micro-batches of 4, 2 and 1, and two processes, are one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import torchrun

LOOKS = ["train.eval_steps=4"]  # after steps 4 and 8, and at the end


def losses(folder: Path, name: str = "loss") -> list[float]:
    """Those of the steps, or (`eval_loss`) of the looks at the held-out rows."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter/adapter_model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """Losses of every step to 1e-5, adapters to 1e-4: float32 sums in another order, carried through Adam.

    Adam divides by the root of the second moment, so a rounding difference in a gradient near zero can turn up to the
    size of the learning rate in one step; the bound is on the whole, relative to how far training moved.
    """
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    left, right = adapter(one), adapter(other)
    assert left.keys() == right.keys()
    apart = sum(float((left[name] - right[name]).square().sum()) for name in left) ** 0.5
    size = sum(float(left[name].square().sum()) for name in left) ** 0.5
    assert apart < 1e-4 * size


@pytest.fixture(scope="module")
def whole_batch(tiny_base, tiny_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    recipe = load_recipe(write_tiny_recipe(folder, tiny_base, tiny_data), ["train.micro_batch_size=4", *LOOKS])
    run(recipe)
    return recipe.output_dir


@pytest.mark.parametrize("micro_batch", [2, 1])
def test_micro_batches(tiny_recipe, whole_batch, micro_batch):
    """T17: 4 = 2 = 1, rows of different length; 31 rows in batches of 4, so an epoch ends with one of 3."""
    recipe = tiny_recipe(f"train.micro_batch_size={micro_batch}")
    run(recipe)
    assert_same_run(recipe.output_dir, whole_batch)


def test_gradient_checkpointing_changes_nothing(tiny_recipe, whole_batch):
    recipe = tiny_recipe("train.micro_batch_size=4", "train.gradient_checkpointing=true")
    run(recipe)
    assert_same_run(recipe.output_dir, whole_batch)


def test_gradients_of_a_short_last_batch(tiny_base, tiny_data):
    """T17, T19: gradients of a window of 3 rows (one of them with nothing to train on) as 3, as 2 + 1, as 1 + 1 + 1."""
    from dataclasses import replace

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune.data.chat import IGNORED, ChatEncoder
    from finetune.data.source import read_source
    from finetune.data.template import load_template
    from finetune.model.head import TrainedPositions
    from finetune.recipe_data import DataSection, SourceSection, SplitSection
    from finetune.recipe_stages import SftSection
    from finetune.stages.sft import Sft

    files = (SourceSection(path=str(tiny_data / "larger.jsonl")),)
    samples = load_template(tiny_data / "larger.yaml").render_all(read_source(files[0]))[:3]
    section = DataSection(template=tiny_data / "larger.yaml", train=files, split=SplitSection(eval_rows=1))
    stage = Sft(ChatEncoder(AutoTokenizer.from_pretrained(tiny_base)), section, SftSection())
    examples = stage.encode(samples)
    examples[1] = replace(examples[1], labels=(IGNORED,) * len(examples[1].labels))
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float64)
    wrapped = TrainedPositions(model)

    def gradient(groups) -> torch.Tensor:
        model.zero_grad()
        batches = [stage.collate(group) for group in groups]
        count = sum(stage.count(batch) for batch in batches)
        for batch in batches:
            (stage.loss(wrapped, batch).value / count).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    whole = gradient([examples])
    for groups in ([examples[:2], examples[2:]], [[example] for example in examples]):
        other = gradient(groups)
        assert float((other - whole).norm() / whole.norm()) < 1e-6


@pytest.mark.slow
def test_two_processes(tiny_base, tiny_data, tmp_path, whole_batch):
    """T18, T20: torchrun with two gloo processes = one; the held-out rows are each answered once."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    stdout = torchrun([ROOT / "scripts/train.py", file, "--set", "train.micro_batch_size=1", "--set", *LOOKS])
    assert "cpu, float32, 2 process(es)" in stdout
    assert "= 2 process(es) x 2 x micro-batch of 1" in stdout
    assert_same_run(tmp_path / "run", whole_batch)
    one, two = (folder / "answers.tuned.jsonl" for folder in (whole_batch, tmp_path / "run"))
    assert one.read_text() == two.read_text()
    looks = losses(whole_batch, "eval_loss")
    assert len(looks) == 3 and losses(tmp_path / "run", "eval_loss") == pytest.approx(looks, abs=1e-6)


GROUP_ENDS = """
import sys
from pathlib import Path
import torch
from finetune import device
from finetune.recipefile import load_recipe

accelerator = device.start(load_recipe(Path(sys.argv[1]))).accelerator
model = accelerator.prepare(torch.nn.Linear(2, 1))
accelerator.backward(model(torch.ones(1, 2)).sum())
accelerator.free_memory()
del model
accelerator.end_training()
print([task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux")
def test_process_group_ends_with_training(tiny_base, tiny_data, tmp_path):
    """No thread of gloo is left after end_training: at exit such a thread aborts the process now and then."""
    (tmp_path / "group_ends.py").write_text(GROUP_ENDS)
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    assert "".join(torchrun([tmp_path / "group_ends.py", file]).split()) == "[][]"  # two prints may share a line


def test_head_at_trained_positions_is_the_whole_head(tiny_base):
    """Logits at chosen positions equal the plain model's logits there; without a choice the model is unchanged."""
    from transformers import AutoModelForCausalLM

    from finetune.model.head import TrainedPositions

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    ids = torch.randint(0, 250, (3, 11))
    mask = torch.ones_like(ids)
    keep = torch.rand(3, 11) < 0.4
    plain = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(TrainedPositions(model)(ids, mask, keep.flatten().nonzero()[:, 0]), plain[keep])
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, plain)
