"""An adapter written as a complete PEFT folder and reopened."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import torch

from finetune.export.layout import modes_follow_umask, write_both_spellings
from finetune.model.check import adapter_shapes, check_adapter
from finetune.model.load import Base
from finetune.model.methods import shared_tensors
from finetune.model.virtual import IN_FILE, PARAMETER, is_prompted

INITIAL = "initial.safetensors"


def save_adapter(
    model: Any,
    base: Base,
    folder: Path,
    trained: bool,
    tensors: dict[str, torch.Tensor] | None = None,
    initial: dict[str, torch.Tensor] | None = None,
) -> None:
    """The adapter with its tokenizer and chat template, naming its base: servable as it is.

    Args:
        trained: whether a step has been made; the file is reopened and must then show it.
        tensors: what to write, by parameter name, instead of the model's own weights.
        initial: LoRA weights at the start, by name in the file, where the base was changed for them (PiSSA and kin);
            the export needs them to say the adapter in terms of the base as it was.

    Raises:
        GateError: the file does not hold what was to be saved.
    """
    from safetensors.torch import save_file

    model.peft_config["default"].base_model_name_or_path = base.source.name
    model.peft_config["default"].revision = base.source.revision
    if is_prompted(model):
        _save_virtual(model, folder, tensors)
    else:
        tensors = None if tensors is None else tensors | shared_tensors(model)
        # save_embedding_layers="auto" would ask the hub about the vocabulary
        model.save_pretrained(folder, save_embedding_layers=False, state_dict=tensors)
    check_adapter(folder, adapter_shapes(model), trained)
    if initial is not None:
        save_file(initial, folder / INITIAL)
    base.tokenizer.save_pretrained(folder)
    write_both_spellings(folder, base.tokenizer)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    modes_follow_umask(folder)


def _save_virtual(model: Any, folder: Path, tensors: dict[str, torch.Tensor] | None) -> None:
    """As peft writes virtual tokens: peft itself would write the model's own, whatever it is given, and while it does
    so the model in training takes another way through its forward pass."""
    from safetensors.torch import save_file

    config = copy(model.peft_config["default"])
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    values = dict(model.named_parameters())[PARAMETER] if tensors is None else tensors[PARAMETER]
    save_file({IN_FILE: values.detach().cpu().contiguous()}, folder / "adapter_model.safetensors", {"format": "pt"})
