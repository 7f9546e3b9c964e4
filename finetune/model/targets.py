"""An adapter's settings against the model at hand: what matches nothing is an error, by the same rules as peft's own."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from finetune.errors import did_you_mean
from finetune.lora_fields import TIED_OTHERS, TIED_WAYS_OUT, expert_conflicts
from finetune.tokenlist import index_problems

ALL_LINEAR = "all-linear"
# Fields that not every method's configuration has, and what they are where nothing is asked.
ONLY_SOME: dict[str, Any] = {
    "target_parameters": None, "layers_to_transform": None, "layers_pattern": None, "rank_pattern": {}, "alpha_pattern": {},
    "trainable_token_indices": None, "ensure_weight_tying": False, "exclude_modules": None,
}  # fmt: skip


def check_settings(model: Any, config: Any) -> list[str]:
    """Everything in `config` that this model does not have, or that can't be trained on it; a line each, with its key.

    Args:
        model: the base, without an adapter. config: peft's, of a method that sits in layers; it is not changed.
    """
    kind = str(config.peft_type.value).lower()
    return [f"{kind}.{problem}" for problem in _problems(model, _complete(config))]


def _complete(config: Any) -> Any:
    """A copy that has every field that is looked at here, and that peft's own rules look at."""
    config = copy.deepcopy(config)
    for key, nothing in ONLY_SOME.items():
        setattr(config, key, getattr(config, key, nothing))
    return config


def _problems(model: Any, config: Any) -> list[str]:
    """As `check_settings`, without the section's name; `config` is changed."""
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    if config.target_modules is None:  # peft has a table by architecture; it says itself what is not in there
        return _saved(model, config)
    own_parameters = config.target_parameters
    try:
        if config.peft_type == "LORA":
            _convert(model, config)
    except ValueError as error:
        return [f"target_modules: {error}"]
    problems = _targets(model, config)
    if _is_all_linear(config.target_modules):
        config = _maybe_include_all_linear_layers(config, model)
    parameters = [name for name, _ in model.named_parameters()]
    problems += [
        f"target_parameters: {target!r} is no parameter of the model{did_you_mean(target, _fused_kinds(model))}"
        for target in own_parameters or ()  # peft's own may fit no layer: of Hunyuan's router it has another name
        if not any(_ends(name, target) for name in parameters)
    ]
    if config.target_parameters and not own_parameters:
        settings = {key: getattr(config, key) for key in ("target_parameters", "lora_dropout", "use_dora", "lora_bias")}
        settings["init_lora_weights"] = config.init_lora_weights
        problems += [
            f"{key}: {text} (the experts of this model are parameters: name its other layers in target_modules)"
            for key, text in expert_conflicts(settings)
        ]
    if problems:
        return problems  # the rest would only repeat them
    problems += _excluded(model, config) + _layers(model, config)
    targeted = [*targeted_modules(model, config), *_targeted_parameters(parameters, config)]
    problems += _patterns(config, targeted)
    problems += _biases(model, config) + _saved(model, config) + _tokens(model, config)
    return problems + _tied(model, config, targeted)


def _saved(model: Any, config: Any) -> list[str]:
    modules = [name for name, _ in model.named_modules() if name]
    return [
        f"modules_to_save: {saved!r} is no module of the model{did_you_mean(saved, _kinds(modules))}"
        for saved in config.modules_to_save or ()
        if not any(name.endswith(saved) for name in modules)  # peft.utils.other._set_trainable
    ]


def _convert(model: Any, config: Any) -> None:
    """What peft makes of targets that name linear layers of experts which transformers 5 has as parameters; in place.

    For Qwen-MoE and Mixtral it does so with all-linear, too: gate and up of an expert in one parameter, of twice the
    rank.

    Raises:
        ValueError: only one of two that are fused.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    convert_peft_config_for_transformers(config, model=model, conversions=None)


def targeted_modules(model: Any, config: Any) -> list[str]:
    """Names of the modules that peft would put LoRA on; `target_modules` is resolved (not all-linear)."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return [name for name, _ in model.named_modules() if name and check_target_module_exists(config, name)]


