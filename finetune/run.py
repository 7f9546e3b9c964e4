"""The straight line from a recipe to a bundle. Every command is this line, cut short somewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.prepare import Prepared, prepare
from finetune.errors import DataError, RecipeError
from finetune.evaluate.gate import check_gate, pass_gate
from finetune.evaluate.metrics import Scores, mean, score_names, score_rows
from finetune.recipe import Recipe, resolved
from finetune.runfolder import RunFolder
from finetune.stop import Stop, stop_with_parent

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.data.chat import ChatEncoder, Example
    from finetune.device import Placement
    from finetune.evaluate.generate import Answer
    from finetune.log import Log
    from finetune.model.load import Base


@dataclass(frozen=True)
class Result:
    """What a finished run hands back."""

    bundle: Path
    scores: dict[str, Scores]
    manifest: dict[str, Any]


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
        data = load_data(recipe)
        placement = device.start(recipe)
        with RunFolder(recipe.output_dir, placement.accelerator, overwrite, resume) as folder:
            return _run(recipe, data, placement, folder, stop)


def _run(recipe: Recipe, data: Prepared, placement: Placement, folder: RunFolder, stop: Stop) -> Result | None:
    from finetune import engine
    from finetune.batch_size import find_micro_batch
    from finetune.checkpoint.facts import differences, facts_of
    from finetune.checkpoint.training import TrainingCheckpoints, load_adapter
    from finetune.data.pack import pack, packing_line
    from finetune.evaluate.generate import answer
    from finetune.export.bundle import Finished, save_adapter, write_bundle
    from finetune.fullstate import full_tensors
    from finetune.log import Log
    from finetune.model.adapter import add_adapter
    from finetune.model.isolation import check_isolation
    from finetune.model.load import load_base, set_stop_ids
    from finetune.model.speed import prepare_for_training
    from finetune.schedule import plan
    from finetune.train import Training, train

    accelerator = placement.accelerator
    if engine.is_zero(placement) and (recipe.train.save_steps or folder.resume):
        raise RecipeError(
            f"train.save_steps: {recipe.train.save_steps}: checkpoints and --resume don't work under DeepSpeed; "
            "launch with scripts/accelerate/fsdp2.yaml, or set it to 0"
        )
    log = Log(recipe.output_dir, accelerator)
    log.say(
        f"{recipe.name}: {placement.device.name}, {placement.dtype}, {accelerator.num_processes} process(es), "
        f"{placement.engine}"
    )
    manifest = folder.finished()
    if manifest is not None:
        return _already_finished(recipe, manifest, log)
    for line in (*data.notes, *_findings(data), *(f"{where}: dropped: {reason}" for where, reason in data.dropped[:5])):
        log.say(f"data: {line}")
    log.say(f"data: {len(data.train)} samples to train on, {len(data.evaluate)} held out")
    checkpoint, invalid = folder.checkpoint(recipe.train.save_total_limit)
    for line in invalid:
        log.say(f"checkpoint: skipped {line}")

    base = load_base(recipe.model, placement)
    stage, encoder = make_stage(recipe, base.tokenizer)
    with accelerator.main_process_first():
        examples, counts = _encode(recipe, data, encoder, log)
    held_out = stage.encode(data.evaluate if recipe.train.eval_steps else data.evaluate[: recipe.export.parity_rows])
    trained = sum(example.trained for example in examples)
    said = "".join(f", {count} {reason}" for reason, count in counts.items() if reason not in ("rows", "examples"))
    log.say(f"encoded: {len(examples)} examples, {sum(len(e.ids) for e in examples)} tokens, {trained} trained{said}")
    stops = {example.stop for example in examples} & encoder.control_ids
    set_stop_ids(base.model, base.tokenizer, stops)
    model, coverage = add_adapter(base.model, recipe.lora, recipe.seed)
    log.say(f"lora: {coverage.line()}")
    if recipe.data.joined_by:
        if recipe.data.allow_cross_doc:
            log.say("packing: documents of one row may see each other (data.allow_cross_doc)")
        else:
            check_isolation(model, placement.torch_dtype, accelerator.device, recipe.data.joined_by)
    if recipe.data.packing:
        examples = pack(examples, recipe.data.max_length)
        log.say(packing_line(examples, recipe.data.max_length))
    model_to_train = prepare_for_training(model, recipe.train)
    layout = plan(recipe.train, len(examples), accelerator.num_processes, placement.device.auto_micro_batch)
    if recipe.train.auto_find_batch_size:
        if engine.shards(placement):
            raise RecipeError(f"train.auto_find_batch_size: not with {placement.engine}; set train.micro_batch_size")
        share = layout.global_batch // layout.processes
        size = find_micro_batch(model_to_train, stage, examples, share, layout.micro_batch, placement)
        layout = replace(layout, micro_batch=size, accumulation=share // size)
    log.say(layout.line())
    facts = facts_of(
        recipe.seed, recipe.stage, base.identity, placement.dtype, recipe.lora, recipe.train, examples, held_out
    )
    if checkpoint is not None:
        changed = list(differences(checkpoint.state["facts"], facts))
        if changed:
            raise RecipeError([*changed, f"{checkpoint.folder}: this would be another run; give it another output_dir"])
        load_adapter(model, checkpoint)
        log.say(f"resuming after step {checkpoint.step}: {checkpoint.folder}")

    folder.claim(keep_checkpoints=checkpoint is not None)  # only now: a mistake found above has cost nothing
    if checkpoint is not None:
        log.rewind(checkpoint.step, checkpoint.state["progress"]["evaluated"])
    _start_trackers(recipe, accelerator)
    checkpoints = TrainingCheckpoints(
        store=folder.store(recipe.train.save_total_limit) if recipe.train.save_steps else None,
        found=checkpoint,
        save_adapter=partial(save_adapter, model, base, run_folder=recipe.output_dir),
        facts=facts,
        main=accelerator.is_main_process,
    )
    with stop.deferred(), checkpoints:
        progress = train(
            model_to_train,
            Training(stage, examples, held_out, recipe.train, layout, placement, recipe.seed, checkpoints, stop, log),
        )
    if engine.shards(placement):
        log.say(f"{placement.engine}: the base is loaded again, whole in every process, for answers and export")
        trained_tensors = full_tensors(model_to_train)
        del model, model_to_train, base, checkpoints  # the memory of the parts
        base, model = _whole_model(recipe, placement, stops, trained_tensors)
    if recipe.train.load_best_model_at_end:
        load_adapter(model, folder.store(1).open(folder.checkpoint_folder(progress.best_step)))
        log.say(f"the best held-out loss, {progress.best_loss:.4f}, was that of step {progress.best_step}: taken")
    if accelerator.is_main_process:
        save_adapter(model, base, recipe.output_dir / "adapter", recipe.output_dir, progress.moved)

    log.say(f"answering {len(data.evaluate)} held-out prompts: base")
    with model.disable_adapter():
        base_answers = answer(model, encoder, data.evaluate, recipe.evaluate, placement, log, "base answers")
    log.say(f"answering {len(data.evaluate)} held-out prompts: tuned")
    tuned_answers = answer(model, encoder, data.evaluate, recipe.evaluate, placement, log, "tuned answers")
    accelerator.end_training()
    if not accelerator.is_main_process:
        return None
    scores = {
        "base": _scored(recipe, data, base_answers, "base"),
        "tuned": _scored(recipe, data, tuned_answers, "tuned"),
    }
    for line in score_lines(scores):
        log.say(line)
    pass_gate(recipe.gate, scores["base"], scores["tuned"])

    model.to("cpu")
    finished = Finished(
        folder=recipe.output_dir,
        model=model,
        base=base,
        template=data.template,
        held_out=held_out[: recipe.export.parity_rows],
        recipe=resolved(recipe),
        data=_data_record(recipe, data, counts),
        training=progress.record()
        | {"processes": accelerator.num_processes, "engine": placement.engine, "lora": coverage.line()},
        scores=scores,
    )
    bundle, manifest = write_bundle(finished, recipe.export)
    proof = manifest["merge_proof"]
    log.say(
        f"merged = adapter: largest logit difference {proof['max_logit_difference']:.2e}, mean KL "
        f"{proof['mean_kl']:.1e}, greedy agreement {proof['greedy_agreement']:.2%} ({proof['dtype']}, "
        f"{proof['positions']} positions)"
    )
    log.say(f"log: {log.file}")
    log.say(f"bundle: {bundle}")
    return Result(bundle, scores, manifest)


def _whole_model(recipe: Recipe, placement: Placement, stops: set[int], tensors: dict[str, Any]) -> tuple[Base, Any]:
    """The base as at the start and the peft model with the trained weights, both unsharded, on the device."""
    from finetune.fullstate import load_full_tensors
    from finetune.model.adapter import add_adapter
    from finetune.model.load import load_base, set_stop_ids

    base = load_base(recipe.model, placement)
    set_stop_ids(base.model, base.tokenizer, stops)
    model, _coverage = add_adapter(base.model, recipe.lora, recipe.seed)
    load_full_tensors(model, tensors)
    return base, model.to(placement.accelerator.device)


def _already_finished(recipe: Recipe, manifest: dict[str, Any], log: Log) -> Result:
    """What `--resume auto` gives for a run that came to its end: its result again, if the recipe is still that one."""
    import yaml

    bundle = recipe.output_dir / "bundle"
    if yaml.safe_load((bundle / "recipe.yaml").read_text(encoding="utf-8")) != resolved(recipe):
        raise RecipeError(
            f"output_dir: {recipe.output_dir} holds the finished run of another recipe (see bundle/recipe.yaml); give "
            "another with --set output_dir=..., or --overwrite it"
        )
    log.say(f"this run is finished; bundle: {bundle}")
    return Result(bundle, manifest["scores"], manifest)


def _start_trackers(recipe: Recipe, accelerator: Accelerator) -> None:
    if recipe.report_to:
        flat = {f"{a}.{k}": str(v) for a, b in resolved(recipe).items() if isinstance(b, dict) for k, v in b.items()}
        accelerator.init_trackers(recipe.name, config=flat)


def load_data(recipe: Recipe) -> Prepared:
    """Template and rows, checked, rendered, split and screened. Needs no torch: `finetune check` ends here.

    Raises:
        DataError, RecipeError: every bad row, what screening refuses, and settings that don't fit the template.
    """
    data = prepare(recipe.data, recipe.seed)
    if data.refusals:
        raise DataError(data.refusals)
    check_gate(recipe.gate, _known_scores(data))
    return replace(data, evaluate=data.evaluate[: recipe.evaluate.rows])


def _known_scores(data: Prepared) -> list[str]:
    """Names that the metrics give, by the template's worked examples; those of one task as `task/name` too."""
    if data.template is None:
        return score_names(data.evaluate[0].answer, data.metrics[""])
    several = len(data.metrics) > 1
    names = []
    for example in data.template.examples:
        task = (example.task or "") if several else ""
        found = score_names(example.answer, data.metrics[task])
        names += found + [f"{task}/{name}" for name in found if task]
    return names


