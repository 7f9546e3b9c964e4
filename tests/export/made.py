"""Tiny bases and adapters on disk, and what peft makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.equivalence.tiny_models import tiny_model

IDS = torch.tensor([[5, 17, 80, 3, 44, 9, 61, 30], [90, 8, 12, 71, 3, 5, 28, 66]])
SMALL = {"num_hidden_layers": 2}


@dataclass(frozen=True)
class Made:
    """A base and an adapter on disk.

    Attributes:
        logits: of the adapter on its base, not merged, for IDS.
        peft: what `merge_and_unload` makes of it in float32.
    """

    base: Path
    adapter: Path
    logits: torch.Tensor
    peft: dict[str, torch.Tensor]


def make(
    folder: Path,
    architecture: str,
    model: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    resize: int | None = None,
    shard: str = "5GB",
    **lora: Any,
) -> Made:
    """A random model and a LoRA with nothing zero in it; the base is stored in `dtype`, all sums are float32.

    Args:
        resize: new rows of the vocabulary; all embeddings are then saved with the adapter.
    """
    from peft import LoraConfig, get_peft_model

    changes = {} if architecture == "gpt2" else SMALL | (model or {})
    base = tiny_model(architecture, dtype=dtype, **changes)
    base.save_pretrained(folder / "base", max_shard_size=shard)
    base = base.float()
    if resize:
        base.resize_token_embeddings(resize, mean_resizing=False)
    tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **({"r": 4} | lora))).eval()
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(folder / "adapter", save_embedding_layers=bool(resize))
    with torch.no_grad():
        logits = tuned(IDS).logits
    merged = tuned.merge_and_unload()
    return Made(folder / "base", folder / "adapter", logits, merged.state_dict())


def merged_folder(made: Made, output: Path, dtype: torch.dtype | None = None, **options: Any) -> Any:
    """Merges and lays out `output`; returns what merge says."""
    from finetune.export.layout import write_layout
    from finetune.export.merge import merge

    output.mkdir()
    merged = merge(made.base, made.adapter, output, dtype, **options)
    write_layout(made.base, made.base, output, dtype=merged.dtype, tied=merged.tied, vocabulary=merged.vocabulary)
    return merged


def reload(folder: Path) -> Any:
    """The merged model as transformers loads it, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).float().eval()


def logits(model: Any) -> torch.Tensor:
    """Of IDS."""
    with torch.no_grad():
        return model(IDS).logits


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder, by the names of its files."""
    return {
        name: tensor for file in sorted(folder.glob("model*.safetensors")) for name, tensor in load_file(file).items()
    }


def edit(file: Path, **changes: Any) -> None:
    """Changes keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