def adaptable(model: Any) -> dict[str, Any]:
    """Modules that LoRA goes on, by name: linear layers (quantised ones too), Conv1D, embeddings."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds) or hasattr(m, "in_features")}


def linear_layers(model: Any) -> list[str]:
    """Names of the layers that LoRA goes on, embeddings left out."""
    import torch

    return [name for name, module in adaptable(model).items() if not isinstance(module, torch.nn.Embedding)]


def fused_parameters(model: Any) -> list[str]:
    """Parameters of three dimensions, one matrix for each expert: all-linear sees no layer in them."""
    return [name for name, parameter in model.named_parameters() if parameter.ndim == 3 and "conv" not in name]


def _fused_kinds(model: Any) -> set[str]:
    return {".".join(name.split(".")[-2:]) for name in fused_parameters(model)}


def transposed(model: Any, config: Any) -> bool:
    """Whether the layers keep their weight as (in, out), as GPT-2's Conv1D does."""
    from transformers.pytorch_utils import Conv1D

    targets = config.target_modules
    if _is_all_linear(targets):
        return any(isinstance(module, Conv1D) for module in model.modules())
    if targets is None:  # then peft sees to it, layer by layer
        return bool(config.fan_in_fan_out)
    named = dict(model.named_modules())
    return any(isinstance(named[name], Conv1D) for name in targeted_modules(model, _complete(config)))


def _targets(model: Any, config: Any) -> list[str]:
    """Targets that match no layer, or only modules that LoRA does not go on."""
    targets, layers = config.target_modules, adaptable(model)
    if _is_all_linear(targets):
        return []
    modules = [name for name, _ in model.named_modules() if name]
    listed = f"linear layers: {', '.join(sorted(_kinds(linear_layers(model))))}{experts_hint(fused_parameters(model))}"
    if isinstance(targets, str):
        found = [name for name in modules if re.fullmatch(targets, name)]
        if not found:
            near = did_you_mean(targets, [ALL_LINEAR])
            return [
                f"target_modules: {targets!r} is a pattern for whole names and matches no layer"
                f"{near if 'mean' in near else f'; {listed}'}"
            ]
        wrong = [name for name in found if name not in layers]
        return [f"target_modules: {targets!r} matches {wrong[0]}, which is no linear layer"] if wrong else []
    problems = []
    for target in sorted(targets or ()):
        found = [name for name in modules if _ends(name, target)]
        if not found:
            near = did_you_mean(target, _kinds(layers))
            problems.append(f"target_modules: {target!r} matches no layer{near if 'mean' in near else f'; {listed}'}")
        elif not any(name in layers for name in found):
            kind = type(model.get_submodule(found[0])).__name__
            problems.append(f"target_modules: {target!r} is a {kind}, no linear layer; {listed}")
    return problems


def experts_hint(fused: Iterable[str]) -> str:
    """What to write for experts whose weights are parameters of their own; empty where there are none."""
    kinds = sorted({".".join(name.split(".")[-2:]) for name in fused})
    return f"; experts: lora.target_parameters: [{', '.join(kinds)}]" if kinds else ""


def _excluded(model: Any, config: Any) -> list[str]:
    without = copy.copy(config)
    without.exclude_modules = None
    targeted, given = targeted_modules(model, without), config.exclude_modules
    if not given:
        return []
    if isinstance(given, str):
        useless = [] if any(re.fullmatch(given, name) for name in targeted) else [given]
    else:
        useless = [word for word in sorted(given) if not any(_ends(name, word) for name in targeted)]
    return [
        f"exclude_modules: {word!r} leaves out nothing that is targeted{did_you_mean(word, _kinds(targeted))}"
        for word in useless
    ] or ([] if targeted_modules(model, config) or config.target_parameters else [
        f"exclude_modules: {given!r} leaves no target over"
    ])  # fmt: skip


