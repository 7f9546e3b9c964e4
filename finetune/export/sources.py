"""Adapters to be combined: read, with everything that keeps them from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.export.adapterfile import residual_init

if TYPE_CHECKING:
    import torch

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
OWN_FILES = (WEIGHTS, CONFIG, "combined.json", "README.md", "MANIFEST.json", "checks.json")  # not the tokenizer's
PREFIX = "base_model.model."
# What may be in a configuration without another function than sum B A: the rest has to be as peft leaves it.
FREE = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "auto_mapping",
    "base_model_name_or_path", "revision", "inference_mode", "peft_version", "peft_type", "task_type",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "exclude_modules", "fan_in_fan_out", "megatron_core",
    "loftq_config", "eva_config", "lora_ga_config", "qalora_group_size", "bias", "ensure_weight_tying",
}  # fmt: skip
EQUAL = ("layers_to_transform", "layers_pattern", "exclude_modules", "fan_in_fan_out", "task_type")


@dataclass(frozen=True)
class Module:
    """Shape of a base's module as its LoRA pair shows it; an embedding has `inputs` rows of `outputs`."""

    inputs: int
    outputs: int
    rank: int
    embedding: bool


@dataclass
class AdapterFolder:
    """One adapter on disk.

    Attributes:
        modules: by the name of the base's module.
        foreign: tensors that are no LoRA pair.
    """

    folder: Path
    weight: float
    config: dict[str, Any]
    modules: dict[str, Module] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    @property
    def rank(self) -> int:
        return int(self.config["r"])

    def tensors(self) -> dict[str, torch.Tensor]:
        """In float32, by the names in the file."""
        from safetensors.torch import load_file

        return {name: tensor.float() for name, tensor in load_file(self.folder / WEIGHTS).items()}

    def hashes(self) -> dict[str, str]:
        from finetune.data.filehash import file_sha256

        return {name: file_sha256(self.folder / name) for name in (WEIGHTS, CONFIG)}

    def scale(self, module: str) -> float:
        """peft's scaling of a module: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023, section 3)."""
        from peft.utils.other import get_pattern_key

        patterns = self.config.get("alpha_pattern") or {}
        alpha = patterns.get(get_pattern_key(patterns.keys(), module), self.config["lora_alpha"])
        rank = self.modules[module].rank
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    @cached_property
    def base_files(self) -> dict[str, str] | None:
        """sha256 of the base's weight files where it is a folder of this machine."""
        from finetune.data.filehash import file_sha256

        base = Path(str(self.config.get("base_model_name_or_path")))
        if not base.is_dir():
            return None
        return {file.name: file_sha256(file) for file in sorted(base.glob("*.safetensors"))} or None


def read_adapters(given: Sequence[str]) -> tuple[list[AdapterFolder], list[str]]:
    """The adapters of `FOLDER[=WEIGHT]` as far as they can be read, and what is wrong with the rest."""
    adapters, problems = [], []
    for text in given:
        folder, equals, word = text.rpartition("=")
        if not equals or Path(text).is_dir():
            folder, word = text, "1"
        try:
            weight = float(word)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            problems.append(f"{text}: the weight has to be a number, as {folder}=0.5; got {word!r}")
            weight = 1.0
        try:
            adapters.append(_read(Path(folder), weight))
        except RecipeError as error:
            problems += error.problems
    if len(given) >= 2 and len(adapters) == len(given) and not any(adapter.weight for adapter in adapters):
        problems.append("every weight is 0: nothing would be left")
    if len(given) < 2:
        problems.append("one adapter alone has nothing to be combined with; give at least two folders")
    return adapters, problems


