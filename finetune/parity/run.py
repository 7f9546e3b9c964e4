"""What one device does, in a process of its own: `python -m finetune.parity.run FOLDER...`, a run in each, one by one."""

from __future__ import annotations

import json
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.chain import BASE
from finetune.device import before_torch
from finetune.errors import RecipeError, first_line
from finetune.recipefile import load_recipe
from finetune.stop import stop_with_parent

if TYPE_CHECKING:
    from finetune.device import Placement
    from finetune.ready import Ready
    from finetune.recipe import Recipe

RECIPE, EVENTS, RUN = "recipe.yaml", "events.jsonl", "run"
PACKAGES = ("torch", "torch-npu", "transformers", "peft", "accelerate")


def main(folders: Sequence[str]) -> int:
    """The runs; what happened in each is in its EVENTS. Ends at the first that fails."""
    before_torch()
    stop_with_parent()
    for folder in map(Path, folders):
        try:
            run_here(folder)
        except Exception as error:
            lines = error.problems if isinstance(error, RecipeError) else [_words(error)]
            note(folder, error=lines, mistake=isinstance(error, RecipeError))
            traceback.print_exc()
            return 1
    return 0


def run_here(folder: Path) -> None:
    """The line from the recipe to an adapter, looked at before and after training."""
    from finetune.run import Extent, run

    recipe = load_recipe(folder / RECIPE)
    rows = (recipe.train.max_steps or 1) * recipe.train.global_batch_size
    started = time.perf_counter()
    extent = Extent(
        rows, until="adapter", entering=lambda part: note(folder, at=part), look=partial(look, folder, recipe)
    )
    run(recipe, overwrite=True, extent=extent)
    shutil.rmtree(folder / RUN / BASE, ignore_errors=True)  # a copy of a GGUF base
    note(folder, done=True, seconds=time.perf_counter() - started)


def look(folder: Path, recipe: Recipe, when: str, ready: Ready, placement: Placement) -> None:
    """Before training: facts, logits, the outputs of modules, gradients. After it: logits."""
    from finetune.parity import look as looks

    if when == "start":
        looks.without_dropout(ready.model)
        note(folder, facts=facts(recipe, ready, placement), at="logits before training")
    else:
        note(folder, at="logits after training")
    looks.keep(folder / looks.LOGITS[when], {"logits": looks.logits(ready, placement)})
    if when == "end":
        return
    micro, whole = recipe.train.micro_batch_size or 1, recipe.train.global_batch_size
    stage, batch = looks.first_batch(ready, placement, recipe.seed, whole, micro)
    outputs = looks.Outputs(batch.get("attention_mask"))
    note(folder, at="the first forward and backward pass")
    try:
        gradients, order = looks.modules_and_gradients(ready, placement, stage, batch, outputs)
    except Exception:
        note(folder, at=f"the first forward and backward pass, in {outputs.inside}")
        raise
    finally:
        looks.keep(folder / looks.MODULES, outputs.tensors)
    looks.keep(folder / looks.GRADIENTS, gradients, order)


def facts(recipe: Recipe, ready: Ready, placement: Placement) -> dict[str, Any]:
    """What the report says of a run beside its numbers."""
    return {
        "device": placement.device.name,
        "chip": placement.device.chip(),
        "dtype": placement.dtype,
        "attention": getattr(ready.model.get_base_model().config, "_attn_implementation", placement.attention),
        "fused_ops": {kind: told["modules"] for kind, told in ready.fused.about.items() if told["modules"]},
        "optimizer": recipe.train.optim,
        "batch": [recipe.train.global_batch_size, recipe.train.micro_batch_size],
        "language": not ready.rewards,
        "adapter": ready.lora,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def note(folder: Path, **event: Any) -> None:
    """One line of EVENTS, at once on disk: the last one tells how far a process came that is no more."""
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event, ensure_ascii=False) + "\n")


def _words(error: Exception) -> str:
    kind = type(error).__name__
    line = first_line(error)
    return line if line.startswith(kind) else f"{kind}: {line}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
