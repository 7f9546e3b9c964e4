"""What a run is made of before training: its data, its stage, its encoded examples."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.chain import check_leaks
from finetune.data.prepare import Prepared, prepare
from finetune.errors import DataError, RecipeError
from finetune.evaluate.gate import check_gate
from finetune.evaluate.metrics import check_metric, score_names
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.data.chat import ChatEncoder
    from finetune.data.store import ExampleStore
    from finetune.log import Log


def load_data(recipe: Recipe) -> Prepared:
    """Template and rows, checked, rendered, split and screened; what is to serve the result, checked too.

    Needs no torch: `finetune check` ends here.

    Raises:
        DataError, RecipeError: every bad row, what screening refuses, settings that don't fit the template, targets
            that would serve the export wrong or not at all.
    """
    problems: list[str] = []
    notes: list[str] = []
    try:
        notes = serving_notes(recipe)
    except RecipeError as error:
        problems += error.problems
    try:
        data = prepare(recipe.data, recipe.seed, recipe.stage)
        problems += data.refusals
    except RecipeError as error:
        raise type(error)(problems + error.problems) from None
    if problems:
        raise (DataError if data.refusals else RecipeError)(problems)
    check_gate(
        recipe.gate, [*recipe.settings.held_out_scores, *(known_scores(data) if recipe.settings.answers else ())]
    )
    return replace(data, evaluate=data.evaluate[: recipe.evaluate.rows], notes=[*data.notes, *notes])


def load_stages(recipe: Recipe) -> list[Prepared]:
    """The data of every stage of a chain, or of the one stage that a recipe is.

    Raises:
        DataError, RecipeError: as `load_data`, of all of them; rows that leak from one stage into another.
    """
    stages = recipe.stages or (recipe,)
    data, problems = [], []
    for stage in stages:
        try:
            data.append(load_data(stage))
        except RecipeError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            kind = type(error)
    if problems:
        raise kind(problems)
    check_leaks(stages, data)
    return data


def serving_notes(recipe: Recipe) -> list[str]:
    """What an operator has to know of the recipe's targets.

    Raises:
        RecipeError: what an engine would serve wrong or refuse, a converter that is not there; each with its fix.
    """
    from finetune.export.converted import check_serving
    from finetune.export.servable import config_of_base

    dtype = None if recipe.export.dtype == "auto" else recipe.export.dtype
    return check_serving(recipe.lora.model_dump(), config_of_base(recipe.model), recipe.export.targets, dtype)


def known_scores(data: Prepared) -> list[str]:
    """Names that the metrics give, by the template's worked examples; those of one task as `task/name` too."""
    if data.template is None:
        return score_names(data.evaluate[0].answer, data.metrics[""])
    several = len(data.metrics) > 1
    names = []
    for example in data.template.examples:
        task = (example.task or "") if several else ""
        check_metric(data.metrics[task], str(data.template.path))
        found = score_names(example.answer, data.metrics[task])
        names += found + [f"{task}/{name}" for name in found if task]
    return names


def make_stage(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    """The recipe's stage and the chat encoder it shares with evaluation."""
    from finetune.data.chat import ChatEncoder
    from finetune.stages import STAGES

    encoder = ChatEncoder(tokenizer, recipe.data.train_on, recipe.data.special_tokens_in_data)
    pad_to = 32 if recipe.train.torch_compile else 1  # fewer shapes to compile
    return STAGES[recipe.stage](encoder, recipe.data, recipe.settings, pad_to), encoder


def encode(recipe: Recipe, data: Prepared, encoder: ChatEncoder, folder: Path, log: Log) -> ExampleStore:
    """The training samples as examples, out of the cache in `folder` where it has them."""
    from finetune.data.cache import cache_key, encode_cached, encode_uncached, evict
    from finetune.data.contamination import benchmark_files
    from finetune.data.encode import EncodeSamples
    from finetune.model.load import load_tokenizer

    make = EncodeSamples(partial(load_tokenizer, recipe.model), recipe.data, recipe.stage)
    blocks = data.train.blocks()
    if not recipe.data.cache:
        return encode_uncached(blocks, make, recipe.data.workers)
    files = [*data.files, *benchmark_files(recipe.data.screen.benchmarks)]
    text = data.template.path.read_text(encoding="utf-8") if data.template else None
    key = cache_key(files, encoder.tokenizer, recipe.data, text, rest=[recipe.stage, str(recipe.seed)])
    store, hit = encode_cached(blocks, make, key, folder, recipe.data.workers)
    log.say(f"encoding: {'from the cache' if hit else 'now in the cache'}: {folder / key[:12]}...")
    removed, freed = evict(folder, key)
    if removed:
        log.say(f"encoding: {removed} older cache entries removed from {folder}, {freed / 2**20:,.0f} MiB")
    return store


def encoded_lines(store: ExampleStore, max_length: int) -> tuple[str, str]:
    """How many examples and tokens there are, what happened to rows on the way, and how long examples are."""
    import numpy as np

    rest = [f", {count} {reason}" for reason, count in store.counts.items() if reason not in ("rows", "examples")]
    trained = int(store.trained_counts.sum())
    some, half, most, longest = (int(length) for length in np.quantile(store.lengths, (0.1, 0.5, 0.9, 1.0)))
    return (
        f"encoded: {len(store)} examples, {len(store.ids)} tokens, {trained} trained{''.join(rest)}",
        f"lengths in tokens: one in ten up to {some}, half up to {half}, nine in ten up to {most}, the longest {longest}; "
        f"data.max_length {max_length}",
    )


def findings_lines(data: Prepared) -> list[str]:
    """Screening in one line a kind that was found, and the first of each."""
    first = {finding.kind: finding for finding in reversed(data.findings)}
    return [f"{kind}: {count} {first[kind].action}, as {first[kind]}" for kind, count in data.counts.items() if count]


def data_record(data: Prepared, counts: dict[str, int]) -> dict[str, Any]:
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