def _read(folder: Path, weight: float) -> AdapterFolder:
    """Configuration and shapes; the tensors stay on disk.

    Raises:
        RecipeError: the folder is no LoRA adapter.
    """
    from safetensors import SafetensorError, safe_open

    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise RecipeError(f"{folder}: not a PEFT adapter: no {' and no '.join(missing)}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise RecipeError(f"{folder / CONFIG}: can't be read: {error}") from None
    if kind != "LORA" or not isinstance(config.get("r"), int) or not config.get("target_modules"):
        raise RecipeError(f"{folder}: peft_type {kind!r}; only LoRA adapters with target_modules are combined")
    adapter = AdapterFolder(folder, weight, config)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{folder / WEIGHTS}: can't be read: {error}") from None
    used = set()
    for name, shape in shapes.items():
        for a, b, embedding in ((".lora_A.weight", ".lora_B.weight", False),
                                (".lora_embedding_A", ".lora_embedding_B", True)):  # fmt: skip
            other = name.removesuffix(a) + b
            if name.startswith(PREFIX) and name.endswith(a) and other in shapes:
                module = Module(shape[1], shapes[other][0], shape[0], embedding)
                adapter.modules[name.removeprefix(PREFIX).removesuffix(a)] = module
                used |= {name, other}
    adapter.foreign = sorted(set(shapes) - used)
    if not adapter.modules:
        raise RecipeError(f"{folder / WEIGHTS}: holds no LoRA pair under {PREFIX}")
    return adapter


def check_adapters(adapters: Sequence[AdapterFolder], one_rank: bool) -> list[str]:
    """Everything that keeps these adapters from being added; `one_rank`: the method needs equal ranks."""
    problems = [problem for adapter in adapters for problem in _own_problems(adapter)]
    if len(adapters) < 2:
        return problems
    first = adapters[0]
    for adapter in adapters[1:]:
        pair = f"{first.folder} and {adapter.folder}"
        problems += _base_problems(first, adapter, pair)
        problems += [
            f"{pair}: {key} differs: {first.config.get(key)!r} and {adapter.config.get(key)!r}"
            for key in EQUAL
            if first.config.get(key) != adapter.config.get(key)
        ]
        if isinstance(first.config["target_modules"], str) != isinstance(adapter.config["target_modules"], str):
            problems.append(f"{pair}: target_modules: a pattern in one and a list in the other; write both as lists")
        shared = first.modules.keys() & adapter.modules.keys()
        ranks = {name: (first.modules[name].rank, adapter.modules[name].rank) for name in sorted(shared)}
        uneven = [f"{name} has {a} and {b}" for name, (a, b) in ranks.items() if a != b]
        whole = first.rank != adapter.rank
        if one_rank and (uneven or whole):
            what = uneven[0] if uneven else f"r is {first.rank} and {adapter.rank}"
            problems.append(f"{pair}: ranks differ ({what}); --method cat or svd combines them")
    return problems


def _base_problems(first: AdapterFolder, other: AdapterFolder, pair: str) -> list[str]:
    a, b = ((item.config.get("base_model_name_or_path"), item.config.get("revision")) for item in (first, other))
    same = a == b or (first.base_files is not None and first.base_files == other.base_files)
    if not same:
        names = " and ".join(f"{name}{f'@{revision}' if revision else ''}" for name, revision in (a, b))
        return [f"{pair}: adapters of different bases: {names}"]
    for name in sorted(first.modules.keys() & other.modules.keys()):
        one, two = first.modules[name], other.modules[name]
        if (one.inputs, one.outputs, one.embedding) != (two.inputs, two.outputs, two.embedding):
            shapes = f"{one.inputs} -> {one.outputs} and {two.inputs} -> {two.outputs}"
            return [f"{pair}: adapters of different bases: {name} is {shapes}"]
    return []


def _own_problems(adapter: AdapterFolder) -> list[str]:
    config, where = adapter.config, adapter.folder
    unusual = sorted(
        key for key, value in config.items() if key not in FREE and value not in (None, False, [], {}, "none")
    )
    advice = {"use_dora": "DoRA rescales rows of the base; merge it instead (finetune export)"}
    problems = [f"{where}: {key}: {advice.get(key, 'peft does not carry this into a combination')}" for key in unusual]
    if config.get("bias", "none") != "none":
        problems.append(f"{where}: bias: {config['bias']!r}: peft does not carry biases into a combination")
    initial = str(config.get("init_lora_weights")).lower()
    if residual_init(initial):
        problems.append(
            f"{where}: init_lora_weights: {initial!r} belongs to a changed base; export it first, which gives an "
            "adapter of the plain one"
        )
    if adapter.foreign and not unusual:
        problems.append(f"{where}: {adapter.foreign[0]} is no LoRA pair; peft does not carry it into a combination")
    return problems


def common_files(adapters: Sequence[AdapterFolder]) -> tuple[list[Path], list[str]]:
    """Tokenizer and template of the first adapter when they are the same in all; else the names that differ."""

    def rest(adapter: AdapterFolder) -> dict[str, bytes]:
        files = (file for file in sorted(adapter.folder.iterdir()) if file.is_file())
        return {file.name: file.read_bytes() for file in files if _tokenizer_file(file.name)}

    first, *others = (rest(adapter) for adapter in adapters)
    names = {name for files in (first, *others) for name in files}
    different = sorted(name for name in names if any(files.get(name) != first.get(name) for files in others))
    return ([] if different else [adapters[0].folder / name for name in sorted(first)]), different


def _tokenizer_file(name: str) -> bool:
    return name not in OWN_FILES and name.endswith((".json", ".jinja", ".txt", ".model")) and name != "state.json"
