"""A model folder that transformers 4 and 5, and the engines that copy either's habits, read the same way."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.model.folder import check_folder

Json = dict[str, Any]
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".ot", ".index.json")
# The base's model card is not the merged model's; `MANIFEST.json` and such of another bundle are not either.
NOT_TAKEN = ("README.md", "MANIFEST.json", "merge.state.json", "adapter_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
             "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json")  # fmt: skip
ENDS = ("bos_token", "eos_token")
TEMPLATES = "additional_chat_templates"
ONLY_V5 = ("backend", "is_local", "local_files_only")  # of tokenizer_config.json: how it was loaded, not what it is


@dataclass(frozen=True)
class Layout:
    """What `write_layout` has written.

    Attributes:
        copied: files of the base (or of the training tokenizer), byte for byte.
        patched: files that say something else than the base's, or say it in a second spelling.
        tokenizer: `base`, or `training` where that is another one.
    """

    copied: tuple[str, ...]
    patched: tuple[str, ...]
    tokenizer: str


def write_layout(
    base: Path,
    tokenizer_folder: Path,
    output: Path,
    *,
    dtype: str | None = None,
    tied: bool | None = None,
    vocabulary: int | None = None,
    stops: Sequence[int] = (),
    trust_remote_code: bool = False,
    score_config: Mapping[str, Any] | None = None,
) -> Layout:
    """Everything beside the weights, into an existing folder: the base's files as they are, patched where they must be.

    The tokenizer is the base's, byte for byte, if that is the one that was trained with; else the training one.

    Args:
        base: the base's folder. tokenizer_folder: where the training tokenizer was saved by transformers.
        dtype, tied, vocabulary: of merge.Merged; None: as in the base.
        stops: all ids that end an answer; empty: the base's.
        score_config: of a reward model: what config.json says of its score head. Its padding token then is the
            tokenizer's, so that the base's tokenizer will not do where its padding is another; it generates nothing.
        trust_remote_code: the base's own *.py come along; else they don't, nor what config.json says of them.

    Raises:
        RecipeError: something in a folder leads out of it, or is no JSON.
    """
    check_folder("base", str(base))
    check_folder("tokenizer", str(tokenizer_folder))
    taken = [file for file in sorted(base.iterdir()) if _wanted(file, trust_remote_code)]
    sources = {file.name: file for file in taken if not (score_config and file.name == "generation_config.json")}
    same = same_tokenizer(base, tokenizer_folder, (*ENDS, "pad_token") if score_config else ENDS)
    if not same:
        sources = {name: file for name, file in sources.items() if name not in TOKENIZER}
        sources |= {name: tokenizer_folder / name for name in TOKENIZER if (tokenizer_folder / name).is_file()}
    for name, file in sources.items():
        shutil.copyfile(file, output / name)
    templates = (base if same else tokenizer_folder) / TEMPLATES
    if templates.is_dir():
        (output / TEMPLATES).mkdir(exist_ok=True)
        for file in sorted(templates.iterdir()):
            shutil.copyfile(file, output / TEMPLATES / file.name)
    before = {name: (output / name).read_bytes() for name in sources}
    further = score_config or {}
    config = _patch_config(output / "config.json", dtype, tied, vocabulary, stops, trust_remote_code, further)
    _patch_generation(output / "generation_config.json", config, stops)
    _patch_tokenizer(output)
    now = {file.name: file.read_bytes() for file in output.iterdir() if file.name in before or file.suffix == ".json"}
    ours = {"config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja"} | set(before)
    patched = tuple(sorted(name for name in now if name in ours and before.get(name) != now[name]))
    if (output / "chat_template.jinja").is_file() and "chat_template.jinja" not in before:
        patched = tuple(sorted({*patched, "chat_template.jinja"}))
    return Layout(tuple(sorted(set(before) - set(patched))), patched, "base" if same else "training")


def _wanted(file: Path, trust_remote_code: bool) -> bool:
    if not file.is_file() or file.name.startswith(".") or file.name in NOT_TAKEN:
        return False
    return trust_remote_code if file.suffix == ".py" else not file.name.endswith(WEIGHTS)


def add_answering(adapter: Path, base: Path, stops: Sequence[int]) -> None:
    """What an adapter that is never merged needs beside its weights: a tokenizer, and where its answers stop.

    Args:
        adapter: its folder, to which generation_config.json is added, and the base's tokenizer if it has none.
        stops: ids that end a turn; none leaves the base's.
    """
    if not (adapter / "tokenizer_config.json").is_file():
        for name in TOKENIZER:
            if (base / name).is_file():
                shutil.copyfile(base / name, adapter / name)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", adapter / "generation_config.json")
    _patch_generation(adapter / "generation_config.json", _read(base / "config.json"), stops)


def same_tokenizer(left: Path, right: Path, tokens: Sequence[str] = ENDS) -> bool:
    """Whether two folders hold one tokenizer: tokenizer.json's content, the chat template, what begins and ends a text."""
    files = [folder / "tokenizer.json" for folder in (left, right)]
    if not all(file.is_file() for file in files):
        return False
    contents = [_read(file) for file in files]
    for content in contents:
        for runtime in ("padding", "truncation", "version"):  # how it was called last
            content.pop(runtime, None)
    settings = [_read(folder / "tokenizer_config.json") for folder in (left, right)]
    ends = [[_token(given.get(name)) for name in tokens] for given in settings]
    return contents[0] == contents[1] and ends[0] == ends[1] and chat_template(left) == chat_template(right)


