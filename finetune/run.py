"""The straight line from a recipe to a bundle. Every command is this line, cut short somewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.chain import BASE, KEPT, Before
from finetune.data.prepare import Prepared
from finetune.errors import RecipeError
from finetune.evaluate.gate import pass_gate
from finetune.evaluate.metrics import Scores
from finetune.evaluate.results import score_lines, scored
from finetune.inputs import (
    data_record,
    data_record_of_parts,
    encode,
    encoded_lines,
    findings_lines,
    load_stages,
    make_stage,
    part_name,
    with_good_answers,
)
from finetune.recipe import Recipe, resolved
from finetune.runfolder import AUTO, RunFolder
from finetune.stop import Stop, stop_with_parent

if TYPE_CHECKING:
    from finetune.checkpoint.progress import Progress
    from finetune.data.items import Item
    from finetune.device import Placement
    from finetune.evaluate.generate import Answer
    from finetune.export.record import Record
    from finetune.log import Log
    from finetune.model.load import Base
    from finetune.stages.base import Stage
    from finetune.stages.mixture import Mixture


@dataclass(frozen=True)
class Result:
    """What a finished run hands back."""

    bundle: Path
    scores: dict[str, Scores]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class ReadyPart:
    """What a stage trains on.

    Attributes:
        name: of a mixture's part; empty where it is alone.
        recipe: its own; of a run of one stage that of the run.
        examples: items, as the loop batches them (data/items.py); `held_out` too.
        counts: how many rows each thing happened to on the way to `examples`.
        held_out: encoded, for the held-out loss and the proof.
    """

    name: str
    recipe: Recipe
    data: Prepared
    stage: Stage
    encoder: Any
    examples: Sequence[Item]
    counts: dict[str, int]
    held_out: Sequence[Item]
    ends: set[int]


@dataclass
class Ready:
    """All that training needs: examples encoded, the adapter on the base.

    Attributes:
        parts: of a mixture; else the one stage. `stage`, `examples` and `held_out` are those of all together.
        ends: ids that training ends a turn with; of whole conversations, where `rewards` are read off their last token.
        lora: what the adapter covers, in a line.
        initial: the adapter's weights at the start, where the base was changed for them; see model/adapter.py.
        start: the adapter's weights at the start by parameter name, where they are not fresh ones.
    """

    base: Base
    model: Any
    parts: Sequence[ReadyPart]
    stage: Stage | Mixture
    examples: Sequence[Item]
    held_out: Sequence[Item]
    ends: set[int]
    lora: str
    initial: dict[str, Any] | None
    start: dict[str, Any] | None
    about: dict[str, Any]
    rewards: tuple[str, ...] = ()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends an answer: the trained ids and the base's own; none where nothing answers."""
        if self.rewards:
            return ()
        ids = self.model.generation_config.eos_token_id
        return (ids,) if isinstance(ids, int) else tuple(ids)


