"""What a run is made of before training: its data, its stage, its encoded examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.basefit import base_problems, serving_notes
from finetune.chain import check_leaks
from finetune.data.aspects import check_decided
from finetune.data.few import evenly, few
from finetune.data.formats import ROWS_OF_STAGE
from finetune.data.kept import prepare_kept
from finetune.data.metric import Metric
from finetune.data.prepare import Prepared
from finetune.errors import DataError, RecipeError
from finetune.evaluate.gate import check_gate, check_rewards
from finetune.evaluate.metrics import check_metric, row_score_names, score_names
from finetune.evaluate.results import FINISHED, check_references, groups_of, unsupported_references
from finetune.progress import track
from finetune.recipe import Recipe
from finetune.recipe_evaluate import GateSection
from finetune.recipe_stages import CptSection, GrpoSection, RewardSection

if TYPE_CHECKING:
    from finetune.data.encode import Encoder
    from finetune.data.store import ExampleStore
    from finetune.log import Log


def prepared_cache(recipe: Recipe) -> Path:
    """Where is kept what rows came to, for all stages of a chain and parts of a mixture."""
    return recipe.output_dir.parent / ".prepared"


def load_data(recipe: Recipe, cache: Path | None = None) -> Prepared:
    """Template and rows, checked, rendered, split and screened; what is to serve the result, checked too.

    Needs no torch: `finetune check` ends here.

    Args:
        cache: where rows that were gone through before are found again, if the recipe wants that (`data.cache`).

    Raises:
        DataError, RecipeError: every bad row, what screening refuses, settings that don't fit the template, targets
            that would serve the export wrong or not at all.
    """
    problems = _without_effect(recipe) + base_problems(recipe)
    if recipe.evaluate.engine == "vllm":
        from finetune.evaluate.vllm_engine import engine_problems

        problems += engine_problems(recipe)
    notes: list[str] = []
    try:
        notes = serving_notes(recipe)
    except RecipeError as error:
        problems += error.problems
    try:
        folder = cache if recipe.data.cache else None
        data = prepare_kept(recipe.data, recipe.seed, recipe.stage, recipe.settings, folder)
        problems += data.refusals
    except RecipeError as error:
        raise type(error)(problems + error.problems) from None
    if problems:
        raise (DataError if data.refusals else RecipeError)(problems)
    of_loss = recipe.settings.held_out_scores
    names = [*of_loss, *((*known_scores(data), FINISHED) if recipe.settings.answers else ())]
    check_gate(recipe.gate, names, elsewhere=recipe.evaluate.named)
    held_out = data.evaluate.pick(evenly(len(data.evaluate), recipe.evaluate.rows))
    data = replace(data, evaluate=held_out, notes=[*data.notes, *notes])
    if recipe.settings.answers:
        check_references(data)
        data = replace(data, notes=[*data.notes, *unsupported_references(data)])
    if isinstance(recipe.settings, RewardSection):
        check_decided(data.train, recipe.settings, "training pairs")
        check_decided(data.evaluate, recipe.settings, "held-out pairs")
    if isinstance(recipe.settings, GrpoSection):
        check_rewards(recipe.settings.rewards, row_scores(data))
        places = {key: metric.name for metric in data.metrics.values() for key in metric.places}
        if places:
            raise RecipeError([f"data.template: metric {name}: `{key}` looks into the record, which stage grpo does not have "
                               "at hand; it rewards answers by their text alone" for key, name in places.items()])  # fmt: skip
    answered = with_good_answers(data, recipe.stage)
    if recipe.gate.confident:
        _check_groups(recipe, answered)
    return data


def _check_groups(recipe: Recipe, data: Prepared) -> None:
    """Raises RecipeError where what is scored is of one group only, so that it has no interval (see groups_of)."""
    groups = groups_of(data, recipe.data.split)
    if groups.max() == 0:
        by = recipe.data.split.by if recipe.data.split else None
        why = f"have the same {by!r}" if by else "come of one row"
        raise RecipeError(f"gate.confident: all {len(groups)} held-out samples {why}: no interval can be had of them")


def with_good_answers(data: Prepared, stage: str) -> Prepared:
    """Of labelled rows, those held out whose answer was found good: a model's answers are held against them.

    Raises:
        DataError: the held-out rows are all good or all bad.
    """
    if ROWS_OF_STAGE[stage] != "labelled":
        return data
    good = np.array([sample.marks[0] == 1 for sample in data.evaluate])
    if good.all() or not good.any():
        kind = "good (true)" if good.all() else "bad (false)"
        raise DataError(f"held-out rows: all {len(good)} are labelled {kind}; both kinds are needed to compare them")
    return replace(data, evaluate=data.evaluate.pick(good))


def load_stages(recipe: Recipe, rows: int | None = None, keep: bool = True) -> list[Prepared]:
    """The data of every stage of a chain, of every part of a mixture, or of the one stage that a recipe is.

    Args:
        rows: each is cut to `few` of them, once all were checked.
        keep: what they came to is kept beside the run, where nothing is cut.

    Raises:
        DataError, RecipeError: as `load_data`, of all of them; rows that leak from one stage into another.
    """
    stages = recipe.stages or recipe.mixture or (recipe,)
    data, problems = [], []
    for stage in stages:
        try:
            own = stage.model_copy(update={"gate": GateSection()}) if recipe.mixture else stage
            data.append(load_data(own, prepared_cache(recipe) if keep and rows is None else None))
        except RecipeError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            kind = type(error)
    if problems:
        raise kind(problems)
    if recipe.mixture:
        check_gate(recipe.gate, _known_of_parts(recipe, data), elsewhere=recipe.evaluate.named)
        for part, its in zip(stages, data, strict=True) if recipe.gate.confident else ():
            _check_groups(part, with_good_answers(its, part.stage))
        for index in range(len(stages)):  # each part's held-out rows against the other parts
            check_leaks(
                [*stages[:index], *stages[index + 1 :], stages[index]], [*data[:index], *data[index + 1 :], data[index]]
            )
    else:
        check_leaks(stages, data)
    return data if rows is None else [few(its, rows) for its in data]


def _known_of_parts(recipe: Recipe, data: Sequence[Prepared]) -> list[str]:
    """Scores of a mixture: each part's, with its name before them."""
    return [
        f"{part_name(recipe, part)}/{name}"
        for part, its in zip(recipe.mixture, data, strict=True)
        for name in (*part.settings.held_out_scores, *((*known_scores(its), FINISHED) if part.settings.answers else ()))
    ]


