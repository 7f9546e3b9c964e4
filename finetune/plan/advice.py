"""What to change: settings that take less memory, each worked out anew by the same arithmetic, most useful first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune.errors import RecipeError
from finetune.model.quantization import METHODS
from finetune.optimizer import OPTIMIZERS
from finetune.plan.estimate import Estimate
from finetune.plan.hardware import Hardware
from finetune.recipe import Recipe

LEAST = 0.01  # of the memory: a change that saves less is not worth a line
LENGTHS = (0.75, 0.5, 0.25)  # of the longest row, as data.max_length
LIGHTER = ("adamw_8bit", "adafactor")  # optimizers with less state
ROUNDS = 5  # changes put together at most


@dataclass(frozen=True)
class Advice:
    """One change, or several together.

    Attributes:
        settings: KEY=VALUE, as --set takes them. memory: bytes with them. seconds: of the run's training with them.
        fits: whether that is enough. note: what it costs beside time; empty where the run stays the same.
    """

    settings: tuple[str, ...]
    memory: int
    seconds: float
    fits: bool
    note: str


# (recipe with these settings) -> its estimate
Again = Callable[[Sequence[str]], Estimate]


def advise(recipe: Recipe, now: Estimate, hardware: Hardware, again: Again) -> list[Advice]:
    """Changes that save memory: those that make it fit first, the fastest of them first; then by what they save.

    Where none is enough alone, the last line is several together.

    Args:
        again: the same arithmetic with further settings; raises RecipeError where they can't be had.
    """
    found = [one for change, note in changes(recipe, now, hardware) if (one := _tried((change,), note, hardware, again))]
    found = [one for one in found if one.memory < now.memory.total * (1 - LEAST)]
    found.sort(key=lambda one: (not one.fits, one.seconds if one.fits else one.memory))
    if now.fits(hardware) or any(one.fits for one in found):
        return found
    together = _together(recipe, now, hardware, again, found)
    return [*found, together] if together else found


def changes(recipe: Recipe, now: Estimate, hardware: Hardware) -> list[tuple[str, str]]:
    """Settings to try, each with what it costs beside time; harmless ones first."""
    section, found = recipe.train, []
    share = now.layout.global_batch // now.layout.processes
    smaller = [size for size in range(1, now.layout.micro_batch) if share % size == 0]
    found += [(f"train.micro_batch_size={size}", "") for size in dict.fromkeys([*smaller[-1:], *smaller[:1]])]
    if not section.gradient_checkpointing:
        found.append(("train.gradient_checkpointing=true", ""))
    if not section.activation_offloading and not section.torch_compile and hardware.device != "cpu":
        found.append(("train.activation_offloading=true", "activations travel to the host and back; not timed here"))
    if recipe.model.attn_implementation != "sdpa" and now.shape.attention == "eager":
        found.append(("model.attn_implementation=sdpa", ""))
    for name in LIGHTER:
        kind = OPTIMIZERS[name]
        if section.optim.startswith("adamw_torch") and hardware.device in kind.devices:
            found.append((f"train.optim={name}", "another optimizer: rates may have to be chosen anew"))
    if recipe.model.quantization == "none" and not recipe.model.gguf_file:
        here = [name for name in ("nf4", "int8_weight_only") if hardware.device in METHODS[name].devices]
        found += [(f"model.quantization={name}", "the base's weights lose digits") for name in here]
    if now.dtype == "float32":
        found.append(("model.dtype=bfloat16", "products are rounded to bfloat16"))
    for part in LENGTHS:
        length = int(now.rows.longest * part) // 8 * 8
        if length >= 64:
            found.append((f"data.max_length={length}", f"rows above {length} tokens are dropped, cut or refused"))
    targets = recipe.adapter.settings().get("target_modules")
    if targets == "all-linear" and recipe.peft_type == "lora":
        found.append((f"lora.target_modules={_attention_only(now)}", "the adapter learns less"))
    return found


def _attention_only(now: Estimate) -> str:
    """The adapted layers of attention by name, as a YAML list."""
    named = [tensor.name.split(".") for tensor in now.shape.adapter if ".lora_A." in tensor.name]
    kinds = dict.fromkeys(parts[parts.index("lora_A") - 1] for parts in named if any("attn" in part for part in parts))
    return f"[{', '.join(kinds)}]" if kinds else "[q_proj, v_proj]"


def _tried(settings: tuple[str, ...], note: str, hardware: Hardware, again: Again) -> Advice | None:
    try:
        then = again(settings)
    except RecipeError:  # not with the rest of this recipe
        return None
    return Advice(settings, then.memory.total, then.seconds, then.fits(hardware), note)


def _together(
    recipe: Recipe, now: Estimate, hardware: Hardware, again: Again, found: Sequence[Advice]
) -> Advice | None:
    """Changes one on top of another, the greatest saving first, until it fits; None where nothing is enough."""
    best, least = (), now.memory.total
    for _ in range(ROUNDS):
        keys = {word.partition("=")[0] for word in best}
        tries = [
            one
            for single in found
            if single.settings[0].partition("=")[0] not in keys
            and (one := _tried((*best, *single.settings), single.note, hardware, again))
        ]
        chosen = min(tries, key=lambda one: one.memory, default=None)
        if chosen is None or chosen.memory >= least:
            return None
        best, least = chosen.settings, chosen.memory
        if chosen.fits:
            notes = {one.settings[0]: one.note for one in found}
            return Advice(
                best, chosen.memory, chosen.seconds, True,
                "; ".join(dict.fromkeys(filter(None, (notes[word] for word in best)))),
            )  # fmt: skip
    return None
