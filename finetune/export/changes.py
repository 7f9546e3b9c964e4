"""What an adapter does to each parameter of its base: read from peft's files, computed in float32."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from finetune.errors import GateError, RecipeError
from finetune.export.adapterfile import residual_init
from finetune.export.multiplied import Rotation, Scaling, scalings, turned
from finetune.export.weights import FLOATS, Stored, tensors_of
from finetune.model.folder import check_folder

PREFIX = "base_model.model."
REFUSED = {
    "layer_replication": "layers are replicated, so the merged model would have another depth",
    "megatron_config": "its layers are Megatron's",
    "alora_invocation_tokens": "an activated LoRA acts on some positions only, which no weight can hold",
    "use_bdlora": "BD-LoRA is not merged",
    "use_qalora": "QALoRA is not merged",
    "arrow_config": "Arrow routing chooses between adapters for each token",
    "velora_config": "VeLoRA is not merged",
    "monteclora_config": "MonteCLoRA is not merged",
    "kasa_config": "KaSA is not merged",
}
# peft_type -> merged here as it is, or why it is not; every other one is unknown.
MERGED = ("LORA", "IA3", "OFT")
NOT_MERGED = {
    "VERA": "is written as LoRA first (finetune export does)",
    "PROMPT_TUNING": "puts virtual tokens before the prompt, which no weight can hold; serve the adapter with peft",
    "PREFIX_TUNING": "puts keys and values before the prompt, which no weight can hold; serve the adapter with peft",
}
ADVICE = "merge with peft itself if that is what you want, or train without"
_KINDS = re.compile(
    r"(?P<module>.+?)\.(?:(?P<kind>lora_A|lora_B)\.weight|(?P<bias>lora_B\.bias)|(?P<emb>lora_embedding_[AB])(?:\.weight)?"
    r"|(?P<dora>lora_magnitude_vector)(?:\.weight)?|token_adapter\.(?P<tokens>trainable_tokens_delta)"
    r"|(?P<held>(?:token_adapter\.)?base_layer|original_module|modules_to_save)\.(?P<what>weight|bias))"
)


@dataclass(frozen=True)
class LowRank:
    """delta = scale * B A, (out, in); for an embedding its transpose, (vocabulary, width).

    Attributes:
        down, up: lora_A (r, in) and lora_B (out, r); with experts (E * r, in) and (out, r * E), as peft stacks them.
        experts: 1, or how many are stacked in a parameter of three dimensions.
    """

    down: Stored
    up: Stored
    scale: float
    embedding: bool = False
    experts: int = 1


@dataclass(frozen=True)
class Change:
    """What happens to one parameter, in this order: replaced, delta and magnitude, single rows, shift; scaled, turned.

    Attributes:
        replaced: taken instead of the base's tensor (modules_to_save, trained biases, a resized vocabulary).
        original: what the adapter was trained beside, when it holds a trained copy; any layer tied to this one has it.
        frozen: `replaced` is what the adapter was trained on top of, and any layer tied to this one shares it.
        low_rank, magnitude: LoRA, and DoRA's vector m.
        rows, tokens: ids of trained tokens, and their rows.
        shift, shift_scale: lora_B's bias.
        scaling, rotation: of (IA)^3 and of OFT, which have nothing of the others.
        transposed: the weight lies as (in, out), as transformers' Conv1D has it.
    """

    replaced: Stored | None = None
    original: Stored | None = None
    frozen: bool = False
    low_rank: LowRank | None = None
    magnitude: Stored | None = None
    rows: tuple[int, ...] = ()
    tokens: Stored | None = None
    shift: Stored | None = None
    shift_scale: float = 1.0
    scaling: Scaling | None = None
    rotation: Rotation | None = None
    transposed: bool = False


@dataclass
class Adapter:
    """A PEFT folder.

    Attributes:
        config: adapter_config.json.
        changes: by name of the model's parameter.
        wrapped: LoRA of `target_parameters` by module; the first is the innermost, that of the module's first target.
    """

    config: dict[str, Any]
    changes: dict[str, Change] = field(default_factory=dict)
    wrapped: dict[str, list[dict[str, Stored]]] = field(default_factory=dict)

    def scale(self, key: str, rank: int, stacked: int = 1) -> float:
        """peft's scaling of one target, whose patterns are searched for `key` (peft.utils.other.get_pattern_key).

        Args:
            key: the module's name, or the parameter's for `target_parameters`.
            rank: of the tensors; `stacked` times that of the config.

        Raises:
            RecipeError: the config names another rank than the tensors have.
        """
        r = _pattern(self.config.get("rank_pattern"), key, self.config["r"])
        alpha = _pattern(self.config.get("alpha_pattern"), key, self.config["lora_alpha"])
        if r * stacked != rank:
            raise RecipeError(f"adapter: {key}: rank {r} in adapter_config.json, {rank / stacked:g} in the tensors")
        return alpha / math.sqrt(r) if self.config.get("use_rslora") else alpha / r


def read_adapter(folder: Path) -> Adapter:
    """The adapter's changes by parameter, every tensor checked to be finite.

    Raises:
        RecipeError: not an adapter that can be merged, with a line for each reason; files that lead out of the folder.
        GateError: a tensor holds NaN or infinity.
    """
    check_folder("adapter", str(folder))
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{folder / 'adapter_config.json'}: {error}") from None
    problems = refusals(config)
    if problems:
        raise RecipeError(problems)
    stored = tensors_of(folder / "adapter_model.safetensors")
    broken = [name for name, tensor in stored.items() if not _finite(tensor)]
    if broken:
        raise GateError(f"export stopped: the adapter's {', '.join(broken)}: not finite (NaN or infinity)")
    adapter = Adapter(config)
    if config["peft_type"] != "LORA":
        stored = _multiplied(adapter, stored)
    return _sorted_out(adapter, stored)


def _multiplied(adapter: Adapter, stored: dict[str, Stored]) -> dict[str, Stored]:
    """The changes of (IA)^3 and OFT; what else is in the file, under its full names.

    Raises:
        RecipeError: nothing of the method is in it.
    """
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    if adapter.config["peft_type"] == "IA3":
        scaled, others = scalings(plain)
        adapter.changes |= {name: Change(scaling=scaling) for name, scaling in scaled.items()}
    else:
        rotated, others = turned(adapter.config, plain)
        adapter.changes |= {name: Change(rotation=rotation) for name, rotation in rotated.items()}
    if not adapter.changes:
        raise RecipeError(f"adapter: no tensor of {adapter.config['peft_type']} in it")
    odd = [name for name in others if ".oft_" in name or ".ia3_" in name]
    if odd:
        raise RecipeError([f"adapter: {name}: only linear layers are merged; {ADVICE}" for name in odd])
    return {f"{PREFIX}{name}": tensor for name, tensor in others.items()}


def refusals(config: dict[str, Any]) -> list[str]:
    """Why an adapter with this adapter_config.json can't be merged into its base; empty when it can."""
    kind = config.get("peft_type")
    if kind not in MERGED:
        why = NOT_MERGED.get(str(kind)) or f"only {', '.join(MERGED)} are merged"
        return [f"adapter: peft_type {kind!r}: {why}"]
    if kind == "OFT" and config.get("use_cayley_neumann") and _version(config.get("peft_version")) < (0, 18):
        return [
            f"adapter: made with peft {config.get('peft_version') or 'before 0.18'}, whose Cayley-Neumann series was another "
            "one than that of today's peft: merge it with the peft that made it"
        ]
    problems = [f"adapter: {key} is set: {why}; {ADVICE}" for key, why in REFUSED.items() if config.get(key)]
    start = config.get("init_lora_weights")
    if residual_init(start):
        problems.append(
            f"adapter: init_lora_weights {start!r} changed the base before training, and this adapter is relative to that; "
            "convert it first (peft: save_pretrained(path_initial_model_for_weight_conversion=...))"
        )
    return problems


