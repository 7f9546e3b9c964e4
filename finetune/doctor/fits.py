"""Can this machine run that recipe? Its device, dtype, attention, optimiser and quantisation against what is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.device import DEVICES, attention_problem
from finetune.doctor.finding import ERROR, WARNING, Finding, error, ok
from finetune.errors import RecipeError
from finetune.recipe import Recipe

ABOVE = "the lines above say why; `device: auto` takes what there is"


@dataclass(frozen=True)
class Here:
    """What can be computed on. bf16: whether it computes bfloat16 at full speed. idle: kinds that are for inference only."""

    bf16: Mapping[str, bool]
    idle: Sequence[str] = ()


def check_recipe(path: Path, overrides: Sequence[str], here: Here) -> list[Finding]:
    """A line for each thing that is wrong; one that says how it will run where nothing is."""
    from finetune.recipefile import load_recipe

    try:
        recipe = load_recipe(path, overrides)
    except RecipeError as mistake:
        return [error("recipe", problem, "`finetune check` after mending it") for problem in mistake.problems]
    findings = [line for stage in recipe.stages or recipe.mixture or (recipe,) for line in fits(stage, here)]
    return list(dict.fromkeys(findings))


def fits(recipe: Recipe, here: Here) -> list[Finding]:
    """The lines of one stage."""
    from finetune.model.quantization import device_problems, quantization_problems
    from finetune.recipe_train import device_problems as training_problems

    name = recipe.device
    if name == "auto":
        name = next(kind for kind in ("npu", "cuda", "cpu") if kind in here.bf16)
    elif name not in here.bf16:
        usable = ", ".join(here.bf16)
        return [error("recipe", f"device: {name!r} can't be used on this machine; usable: {usable}", ABOVE)]
    problems = []
    if name in here.idle:
        problems.append(f"device: {name!r}: this processor is for inference only")
    problems.append(attention_problem(recipe.model.attn_implementation, DEVICES[name]))
    problems += training_problems(recipe.train, name)
    method = recipe.model.quantization
    problems += quantization_problems(recipe, None)
    problems += device_problems(method, False, name) if method != "none" else []
    lines = [error("recipe", problem, "change the recipe, or run it elsewhere") for problem in problems if problem]
    lines = list(dict.fromkeys(lines))
    slow = _dtype(recipe.model.dtype, name, here)
    if slow:
        lines.append(slow)
    if lines:
        return lines
    attention = recipe.model.attn_implementation
    attention = next(iter(DEVICES[name].attention)) if attention == "auto" else attention
    dtype = recipe.model.dtype
    dtype = ("bfloat16" if here.bf16[name] else "float32") if dtype == "auto" else dtype
    return [ok("recipe", f"runs here on {name}, {dtype}, attention {attention}, quantisation {method}")]


def _dtype(asked: str, name: str, here: Here) -> Finding | None:
    """bfloat16 where the processor does not compute it: refused on some, imitated and slow on others."""
    if asked not in ("auto", *DEVICES[name].dtypes):
        allowed = ", ".join(DEVICES[name].dtypes)
        return error("recipe", f"model.dtype: {asked!r} does not run on {name}; allowed: {allowed}", "or auto")
    if asked != "bfloat16" or here.bf16[name]:
        return None
    imitated = DEVICES[name].imitates_bfloat16
    said = f"model.dtype: 'bfloat16': this {name} {'only imitates it, slowly' if imitated else 'does not compute it'}"
    return Finding("recipe", WARNING if imitated else ERROR, said, "model.dtype: auto or float32")