def run(recipe: Recipe, overwrite: bool = False, resume: str | None = None) -> Result | None:
    """The whole run; None on processes other than the main one.

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
        data = load_stages(recipe)
        placement = device.start(recipe)
        with RunFolder(recipe.output_dir, placement.accelerator, overwrite, resume) as folder:
            from finetune.engine import check_checkpoints, check_training
            from finetune.log import Log

            log = Log(recipe.output_dir, placement.accelerator)
            placed = f"{placement.device.name}, {placement.dtype}, {placement.accelerator.num_processes} process(es)"
            log.say(f"{recipe.name}: {placed}, {placement.engine}")
            for stage in recipe.stages or (recipe,):
                check_checkpoints(placement, stage.train.save_steps, resume)
                check_training(placement, stage.train)
            manifest = folder.finished(resolved(recipe))
            if manifest is not None:
                log.say(f"this run is finished; bundle: {folder.bundle}")
                placement.accelerator.end_training()
                return Result(folder.bundle, manifest["scores"], manifest)
            before = train_stages(recipe, data, placement, folder, stop, log)
            last = before.go_on(recipe)
            ready = get_ready(last, data if recipe.mixture else data[-1:], placement, log)
            progress = train_adapter(last, ready, placement, folder, stop, log)
            scores = evaluate(last, ready, placement, log)
            if scores is None:
                return None
            pass_gate(recipe.gate, scores["base"], scores["tuned"])
            record = make_record(recipe, ready, progress, scores, before, placement)
            return export(recipe, record, ready, log)


def train_stages(
    recipe: Recipe, data: Sequence[Prepared], placement: Placement, folder: RunFolder, stop: Stop, log: Log
) -> Before:
    """All stages of a chain but the last, each in a folder of its own; those that are finished are not trained again."""
    before = Before(recipe)
    for stage, its in zip(recipe.stages[:-1], data[: len(recipe.stages[:-1])], strict=True):
        if folder.resume not in (None, AUTO):
            raise RecipeError(f"--resume {folder.resume}: a chain of stages goes on with --resume auto")
        stage = before.go_on(stage)
        told = before.finished(stage, data_record(its, {})["sources"])
        if told is None:
            told = train_stage(stage, its, before, placement, folder, stop, log)
        else:
            log.say(f"stage {stage.name}: finished before")
        before.add(stage, told, placement, log.say)
    return before


def train_stage(
    stage: Recipe, data: Prepared, before: Before, placement: Placement, folder: RunFolder, stop: Stop, log: Log
) -> dict[str, Any]:
    """One stage of a chain, from its data to its adapter on disk."""
    from finetune.log import Log

    log.say(f"stage {stage.name}: {stage.stage}")
    ready = get_ready(stage, [data], placement, log, recipe_cache(before.recipe))
    folder.begin(keep=KEPT)
    with RunFolder(stage.output_dir, placement.accelerator, resume=AUTO) as own:
        progress = train_adapter(stage, ready, placement, own, stop, Log(stage.output_dir, placement.accelerator))
    done = {"processes": placement.accelerator.num_processes, "engine": placement.engine, "lora": ready.lora}
    told: dict[str, Any] = {"name": stage.name, "stage": stage.stage, "training": progress.record() | done}
    told |= {
        "data": data_record(data, ready.parts[0].counts),
        "source": asdict(ready.base.source),
        "stops": ready.stop_ids,
    }
    return before.finish(stage, told, placement)


def recipe_cache(recipe: Recipe) -> Path:
    """Where encoded rows are kept, for all stages of a chain."""
    return recipe.output_dir.parent / ".encoded"


def get_ready(
    recipe: Recipe, data: Sequence[Prepared], placement: Placement, log: Log, cache: Path | None = None
) -> Ready:
    """Base, adapter, stage and encoded examples; nothing is written but the cache of the encoding.

    Args:
        data: of the one stage, or of each part of a mixture.
    """
    from finetune.data.mixed import MixedItems
    from finetune.export.beside import check_beside
    from finetune.export.converted import check_tokenizer
    from finetune.fullstate import full_tensors
    from finetune.model.adapter import add_adapter, initial_weights
    from finetune.model.start import start_from
    from finetune.stages.base import Prepares
    from finetune.stages.mixture import Mixture, MixturePart

    recipes = recipe.mixture or (recipe,)
    for own, its in zip(recipes, data, strict=True):
        _tell_data(part_name(recipe, own), its, log)
    base = _load_base(recipe, placement)
    check_beside(recipe.export.adapters, recipe.name, base.identity, base.source.name)
    asked = [its for own, its in zip(recipes, data, strict=True) if own.settings.answers]
    check_tokenizer(
        base.tokenizer,
        [list(sample.prompt) for its in asked for sample in its.evaluate],
        recipe.export.targets,
        any(sample.tools for its in asked for sample in its.evaluate),
    )
    cache = cache or recipe_cache(recipe)
    parts = [
        _ready_part(part_name(recipe, own), own, its, base.tokenizer, cache, placement, log)
        for own, its in zip(recipes, data, strict=True)
    ]
    ends = set().union(*(part.ends for part in parts))
    _tell_ends(base, ends, recipe.settings.score_names)
    about: dict[str, Any] = {}
    for part in parts:
        if isinstance(part.stage, Prepares):
            told = part.stage.prepare(base.model, part.data.metrics, placement)
            about |= {f"{part.name}/{key}" if part.name else key: value for key, value in told.items()}
    model, coverage = add_adapter(base.model, recipe.lora, recipe.seed)
    log.say(f"lora: {coverage.line()}")
    if recipe.model.adapter_name_or_path:
        log.say(f"lora: {start_from(model, Path(recipe.model.adapter_name_or_path))}")
    _check_packing(recipes, model, placement, log)
    initial = initial_weights(model, recipe.lora)
    # With the adapter off, the model is the base: not where training starts, when the adapter or the base was changed.
    start = full_tensors(model) if recipe.model.adapter_name_or_path or initial is not None else None
    stage: Stage | Mixture = parts[0].stage
    examples, held_out = parts[0].examples, parts[0].held_out
    if recipe.mixture:
        weights = [part.recipe.weight or 1.0 for part in parts]
        stage = Mixture(
            [MixturePart(p.name, p.stage, w, p.recipe.loss_weight) for p, w in zip(parts, weights, strict=True)]
        )
        examples = MixedItems([part.examples for part in parts], weights)
        held_out = list(MixedItems([part.held_out for part in parts], weights))
    return Ready(
        base,
        model,
        parts,
        stage,
        examples,
        held_out,
        ends,
        coverage.line(),
        initial,
        start,
        about,
        recipe.settings.score_names,
    )


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


def _tell_data(name: str, data: Prepared, log: Log) -> None:
    lead = f"{name}: " if name else ""
    dropped = [f"{where}: dropped: {reason}" for where, reason in data.dropped[:5]]
    for line in (*data.notes, *findings_lines(data), *dropped):
        log.say(f"{lead}data: {line}")
    log.say(f"{lead}data: {len(data.train)} samples to train on, {len(data.evaluate)} held out")


def _ready_part(
    name: str, recipe: Recipe, data: Prepared, tokenizer: Any, cache: Path, placement: Placement, log: Log
) -> ReadyPart:
    """The rows of one stage as items."""
    from finetune.data.encode import items_of
    from finetune.data.formats import ROWS_OF_STAGE
    from finetune.data.pack import pack, packing_line
    from finetune.evaluate.callforms import check_readable

    lead = f"{name}: " if name else ""
    stage, encoder = make_stage(recipe, tokenizer)
    if recipe.settings.answers:
        check_readable(encoder.template, data.evaluate, data.metrics)
    with placement.accelerator.main_process_first():
        store = encode(recipe, data, encoder, cache, log)
    whole = recipe.train.eval_steps or recipe.settings.held_out_scores
    held_out = stage.encode(data.evaluate if whole else data.evaluate[: recipe.export.parity_rows])
    for line in encoded_lines(store, recipe.data.max_length):
        log.say(f"{lead}{line}")
    ends = store.last_ids() if recipe.settings.score_names else store.stops() & encoder.control_ids
    if recipe.settings.explores:  # then an item is a prompt with all that its answers are judged by
        examples: Sequence[Item] = stage.encode(data.train)
    else:
        examples = items_of(store, ROWS_OF_STAGE[recipe.stage], recipe.data.max_length)
    if recipe.data.packing:
        packs = pack(store, recipe.data.max_length)
        log.say(f"{lead}{packing_line(packs, recipe.data.max_length)}")
        examples = list(packs)
    return ReadyPart(name, recipe, data, stage, encoder, examples, store.counts, held_out, ends)


def _check_packing(recipes: Sequence[Recipe], model: Any, placement: Placement, log: Log) -> None:
    """The probe of packed rows, once, where some stage has them and wants its documents apart."""
    from finetune.model.isolation import check_isolation

    joining = [own.data for own in recipes if own.data.joined_by]
    if any(data.allow_cross_doc for data in joining):
        log.say("packing: documents of one row may see each other (data.allow_cross_doc)")
    keys = dict.fromkeys(key for data in joining if not data.allow_cross_doc for key in data.joined_by)
    if keys:
        check_isolation(model, placement.torch_dtype, placement.accelerator.device, list(keys))


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
        ready.base.identity, placement.dtype, recipe.lora, section, ready.examples, ready.held_out, ready.initial,
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
        for part in ready.parts:
            size = find_micro_batch(model_to_train, part.stage, part.examples, share, size, placement)
        layout = replace(layout, micro_batch=size, accumulation=share // size)
    log.say(layout.line())
    for line in group_lines(parameter_groups(trainable(model_to_train), section)):
        log.say(line)

    folder.claim(checkpoint, log)  # only now: a mistake found above has cost nothing that was there
    if recipe.model.gguf_file and accelerator.is_main_process:
        write_gguf_base(recipe.model, placement.torch_dtype, recipe.output_dir / BASE)
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
    with stop.deferred(), checkpoints:
        progress = train(model_to_train, training)
    if engine.shards(placement):
        log.say(f"{placement.engine}: the base is loaded again, whole in every process, for answers and export")
        tensors = full_tensors(model_to_train)
        del model_to_train, checkpoints, training  # the memory of the parts
        ready.model = ready.base = None  # type: ignore[assignment]
        ready.base, ready.model = _whole_model(recipe, placement, ready.ends, tensors)
    if section.load_best_model_at_end:
        load_adapter(ready.model, folder.of_step(progress.best_step))
        log.say(f"the best held-out loss, {progress.best_loss:.4f}, was that of step {progress.best_step}: taken")
    if accelerator.is_main_process:
        folder_of_adapter = recipe.output_dir / "adapter"
        save_adapter(ready.model, ready.base, folder_of_adapter, progress.moved, initial=ready.initial)
    return progress


def evaluate(recipe: Recipe, ready: Ready, placement: Placement, log: Log) -> dict[str, Scores] | None:
    """Scores of base and tuned on the held-out rows: what each stage measures, and answers by the metric of its data.

    Every process takes its share; the main one has the scores. Those of a mixture's part have its name before theirs.
    """
    from finetune.evaluate.generate import answer
    from finetune.evaluate.measure import measure

    main = placement.accelerator.is_main_process
    scores: dict[str, Scores] = {"base": {}, "tuned": {}}
    answered: dict[tuple[str, str], Sequence[Answer]] = {}
    judged = {part.name: with_good_answers(part.data, part.recipe.stage) for part in ready.parts}
    for who, adapter in (("base", ready.model.disable_adapter()), ("tuned", nullcontext())):
        with adapter:
            for part in ready.parts:
                of, settings, rows = f" of {part.name}" if part.name else "", part.recipe.settings, judged[part.name]
                if settings.held_out_scores:
                    log.say(f"measuring {len(part.held_out)} held-out rows{of}: {who}")
                    found = measure(ready.model, part.stage, part.held_out, ready.start, placement)
                    scores[who] |= _of_part(part, found)
                if settings.answers:
                    log.say(f"answering {len(rows.evaluate)} held-out prompts{of}: {who}")
                    given = (
                        ready.model,
                        part.encoder,
                        rows.evaluate,
                        recipe.evaluate,
                        placement,
                        log,
                        f"{who} answers",
                    )
                    answered[part.name, who] = answer(*given)
    if main and answered:
        freeze_golden(recipe, ready, judged, answered, placement)
    placement.accelerator.end_training()
    if not main:
        return None
    for (name, who), answers in answered.items():
        part = next(part for part in ready.parts if part.name == name)
        scores[who] |= _of_part(part, scored(recipe.output_dir, judged[name], answers, f"{name}.{who}".lstrip(".")))
    in_order = [part.name for part in ready.parts if part.name]
    for who in scores if in_order else ():  # of the first part first: the gate looks at the first score
        scores[who] = dict(sorted(scores[who].items(), key=lambda item: in_order.index(item[0].partition("/")[0])))
    for line in score_lines(scores):
        log.say(line)
    return scores


def _of_part(part: ReadyPart, scores: Scores) -> Scores:
    return {f"{part.name}/{name}": value for name, value in scores.items()} if part.name else scores


def freeze_golden(
    recipe: Recipe,
    ready: Ready,
    data: Mapping[str, Prepared],
    answered: Mapping[tuple[str, str], Sequence[Answer]],
    placement: Placement,
) -> None:
    """Golden samples for `finetune verify` into the run's folder: prompts, their ids, and what the scored model said.

    Args:
        data: of each part, by its name.
        answered: by part and `base` or `tuned`.
    """
    from finetune.evaluate.generate import answer_logprobs, as_example
    from finetune.verify.golden import FACTS, SAMPLES, make_facts, make_golden, write_facts, write_golden

    parts = [part for part in ready.parts if (part.name, "tuned") in answered]
    golden = []
    for part in parts:
        its, base, tuned = data[part.name], answered[part.name, "base"], answered[part.name, "tuned"]
        rows = min(recipe.export.golden_rows, len(tuned))
        samples, answers = list(its.evaluate[:rows]), tuned[:rows]
        prompts = [part.encoder.encode_prompt(sample.prompt, sample.tools, sample.where) for sample in samples]
        said = [as_example(ids, item, one.where) for ids, item, one in zip(prompts, answers, samples, strict=True)]
        logprobs = answer_logprobs(ready.model, said, placement)
        golden += make_golden(samples, prompts, answers, its.metrics, base[:rows], logprobs)
    facts = make_facts(
        recipe.name,
        ready.base.identity,
        parts[0].encoder,
        ready.stop_ids,
        placement.dtype,
        recipe.evaluate.max_new_tokens,
    )
    write_golden(recipe.output_dir / SAMPLES, golden)
    write_facts(recipe.output_dir / FACTS, facts)


def make_record(
    recipe: Recipe,
    ready: Ready,
    progress: Progress,
    scores: dict[str, Scores],
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
    evaluated = (answer_rewards if ready.rewards else answer_logprobs)(ready.model, examples, placement)
    done = {"processes": placement.accelerator.num_processes, "engine": placement.engine, "lora": ready.lora}
    done |= ready.about
    template = next((part.data.template for part in ready.parts if part.data.template), None)
    data = data_record_of_parts(recipe, [part.data for part in ready.parts], [part.counts for part in ready.parts])
    return Record(
        name=recipe.name,
        identity=ready.base.identity,
        source=ready.base.source,
        dtype=placement.dtype,
        stops=ready.stop_ids,
        examples=examples,
        evaluated=evaluated,
        ship_base=Path(ready.base.source.name) == (recipe.output_dir / BASE).resolve(),
        template=template.path.read_text(encoding="utf-8") if template else None,
        recipe=resolved(recipe),
        data=data,
        training=progress.record() | done | ({"stages": before.told} if before.told else {}),
        scores=scores,
        score_config=score_config(ready.model) if ready.rewards else None,
    )


def export(recipe: Recipe, record: Record, ready: Ready, log: Log) -> Result:
    """What `finetune export` needs is written down, then the bundle is made of it: merge, proof, serving files."""
    from finetune.export.bundle import write_bundle
    from finetune.export.record import write_record

    write_record(recipe.output_dir, record)
    ready.model = ready.base = None  # type: ignore[assignment]  # the memory; the rest is read from disk
    folder, bundle = recipe.output_dir, recipe.output_dir / "bundle"
    manifest = write_bundle(record, folder, folder / "adapter", bundle, recipe.export, log.say)
    log.say(f"log: {log.file}")
    log.say(f"bundle: {bundle}")
    return Result(bundle, manifest["scores"], manifest)


def _load_base(recipe: Recipe, placement: Placement) -> Base:
    """The base, under a score head of zeros where the stage trains one."""
    from finetune.model.load import load_base
    from finetune.model.score import with_score_head

    base = load_base(recipe.model, placement, recipe.output_dir / BASE)
    rewards = recipe.settings.score_names
    return replace(base, model=with_score_head(base.model, rewards)) if rewards else base


def _tell_ends(base: Base, ends: set[int], rewards: tuple[str, ...]) -> None:
    """Configurations say where an answer stops, or which token is padding and no conversation's last."""
    from finetune.model.load import set_stop_ids
    from finetune.model.score import choose_padding

    if rewards:
        choose_padding(base.model, base.tokenizer, ends)
    else:
        set_stop_ids(base.model, base.tokenizer, ends)


def _whole_model(recipe: Recipe, placement: Placement, ends: set[int], tensors: dict[str, Any]) -> tuple[Base, Any]:
    """The base as at the start and the peft model with the trained weights, both unsharded, on the device."""
    from finetune.fullstate import load_full_tensors
    from finetune.model.adapter import add_adapter

    base = _load_base(recipe, placement)
    _tell_ends(base, ends, recipe.settings.score_names)
    model, _coverage = add_adapter(base.model, recipe.lora, recipe.seed)
    load_full_tensors(model, tensors)
    return base, model.to(placement.accelerator.device)