def chat_template(folder: Path) -> str | None:
    """The template in force: the file of its own before what tokenizer_config.json has."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    given = _read(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(given, list):  # several, by name
        return next((entry["template"] for entry in given if entry.get("name") == "default"), None)
    return given


def _token(given: Any) -> str | None:
    return given.get("content") if isinstance(given, dict) else given


def _patch_config(
    file: Path,
    dtype: str | None,
    tied: bool | None,
    vocabulary: int | None,
    stops: Sequence[int],
    trust_remote_code: bool,
    further: Mapping[str, Any],
) -> Json:
    config = {**_read(file), **further}
    if not trust_remote_code:
        config.pop("auto_map", None)
    config.pop("quantization_config", None)  # what is merged is not quantised
    for place in (config, config.get("text_config")):
        if place is None:
            continue
        known = place is config or "text_config" not in config
        _set_dtype(place, dtype)
        _spell_rope(place)
        _spell_experts(place)
        if tied is not None and ("tie_word_embeddings" in place or place is config):
            place["tie_word_embeddings"] = tied
        if vocabulary is not None and ("vocab_size" in place or (known and "text_config" not in config)):
            place["vocab_size"] = vocabulary
        if stops and (place is config or "eos_token_id" in place) and _ids(place.get("eos_token_id")) != set(stops):
            place["eos_token_id"] = _one_or_many(stops)
    _rewrite(file, config)
    return config


def _set_dtype(config: Json, dtype: str | None) -> None:
    """`dtype` is transformers 5's word, `torch_dtype` that of 4 and of most engines."""
    have = [key for key in ("dtype", "torch_dtype") if config.get(key)]
    value = dtype or (config[have[0]] if have else None)
    if value is None or (dtype is not None and not have and "architectures" not in config):
        return
    for key in ("dtype", "torch_dtype"):
        config[key] = value


def _spell_rope(config: Json) -> None:
    """Adds transformers 4's words for `rope_parameters`; without `rope_theta` 4 silently takes 10000."""
    rope = config.get("rope_parameters") or {}
    if isinstance(rope.get("full_attention"), dict):  # Gemma 3: one for each kind of layer
        local = rope.get("sliding_attention") or {}
        if "rope_theta" in local:
            config["rope_local_base_freq"] = local["rope_theta"]
        rope = rope["full_attention"]
    if "rope_theta" not in rope:
        return
    config["rope_theta"] = rope["rope_theta"]
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    config["rope_scaling"] = scaling if rope.get("rope_type", "default") != "default" else None
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]


def _spell_experts(config: Json) -> None:
    """transformers 4 reads `num_experts` for Qwen3's mixtures, and takes 128 without it."""
    if str(config.get("model_type", "")).startswith("qwen3") and "num_local_experts" in config:
        config.setdefault("num_experts", config["num_local_experts"])


def _patch_generation(file: Path, config: Json, stops: Sequence[int]) -> None:
    if not stops:
        return
    if file.is_file():
        content = _read(file)
    else:
        ids = ("bos_token_id", "pad_token_id")
        content = {key: config[key] for key in ids if config.get(key) is not None}
        file.write_text("{}\n", encoding="utf-8")
    if _ids(content.get("eos_token_id")) != set(stops):
        content["eos_token_id"] = _one_or_many(stops)
    _rewrite(file, content)


def _patch_tokenizer(folder: Path) -> None:
    """A class that 4 knows, the chat template in both places, special_tokens_map.json for engines that look for it."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return
    settings = _read(file)
    spell_tokenizer(settings)
    template = chat_template(folder)
    if template is not None:
        if not isinstance(settings.get("chat_template"), list):
            settings["chat_template"] = template
        if not (folder / "chat_template.jinja").is_file():
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _rewrite(file, settings)
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: _token(settings[name]) for name in names if settings.get(name)}
    if special and not (folder / "special_tokens_map.json").is_file():
        _write(folder / "special_tokens_map.json", special)


def spell_tokenizer(settings: Json) -> None:
    """tokenizer_config.json in words that transformers 4 understands as well."""
    for only_here in ONLY_V5:
        settings.pop(only_here, None)
    if settings.get("tokenizer_class") in (None, "TokenizersBackend"):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, list):  # 4 wants names for these, and has another word for a list
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")


def write_both_spellings(folder: Path, tokenizer: Any) -> None:
    """Adds the older spellings beside those transformers 5 writes; nothing is taken away that 5 needs.

    transformers 4 reads `rope_theta` at the top level and silently takes 10000 without it; it knows no
    `TokenizersBackend`; older engines look for the chat template inside tokenizer_config.json.
    """
    if (folder / "config.json").is_file():
        config = _read(folder / "config.json")
        _spell_rope(config)
        _spell_experts(config)
        _set_dtype(config, None)
        _write(folder / "config.json", config)
    settings = _read(folder / "tokenizer_config.json")
    spell_tokenizer(settings)
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


def _ids(given: Any) -> set[int]:
    return {given} if isinstance(given, int) else set(given or ())


def _one_or_many(stops: Sequence[int]) -> int | list[int]:
    return stops[0] if len(stops) == 1 else list(stops)


def _read(file: Path) -> Json:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{file}: a JSON object is needed")
    return content


def _rewrite(file: Path, content: Json) -> None:
    """The content in the file's own manner: order, indent, escapes, last newline; untouched when it says so already."""
    text = file.read_text(encoding="utf-8")
    if json.loads(text) == content and list(json.loads(text)) == list(content):
        return
    indent = re.search(r'\n([ \t]+)"', text)
    separators = (",", ":") if indent is None and '": ' not in text else None
    written = json.dumps(
        content,
        indent=indent[1] if indent else (2 if text.strip() == "{}" else None),
        separators=separators,
        ensure_ascii=text.isascii() and "\\u" in text,
    )
    file.write_text(written + ("\n" if text.endswith("\n") else ""), encoding="utf-8")


def _write(file: Path, content: Json) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
