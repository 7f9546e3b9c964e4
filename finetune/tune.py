"""From ready to trained: the loop with its checkpoints, and the adapter on disk at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from finetune.chain import BASE
from finetune.errors import RecipeError
from finetune.ready import GGUF, Ready, ReadyPart, add_adapter_of, fused_ops_of, load_base_of, recipe_cache, tell_ends
from finetune.recipe import Recipe, resolved
from finetune.runfolder import RunFolder
from finetune.stop import Stop

if TYPE_CHECKING:
    from finetune.checkpoint.progress import Progress
    from finetune.device import Placement
    from finetune.log import Log
    from finetune.model.load import Base


def train_adapter(
    recipe: Recipe, ready: Ready, placement: Placement, folder: RunFolder, stop: Stop, log: Log
) -> Progress:
    """Trains `ready.model` in place, from a checkpoint on where the run is resumed; its adapter is in the folder then.

    Under an engine that spreads the model over processes, `ready` has whole ones again afterwards.
    """
    from finetune import engine
    from finetune.batch_size import find_micro_batch
    from finetune.checkpoint.facts import facts_of
    from finetune.checkpoint.training import TrainingCheckpoints, load_adapter
    from finetune.data.mixed import items_of_epoch
    from finetune.fullstate import full_tensors, trainable
    from finetune.groups import group_lines, parameter_groups
    from finetune.model.gguf_base import write_gguf_base
    from finetune.model.save import save_adapter
    from finetune.model.speed import prepare_for_training
    from finetune.reference_logps import ReferenceCache
    from finetune.schedule import plan
    from finetune.train import Training, train

    section, accelerator = recipe.train, placement.accelerator
    facts = facts_of(
        recipe.seed, recipe.stage, recipe.settings.model_dump(mode="json", exclude=set(recipe.settings.free)),
        ready.base.identity, placement.dtype, recipe.adapter, section, ready.examples, ready.held_out, ready.initial,
        ready.start,
    ) | {f"{recipe.stage}: {key}": value for key, value in ready.about.items()} | _mixed_by(ready.parts)  # fmt: skip
    checkpoint = folder.checkpoint(section.save_total_limit, facts, log)
    if checkpoint is not None:
        load_adapter(ready.model, checkpoint)
    model_to_train = prepare_for_training(ready.model, section, ready.start)
    layout = plan(
        section, items_of_epoch(ready.examples), accelerator.num_processes, placement.device.auto_micro_batch,
        recipe.settings.sequences_per_sample,
    )  # fmt: skip
    if section.auto_find_batch_size:
        if engine.shards(placement):
            raise RecipeError(f"train.auto_find_batch_size: not with {placement.engine}; set train.micro_batch_size")
        share = layout.global_batch // layout.processes
        size = layout.micro_batch
        with ready.fused:
            for part in ready.parts:
                size = find_micro_batch(model_to_train, part.stage, part.examples, share, size, placement)
        layout = replace(layout, micro_batch=size, accumulation=share // size)
    with ready.fused:
        layout = replace(layout, joins_rows=model_to_train.joins_rows or all(map(_collates_joined, ready.parts)))
    log.say(layout.line())
    for line in group_lines(parameter_groups(trainable(model_to_train), section)):
        log.say(line)

    folder.claim(checkpoint, log)  # only now: a mistake found above has cost nothing that was there
    if recipe.model.gguf_file and accelerator.is_main_process:
        kept = recipe_cache(recipe).with_name(GGUF) if recipe.data.cache else None
        write_gguf_base(recipe.model, placement.torch_dtype, recipe.output_dir / BASE, kept)
    if recipe.report_to:
        flat = {f"{a}.{k}": str(v) for a, b in resolved(recipe).items() if isinstance(b, dict) for k, v in b.items()}
        accelerator.init_trackers(recipe.name, config=flat)
    checkpoints = TrainingCheckpoints(
        store=folder.store(section.save_total_limit) if section.save_steps else None,
        found=checkpoint,
        save_adapter=partial(save_adapter, ready.model, ready.base),
        facts=facts,
        main=accelerator.is_main_process,
    )
    cache = ReferenceCache(recipe.output_dir.parent / ".reference", facts)
    training = Training(
        ready.stage, ready.examples, ready.held_out, section, layout, placement, recipe.seed, checkpoints, stop, log,
        cache if recipe.settings.precomputes_reference else None,
    )  # fmt: skip
    with stop.deferred(), checkpoints, ready.fused:
        progress = train(model_to_train, training)
    if engine.shards(placement):
        log.say(f"{placement.engine}: the base is loaded again, whole in every process, for answers and export")
        tensors = full_tensors(model_to_train)
        del model_to_train, checkpoints, training  # the memory of the parts
        ready.model = ready.base = ready.fused = None  # type: ignore[assignment]
        ready.base, ready.model = _whole_model(recipe, placement, ready.ends, tensors)
        ready.fused = fused_ops_of(recipe, ready.model, placement, lambda line: None)  # told before training
    if section.load_best_model_at_end:
        load_adapter(ready.model, folder.of_step(progress.best_step))
        log.say(f"the best held-out loss, {progress.best_loss:.4f}, was that of step {progress.best_step}: taken")
    if accelerator.is_main_process:
        folder_of_adapter = recipe.output_dir / "adapter"
        save_adapter(ready.model, ready.base, folder_of_adapter, progress.moved, initial=ready.initial)
    return progress


def _collates_joined(part: ReadyPart) -> bool:
    """Whether its batches are one row, whatever the model makes of rows."""
    return part.recipe.data.padding_free or bool(getattr(part.stage, "prefix_sharing", False))


def _mixed_by(parts: Sequence[ReadyPart]) -> dict[str, Any]:
    """What must be the same in a mixture that resumes, beside the rows."""
    return {
        f"mixture.{part.name}": {
            "stage": part.recipe.stage,
            "rows": len(part.examples),
            "weight": part.recipe.weight,
            "loss_weight": part.recipe.loss_weight,
            "settings": part.recipe.settings.model_dump(mode="json", exclude=set(part.recipe.settings.free)),
        }
        for part in parts
        if part.name
    }


def _whole_model(recipe: Recipe, placement: Placement, ends: set[int], tensors: dict[str, Any]) -> tuple[Base, Any]:
    """The base as at the start and the peft model with the trained weights, both unsharded, on the device."""
    from finetune.fullstate import load_full_tensors

    base = load_base_of(recipe, placement)
    tell_ends(base, ends, recipe.settings.score_names)
    model, _coverage = add_adapter_of(recipe, base)
    load_full_tensors(model, tensors)
    return base, model.to(placement.accelerator.device)