def make_stage(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    """The recipe's stage and the chat encoder it shares with evaluation."""
    from finetune.data.chat import ChatEncoder
    from finetune.stages import STAGES

    encoder = ChatEncoder(tokenizer, recipe.data.train_on, recipe.data.special_tokens_in_data)
    pad_to = 32 if recipe.train.torch_compile else 1  # fewer shapes to compile
    return STAGES[recipe.stage](encoder, recipe.data, pad_to, recipe.data.padding_free), encoder


def _encode(recipe: Recipe, data: Prepared, encoder: ChatEncoder, log: Log) -> tuple[Sequence[Example], dict[str, int]]:
    """The training samples as examples, out of the cache beside the output folder where it has them."""
    from finetune.data.cache import EncodeConversations, cache_key, encode_cached, encode_uncached, evict
    from finetune.data.contamination import benchmark_files
    from finetune.model.load import load_tokenizer

    make = EncodeConversations(partial(load_tokenizer, recipe.model), recipe.data)
    blocks = data.train.blocks()
    if not recipe.data.cache:
        store = encode_uncached(blocks, make, recipe.data.workers)
        return store, store.counts
    files = [*data.files, *benchmark_files(recipe.data.screen.benchmarks)]
    text = data.template.path.read_text(encoding="utf-8") if data.template else None
    key = cache_key(files, encoder.tokenizer, recipe.data, text, rest=[recipe.stage, str(recipe.seed)])
    folder = recipe.output_dir.parent / ".encoded"
    store, hit = encode_cached(blocks, make, key, folder, recipe.data.workers)
    log.say(f"encoding: {'from the cache' if hit else 'now in the cache'}: {folder / key[:12]}...")
    removed, freed = evict(folder, key)
    if removed:
        log.say(f"encoding: {removed} older cache entries removed from {folder}, {freed / 2**20:,.0f} MiB")
    return store, store.counts


def score_lines(scores: dict[str, Scores]) -> list[str]:
    """Base and tuned side by side, one score a line."""
    width = max(len(name) for name in scores["tuned"])
    return [f"{'score':<{width}}   base  tuned"] + [
        f"{name:<{width}}  {scores['base'][name]:.3f}  {value:.3f}" for name, value in scores["tuned"].items()
    ]


def _scored(recipe: Recipe, data: Prepared, answers: Sequence[Answer], who: str) -> Scores:
    """Scores, and every answer beside its reference in `<output_dir>/answers.<who>.jsonl`."""
    samples = list(data.evaluate)
    with (recipe.output_dir / f"answers.{who}.jsonl").open("w", encoding="utf-8") as file:
        for sample, item in zip(samples, answers, strict=True):
            line = {
                "where": sample.where,
                **({"task": sample.task} if sample.task else {}),
                "prompt": list(sample.prompt),
                "reference": sample.answer,
                "answer": item.text,
                "finished": item.finished,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    rows = score_rows(
        [item.text for item in answers],
        [sample.answer for sample in samples],
        [data.metrics[sample.task] for sample in samples],
    )
    by_task = {
        task: [row for row, sample in zip(rows, samples, strict=True) if sample.task == task] for task in data.metrics
    }
    # In the template's order of tasks, so that the first name does not depend on which row comes first.
    scores = mean([row for part in by_task.values() for row in part])
    scores["finished"] = sum(item.finished for item in answers) / len(answers)
    return scores | {
        f"{task}/{name}": value for task, part in by_task.items() if task for name, value in mean(part).items()
    }


def _findings(data: Prepared) -> list[str]:
    """Screening in one line a kind that was found, and the first of each."""
    first = {finding.kind: finding for finding in reversed(data.findings)}
    return [f"{kind}: {count} {first[kind].action}, as {first[kind]}" for kind, count in data.counts.items() if count]


def _data_record(recipe: Recipe, data: Prepared, counts: dict[str, int]) -> dict[str, Any]:
    """What the manifest says of the data."""
    from finetune.data.cache import files_sha256

    sources = [
        {
            "name": Path(source.name).name if source.section.path else source.name,
            "files": len(source.files),
            "sha256": files_sha256(source.files),
            "rows": source.rows,
            "blank_lines": source.blank,
            "dropped": source.dropped,
            "samples": source.samples,
            "format": source.format,
            "licence": source.section.licence,
            "provenance": source.section.provenance,
        }
        for source in data.sources
    ]
    return {
        "template": data.template.name if data.template else None,
        "template_sha256": data.template.sha256 if data.template else None,
        "sources": sources,
        "train_samples": len(data.train),
        "evaluate_samples": len(data.evaluate),
        "dropped_by_template": len(data.dropped),
        "screening": data.counts,
        "encoding": counts,
    }