def _biases(model: Any, config: Any) -> list[str]:
    """A bias of B is merged into the layer's own, and a layer that has none can't hold it."""
    if not getattr(config, "lora_bias", False):
        return []
    named = dict(model.named_modules())
    without = [name for name in targeted_modules(model, config) if getattr(named[name], "bias", None) is None]
    return [f"lora_bias: {', '.join(sorted(_kinds(without)))}: have no bias to merge it into"] if without else []


def _layers(model: Any, config: Any) -> list[str]:
    """Layer numbers beyond the depth, and patterns of the list that matches nothing."""
    if config.layers_to_transform is None:
        return []
    problems = []
    alone = copy.copy(config)
    alone.layers_to_transform = None
    targeted = targeted_modules(model, alone)
    for pattern in _listed(config.layers_pattern or []):
        if not any(re.match(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", name) for name in targeted):
            lists = {match[1] for name in targeted if (match := re.match(r".*?([^.]+)\.\d+\.", name))}
            problems.append(f"layers_pattern: {pattern!r} is no list of layers{did_you_mean(pattern, lists)}")
    depth = max((int(match[1]) for name in targeted if (match := re.match(r".*?\.(\d+)\.", name))), default=-1)
    for index in config.layers_to_transform if not problems else ():
        alone.layers_to_transform = [index]
        if not targeted_modules(model, alone):
            problems.append(f"layers_to_transform: {index}: no target in such a layer; they are in 0 to {depth}")
    return problems


def _targeted_parameters(parameters: Iterable[str], config: Any) -> list[str]:
    return [name for name in parameters if any(_ends(name, target) for target in config.target_parameters or ())]


def _patterns(config: Any, targeted: list[str]) -> list[str]:
    """Patterns that peft would leave unused with a warning (its get_pattern_key)."""
    return [
        f"{key}: {pattern!r} matches nothing that is targeted{did_you_mean(pattern, _kinds(targeted))}"
        for key in ("rank_pattern", "alpha_pattern")
        for pattern in getattr(config, key)
        if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in targeted)
    ]


def _tokens(model: Any, config: Any) -> list[str]:
    given = config.trainable_token_indices
    if not given:
        return []
    modules = [name for name, _ in model.named_modules() if name]
    problems = []
    rows = model.get_input_embeddings().weight.shape[0]
    for layer in given if isinstance(given, dict) else ():
        if layer and not any(_ends(name, layer) for name in modules):
            problems.append(
                f"trainable_token_indices: {layer!r} is no module of the model{did_you_mean(layer, _kinds(modules))}"
            )
    return problems + [problem.removeprefix("lora.") for problem in index_problems(given, rows)]


def ends_of(model: Any) -> tuple[str | None, str | None]:
    """Names of the embedding and the output layer."""
    parts = (model.get_input_embeddings(), getattr(model, "score", None) or model.get_output_embeddings())
    named = list(model.named_modules())
    first, last = (next((name for name, module in named if module is part), None) for part in parts)
    return first, last


def is_tied_model(model: Any) -> bool:
    """Whether the embedding and the output layer are one tensor."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    return last is not None and first.weight is last.weight


def _tied(model: Any, config: Any, targeted: list[str]) -> list[str]:
    ends = ends_of(model)
    if not is_tied_model(model):
        asked = config.ensure_weight_tying
        return (
            ["ensure_weight_tying: the base's embedding and output layer are two tensors; leave it out"]
            if asked
            else []
        )
    named = [name for name in targeted if name in ends]
    if named and not config.ensure_weight_tying:
        ways = TIED_WAYS_OUT if config.peft_type == "LORA" else TIED_OTHERS
        return [f"target_modules: {', '.join(named)}: {ways}"]
    saved = [s for s in config.modules_to_save or () if any(end and end.endswith(s) for end in ends)]
    if config.ensure_weight_tying and not (named or saved or config.trainable_token_indices):
        return ["ensure_weight_tying: neither the embedding nor the output layer is trained; leave it out"]
    return []


def _is_all_linear(targets: Any) -> bool:
    return isinstance(targets, str) and targets.lower() == ALL_LINEAR


def _ends(name: str, word: str) -> bool:
    """peft's rule for lists of names."""
    return name == word or name.endswith(f".{word}")


def _kinds(names: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]
