"""What to change: settings that take less memory, each worked out anew by the same arithmetic, most useful first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from finetune.errors import RecipeError
from finetune.model.quantization import METHODS
from finetune.optimizer import OPTIMIZERS
from finetune.plan.estimate import Estimate
from finetune.plan.hardware import Hardware
from finetune.recipe import Recipe

LEAST = 0.01  # of memory or time: a change that saves less is not worth a line
LENGTHS = (0.75, 0.5, 0.25)  # of the longest row, as data.max_length
LIGHTER = ("adamw_8bit", "adafactor")  # optimizers with less state
SHORTEST = 32  # tokens: no advice below
ROUNDS = 5  # changes put together at most
ROOM = 0.9  # of the memory: up to it there is room, above it a plan that fits may be wrong


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
    """Where it does not fit, or barely: changes that save memory; those that make it fit first, the fastest of them first,
    then by what they save; where none is enough alone, the last line is several together. Where there is room: changes
    that use it to be faster.

    Args:
        again: the same arithmetic with further settings; raises RecipeError where they can't be had.
    """
    roomy = now.memory.total <= ROOM * hardware.memory
    wanted = faster(recipe, now) if roomy else lighter(recipe, now, hardware)
    found = [one for change, note in wanted if (one := _tried(change, note, hardware, again))]
    if roomy:
        useful = [one for one in found if one.fits and one.seconds < now.seconds * (1 - LEAST)]
        return sorted(useful, key=lambda one: one.seconds)
    least = LEAST * (now.memory.total - now.memory.reserve)
    found = [one for one in found if now.memory.total - one.memory >= least]
    found.sort(key=lambda one: (not one.fits, one.seconds if one.fits else one.memory))
    if now.fits(hardware) or any(one.fits for one in found):
        return found
    together = _together(now, hardware, again, found)
    return [*found, together] if together else found


Change = tuple[tuple[str, ...], str]  # settings, and what they cost beside time


def faster(recipe: Recipe, now: Estimate) -> list[Change]:
    """Settings that take memory to be faster; the run stays the same."""
    share = now.layout.global_batch // now.layout.processes
    larger = [size for size in range(now.layout.micro_batch + 1, share + 1) if share % size == 0]
    found: list[Change] = [((f"train.micro_batch_size={size}",), "") for size in larger[:3]]
    for key in ("gradient_checkpointing", "activation_offloading"):
        if getattr(recipe.train, key):
            found.append(((f"train.{key}=false",), ""))
    return found


def lighter(recipe: Recipe, now: Estimate, hardware: Hardware) -> list[Change]:
    """Settings that save memory, harmless ones first."""
    section, found = recipe.train, list[Change]()
    share = now.layout.global_batch // now.layout.processes
    smaller = [size for size in range(1, now.layout.micro_batch) if share % size == 0]
    found += [((f"train.micro_batch_size={size}",), "") for size in dict.fromkeys([*smaller[-1:], *smaller[:1]])]
    if not section.gradient_checkpointing:
        found.append((("train.gradient_checkpointing=true",), ""))
    if not section.activation_offloading and not section.torch_compile and hardware.device != "cpu":
        note = "activations travel to the host and back, which is not timed here"
        found.append((("train.activation_offloading=true",), note))
    if now.shape.attention == "eager":
        found.append((("model.attn_implementation=sdpa",), ""))
    for name in LIGHTER:
        if section.optim.startswith("adamw_torch") and hardware.device in OPTIMIZERS[name].devices:
            found.append(((f"train.optim={name}",), "another optimizer: its rate may have to be chosen anew"))
    if recipe.model.quantization == "none" and not recipe.model.gguf_file:
        here = [name for name in ("nf4", "int8_weight_only") if hardware.device in METHODS[name].devices]
        found += [((f"model.quantization={name}",), "the base's weights lose digits") for name in here]
    if now.dtype == "float32":
        found.append((("model.dtype=bfloat16",), "products are rounded to bfloat16"))
    return found + _shorter(recipe, now) + _fewer_targets(recipe, now)


def _shorter(recipe: Recipe, now: Estimate) -> list[Change]:
    policy = () if recipe.data.too_long != "error" or recipe.data.packing else ("data.too_long=drop",)
    what = "dropped" if policy or recipe.data.too_long == "drop" else "cut or split"
    lengths = [int(now.rows.longest * part) // 8 * 8 for part in LENGTHS]
    return [
        ((f"data.max_length={length}", *policy), f"longer rows are {what}") for length in lengths if length >= SHORTEST
    ]


def _fewer_targets(recipe: Recipe, now: Estimate) -> list[Change]:
    if recipe.peft_type != "lora" or recipe.adapter.settings().get("target_modules") != "all-linear":
        return []
    return [((f"lora.target_modules={_attention_only(now)}",), "the adapter can learn less")]


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


def _together(now: Estimate, hardware: Hardware, again: Again, found: Sequence[Advice]) -> Advice | None:
    """Changes one on top of another, the greatest saving first, until it fits; None where nothing is enough."""
    best: tuple[str, ...] = ()
    least, used = now.memory.total, list[str]()
    for _ in range(ROUNDS):
        keys = {word.partition("=")[0] for word in best}
        tries = [
            (one, single.note)
            for single in found
            if not keys & {word.partition("=")[0] for word in single.settings}
            and (one := _tried((*best, *single.settings), "", hardware, again))
        ]
        if not tries:
            return None
        chosen, note = min(tries, key=lambda each: each[0].memory)
        if chosen.memory >= least:
            return None
        best, least = chosen.settings, chosen.memory
        used += [note] if note and note not in used else []
        if chosen.fits:
            return replace(chosen, note="; ".join(used))
    return None
