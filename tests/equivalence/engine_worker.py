"""Three optimizer steps of a tiny model under the launched engine; what the processes hold goes to files.

`python engine_worker.py FOLDER [STATE]`: with STATE (weights and Adam's state after step 2) only the third step is made.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune import device, engine, fullstate
from finetune.model.adapter import add_adapter
from finetune.model.head import TrainedPositions
from finetune.recipe import ModelSection, Recipe, TrainSection
from finetune.recipe_data import DataSection, SourceSection, SplitSection
from finetune.recipe_peft import LoraSection
from tests.equivalence.tiny_models import tiny_model

ROWS = torch.randint(3, 96, (4, 9), generator=torch.Generator().manual_seed(5))
KEEP = torch.ones(9, dtype=torch.bool).index_fill(0, torch.tensor([0, 8]), False)


def placement() -> device.Placement:
    files = (SourceSection(path="none.jsonl"),)
    return device.start(
        Recipe(
            name="worker",
            output_dir=Path("none"),
            device="cpu",
            model=ModelSection(name_or_path="none", dtype="float32"),
            data=DataSection(format="messages", train=files, split=SplitSection(eval_rows=1)),
            train=TrainSection(max_steps=3),
        )
    )


def ask(model: torch.nn.Module, rows: torch.Tensor, **more: torch.Tensor) -> Any:
    return model(rows, torch.ones_like(rows), KEEP.expand(rows.shape).flatten().nonzero()[:, 0], **more)


def step(here: device.Placement, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step; every process has its share of the four rows, one at a time."""
    mine = ROWS[here.accelerator.process_index :: here.accelerator.num_processes].split(1)
    for index, row in enumerate(mine):
        with engine.micro_batch(here, model, last=index + 1 == len(mine)):
            logps, _ = ask(model, row, targets=row[:, 2:].flatten())
            engine.backward(here, model, -logps.sum() * here.accelerator.num_processes / 28)
    engine.clip_gradients(here, model, 1.0)
    engine.step(here, model, optimizer, apply=True)


def state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return fullstate.full_tensors(model) | fullstate.full_optimizer(model, optimizer)


def work(folder: Path, start: Path | None = None) -> None:
    here = placement()
    peft_model, _ = add_adapter(tiny_model("llama"), LoraSection(r=3), seed=1)
    model = TrainedPositions(peft_model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model, optimizer = engine.prepare(here, model, torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1))
    model.train()
    if start is None:
        step(here, model, optimizer)
        step(here, model, optimizer)
        second = state(model, optimizer)
    else:
        loaded = load_file(start)
        names = {name for name, _ in fullstate.trainable(model)}
        fullstate.load_full_tensors(model, {name: loaded[name] for name in names})
        fullstate.load_full_optimizer(model, optimizer, {name: loaded[name] for name in loaded.keys() - names})
        second = state(model, optimizer)
    with torch.no_grad(), peft_model.disable_adapter():
        reference = ask(model, ROWS)
    step(here, model, optimizer)
    rank = here.accelerator.process_index
    save_file(second, folder / f"second.{rank}.safetensors")
    save_file(state(model, optimizer), folder / f"third.{rank}.safetensors")
    save_file({"reference": reference.clone()}, folder / f"logits.{rank}.safetensors")
    here.accelerator.free_memory()
    here.accelerator.end_training()


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