def _version(told: Any) -> tuple[int, ...]:
    """peft's version as an adapter's file has it (0.18.0.dev0@abc); (0,) where it has none, as before 0.18."""
    return tuple(int(part) for part in re.findall(r"\d+", str(told or "0"))[:2])


def _sorted_out(adapter: Adapter, stored: dict[str, Stored]) -> Adapter:
    """Each tensor put to the parameter it changes."""
    modules: dict[str, dict[str, Stored]] = {}
    nested: dict[str, dict[int, dict[str, Stored]]] = {}
    problems = []
    for full, tensor in stored.items():
        if not full.startswith(PREFIX) or tensor.dtype not in FLOATS:
            problems.append(f"adapter: {full}: not a tensor of a LoRA adapter as peft saves it")
            continue
        name = full.removeprefix(PREFIX)
        match = _KINDS.fullmatch(name)
        if match is None:  # a whole parameter: modules_to_save, a bias, a resized embedding
            adapter.changes[name] = replace(adapter.changes.get(name, Change()), replaced=tensor)
        elif match["held"]:
            _hold(adapter, f"{match['module']}.{match['what']}", match["held"], tensor)
        else:
            kind = match["kind"] or match["bias"] or match["emb"] or match["dora"] or match["tokens"]
            module = match["module"]
            depth = len(re.findall(r"\.base_layer(?=\.|$)", module))
            module = re.sub(r"\.base_layer(?=\.|$)", "", module)
            nested.setdefault(module, {}).setdefault(depth, {})[kind] = tensor
    wraps = _wrapping(adapter.config)
    for module, levels in nested.items():
        if wraps(module) and all("lora_A" in level for level in levels.values()):  # not rows of the vocabulary
            adapter.wrapped[module] = [levels[depth] for depth in sorted(levels, reverse=True)]
        else:
            modules[module] = levels[0] if set(levels) == {0} else {}
            problems += [] if modules[module] else [f"adapter: {module}: LoRA inside LoRA; {ADVICE}"]
    for module, parts in modules.items():
        try:
            _put(adapter, module, parts)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return adapter


