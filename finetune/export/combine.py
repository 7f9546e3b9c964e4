"""Several adapters of one base made one by weight, through peft's `add_weighted_adapter`; the base is not loaded."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import GateError, RecipeError, did_you_mean, writing
from finetune.export.sources import AdapterFolder, check_adapters, common_files, read_adapters

if TYPE_CHECKING:
    import torch

# peft's combination types: whether one drops values (and so needs a density), whether it works on the factors A and B
# one by one (and so needs one rank), whether it draws at random.
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
ONE_RANK = ("linear", *PRUNING)
BY_SVD = ("svd", *(f"{method}_svd" for method in PRUNING))
METHODS = (*ONE_RANK, "cat", *BY_SVD)
SEED = 0


@dataclass(frozen=True)
class Combined:
    """A written combination.

    Attributes:
        folder: the new adapter's, a whole PEFT folder.
        record: what combined.json holds.
        lines: the same for people.
    """

    folder: Path
    record: dict[str, Any]
    lines: list[str]


def combine_command(options: argparse.Namespace) -> list[str]:
    """`finetune merge A=0.7 B=0.3 --method cat --output DIR`.

    Raises:
        RecipeError: everything that is wrong with adapters, weights, method and output.
        GateError: the written file is not what was combined.
    """
    return combine(options.adapters, options.method, options.density, options.output).lines


def combine(given: Sequence[str], method: str, density: float | None, output: Path, seed: int = SEED) -> Combined:
    """One adapter of several, in a new folder that appears whole or not at all.

    `cat` and `svd` (as far as its rank goes) give the weighted sum of what the adapters do, sum_i w_i s_i B_i A_i.
    The others sum A and B each on its own, so their product has cross terms; how far it is from the weighted sum is
    measured and recorded.

    Args:
        given: `FOLDER` or `FOLDER=WEIGHT`; weight 1 where none is given.
        density: share of values that ties, dare_* and magnitude_prune keep.
        seed: of dare_*, which draws at random what it drops.

    Raises:
        RecipeError: everything that is wrong. GateError: the written file is not what was combined.
    """
    adapters, problems = read_adapters(given)
    problems += _method_problems(method, density)
    if output.exists():
        problems.append(f"--output: {output} already exists")
    problems += check_adapters(adapters, one_rank=method in ONE_RANK)
    if problems:
        raise RecipeError(problems)
    tensors, config = _combined(adapters, method, density, seed)
    record = _record(adapters, method, density, seed, tensors)
    with writing(output):
        lines = _write(adapters, tensors, config, record, output)
    return Combined(output, record, lines)


def _method_problems(method: str, density: float | None) -> list[str]:
    if method not in METHODS:
        return [f"--method: {method!r} is not one of peft's{did_you_mean(method, METHODS)}"]
    prunes = method.removesuffix("_svd") in PRUNING
    if prunes and density is None:
        return [f"--density: {method} needs the share of values to keep, above 0 and up to 1"]
    if not prunes and density is not None:
        return [f"--density: {method} drops nothing; leave --density out, or take one of {', '.join(PRUNING)}"]
    if density is not None and not 0 < density <= 1:
        return [f"--density: above 0 and up to 1 is needed, got {density:g}"]
    return []


def _combined(
    adapters: Sequence[AdapterFolder], method: str, density: float | None, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """peft's result in float32, and its configuration with the scale in the tensors (lora_alpha = r)."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    skeleton = _skeleton(adapters)
    # not "0", "1": peft drops tensors with another adapter's name in theirs, and layers have numbers
    names = [f"source_{number}" for number in range(len(adapters))]
    model: Any = None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of a base that is no transformers model, and of density 1
        for name, adapter in zip(names, adapters, strict=True):
            # every module by its whole name; ranks and alphas as trained
            config = LoraConfig(
                r=adapter.rank, lora_alpha=adapter.config["lora_alpha"], target_modules=list(adapter.modules),
                rank_pattern=adapter.config.get("rank_pattern") or {}, inference_mode=True,
                alpha_pattern=adapter.config.get("alpha_pattern") or {},
                use_rslora=bool(adapter.config.get("use_rslora")),
            )  # fmt: skip
            model = PeftModel(skeleton, config, name) if model is None else model
            if name not in model.peft_config:
                model.add_adapter(name, config)
            loaded = set_peft_model_state_dict(model, adapter.tensors(), adapter_name=name)
            if loaded.unexpected_keys:
                raise GateError(f"{adapter.folder}: peft does not know {loaded.unexpected_keys[0]}")
        torch.manual_seed(seed)  # here, for dare: what peft has drawn so far was overwritten
        weights = [adapter.weight for adapter in adapters]
        model.base_model.add_weighted_adapter(
            names, weights, "combined", method, density=density, svd_full_matrices=False
        )
    tensors = get_peft_model_state_dict(model, adapter_name="combined", save_embedding_layers=False)
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    missing = {name for adapter in adapters for name in adapter.modules} - set(map(_module_name, tensors))
    if missing:
        raise GateError(f"peft has combined nothing at {sorted(missing)[0]}")
    return tensors, _config(adapters, tensors)