def part_name(recipe: Recipe, part: Recipe) -> str:
    """A part's own name; empty for a recipe that is no mixture."""
    return part.name.removeprefix(f"{recipe.name}.") if recipe.mixture else ""


def _without_effect(recipe: Recipe) -> list[str]:
    """Settings that a reward model has no use for."""
    if recipe.settings.score_names and recipe.export.adapters:
        return ["export.adapters: no engine serves several reward models on one base; export each by itself"]
    return []


def known_scores(data: Prepared) -> list[str]:
    """Names that the metrics give, by the template's worked examples; those of one task as `task/name` too."""
    return [
        name for task, found in _scores_of_tasks(data) for name in (*found, *(f"{task}/{n}" for n in found if task))
    ]


def row_scores(data: Prepared) -> list[str]:
    """Names that a single answer may have a score under."""
    found = _scores_of_tasks(data, row_score_names)
    return [*dict.fromkeys(name for _task, names in found for name in names), FINISHED]


def _scores_of_tasks(
    data: Prepared, names: Callable[[str, Metric], list[str]] = score_names
) -> list[tuple[str, list[str]]]:
    """The task (empty where there is one only) and the names of its scores, of each of the template's examples."""
    if data.template is None:
        return [("", names(data.evaluate[0].answer, data.metrics[""]))]
    found = []
    for example in data.template.examples:
        task = (example.task or "") if len(data.metrics) > 1 else ""
        check_metric(data.metrics[task], str(data.template.path))
        found.append((task, names(example.answer, data.metrics[task])))
    return found


def make_stage(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    """The recipe's stage and the encoder it shares with evaluation."""
    from finetune.data.encode import make_encoder
    from finetune.stages import STAGES

    encoder = make_encoder(tokenizer, recipe.data, recipe.settings)
    pad_to = 32 if recipe.train.torch_compile else 1  # fewer shapes to compile
    return STAGES[recipe.stage](encoder, recipe.data, recipe.settings, pad_to), encoder


def encode(recipe: Recipe, data: Prepared, encoder: Encoder, folder: Path, log: Log) -> ExampleStore:
    """The training samples as examples, out of the cache in `folder` where it has them."""
    from finetune.data.cache import encode_cached, encode_uncached, evict
    from finetune.data.encode import EncodeSamples
    from finetune.model.load import load_tokenizer

    # Other processes load the tokenizer; where this one does the work it is there.
    load = partial(load_tokenizer, recipe.model) if recipe.data.workers > 1 else lambda: encoder.tokenizer
    make = EncodeSamples(load, recipe.data, recipe.stage, recipe.settings)
    blocks = track(data.train.blocks(), "encoding", len(data.train), size=lambda block: len(block.pickles))
    if not recipe.data.cache:
        return encode_uncached(blocks, make, recipe.data.workers)
    key = encoding_key(recipe, data, encoder.tokenizer)
    store, hit = encode_cached(blocks, make, key, folder, recipe.data.workers)
    log.say(f"encoding: {'from the cache' if hit else 'now in the cache'}: {folder / key[:12]}...")
    removed, freed = evict(folder, key)
    if removed:
        log.say(f"encoding: {removed} older cache entries removed from {folder}, {freed / 2**20:,.0f} MiB")
    return store


def encoding_key(recipe: Recipe, data: Prepared, tokenizer: Any) -> str:
    """The name of the encoded training samples in the cache."""
    from finetune.data.cache import cache_key
    from finetune.data.contamination import benchmark_files

    files = [*data.files, *benchmark_files(recipe.data.screen.benchmarks)]
    text = data.template.path.read_text(encoding="utf-8") if data.template else None
    rest = [recipe.stage, str(recipe.seed)]
    if isinstance(recipe.settings, RewardSection | CptSection):
        rest.append(recipe.settings.model_dump_json())  # decides the marks, or what a document is
    return cache_key(files, tokenizer, recipe.data, text, rest=rest)


def encoded_lines(store: ExampleStore, max_length: int) -> tuple[str, str]:
    """How many examples and tokens there are, what happened to rows on the way, and how long examples are."""
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


def data_record_of_parts(recipe: Recipe, data: Sequence[Prepared], counts: Sequence[dict[str, int]]) -> dict[str, Any]:
    """What the manifest says of the data of a mixture: of all parts together, and of each under `parts`."""
    records = [data_record(its, own) for its, own in zip(data, counts, strict=True)]
    if not recipe.mixture:
        return records[0]
    whole: dict[str, Any] = {"template": None, "template_sha256": None}
    whole["sources"] = [source for record in records for source in record["sources"]]
    for key in ("train_samples", "evaluate_samples", "dropped_by_template"):
        whole[key] = sum(record[key] for record in records)
    for key in ("screening", "encoding"):
        whole[key] = dict(sum((Counter(record[key]) for record in records), Counter[str]()))
    names = [part_name(recipe, part) for part in recipe.mixture]
    return whole | {"parts": dict(zip(names, records, strict=True))}