def _hold(adapter: Adapter, name: str, where: str, tensor: Stored) -> None:
    """A whole parameter inside one of peft's wrappers, as `save_embedding_layers=True` writes it."""
    change = adapter.changes.get(name, Change())
    if where == "original_module":
        change = replace(change, original=tensor)
    elif where == "modules_to_save":
        change = replace(change, replaced=change.replaced or tensor)
    else:
        change = replace(change, replaced=tensor, frozen=True)
    adapter.changes[name] = change


def _wrapping(config: dict[str, Any]) -> Any:
    """Whether a module's LoRA acts on one of its parameters by name (`target_parameters`)."""
    targets = config.get("target_parameters") or ()
    holders = {target.rpartition(".")[0] for target in targets}

    def wraps(module: str) -> bool:
        if not targets:
            return False
        if any(holder and (module == holder or module.endswith("." + holder)) for holder in holders):
            return True
        # a bare name such as gate_up_proj: then no rule of target_modules names this module
        return "" in holders and not _targeted(module, config.get("target_modules"))

    return wraps


def _targeted(module: str, targets: Any) -> bool:
    """peft's rule: a regex for the whole name, or the end of it."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith("." + target) for target in targets or ())


def _put(adapter: Adapter, module: str, parts: dict[str, Stored]) -> None:
    """The LoRA of one module becomes the change of its weight (and bias)."""
    name = f"{module}.weight"
    change = adapter.changes.get(name, Change())
    pairs = [pair for pair in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")) if pair[0] in parts]
    for first, second in pairs:
        if second not in parts:
            raise RecipeError(f"adapter: {module}: {first} without {second}")
        down, up = parts[first], parts[second]
        if len(down.shape) != 2 or len(up.shape) != 2:
            raise RecipeError(f"adapter: {module}: LoRA on a convolution, shape {list(down.shape)}; {ADVICE}")
        if down.shape[0] != up.shape[1]:
            raise RecipeError(f"adapter: {module}: {first} has rank {down.shape[0]}, {second} {up.shape[1]}")
        scale = adapter.scale(module, down.shape[0])
        change = replace(change, low_rank=LowRank(down, up, scale, embedding=first == "lora_embedding_A"))
        if "lora_B.bias" in parts:
            bias = adapter.changes.get(f"{module}.bias", Change())
            adapter.changes[f"{module}.bias"] = replace(bias, shift=parts["lora_B.bias"], shift_scale=scale)
    if "lora_magnitude_vector" in parts:
        change = replace(change, magnitude=parts["lora_magnitude_vector"])
    if "trainable_tokens_delta" in parts and parts["trainable_tokens_delta"].count:
        tokens = parts["trainable_tokens_delta"]
        rows = _token_ids(adapter.config.get("trainable_token_indices"), module)
        if len(rows) != tokens.shape[0]:
            raise RecipeError(f"adapter: {module}: {tokens.shape[0]} rows for {len(rows)} trainable_token_indices")
        change = replace(change, rows=rows, tokens=tokens)
    if not pairs and "lora_magnitude_vector" in parts:
        raise RecipeError(f"adapter: {module}: lora_magnitude_vector without lora_A and lora_B")
    adapter.changes[name] = change


def _token_ids(indices: Any, module: str) -> tuple[int, ...]:
    """Rows that belong to a module; a list belongs to whichever embedding there is, and to what is tied to it."""
    if isinstance(indices, dict):
        named = [value for key, value in indices.items() if module == key or module.endswith("." + key)]
        if named:
            return tuple(named[0])
        values = list(indices.values())
        return tuple(values[0]) if len(values) == 1 else ()
    return tuple(indices or ())


def _pattern(patterns: dict[str, Any] | None, key: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            return value
    return default


def _finite(tensor: Stored) -> bool:
    return all(finite(tensor.elements(start, count)) for start, count in tensor.pieces())


def finite(values: torch.Tensor) -> bool:
    """No NaN, no infinity: the smallest and the largest value show either (several times faster than isfinite)."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def wrapped_parameters(adapter: Adapter, module: str, order: Sequence[str]) -> Iterable[tuple[str, dict[str, Stored]]]:
    """The parameter of each LoRA level of a module of `target_parameters`, innermost first.

    peft wraps a module's targeted parameters in the order the module defines them, each around the last.

    Args:
        order: names of the module's own parameters.

    Raises:
        RecipeError: there are not as many levels as targets.
    """
    targets = adapter.config["target_parameters"]
    named = [
        own for own in order if any((f"{module}.{own}" == t) or f"{module}.{own}".endswith("." + t) for t in targets)
    ]
    levels = adapter.wrapped[module]
    if len(named) != len(levels):
        raise RecipeError(f"adapter: {module}: {len(levels)} LoRA levels for the target_parameters {named}")
    return zip(named, levels, strict=True)
