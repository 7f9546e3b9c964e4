"""The straight line from a recipe to a bundle. Every command is this line, cut short somewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Sample
from finetune.data.source import read_rows
from finetune.data.split import split_rows
from finetune.data.template import DataTemplate, load_template
from finetune.errors import DataError, RecipeError, did_you_mean
from finetune.evaluate.gate import check_gate, pass_gate
from finetune.evaluate.metrics import Scores, score, score_names
from finetune.recipe import Recipe, resolved

if TYPE_CHECKING:
    from finetune.evaluate.generate import Answer


@dataclass(frozen=True)
class Data:
    """Rendered rows of one recipe, and what the manifest says of them."""

    template: DataTemplate
    train: list[Sample]
    evaluate: list[Sample]
    record: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a finished run hands back."""

    bundle: Path
    scores: dict[str, Scores]
    manifest: dict[str, Any]


def run(recipe: Recipe, overwrite: bool = False) -> Result | None:
    """The whole run; None on processes other than the main one.

    Raises:
        RecipeError, DataError: a user's mistake, everything that was found.
        GateError: the tuned model is not good enough, or the merged one is not the adapter.
    """
    from finetune import device

    device.quiet_libraries()
    from finetune.evaluate.generate import answer
    from finetune.export.bundle import Finished, save_adapter, write_bundle
    from finetune.log import Log
    from finetune.model.adapter import add_adapter
    from finetune.model.load import load_base, set_stop_ids
    from finetune.model.speed import prepare_for_training
    from finetune.train import plan, train

    data = load_data(recipe)
    placement = device.start(recipe)
    accelerator = placement.accelerator
    _check_output(recipe.output_dir, overwrite)
    log = Log(recipe.output_dir, accelerator)
    log.say(f"{recipe.name}: {placement.device.name}, {placement.dtype}, {accelerator.num_processes} process(es)")
    log.say(f"data: {len(data.train)} rows to train on, {len(data.evaluate)} held out")

    base = load_base(recipe.model, placement)
    stage, encoder = make_stage(recipe, base.tokenizer)
    examples = stage.encode(data.train)
    held_out = stage.encode(data.evaluate[: recipe.export.parity_rows])
    trained = sum(example.trained for example in examples)
    log.say(f"encoded: {len(examples)} conversations, {sum(len(e.ids) for e in examples)} tokens, {trained} trained")
    set_stop_ids(base.model, base.tokenizer, {example.stop for example in examples})
    model, coverage = add_adapter(base.model, recipe.lora, recipe.seed)
    log.say(f"lora: {coverage.line()}")
    layout = plan(recipe.train, len(examples), accelerator.num_processes, placement.device.auto_micro_batch)
    log.say(layout.line())

    _claim_output(recipe, placement)  # only now: a mistake found above has cost nothing that was there
    model_to_train = prepare_for_training(model, recipe.train)
    training = train(model_to_train, stage, examples, recipe.train, layout, placement, recipe.seed, log)
    if accelerator.is_main_process:
        save_adapter(model, base, recipe.output_dir / "adapter", recipe.output_dir)

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
        held_out=held_out,
        recipe=resolved(recipe),
        data=data.record | {"encoded": len(examples), "dropped_too_long": len(data.train) - len(examples)},
        training=training | {"processes": accelerator.num_processes, "lora": coverage.line()},
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


