"""A GGUF file as a training base: dequantised weights, and what transformers' GGUF reader loses put back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.model.load import Source
    from finetune.recipe import ModelSection


def mend_tokenizer(tokenizer: Any, file: Path) -> None:
    """Sets the pre-tokenizer that the file names and the context length; transformers 5.23 reads neither.

    The names and their rules are llama.cpp's (src/llama-vocab.cpp, `tokenizer.ggml.pre`).

    Raises:
        RecipeError: a pre-tokenizer this table lacks; ids would differ from those of the serving engine.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    reader = GGUFReader(str(file))
    kind = _value(reader, "tokenizer.ggml.model")
    name = _value(reader, "tokenizer.ggml.pre")
    if kind == "gpt2":
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        rules = {
            "gpt-2": byte_level,
            "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
        }
        if name not in rules:
            raise RecipeError(
                f"model.gguf_file: {file.name} needs the pre-tokenizer {name!r}, which the GGUF reader loses; name the "
                "original tokenizer (hub id or folder) in model.tokenizer_name_or_path"
            )
        tokenizer.backend_tokenizer.pre_tokenizer = rules[name]
    architecture = _value(reader, "general.architecture")
    tokenizer.model_max_length = int(_value(reader, f"{architecture}.context_length") or tokenizer.model_max_length)


def load_gguf(source: Source, gguf_file: str, tokenizer: Any, options: dict[str, Any]) -> Any:
    """The dequantised model, free of what would keep it from being saved as a plain one."""
    from transformers import GenerationConfig, GgufConfig

    model = source.load(gguf_file=gguf_file, quantization_config=GgufConfig(dequantize=True), **options)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config._name_or_path = ""
    if hasattr(config, "rms_norm_eps"):  # stored as float32: 9.999999747e-06
        config.rms_norm_eps = float(f"{config.rms_norm_eps:.3g}")
    config.dtype = options["dtype"]
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def write_gguf_base(section: ModelSection, dtype: Any, folder: Path, cache: Path | None = None) -> None:
    """The dequantised base with its tokenizer as a folder that every engine reads, whole or not there.

    Args:
        dtype: torch's, of the weights.
        cache: where it may lie already (gguf_kept.py).
    """
    from finetune.model.gguf_kept import copy_kept

    if folder.is_dir():
        return
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    if cache is None or not copy_kept(section, dtype, cache, draft):
        write_plain(section, dtype, draft)
    draft.rename(folder)


def write_plain(section: ModelSection, dtype: Any, folder: Path) -> None:
    """The files of that folder.

    Loaded anew from the file: a model in training may have had its weights changed by an adapter's initialisation.
    """
    from finetune.export.layout import modes_follow_umask, write_both_spellings
    from finetune.model.gguf_kept import read_once
    from finetune.model.load import Source, locate, original_tokenizer

    with read_once():
        tokenizer = original_tokenizer(section)
        source = Source(locate(section), section.revision, section.trust_remote_code)
        load_gguf(source, str(section.gguf_file), tokenizer, {"dtype": dtype}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_both_spellings(folder, tokenizer)
    modes_follow_umask(folder)


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field else None