def _skeleton(adapters: Sequence[AdapterFolder]) -> Any:
    """Modules of the base's names and shapes, each weight one number seen everywhere: no memory, no base."""
    import torch

    root = torch.nn.Module()
    shapes = {name: module for adapter in adapters for name, module in adapter.modules.items()}
    for name, module in shapes.items():
        *parents, last = name.split(".")
        place = root
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, torch.nn.Module())
            place = place.get_submodule(parent)
        layer: Any
        if module.embedding:
            layer = torch.nn.Embedding(module.inputs, module.outputs, device="meta")
        else:
            layer = torch.nn.Linear(module.inputs, module.outputs, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(torch.zeros(()).expand(layer.weight.shape), requires_grad=False)
        place.add_module(last, layer)
    return root


def _config(adapters: Sequence[AdapterFolder], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The first adapter's configuration; rank as in the tensors, every scale 1.

    peft copies `use_rslora` of the first adapter and the largest rank, which with rsLoRA or `rank_pattern` is another
    function than the one it has computed.
    """
    ranks = {_module_name(name): len(tensor) for name, tensor in tensors.items() if _is_a(name)}  # A is (r, inputs)
    rank = max(ranks.values())
    others = {name: own for name, own in sorted(ranks.items()) if own != rank}
    given = [adapter.config["target_modules"] for adapter in adapters]
    target: str | list[str]
    if isinstance(given[0], str):
        target = given[0] if len(set(given)) == 1 else "|".join(f"({pattern})" for pattern in given)
    else:
        target = sorted({name for names in given for name in names})
    return adapters[0].config | {
        "r": rank, "lora_alpha": rank, "rank_pattern": others, "alpha_pattern": others, "target_modules": target,
        "use_rslora": False, "init_lora_weights": True, "lora_dropout": 0.0, "inference_mode": True,
    }  # fmt: skip


def _is_a(name: str) -> bool:
    return name.endswith((".lora_A.weight", ".lora_embedding_A"))


def _module_name(name: str) -> str:
    return name.removeprefix("base_model.model.").rpartition(".lora_")[0]


def _record(
    adapters: Sequence[AdapterFolder],
    method: str,
    density: float | None,
    seed: int,
    tensors: dict[str, torch.Tensor],
) -> dict[str, Any]:
    names = [adapter.folder.name for adapter in adapters]
    return {
        "base": {key: adapters[0].config.get(key) for key in ("base_model_name_or_path", "revision")},
        "method": method,
        "density": density,
        "seed": seed if "dare" in method else None,
        "sources": [
            {"name": name, "weight": adapter.weight, "sha256": adapter.hashes()}
            for name, adapter in zip(names, adapters, strict=True)
        ],
        "rank": max(len(tensor) for name, tensor in tensors.items() if _is_a(name)),
        "difference_from_weighted_sum": difference(adapters, tensors),
        "versions": {package: version(package) for package in ("finetune", "peft", "torch")},
    }


def difference(adapters: Sequence[AdapterFolder], combined: dict[str, torch.Tensor]) -> float:
    """|BA - sum_i w_i s_i B_i A_i| / |sum_i w_i s_i B_i A_i|, Frobenius norms over all modules; 0 is the weighted sum.

    Both norms are those of products of thin matrices, |U V| = |R_U R_V^T| with their QR factors, in float64.
    """
    import torch

    loaded = [adapter.tensors() for adapter in adapters]

    def norm(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
        u, v = torch.cat(left, 1).double(), torch.cat(right, 0).double()  # (out, R), (R, in)
        return float((torch.linalg.qr(u).R @ torch.linalg.qr(v.T).R.T).norm())

    off = whole = 0.0
    for name in filter(_is_a, combined):
        other = name.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")
        module = _module_name(name)
        parts = [
            (adapter.weight * adapter.scale(module) * tensors[other].double(), tensors[name].double())
            for adapter, tensors in zip(adapters, loaded, strict=True)
            if name in tensors
        ]
        left, right = [b for b, _a in parts], [a for _b, a in parts]
        whole += norm(left, right) ** 2
        off += norm([combined[other].double(), *(-b for b in left)], [combined[name].double(), *right]) ** 2
    return (off / whole) ** 0.5 if whole else float("inf") if off else 0.0


def _write(
    adapters: Sequence[AdapterFolder],
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any],
    record: dict[str, Any],
    output: Path,
) -> list[str]:
    """The folder, reopened and checked before it gets its name; what was written, in lines."""
    from safetensors.torch import save_file

    from finetune.export.layout import modes_follow_umask
    from finetune.model.check import check_adapter

    draft = output.parent / f".{output.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        for name, content in (("adapter_config.json", config), ("combined.json", record)):
            text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=name == "adapter_config.json")
            (draft / name).write_text(text + "\n", encoding="utf-8")
        copied, different = common_files(adapters)
        for file in copied:
            (draft / file.name).write_bytes(file.read_bytes())
        check_adapter(draft, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, trained=True)
        modes_follow_umask(draft)
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return _lines(adapters, record, different, output)


def _lines(adapters: Sequence[AdapterFolder], record: dict[str, Any], different: list[str], output: Path) -> list[str]:
    method, off = record["method"], record["difference_from_weighted_sum"]
    parts = " + ".join(f"{adapter.weight:g} x {adapter.folder.name}" for adapter in adapters)
    lines = [f"{method}: {parts}; rank {record['rank']}"]
    if off < 1e-6:
        lines.append("the same as the weighted sum of what the adapters do")
    else:
        exact = f"; cat gives it exactly, at rank {sum(a.rank for a in adapters)}" if method in ONE_RANK else ""
        lines.append(f"{off:.1%} away from the weighted sum of what the adapters do{exact}")
    if different:
        lines.append(f"no tokenizer written, the adapters differ in {', '.join(different)}; take the base's")
    return [*lines, f"adapter: {output}"]
