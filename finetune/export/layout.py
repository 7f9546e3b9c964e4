"""A model folder that transformers 4 and 5, and the engines that copy either's habits, read the same way."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any


def write_both_spellings(folder: Path, tokenizer: Any) -> None:
    """Adds the older spellings beside those transformers 5 writes; nothing is taken away that 5 needs.

    transformers 4 reads `rope_theta` at the top level and silently takes 10000 without it; it knows no
    `TokenizersBackend`; older engines look for the chat template inside tokenizer_config.json.
    """
    if (folder / "config.json").is_file():
        config = _read(folder / "config.json")
        rope = config.get("rope_parameters") or {}
        if "rope_theta" in rope:
            config["rope_theta"] = rope["rope_theta"]
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            config["rope_scaling"] = scaling if rope.get("rope_type", "default") != "default" else None
        if config.get("dtype"):
            config["torch_dtype"] = config["dtype"]
        _write(folder / "config.json", config)
    settings = _read(folder / "tokenizer_config.json")
    for only_here in ("backend", "is_local", "local_files_only"):
        settings.pop(only_here, None)
    if settings.get("tokenizer_class") in (None, "TokenizersBackend"):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["chat_template"] = tokenizer.chat_template
    _write(folder / "tokenizer_config.json", settings)
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: str(getattr(tokenizer, name)) for name in names if getattr(tokenizer, name)}
    _write(folder / "special_tokens_map.json", special)


def modes_follow_umask(folder: Path) -> None:
    """Every file as readable as any other new file: safetensors 0.8 writes 0600, whatever the umask."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_layout(base, tokenizer_folder, output, *, dtype, tied, stops):  # STUB
    import shutil

    for f in base.iterdir():
        if f.suffix not in (".safetensors",) and f.is_file() and "index" not in f.name:
            shutil.copyfile(f, output / f.name)
    for f in tokenizer_folder.iterdir():
        if f.suffix in (".json", ".jinja") and "adapter" not in f.name:
            shutil.copyfile(f, output / f.name)
    c = _read(output / "config.json")
    c["dtype"] = str(dtype).removeprefix("torch.")
    if tied is not None:
        c["tie_word_embeddings"] = tied
    _write(output / "config.json", c)
    from transformers import AutoTokenizer

    write_both_spellings(output, AutoTokenizer.from_pretrained(output))
