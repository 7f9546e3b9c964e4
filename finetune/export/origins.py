"""Which part of which parameter of the model a tensor of the checkpoint is: names, prefixes, fused experts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError, first_line
from finetune.export.weights import Stored

Parts = dict[str, list["Part"]]  # by name in the checkpoint


@dataclass(frozen=True)
class Part:
    """`rows` rows of a checkpoint tensor, from `at` on, are those of a parameter from `start` on.

    Attributes:
        expert: index in the parameter's first dimension when the checkpoint keeps its experts apart; else None.
    """

    parameter: str
    rows: int
    at: int = 0
    start: int = 0
    expert: int | None = None


def whole(parameter: str, tensor: Stored) -> list[Part]:
    """The tensor is the parameter, all of it."""
    rows = tensor.shape[-2] if len(tensor.shape) > 1 else tensor.count
    return [Part(parameter, rows)]


def plain_parts(names: Iterable[str], tensors: Mapping[str, Stored]) -> Parts | None:
    """Parts from the names alone: equal, or all with one prefix more or less (`transformer.`, `language_model.`).

    Returns:
        None when that doesn't explain every name.
    """
    wanted = list(names)
    missing = [name for name in wanted if name not in tensors]
    if not missing:
        return {name: whole(name, tensors[name]) for name in wanted}
    first = missing[0]
    added = {"": ""} | {tensor[: -len(first)]: "" for tensor in tensors if tensor.endswith("." + first)}
    pieces = first.split(".")
    removed = {".".join(pieces[:i]) + "." for i in range(1, len(pieces)) if ".".join(pieces[i:]) in tensors}
    ways = [(prefix, "") for prefix in added if prefix] + [("", prefix) for prefix in removed]
    if len(ways) != 1:  # none, or a guess
        return None
    add, remove = ways[0]
    parts: Parts = {}
    for name in wanted:
        stored = name if name in tensors else add + name.removeprefix(remove)
        if stored not in tensors:
            return None
        parts[stored] = whole(name, tensors[stored])
    return parts


class Skeleton:
    """The model without its weights (torch's meta device), as transformers builds it from config.json.

    Args:
        trust_remote_code: the base's own code may run, as it did in training.

    Raises:
        RecipeError: transformers can't build it.
    """

    def __init__(self, base: Path, trust_remote_code: bool = False) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        try:
            config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
            with torch.device("meta"):
                self.model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, ImportError) as error:
            raise RecipeError(f"{base}: transformers builds no model from it: {first_line(error)}") from None
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        self.unsupported: dict[str, str] = {}

    def order(self, module: str) -> list[str]:
        """Names of a module's own parameters as it defines them; empty when there is no such module."""
        try:
            return [name for name, _ in self.model.get_submodule(module).named_parameters(recurse=False)]
        except AttributeError:
            return []

    def transposed(self, module: str) -> bool:
        """Whether a module of experts keeps its weights as (experts, in, out)."""
        return bool(getattr(self.model.get_submodule(module), "is_transposed", False))

    @cached_property
    def embedding(self) -> str | None:
        """The input embedding's parameter."""
        return self._weight_of(self.model.get_input_embeddings())

    @cached_property
    def head(self) -> str | None:
        """The output layer's parameter."""
        return self._weight_of(self.model.get_output_embeddings())

    def _weight_of(self, wanted: Any) -> str | None:
        return next((f"{name}.weight" for name, module in self.model.named_modules() if module is wanted), None)

    def parts(self, tensors: Mapping[str, Stored]) -> Parts:
        """Every tensor's part, by the rules with which transformers loads this architecture.

        Parameters whose rule is not followed here go to `unsupported`.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        rules = get_model_conversion_mapping(self.model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        of_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        prefix, meta = self.model.base_model_prefix, self.model.state_dict()
        parts: Parts = {}
        sources: dict[tuple[str, int], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name, tensor in tensors.items():
            target, pattern = rename_source_key(name, renamings, converters, prefix, meta)
            if target not in meta and name in meta:
                target, pattern = rename_source_key(name, [], [], prefix, meta)
            if pattern is None:
                parts[name] = whole(target, tensor)
            else:
                converter = of_pattern[pattern]
                sources[target, converters.index(converter)][pattern].append(name)
        for (target, number), by_pattern in sources.items():
            parts |= self._converted(target, converters[number], by_pattern, tensors)
        return parts

    def _converted(
        self, target: str, rule: Any, by_pattern: dict[str, list[str]], tensors: Mapping[str, Stored]
    ) -> Parts:
        """Parts of the tensors that make up one parameter, or that several parameters are cut from."""
        from transformers.core_model_loading import dot_natural_key

        operations = [(type(operation).__name__, getattr(operation, "dim", None)) for operation in rule.operations]
        columns = [
            sorted(by_pattern[pattern], key=dot_natural_key)
            for pattern in rule.source_patterns
            if pattern in by_pattern
        ]
        if operations in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)]):
            return _stacked(target, columns, tensors, experts=True)
        if operations == [("Concatenate", 0)]:
            return _stacked(target, columns, tensors, experts=False)
        if operations == [("Chunk", 0)] and not any("*" in pattern for pattern in rule.target_patterns):
            (name,) = columns[0]
            first = rule.target_patterns[0]
            targets = [target.replace(first, pattern) for pattern in rule.target_patterns]
            rows = tensors[name].shape[0] // len(targets)
            return {name: [Part(each, rows, at=number * rows) for number, each in enumerate(targets)]}
        how = ", ".join(f"{name}(dim={dim})" for name, dim in operations)
        for pattern in rule.target_patterns:
            self.unsupported[target.replace(rule.target_patterns[0], pattern)] = how
        return {name: whole(name, tensors[name]) for column in columns for name in column}


def _stacked(target: str, columns: list[list[str]], tensors: Mapping[str, Stored], experts: bool) -> Parts:
    """Tensors one below the other in a parameter; with experts, once for each."""
    parts: Parts = {}
    for number in range(len(columns[0])):
        start = 0
        for column in columns:
            name = column[number]
            rows = tensors[name].shape[0]
            parts[name] = [Part(target, rows, start=start, expert=number if experts else None)]
            start += rows
    return parts
