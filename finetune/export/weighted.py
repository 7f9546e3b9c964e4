"""peft's `add_weighted_adapter` without a base: its result, and how far that is from the weighted sum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import GateError
from finetune.export.sources import AdapterFolder

if TYPE_CHECKING:
    import torch


def weighted(
    adapters: Sequence[AdapterFolder], method: str, density: float | None, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """peft's result in float32, and its configuration with the scale in the tensors (lora_alpha = r).

    Raises:
        GateError: peft knows a tensor not, or leaves a module out.
    """
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


def rank_of(tensors: dict[str, torch.Tensor]) -> int:
    """The largest rank of any module; A is (r, inputs), embeddings' too."""
    return max(len(tensor) for name, tensor in tensors.items() if _is_a(name))


def _is_a(name: str) -> bool:
    return name.endswith((".lora_A.weight", ".lora_embedding_A"))


def _module_name(name: str) -> str:
    return name.removeprefix("base_model.model.").rpartition(".lora_")[0]


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
