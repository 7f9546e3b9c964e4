"""One stage's plan: its model's numbers, its rows' lengths, the memory and the time that they come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from finetune.device import DEVICES, attentions
from finetune.errors import RecipeError
from finetune.plan.activations import DOCUMENTS, Keeping
from finetune.plan.hardware import Hardware
from finetune.plan.memory import ALONE, Memory, Share, memory_of, state_bytes
from finetune.plan.pace import Work, forward_only, optimizing, training
from finetune.plan.rows import MicroBatch, Rows, steps
from finetune.plan.shape import Shape, shape_of
from finetune.plan.skeleton import build, build_base
from finetune.recipe import ModelSection, Recipe
from finetune.schedule import Plan, plan


@dataclass(frozen=True)
class Estimate:
    """What a stage takes on some hardware.

    Attributes:
        layout: batch arithmetic. dtype: that is computed in.
        largest: the micro-batch with most memory, which `memory` is of.
        tokens, filled: real tokens, and with filling, of an average step of one process.
        step: seconds of an average step. before: seconds of the reference's passes that are made before training.
        epoch_steps: optimizer steps that make an epoch.
    """

    shape: Shape
    rows: Rows
    layout: Plan
    dtype: str
    memory: Memory
    largest: MicroBatch
    tokens: float
    filled: float
    step: float
    before: float
    epoch_steps: float

    @property
    def seconds(self) -> float:
        """Of the run's training."""
        return self.before + self.step * self.layout.steps

    @property
    def epoch_seconds(self) -> float:
        return self.step * self.epoch_steps

    def fits(self, hardware: Hardware) -> bool:
        return self.memory.total <= hardware.memory


def refuse(recipe: Recipe) -> None:
    """Raises RecipeError for what the arithmetic does not cover."""
    if recipe.mixture:
        raise RecipeError("plan: a mixture's steps are not covered yet; plan each part as a recipe of its own")
    if recipe.settings.explores:
        raise RecipeError(
            f"plan: stage {recipe.stage} makes its own answers, whose length nobody knows before; not covered. Plan the same "
            "recipe with --set stage=sft for the memory of its training passes"
        )


def dtype_on(asked: str, hardware: Hardware) -> str:
    """The dtype of the run: `auto` as the device decides, on hardware that is not here bfloat16.

    Raises:
        RecipeError: the device has no such dtype.
    """
    device = DEVICES[hardware.device]
    if asked not in ("auto", *device.dtypes):
        raise RecipeError(f"model.dtype: {asked!r} does not run on {device.name}; allowed: {', '.join(device.dtypes)}")
    if asked != "auto":
        return asked
    return "bfloat16" if device.name != "cpu" or device.bfloat16() else "float32"


class Shapes:
    """Skeletons by what they depend on: advice asks for the same one many times."""

    def __init__(self) -> None:
        self._made: dict[Any, Shape] = {}

    def of(self, recipe: Recipe, hardware: Hardware, dtype: str) -> Shape:
        key = (recipe.model, recipe.peft_type, recipe.adapter.model_dump_json(), recipe.train.optim == "lora_fa",
               recipe.settings.score_names, hardware.device, dtype)  # fmt: skip
        return self._once(key, lambda: student(recipe, hardware, dtype))

    def of_teacher(self, recipe: Recipe, hardware: Hardware, dtype: str) -> Shape:
        return self._once((recipe.distill, hardware.device, dtype), lambda: teacher(recipe, hardware, dtype))

    def _once(self, key: Any, make: Callable[[], Shape]) -> Shape:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def student(recipe: Recipe, hardware: Hardware, dtype: str) -> Shape:
    """The shape of what is trained."""
    import torch

    from finetune.model.load import original_tokenizer
    from finetune.model.quantization import describe
    from finetune.model.tiny_base import config_of

    attention, _ = attentions(recipe.model.attn_implementation, DEVICES[hardware.device])
    tokenizer = original_tokenizer(recipe.model) if recipe.model.add_tokens else None
    config = config_of(recipe.model)
    told = getattr(config, "quantization_config", None)
    model = build(recipe, config, getattr(torch, dtype), attention, tokenizer)
    stored = {"quantization_config": told if isinstance(told, dict) else told.to_dict()} if told else None
    how = describe(recipe.model.quantization, None if recipe.model.gguf_file else stored)
    quantised = (how["method"], how["settings"]) if how else None
    return shape_of(model, quantised, 4 if dtype == "float32" else 2)


def teacher(recipe: Recipe, hardware: Hardware, dtype: str) -> Shape:
    """The shape of a distillation's teacher, in its own dtype."""
    import torch

    from finetune.model.tiny_base import config_of

    section = recipe.distill.teacher  # type: ignore[union-attr]
    own = dtype_on(dtype if section.dtype == "auto" else section.dtype, hardware)
    model = ModelSection(**section.model_dump(exclude={"adapter_name_or_path", "dtype"}))
    attention, _ = attentions("auto", DEVICES[hardware.device])
    config = config_of(model, "distill.teacher.name_or_path")
    return shape_of(build_base(model, config, getattr(torch, own), attention), None, 4 if own == "float32" else 2)