def load_data(recipe: Recipe) -> Data:
    """Template and rows, checked, rendered and split. Needs no torch: `finetune check` ends here.

    Raises:
        DataError, RecipeError: every bad row, and settings that don't fit the template.
    """
    template = load_template(recipe.data.template)
    check_gate(recipe.gate, [*score_names(template.examples[0].answer, template.metric), *_field_scores(template)])
    split = recipe.data.split
    if split is not None and split.by is not None and split.by not in template.columns:
        raise RecipeError(
            f"data.split.by: {split.by!r} is not a column of {template.path}{did_you_mean(split.by, template.columns)}"
        )
    samples = template.render_all(read_rows(recipe.data.train))
    if split is not None:
        train, evaluate = split_rows(samples, split.by, split.eval_rows, recipe.seed)
    else:
        train, evaluate = samples, template.render_all(read_rows(recipe.data.eval))
        copies = {repr(sample.record) for sample in train} & {repr(sample.record) for sample in evaluate}
        if copies:
            where = next(sample.where for sample in evaluate if repr(sample.record) in copies)
            raise DataError(f"{where}: {len(copies)} held-out row(s) are also among the training rows")
    if recipe.evaluate.rows is not None:
        evaluate = evaluate[: recipe.evaluate.rows]
    return Data(template, train, evaluate, _data_record(recipe, template, train, evaluate))


def make_stage(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    """The recipe's stage and the chat encoder it shares with evaluation."""
    from finetune.data.chat import ChatEncoder
    from finetune.stages import STAGES

    encoder = ChatEncoder(tokenizer)
    pad_to = 32 if recipe.train.torch_compile else 1  # fewer shapes to compile
    return STAGES[recipe.stage](encoder, recipe.data, pad_to), encoder


def score_lines(scores: dict[str, Scores]) -> list[str]:
    """Base and tuned side by side, one score a line."""
    width = max(len(name) for name in scores["tuned"])
    return [f"{'score':<{width}}   base  tuned"] + [
        f"{name:<{width}}  {scores['base'][name]:.3f}  {value:.3f}" for name, value in scores["tuned"].items()
    ]


def _scored(recipe: Recipe, data: Data, answers: Sequence[Answer], who: str) -> Scores:
    """Scores, and every answer beside its reference in `<output_dir>/answers.<who>.jsonl`."""
    texts, references = [item.text for item in answers], [sample.answer for sample in data.evaluate]
    with (recipe.output_dir / f"answers.{who}.jsonl").open("w", encoding="utf-8") as file:
        for sample, item in zip(data.evaluate, answers, strict=True):
            line = {
                "where": sample.where,
                "prompt": list(sample.prompt),
                "reference": sample.answer,
                "answer": item.text,
                "finished": item.finished,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    finished = sum(item.finished for item in answers) / len(answers)
    return score(texts, references, data.template.metric) | {"finished": finished}


def _check_output(folder: Path, overwrite: bool) -> None:
    """Refuses an output folder that already holds something, unless told to overwrite a run of this tool."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise RecipeError(
            f"output_dir: {folder} already exists; give another with --set output_dir=..., or --overwrite it"
        )
    if not (folder / "metrics.jsonl").is_file():
        raise RecipeError(f"output_dir: {folder} does not look like a run of this tool (no metrics.jsonl); remove it")


def _claim_output(recipe: Recipe, placement: Any) -> None:
    """The main process empties the output folder and marks it as a run; trackers start in it."""
    with placement.accelerator.main_process_first():
        if placement.accelerator.is_main_process:
            shutil.rmtree(recipe.output_dir, ignore_errors=True)
            recipe.output_dir.mkdir(parents=True)
            (recipe.output_dir / "metrics.jsonl").touch()
    if recipe.report_to:
        flat = {f"{a}.{k}": str(v) for a, b in resolved(recipe).items() if isinstance(b, dict) for k, v in b.items()}
        placement.accelerator.init_trackers(recipe.name, config=flat)


def _field_scores(template: DataTemplate) -> list[str]:
    """Score names over all worked examples: a field that only some answers have can be gated too."""
    return [name for example in template.examples for name in score_names(example.answer, template.metric)]


def _data_record(
    recipe: Recipe, template: DataTemplate, train: Sequence[Sample], evaluate: Sequence[Sample]
) -> dict[str, Any]:
    from finetune.model.load import file_sha256

    files = [*recipe.data.train, *recipe.data.eval]
    return {
        "template": template.name,
        "template_sha256": file_sha256(template.path),
        "files": [{"name": file.name, "sha256": file_sha256(file)} for file in files],
        "train_rows": len(train),
        "evaluate_rows": len(evaluate),
    }
