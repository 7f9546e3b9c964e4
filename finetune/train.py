"""The loop: one for all stages and devices. What a step does is a function of (recipe, step) and the weights alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, NoReturn

import torch

from finetune import engine
from finetune.batch_size import out_of_memory
from finetune.checkpoint.progress import Progress
from finetune.checkpoint.training import TrainingCheckpoints
from finetune.data.items import Item
from finetune.data.mixed import items_of_step
from finetune.device import Placement
from finetune.errors import TrainingError, first_line
from finetune.fullstate import trainable
from finetune.groups import group_rates, parameter_groups
from finetune.log import Log
from finetune.lora_fa import down_halves
from finetune.optimizer import OPTIMIZERS, end_training, evaluation_weights
from finetune.recipe import TrainSection
from finetune.reference_logps import ReferenceCache, with_reference
from finetune.schedule import Plan, learning_rate, step_seed
from finetune.stages.base import Explores, Stage, means
from finetune.stages.mixture import Mixture
from finetune.step import Halt, Outcome, held_out_loss, take_step
from finetune.stop import Preempted, Stop

SPIKE_STEPS, SPIKE_DEVIATIONS = 50, 6.0  # a loss so many deviations above the mean of so many steps is said aloud


@dataclass(frozen=True)
class Training:
    """What a run trains with.

    Attributes:
        examples: the same sequence on every process.
        held_out: what `train.eval_steps` looks at.
        layout: how the global batch falls on the processes.
        reference: where the reference's log-probabilities are kept that are computed before training; None: each step
            computes its own.
    """

    stage: Stage | Mixture
    examples: Sequence[Item]
    held_out: Sequence[Item]
    section: TrainSection
    layout: Plan
    placement: Placement
    seed: int
    checkpoints: TrainingCheckpoints
    stop: Stop
    log: Log
    reference: ReferenceCache | None = None


def train(model: torch.nn.Module, this: Training) -> Progress:
    """Trains the model's trainable parameters in place, from the checkpoint's step on when there is one.

    Args:
        model: called by the stage's loss; its trainable parameters are float32.

    Raises:
        TrainingError: the loss or a gradient is not finite, or memory does not suffice; the parameters are those before
            that step, and the message names the rows of the batch.
        Preempted: told to stop; a checkpoint of the last finished step is on disk (unless `save_steps` is 0).
        OSError: a checkpoint could not be written.
    """
    from accelerate.utils import set_seed

    section, layout, accelerator = this.section, this.layout, this.placement.accelerator
    groups = parameter_groups(trainable(model), section, down_halves(model))
    optimizer = OPTIMIZERS[section.optim].build(groups, section)
    model, optimizer = engine.prepare(this.placement, model, optimizer)
    model.train()
    this = with_reference(model, this)
    progress = this.checkpoints.restore(model, optimizer)
    first, window_started = progress.step, time.perf_counter()
    started = window_started - progress.seconds
    for step in this.log.track(range(first, layout.steps), layout.steps, "training", first, lines=False):
        _between_steps(this, model, optimizer, progress, step > first and _every(section.save_steps, step))
        if progress.stopped_early:
            break
        chosen = items_of_step(this.examples, this.seed, step, layout.drawn)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(section, step, layout.steps, group["peak"])
        updates = 1
        if isinstance(this.stage, Explores):
            chosen = this.stage.explore(model, chosen, step_seed(this.seed, step, 0), this.placement)
            updates = this.stage.num_iterations
        set_seed(step_seed(this.seed, step, accelerator.process_index))  # dropout
        for update in range(updates):
            _update(this, model, optimizer, progress, chosen, first=update == 0)
        progress.step = step + 1
        now = time.perf_counter()
        progress.seconds = now - started
        if progress.window and (_every(section.logging_steps, step + 1) or step + 1 == layout.steps):
            rates = {"learning_rate": learning_rate(section, step, layout.steps)} | group_rates(optimizer.param_groups)
            values = _log_values(progress.window, now - window_started, rates, this.stage.unit, this.placement)
            progress.loss = values["loss"]
            this.log.metrics(step + 1, values, _line(step + 1, layout.steps, values, this.stage.unit))
            progress.window, window_started = [], time.perf_counter()
    _between_steps(this, model, optimizer, progress, save=True)
    this.checkpoints.wait()
    end_training(optimizer)
    accelerator.free_memory()  # accelerate's hold on DDP, which would outlive the process group
    return progress


def _update(
    this: Training, model: Any, optimizer: Any, progress: Progress, chosen: Sequence[Item], first: bool
) -> None:
    """One change of the weights by the global batch `chosen`; only before the first of a step can a run be halted."""
    layout = this.layout
    wishes = (this.stop.requested is not None, this.checkpoints.failed) if first else (False, False)
    try:
        outcome = take_step(
            model, optimizer, this.stage, chosen, layout, this.section.max_grad_norm, this.placement, wishes
        )
    except RuntimeError as error:
        _explain_memory(error, progress.step, layout, chosen)
        raise
    if isinstance(outcome, Halt):
        _halt(this, model, optimizer, progress, outcome.failed)
    _judge(this, outcome, progress, chosen)


def _every(steps: int, step: int) -> bool:
    return steps > 0 and step > 0 and step % steps == 0


def _between_steps(this: Training, model: Any, optimizer: Any, progress: Progress, save: bool) -> None:
    """A look at the held-out loss and a checkpoint, where they are due. A resumed run does not look twice."""
    last = progress.step == this.layout.steps or progress.stopped_early
    due = _every(this.section.eval_steps, progress.step) or (last and this.section.eval_steps > 0)
    if due and progress.evaluated != progress.step:
        with evaluation_weights(optimizer):
            values = _look(this, model)
        if values is None:
            _halt(this, model, optimizer, progress)
        best = progress.looked(
            values["eval_loss"], this.section.early_stopping_threshold, this.section.early_stopping_patience
        )
        width = len(str(this.layout.steps))
        what, sign = ("reward", -1) if "eval_reward" in values else ("loss", 1)
        note = "the best so far" if best else f"best {sign * progress.best_loss:.4f} at step {progress.best_step}"
        now = f"held-out {what} {sign * values['eval_loss']:.4f} ({note})"
        line = f"step {progress.step:>{width}}/{this.layout.steps}  {now}"
        this.log.metrics(progress.step, values, line)
        if progress.stopped_early:
            this.log.say(f"stopping early: {progress.waited} looks without a better held-out loss")
        save = save or best
    if save:
        this.checkpoints.save(model, optimizer, progress)


def _look(this: Training, model: Any) -> dict[str, float] | None:
    """`eval_loss` and more of the held-out items; None when a signal came to some process meanwhile."""
    if isinstance(this.stage, Explores):
        return this.stage.look(model, this.held_out, this.placement)
    return held_out_loss(model, this.stage, this.held_out, this.layout, this.placement, this.stop)


def _halt(this: Training, model: Any, optimizer: Any, progress: Progress, failed: bool = False) -> NoReturn:
    """Some process was told to stop, or could not write: all of them end here, after the same step."""
    this.checkpoints.wait()
    if failed:
        raise TrainingError("the main process could not write a checkpoint")
    this.checkpoints.save(model, optimizer, progress)
    this.checkpoints.wait()
    saved = "" if this.section.save_steps else " (train.save_steps is 0: nothing of it is saved)"
    raise Preempted(f"{this.stop.requested or 'a signal to another process'} after step {progress.step}{saved}")


def _judge(this: Training, outcome: Outcome, progress: Progress, chosen: Sequence[Item]) -> None:
    """Adds a step's sums to the progress; a step that is not finite stops the run, or is left out (`on_nonfinite`).

    Raises:
        TrainingError: with the rows of the batch.
    """
    sums, step = outcome.sums, progress.step + 1
    mean = sums["loss"] / max(1.0, sums["count"])
    if not outcome.finite:
        progress.nonfinite_steps += 1
        rows = ", ".join(example.where for example in chosen[:8]) + (", ..." if len(chosen) > 8 else "")
        values = {"loss": mean, "grad_norm": sums["grad_norm"]}
        what = f"step {step}: loss {mean} or gradient norm {sums['grad_norm']} is not finite; nothing of it was applied"
        this.log.metrics(step, values, f"{what}; its rows: {rows}")
        limit = this.section.max_skipped_steps if this.section.on_nonfinite == "skip" else 0
        if progress.nonfinite_steps > limit:
            raise TrainingError(f"{what}; its rows: {rows}{this.checkpoints.advice()}")
        return
    progress.window.append(sums)
    progress.tokens += int(sums["tokens"])
    progress.trained_tokens += int(sums["count"])
    progress.empty_steps += sums["count"] == 0
    progress.moved |= sums["count"] > 0 and sums["grad_norm"] > 0
    recent = progress.recent
    if len(recent) == SPIKE_STEPS and mean > fmean(recent) + SPIKE_DEVIATIONS * pstdev(recent):
        rows = ", ".join(example.where for example in chosen[:8])
        this.log.say(
            f"step {step}: the loss jumps to {mean:.4f} (mean of {SPIKE_STEPS}: {fmean(recent):.4f}); rows: {rows}"
        )
    progress.recent = [*recent, mean][-SPIKE_STEPS:] if sums["count"] else recent


def _explain_memory(error: RuntimeError, step: int, layout: Plan, chosen: Sequence[Item]) -> None:
    """Raises TrainingError with what to change when `error` is one of memory."""
    if not out_of_memory(error):
        return
    longest = max(item.length for item in chosen)
    smaller = [size for size in range(1, layout.micro_batch) if (layout.micro_batch * layout.accumulation) % size == 0]
    advice = [f"train.micro_batch_size={smaller[-1]} (the run stays the same)"] if smaller else []
    advice += ["train.gradient_checkpointing=true", f"a smaller data.max_length (this batch has {longest} tokens)"]
    raise TrainingError(
        f"step {step + 1}: not enough memory for a micro-batch of {layout.micro_batch}; try {', or '.join(advice)}, or "
        f"train.auto_find_batch_size=true ({first_line(error)})"
    ) from None


def _line(step: int, steps: int, values: dict[str, float], unit: str) -> str:
    rate = values[f"trained_{unit}_per_second"]
    trained = f"({rate:.0f} trained)" if unit == "tokens" else f"({rate:.1f} {unit}/s)"
    reward = f"reward {values['reward']:.4f}  " if "reward" in values else ""
    return (
        f"step {step:>{len(str(steps))}}/{steps}  loss {values['loss']:.4f}  {reward}lr {values['learning_rate']:.2e}  "
        f"grad norm {values['grad_norm']:.2f}  {values['tokens_per_second']:.0f} tokens/s "
        f"{trained}  peak {values['peak_memory_gib']:.2f} GiB"
    )


def _log_values(
    window: list[dict[str, float]], seconds: float, rates: dict[str, float], unit: str, placement: Placement
) -> dict[str, float]:
    """Means over the steps since the last line; memory in GiB, peak so far."""
    names = dict.fromkeys(name for step in window for name in step)  # a part of a mixture may have no item in a step
    sums = {name: sum(step.get(name, 0.0) for step in window) for name in names if name not in ("tokens", "grad_norm")}
    return means(sums) | {
        **rates,
        "grad_norm": max(step["grad_norm"] for step in window),
        "tokens_per_second": sum(step["tokens"] for step in window) / seconds,
        f"trained_{unit}_per_second": max(1.0, sums["count"]) / seconds,
        "peak_memory_gib": placement.device.peak_memory() / 2**30,
    }