def is_fused(recipe: Recipe, hardware: Hardware, share: Share = ALONE) -> bool:
    """Whether the CPU's fused ops compute the layers, as far as a recipe tells: each is compared with the plain one when
    the model is there."""
    model, settings = recipe.model, recipe.adapter.settings()
    plain = recipe.peft_type == "lora" and not (settings.get("lora_dropout") or settings.get("use_dora"))
    whole = share.engine not in ("fsdp2", "zero3") and model.quantization == "none"
    offered = bool(model.fused_ops) and not recipe.train.torch_compile and model.attn_implementation == "auto"
    return hardware.device == "cpu" and plain and whole and offered


def shares_prefixes(recipe: Recipe, shape: Shape, share: Share) -> bool:
    """Whether pairs are computed with their prompt once, as far as a recipe tells; see finetune/probes.py."""
    wanted = getattr(recipe.settings, "prefix_sharing", False)
    alone = recipe.train.neftune_noise_alpha or shape.prefix or share.engine in ("fsdp2", "zero3")
    return bool(wanted) and not alone


def keeping_of(recipe: Recipe, other: Shape | None, fused: bool = False) -> Keeping:
    settings = recipe.adapter.settings()
    return Keeping(
        fused=fused,
        checkpointed=recipe.train.gradient_checkpointing,
        offloaded=recipe.train.activation_offloading,
        dropout=bool(settings.get("lora_dropout") or settings.get("vera_dropout")),
        frozen_down=recipe.train.optim == "lora_fa",
        smoothed=bool(getattr(recipe.settings, "label_smoothing_factor", 0)),
        distilled=other.computes if other else 0,
    )


def estimate(
    recipe: Recipe, rows: Rows, hardware: Hardware, share: Share = ALONE, shapes: Shapes | None = None
) -> Estimate:
    """The plan of one stage.

    Raises:
        RecipeError: what `refuse` refuses; a batch that does not divide; a base or adapter that can't be built.
    """
    refuse(recipe)
    shapes = shapes or Shapes()
    dtype = dtype_on(recipe.model.dtype, hardware)
    shape = shapes.of(recipe, hardware, dtype)
    other = shapes.of_teacher(recipe, hardware, dtype) if recipe.distill else None
    fused = is_fused(recipe, hardware, share)
    if fused:
        shape = replace(shape, attention=DOCUMENTS)
    section, keeping = recipe.train, keeping_of(recipe, other, fused)
    layout = plan(section, rows.items, share.processes, DEVICES[hardware.device].auto_micro_batch)
    looked = list(steps(rows, recipe, layout, joined=fused, shared=shares_prefixes(recipe, shape, share)))

    def memory(batch: MicroBatch) -> Memory:
        return memory_of(shape, batch, keeping, section.optim, hardware, share, other, conversion(recipe, shape, dtype))

    distinct = dict.fromkeys(batch for step in looked for batch in step)
    largest = max(distinct, key=lambda batch: memory(batch).training)
    works = {batch: work(recipe, shape, other, batch, keeping) for batch in distinct}
    state = sum(state_bytes(section.optim, tensor) for tensor in shape.adapter if tensor.trained)
    total = sum((works[batch] for step in looked for batch in step), Work())
    seconds = total.seconds(hardware, dtype) / len(looked) + optimizing(shape.trained, state).seconds(hardware, dtype)
    before = 0.0
    if recipe.settings.precomputes_reference:
        once = sum((forward_only(shape, batch, fused=fused) for step in looked for batch in step), Work())
        twice = 2 if recipe.stage == "kto" else 1  # its answers, and those of other prompts
        steps_of_epoch = min(layout.steps, rows.items / layout.drawn)
        before = twice * once.seconds(hardware, dtype) / len(looked) * steps_of_epoch
    return Estimate(
        shape, rows, layout, dtype, memory(largest), largest,
        sum(batch.real for step in looked for batch in step) / len(looked),
        sum(batch.tokens for step in looked for batch in step) / len(looked),
        seconds, before, rows.items / layout.drawn,
    )  # fmt: skip


def work(recipe: Recipe, shape: Shape, other: Shape | None, batch: MicroBatch, keeping: Keeping) -> Work:
    """What a stage computes of one micro-batch: the training pass and those without gradient beside it."""
    found = training(shape, batch, keeping)
    kind = recipe.stage
    if kind == "dpo" and not recipe.settings.precomputes_reference:
        found += forward_only(shape, batch, fused=keeping.fused)
    if kind == "kto":  # answers of other rows, about as long: the policy's view of them, and the reference's of both
        found += forward_only(shape, batch, adapted=True, fused=keeping.fused)
        if not recipe.settings.precomputes_reference:
            once = forward_only(shape, batch, fused=keeping.fused)
            found += once + once
    if other is not None:
        found += forward_only(other, batch)
    return found


def conversion(recipe: Recipe, shape: Shape, dtype: str) -> int | None:
    """Bytes beside the base while a GGUF file is de-quantised: its weights in float32; None for other bases."""
    return shape.parameters * 4 if recipe.model.gguf_file else None
