"""Further adapters of the same base in a bundle, so that one server has them all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.export.canon import Canonical, canonical
from finetune.export.facts import read_json
from finetune.model.save import INITIAL

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_beside(adapters: Mapping[str, Path], own: str, identity: Mapping[str, Any], base: str) -> None:
    """Whether they can stand beside the adapter `own` on its base; asked before an export does its work.

    Args:
        adapters: name to folder of a PEFT adapter.
        identity: of the base, as the manifest has it; base: its name or folder.

    Raises:
        RecipeError: a name that is taken or can't stand in a command, no adapter there, another base: all of them.
    """
    problems = []
    for name, folder in adapters.items():
        where = f"export.adapters.{name}"
        if name == own or not NAME.fullmatch(name):
            problems.append(f"{where}: a name of its own is needed, of letters, digits and ._-")
        if not (folder / "adapter_config.json").is_file():
            problems.append(f"{where}: {folder}: not a PEFT adapter (no adapter_config.json)")
            continue
        # A bundle says by hash what its adapter belongs to; any other adapter only by name.
        manifest = folder.parent / "MANIFEST.json"
        config = read_json(folder / "adapter_config.json", needed=True)
        if config.get("peft_type") not in ("LORA", "VERA"):
            problems.append(f"{where}: {folder}: peft_type {config.get('peft_type')}: engines read LoRA adapters only")
        told = config.get("base_model_name_or_path")
        if manifest.is_file():
            theirs = json.loads(manifest.read_text(encoding="utf-8"))["base"]
            same = any(theirs.get(key) and theirs.get(key) == identity.get(key) for key in ("sha256", "commit"))
            told = theirs.get("name_or_path")
        else:
            same = told in (base, identity.get("name_or_path"))
        if not same:
            problems.append(f"{where}: {folder} belongs to another base: {told}, not {identity.get('name_or_path')}")
    if problems:
        raise RecipeError(problems)


def add_beside(draft: Path, adapters: Mapping[str, Path], base: Path) -> dict[str, Canonical]:
    """Writes each, canonical, to `adapters/<name>` of the bundle.

    Args:
        base: the folder of their base.

    Raises:
        RecipeError: one that no engine serves as an adapter.
    """
    written = {}
    for name, folder in adapters.items():
        initial = folder / INITIAL
        canon = canonical(folder, draft / "adapters" / name, initial if initial.is_file() else None, base)
        if canon.leftover:
            raise RecipeError([f"export.adapters.{name}: {line}" for line in canon.leftover])
        written[name] = canon
    return written
