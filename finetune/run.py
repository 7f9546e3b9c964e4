"""The straight line from a recipe to a bundle. Every command is this line, cut short somewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.chain import BASE, KEPT, Before
from finetune.data.prepare import Prepared
from finetune.errors import RecipeError
from finetune.evaluate.metrics import Scores
from finetune.evaluate.release import decide
from finetune.evaluate.results import Evaluated
from finetune.inputs import data_record, data_record_of_parts, load_stages
from finetune.ready import Ready, get_ready, recipe_cache
from finetune.recipe import Recipe, resolved
from finetune.runfolder import AUTO, RunFolder
from finetune.score import evaluate
from finetune.stop import Stop, stop_with_parent
from finetune.suites import load_beside
from finetune.tune import train_adapter

if TYPE_CHECKING:
    from finetune.checkpoint.progress import Progress
    from finetune.device import Placement
    from finetune.export.record import Record
    from finetune.log import Log


@dataclass(frozen=True)
class Result:
    """What a finished run hands back."""

    bundle: Path
    scores: dict[str, Scores]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Extent:
    """How much of the line is run, for commands that need less than all of it.

    Attributes:
        rows: of each stage's data that are trained on at most, see inputs.few; None: all.
        until: it ends when the `adapter` is on disk, nothing scored; when base and tuned have `scores`, without gate; or
            with the `bundle`.
        entering: told the name of each part of the line as it begins: data, base, training, scores, export.
        look: shown what is trained at the "start" and at the "end" of (the last stage's) training.
    """

    rows: int | None = None
    until: Literal["adapter", "scores", "bundle"] = "bundle"
    entering: Callable[[str], None] = lambda part: None
    look: Callable[[str, Ready, Placement], None] = lambda when, ready, placement: None


def run(recipe: Recipe, overwrite: bool = False, resume: str | None = None, extent: Extent = Extent()) -> Result | None:
    """The whole run; None on processes other than the main one, and where `extent` ends it before a bundle.

    Args:
        overwrite: an earlier run in the output folder may be replaced.
        resume: `auto` or a checkpoint's folder: go on with the run that it belongs to.

    Raises:
        RecipeError, DataError: a user's mistake, everything that was found.
        TrainingError: a loss that is not finite, memory that does not suffice.
        GateError: the tuned model is not good enough, or the merged one is not the adapter.
        Preempted: a signal; `--resume auto` goes on.
    """
    from finetune import device

    device.quiet_libraries()
    if device.launched():
        stop_with_parent()
    with Stop() as stop:
        extent.entering("data")
        data = load_stages(recipe, extent.rows)
        beside = load_beside(recipe, data, extent.rows)
        placement = device.start(recipe)
        with RunFolder(recipe.output_dir, placement.accelerator, overwrite, resume) as folder:
            from finetune.asked import check_engine
            from finetune.engine import check_checkpoints, check_method, check_training
            from finetune.log import Log
            from finetune.report.about import about_run
            from finetune.report.page import report_at_end

            log = Log(recipe.output_dir, placement.accelerator)
            placed = f"{placement.device.name}, {placement.dtype}, {placement.accelerator.num_processes} process(es)"
            log.say(f"{recipe.name}: {placed}, {placement.engine}")
            for stage in recipe.stages or (recipe,):
                check_checkpoints(placement, stage.train.save_steps, resume)
                check_training(placement, stage.train)
                check_method(placement, stage.peft_type)
            check_engine(recipe.evaluate.engine, placement)
            manifest = folder.finished(resolved(recipe))
            if manifest is not None:
                log.say(f"this run is finished; bundle: {folder.bundle}")
                placement.accelerator.end_training()
                return Result(folder.bundle, manifest["scores"], manifest)
            if placement.accelerator.is_main_process:
                folder.about = about_run(recipe, data, placement)
                if extent.until == "bundle":
                    folder.at_end = partial(report_at_end, recipe.output_dir, log.say)
            before = train_stages(recipe, data, placement, folder, stop, log, extent.entering)
            last = before.go_on(recipe)
            extent.entering("base")
            ready = get_ready(last, data if recipe.mixture else data[-1:], placement, log)
            with ready.fused:
                extent.look("start", ready, placement)
            extent.entering("training")
            progress = train_adapter(last, ready, placement, folder, stop, log)
            with ready.fused:
                extent.look("end", ready, placement)
            if extent.until == "adapter":
                placement.accelerator.end_training()
                return None
            extent.entering("scores")
            placement.device.give_back()
            with ready.fused:
                evaluated = evaluate(last, ready, placement, log, beside, recipe.output_dir / "adapter")
            if evaluated is None or extent.until == "scores":
                return None
            decide(recipe, evaluated, beside.previous)
            extent.entering("export")
            with ready.fused:
                record = make_record(recipe, ready, progress, evaluated, before, placement)
            return export(recipe, record, ready, log)


def train_stages(
    recipe: Recipe,
    data: Sequence[Prepared],
    placement: Placement,
    folder: RunFolder,
    stop: Stop,
    log: Log,
    entering: Callable[[str], None],
) -> Before:
    """All stages of a chain but the last, each in a folder of its own; those that are finished are not trained again."""
    before = Before(recipe)
    for stage, its in zip(recipe.stages[:-1], data[: len(recipe.stages[:-1])], strict=True):
        if folder.resume not in (None, AUTO):
            raise RecipeError(f"--resume {folder.resume}: a chain of stages goes on with --resume auto")
        stage = before.go_on(stage)
        told = before.finished(stage, data_record(its, {})["sources"])
        if told is None:
            told = train_stage(stage, its, before, placement, folder, stop, log, entering)
        else:
            log.say(f"stage {stage.name}: finished before")
        before.add(stage, told, placement, log.say)
    return before


def train_stage(
    stage: Recipe,
    data: Prepared,
    before: Before,
    placement: Placement,
    folder: RunFolder,
    stop: Stop,
    log: Log,
    entering: Callable[[str], None],
) -> dict[str, Any]:
    """One stage of a chain, from its data to its adapter on disk."""
    from finetune.log import Log

    log.say(f"stage {stage.name}: {stage.stage}")
    entering("base")
    ready = get_ready(stage, [data], placement, log, recipe_cache(before.recipe))
    folder.begin(keep=KEPT)
    entering("training")
    with RunFolder(stage.output_dir, placement.accelerator, resume=AUTO) as own:
        progress = train_adapter(stage, ready, placement, own, stop, Log(stage.output_dir, placement.accelerator))
    done = _done(ready, placement)
    told: dict[str, Any] = {"name": stage.name, "stage": stage.stage, "training": progress.record() | done}
    told |= {
        "data": data_record(data, ready.parts[0].counts),
        "source": asdict(ready.base.source),
        "stops": ready.stop_ids,
        "quantization": ready.base.quantization,
    }
    return before.finish(stage, told, placement)


def make_record(
    recipe: Recipe,
    ready: Ready,
    progress: Progress,
    evaluated: Evaluated,
    before: Before,
    placement: Placement,
) -> Record:
    """All that `finetune export` needs of the run beside its adapter."""
    from finetune.evaluate.generate import answer_logprobs, answer_rewards
    from finetune.export.record import Record
    from finetune.model.score import score_config

    of_item = None if ready.rewards else 1
    held_out = [item for part in ready.parts for item in part.held_out[: recipe.export.parity_rows]]
    examples = tuple(example for item in held_out for example in item.examples[:of_item])
    logprobs = (answer_rewards if ready.rewards else answer_logprobs)(ready.model, examples, placement)
    done = _done(ready, placement) | ready.about
    template = next((part.data.template for part in ready.parts if part.data.template), None)
    data = data_record_of_parts(recipe, [part.data for part in ready.parts], [part.counts for part in ready.parts])
    return Record(
        name=recipe.name,
        identity=ready.base.identity,
        source=ready.base.source,
        dtype=placement.dtype,
        stops=ready.stop_ids,
        examples=examples,
        evaluated=logprobs,
        ship_base=Path(ready.base.source.name) == (recipe.output_dir / BASE).resolve(),
        quantization=ready.base.quantization,
        template=template.path.read_text(encoding="utf-8") if template else None,
        recipe=resolved(recipe),
        data=data,
        training=progress.record() | done | ({"stages": before.told} if before.told else {}),
        scores=evaluated.scores,
        intervals=evaluated.intervals.record() if evaluated.intervals else None,
        score_config=score_config(ready.model) if ready.rewards else None,
    )


def _done(ready: Ready, placement: Placement) -> dict[str, Any]:
    """How the training was computed, for the manifest."""
    done = {"processes": placement.accelerator.num_processes, "engine": placement.engine, "lora": ready.lora}
    return done | ({"fused_ops": ready.fused.about} if ready.fused.about else {})


def export(recipe: Recipe, record: Record, ready: Ready, log: Log) -> Result:
    """What `finetune export` needs is written down, then the bundle is made of it: merge, proof, serving files."""
    from finetune.export.bundle import write_bundle
    from finetune.export.record import write_record

    write_record(recipe.output_dir, record)
    ready.model = ready.base = ready.fused = None  # type: ignore[assignment]  # the memory; the rest is read from disk
    folder, bundle = recipe.output_dir, recipe.output_dir / "bundle"
    manifest = write_bundle(record, folder, folder / "adapter", bundle, recipe.export, log.say)
    log.say(f"log: {log.file}")
    log.say(f"bundle: {bundle}")
    return Result(bundle, manifest["scores"], manifest)
