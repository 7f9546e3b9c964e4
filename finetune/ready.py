"""All that training needs, made ready: base, adapter, stage and encoded rows; nothing is written but the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.basefit import serving_notes
from finetune.chain import BASE
from finetune.data.prepare import Prepared
from finetune.inputs import encode, encoded_lines, findings_lines, make_stage, part_name
from finetune.optimizer import OPTIMIZERS
from finetune.probes import check_packing, share_prefixes
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.data.items import Item
    from finetune.device import Placement
    from finetune.log import Log
    from finetune.model.coverage import Coverage
    from finetune.model.fused import Fused
    from finetune.model.load import Base
    from finetune.stages.base import Stage
    from finetune.stages.mixture import Mixture

GGUF = ".gguf"  # de-quantised bases, beside the encoded rows


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
        fresh: the trainable parameters by name as the adapter was added, where turning it off does not give the base.
        start: the same at the start of training, where the policy then is not the base without its adapter.
        about: what stages prepared, for the manifest and a run that resumes.
        fused: a context in which the model computes with fused ops, as it is trained and evaluated.
        rewards: names of a score head's numbers; empty for a language model.
    """

    base: Base
    model: Any
    fused: Fused
    parts: Sequence[ReadyPart]
    stage: Stage | Mixture
    examples: Sequence[Item]
    held_out: Sequence[Item]
    ends: set[int]
    lora: str
    initial: dict[str, Any] | None
    fresh: dict[str, Any] | None
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
    from finetune.model.adapter import initial_weights, trains_biases
    from finetune.model.quantise import check_whole_modules, start_with_loftq
    from finetune.model.quantization import plain_init
    from finetune.model.start import KEY, start_from
    from finetune.model.tokens import check_same_tokens
    from finetune.stages.base import Prepares
    from finetune.stages.mixture import Mixture, MixturePart

    recipes = recipe.mixture or (recipe,)
    for own, its in zip(recipes, data, strict=True):
        _tell_data(part_name(recipe, own), its, log)
    cache = cache or recipe_cache(recipe)
    base = load_base_of(recipe, placement, cache.with_name(GGUF) if recipe.data.cache else None)
    check_beside(recipe.export.adapters, recipe.name, base.identity, base.source.name)
    asked = [its for own, its in zip(recipes, data, strict=True) if own.settings.answers]
    check_tokenizer(
        base.tokenizer,
        [list(sample.prompt) for its in asked for sample in its.evaluate],
        recipe.export.targets,
        any(sample.tools for its in asked for sample in its.evaluate),
    )
    parts = [
        _ready_part(part_name(recipe, own), own, its, base.tokenizer, cache, placement, log)
        for own, its in zip(recipes, data, strict=True)
    ]
    ends = set().union(*(part.ends for part in parts))
    tell_ends(base, ends, recipe.settings.score_names)
    about: dict[str, Any] = {}
    for part in parts:
        if isinstance(part.stage, Prepares):
            told = part.stage.prepare(base.model, part.data.metrics, placement)
            about |= {f"{part.name}/{key}" if part.name else key: value for key, value in told.items()}
    if base.added.ids:
        log.say(f"tokens: {base.added.line()}")
        about["model.add_tokens"] = base.added.record()
    adapter = plain_init(recipe.adapter)
    if base.quantization:
        log.say(f"base: {base.quantization['method']}{', as it lies' if base.quantization['stored'] else ''}")
        check_whole_modules(base.model, adapter.model_dump().get("modules_to_save"))
    model, coverage = add_adapter_of(recipe, base)
    log.say(f"{recipe.peft_type}: {coverage.line()}")
    serving_notes(recipe, sorted(getattr(model.peft_config["default"], "target_parameters", None) or ()))
    initial = initial_weights(model, adapter)
    # With the adapter off, the model is not the base where the adapter changed that, or where the base's biases train.
    fresh = full_tensors(model) if initial is not None or trains_biases(recipe.adapter) else None
    if recipe.model.adapter_name_or_path:
        check_same_tokens(base.added, Path(recipe.model.adapter_name_or_path), KEY)
        log.say(f"{recipe.peft_type}: {start_from(model, Path(recipe.model.adapter_name_or_path), base.source.name)}")
    elif adapter != recipe.adapter:
        start_with_loftq(model, base.source.folder())
    fused = fused_ops_of(recipe, model, placement, log.say)
    with fused:
        check_packing(recipes, model, placement, log)
        share_prefixes(parts, model, placement, log)
    # LoftQ's adapter is none of nothing: the policy before training has it, the base (adapter off) has not.
    start = full_tensors(model) if recipe.model.adapter_name_or_path or adapter != recipe.adapter else fresh
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
        fused,
        parts,
        stage,
        examples,
        held_out,
        ends,
        coverage.line(),
        initial,
        fresh,
        start,
        about,
        recipe.settings.score_names,
    )


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


def load_base_of(recipe: Recipe, placement: Placement, cache: Path | None = None) -> Base:
    """The base, under a score head of zeros where the stage trains one.

    Args:
        cache: where a GGUF base is kept de-quantised.
    """
    from finetune.model.load import load_base
    from finetune.model.score import with_score_head

    base = load_base(recipe.model, placement, recipe.output_dir / BASE, cache)
    rewards = recipe.settings.score_names
    return replace(base, model=with_score_head(base.model, rewards)) if rewards else base


def add_adapter_of(recipe: Recipe, base: Base) -> tuple[Any, Coverage]:
    """The peft model with the recipe's adapter, its added tokens' rows among what is trained; and what it covers."""
    from finetune.model.adapter import add_adapter
    from finetune.model.quantise import named_targets
    from finetune.model.quantization import plain_init
    from finetune.model.tokens import with_token_rows

    section = with_token_rows(plain_init(recipe.adapter), base.model, base.added)
    if base.quantization:
        section = named_targets(base.model, section)
    return add_adapter(base.model, section, recipe.seed, OPTIMIZERS[recipe.train.optim].freezes_down)


def fused_ops_of(recipe: Recipe, model: Any, placement: Placement, say: Callable[[str], None]) -> Fused:
    """The device's fused ops in the model, where the recipe leaves them on; none where the device has none.

    Compiled layers are fused by the compiler. An engine that spreads the weights gathers them
    around each module's own forward, which LoRA's product would go past. An attention that the recipe names stays.
    """
    from finetune.engine import shards
    from finetune.model.fused import Fused, fuse

    if not recipe.model.fused_ops or recipe.train.torch_compile:
        return Fused()
    kernels = placement.device.kernels()
    if shards(placement):
        kernels = replace(kernels, lora=False)
    if recipe.model.attn_implementation != "auto":
        kernels = replace(kernels, attention=None)
    return fuse(model, kernels, placement.torch_dtype, placement.accelerator.device, say)


def tell_ends(base: Base, ends: set[int], rewards: tuple[str, ...]) -> None:
    """Configurations say where an answer stops, or which token is padding and no conversation's last."""
    from finetune.model.load import set_stop_ids
    from finetune.model.score import choose_padding

    if rewards:
        choose_padding(base.model, base.tokenizer, ends)
    else:
        set_stop_ids(base.model, base.tokenizer, ends)
