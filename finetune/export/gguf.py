"""GGUF files for llama.cpp and Ollama, written by llama.cpp's own converter and read again before anybody has them.

The converter is two scripts, convert_hf_to_gguf.py and convert_lora_to_gguf.py. They are in a llama.cpp checkout, in
some of its packages (on PATH), or fetched by scripts/get_llama_cpp_converters.sh. Nothing is looked for elsewhere.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import GateError, RecipeError, did_you_mean, writing

# llama.cpp's numbers of file types (include/llama.h, enum llama_ftype), as `general.file_type` in the file says them.
DIRECT = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # written by the converter
QUANTISED = {  # written by the program llama-quantize out of an unquantised file
    "q4_0": 2, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16,
    "q5_k_m": 17, "q6_k": 18,
}  # fmt: skip
GET = "scripts/get_llama_cpp_converters.sh fetches llama.cpp's; then set `converter: .converters`"


def available(converter: Path | None, types: Sequence[str] = ()) -> str | None:
    """Why these types can't be written here, in one line with the fix; None when they can.

    Args:
        converter: folder of the scripts; None looks for convert_hf_to_gguf.py on PATH.
    """
    unknown = [kind for kind in types if kind not in DIRECT and kind not in QUANTISED]
    if unknown:
        return f"GGUF: no type {unknown[0]!r}{did_you_mean(unknown[0], DIRECT | QUANTISED)}"
    if _script("convert_hf_to_gguf.py", converter) is None:
        where = f"not in {converter}" if converter else "not on PATH, and no `converter:` names its folder"
        return f"GGUF: convert_hf_to_gguf.py is {where}; {GET}"
    missing = [package for package in ("gguf", "sentencepiece") if importlib.util.find_spec(package) is None]
    if missing:
        return f"GGUF: the converter needs {' and '.join(missing)}; pip install 'finetune[gguf]'"
    harder = [kind for kind in types if kind in QUANTISED]
    if harder and _quantiser(converter) is None:
        return (
            f"GGUF: {harder[0]} needs llama.cpp's program llama-quantize on PATH or in the converter's folder; "
            f"install llama.cpp, or take one of {', '.join(DIRECT)}"
        )
    return None


def convert(model_folder: Path, file: Path, type: str, converter: Path | None) -> dict[str, Any]:
    """Writes a model folder as one GGUF file; it appears whole and checked, or not at all.

    The converter loads some tokenizers with the folder's own code; an export holds such code only where the recipe
    trusts it (layout.py).

    Args:
        type: a key of DIRECT or QUANTISED; the latter by way of the folder's own dtype.

    Returns:
        What the file says of itself: see `read_back`.

    Raises:
        RecipeError: the converter isn't there, or doesn't take this model; the file exists.
        GateError: what was written is not this model.
    """
    _may_write(file, converter, [type])
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    plain = draft.with_suffix(".plain")
    first = type if type in DIRECT else _own_type(model_folder)
    script = str(_script("convert_hf_to_gguf.py", converter))
    try:
        target = str(draft if type in DIRECT else plain)
        options = ["--outtype", first, "--outfile", target, "--model-name", file.stem]
        _run([sys.executable, script, str(model_folder), *options], f"{model_folder}: GGUF")
        if type in QUANTISED:
            _run([str(_quantiser(converter)), str(plain), str(draft), type.upper()], f"{model_folder}: {type}")
        facts = read_back(draft, model_folder, type)
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)
    return facts


def convert_adapter(adapter: Path, base: Path, file: Path, type: str, converter: Path | None) -> dict[str, Any]:
    """Writes a canonical LoRA adapter as a GGUF file for `llama-server --lora`.

    The converter stores lora_alpha alone and llama.cpp scales by alpha / rank: an adapter for which that is not the
    whole truth would be served wrong without a word (measured: rsLoRA, alpha_pattern, saved norms, PiSSA as it is).

    Args:
        base: folder of the base's config and tokenizer; its weights are not read.
        type: one of DIRECT.

    Raises:
        RecipeError: llama.cpp would serve this adapter wrong or not at all; the converter isn't there or refuses.
        GateError: what was written is not this adapter.
    """
    _may_write(file, converter, [type])
    problems = _not_for_llama_cpp(adapter)
    if type not in DIRECT:
        problems.append(f"{file}: an adapter is written as one of {', '.join(DIRECT)}, not {type}")
    script = _script("convert_lora_to_gguf.py", converter)
    if script is None:
        problems.append(f"GGUF: convert_lora_to_gguf.py is not beside convert_hf_to_gguf.py; {GET}")
    if problems:
        raise RecipeError(problems)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        _run(
            [
                sys.executable,
                str(script),
                str(adapter),
                "--base",
                str(base),
                "--outtype",
                type,
                "--outfile",
                str(draft),
            ],
            f"{adapter}: GGUF",
        )
        facts = read_adapter_back(draft, adapter)
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return facts


def read_back(file: Path, model_folder: Path, type: str) -> dict[str, Any]:
    """What the file says of itself, held against the folder it was made from.

    Returns:
        type, architecture, tensors, parameters, vocabulary, pre_tokenizer, eos_token_id.

    Raises:
        GateError: type, layers, end of turn or chat template are not the folder's.
    """
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    reader = GGUFReader(str(file))
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    layers = (config.get("text_config") or config).get("num_hidden_layers")
    architecture = _value(reader, "general.architecture")
    blocks = {name.split(".")[1] for name in (t.name for t in reader.tensors) if name.startswith("blk.")}
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name; the file's own is the default one
        template = template.get("default")
    pairs = {
        "file type": (_value(reader, "general.file_type"), (DIRECT | QUANTISED)[type]),
        "eos_token_id": (_value(reader, "tokenizer.ggml.eos_token_id"), tokenizer.eos_token_id),
        "chat template": (_value(reader, "tokenizer.chat_template"), template),
    }
    wrong = [f"{what} {found!r}, not {wanted!r}" for what, (found, wanted) in pairs.items() if found != wanted]
    if layers is not None and not {str(layer) for layer in range(layers)} <= blocks:
        wrong.append(f"{len(blocks)} layers, not {layers}")
    tokens = reader.get_field("tokenizer.ggml.tokens")
    vocabulary = len(tokens.data) if tokens else 0
    if vocabulary < len(tokenizer):
        wrong.append(f"{vocabulary} tokens, not {len(tokenizer)}")
    if wrong:
        raise GateError(f"{file.name}: the GGUF file is not the model in {model_folder}: {'; '.join(wrong)}")
    return {
        "type": type,
        "architecture": architecture,
        "tensors": len(reader.tensors),
        "parameters": sum(int(t.n_elements) for t in reader.tensors),
        "vocabulary": vocabulary,
        "pre_tokenizer": _value(reader, "tokenizer.ggml.pre"),
        "eos_token_id": pairs["eos_token_id"][0],
    }


def read_adapter_back(file: Path, adapter: Path) -> dict[str, Any]:
    """The same for an adapter's file: every tensor is there and lora_alpha is the adapter's.

    Raises:
        GateError: it is not so.
    """
    from gguf import GGUFReader
    from safetensors import safe_open

    reader = GGUFReader(str(file))
    alpha = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["lora_alpha"]
    with safe_open(str(adapter / "adapter_model.safetensors"), "pt") as tensors:
        expected = len(list(tensors.keys()))
    found = (_value(reader, "adapter.type"), _value(reader, "adapter.lora.alpha"), len(reader.tensors))
    if found != ("lora", float(alpha), expected):
        raise GateError(f"{file.name}: (type, alpha, tensors) {found}, but {adapter} has ('lora', {alpha}, {expected})")
    return {"alpha": found[1], "tensors": found[2], "architecture": _value(reader, "general.architecture")}


def _not_for_llama_cpp(adapter: Path) -> list[str]:
    from safetensors import safe_open

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    fix = "export the canonical adapter, or merge"
    kept_out = ("use_rslora", "alpha_pattern", "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")
    problems = [f"{adapter}: llama.cpp does not serve {key}; {fix}" for key in kept_out if config.get(key)]
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.split("_")[0] in ("pissa", "olora", "corda", "loftq"):
        problems.append(f"{adapter}: init_lora_weights {start} changed the base's weights; {fix}")
    with safe_open(str(adapter / "adapter_model.safetensors"), "pt") as tensors:
        names = list(tensors.keys())
    odd = [
        name
        for name in names
        if not name.endswith((".lora_A.weight", ".lora_B.weight")) or "lm_head" in name or "embed_tokens" in name
    ]
    if odd:
        problems.append(f"{adapter}: llama.cpp has no adapter for {odd[0]} ({len(odd)} such tensors); {fix}")
    return problems


def _may_write(file: Path, converter: Path | None, types: Sequence[str]) -> None:
    why_not = available(converter, types)
    if why_not:
        raise RecipeError(why_not)
    if file.exists():
        raise RecipeError(f"{file}: exists; it is not overwritten")
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)


def _script(name: str, converter: Path | None) -> Path | None:
    if converter is not None:
        return converter / name if (converter / name).is_file() else None
    found = shutil.which("convert_hf_to_gguf.py")
    beside = Path(found).resolve().parent / name if found else None
    return beside if beside and beside.is_file() else None


def _quantiser(converter: Path | None) -> Path | None:
    """llama-quantize of the converter's checkout (in it, or built in build/bin), else of PATH."""
    folders = [converter, converter / "build/bin"] if converter else []
    found = shutil.which("llama-quantize", path=os.pathsep.join(map(str, folders))) if folders else None
    found = found or shutil.which("llama-quantize")
    return Path(found).absolute() if found else None


def _own_type(model_folder: Path) -> str:
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    dtype = config.get("dtype") or config.get("torch_dtype")
    return {"bfloat16": "bf16", "float16": "f16"}.get(str(dtype), "f32")


def _run(command: list[str], what: str) -> None:
    """Runs one of llama.cpp's programs.

    Raises:
        RecipeError: it failed, with its own reason.
        OSError: the disk is full.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)
    if "BPE pre-tokenizer was not recognized" in done.stderr:
        raise RecipeError(
            f"{what}: llama.cpp's converter doesn't know how this tokenizer splits text (the ids of its test text have "
            "a hash it has not seen): the tokenizer was changed, or is newer than the converter. Keep the base's "
            "tokenizer as it is, take a newer llama.cpp as `converter:`, or leave the GGUF target out"
        )
    lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines()]
    telling = [line for line in lines if line.startswith("ERROR") or "Error" in line.split(":")[0]]
    reason = (telling or [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
    raise RecipeError(f"{what}: {Path(command[1]).name} failed ({done.returncode}): {reason.strip()[:300]}")


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field else None
