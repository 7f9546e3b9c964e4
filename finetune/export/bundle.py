"""The bundle: everything a server needs, nothing half-written, and a manifest that says where it came from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from finetune import device
from finetune.data.chat import Example
from finetune.data.template import DataTemplate
from finetune.export.layout import modes_follow_umask, write_both_spellings
from finetune.export.merge import merge_in_memory
from finetune.export.parity import prove
from finetune.model.check import adapter_shapes, check_adapter
from finetune.model.load import Base, Source, file_sha256
from finetune.recipe import ExportSection

PACKAGES = ("finetune", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Finished:
    """A finished run, ready to be exported.

    Attributes:
        folder: the run's; the bundle goes into it.
        model: the trained peft model.
        held_out: conversations to prove the merge on.
        recipe, data, training, scores: what the manifest says of the run, beside the files and the proof.
    """

    folder: Path
    model: Any
    base: Base
    template: DataTemplate | None
    held_out: Sequence[Example]
    recipe: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    scores: dict[str, Any]


def save_adapter(
    model: Any,
    base: Base,
    folder: Path,
    run_folder: Path,
    trained: bool,
    tensors: dict[str, torch.Tensor] | None = None,
) -> None:
    """The adapter with its tokenizer and chat template, naming its base: servable as it is.

    A GGUF base is named where the bundle of this run puts it.

    Args:
        trained: whether a step has been made; the file is reopened and must then show it.
        tensors: what to write, by parameter name, instead of the model's own weights.

    Raises:
        GateError: the file does not hold what was to be saved.
    """
    named = base.source or Source(str((run_folder / "bundle/base").resolve()))
    model.peft_config["default"].base_model_name_or_path = named.name
    model.peft_config["default"].revision = named.revision
    # save_embedding_layers="auto" would ask the hub about the vocabulary
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=tensors)
    check_adapter(folder, adapter_shapes(model), trained)
    base.tokenizer.save_pretrained(folder)
    write_both_spellings(folder, base.tokenizer)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    modes_follow_umask(folder)


def write_bundle(run: Finished, section: ExportSection) -> tuple[Path, dict[str, Any]]:
    """Merges, proves and writes `run.folder/bundle`; it appears whole or not at all.

    Returns:
        The bundle's folder and its manifest.

    Raises:
        GateError: the merge is not finite or not the adapter; no bundle is left behind.
    """
    final = run.folder / "bundle"
    draft = run.folder / f".bundle-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        manifest = _fill(draft, run, section)
        modes_follow_umask(draft)
        draft.rename(final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return final, manifest


def _fill(draft: Path, run: Finished, section: ExportSection) -> dict[str, Any]:
    base_dtype = next(p.dtype for p in run.model.parameters() if not p.requires_grad)
    source = run.base.source
    if source is None:  # GGUF: the base exists nowhere as a folder that others can load, so it ships along
        _save_base(run.model, run.base.tokenizer, draft / "base")
        source = Source(str(draft / "base"))
    done = run.training
    moved = done["steps"] > done["skipped_steps"] + done["nonfinite_steps"]
    save_adapter(run.model, run.base, draft / "adapter", run.folder, moved)

    dtype = base_dtype if section.dtype == "auto" else getattr(torch, section.dtype)
    merged = merge_in_memory(source, draft / "adapter", base_dtype, dtype)
    merged.generation_config = run.model.generation_config
    merged.config.eos_token_id = run.model.generation_config.eos_token_id
    merged.save_pretrained(draft, max_shard_size=section.max_shard_size)
    del merged
    run.base.tokenizer.save_pretrained(draft)
    write_both_spellings(draft, run.base.tokenizer)
    proof = prove(source, draft / "adapter", draft, base_dtype, run.held_out)

    recipe_text = yaml.safe_dump(run.recipe, allow_unicode=True, sort_keys=False)
    (draft / "recipe.yaml").write_text(recipe_text, encoding="utf-8")
    if run.template is not None:
        shutil.copyfile(run.template.path, draft / "data_template.yaml")
    manifest = {
        "name": run.recipe["name"],
        "base": run.base.identity,
        "data": run.data,
        "training": run.training,
        "scores": run.scores,
        "merge_proof": proof,
        "versions": {package: version(package) for package in PACKAGES},
        "environment": device.environment(),
        "git_commit": _git_commit(),
        "files": _hashes(draft),
    }
    (draft / "MANIFEST.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def _save_base(model: Any, tokenizer: Any, folder: Path) -> None:
    """The frozen base without the adapter: peft's layers keep the original weights under `base_layer`."""
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    model.get_base_model().save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    write_both_spellings(folder, tokenizer)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}


def _git_commit() -> str | None:
    """Commit of the toolkit's checkout, with `+` when it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
