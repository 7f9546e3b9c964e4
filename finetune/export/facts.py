"""What the servability rules look at: facts of an adapter and of a model folder, read without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.export.adapterfile import PAIR, PROMPTS, UNSERVED, clean_name, leftovers, next_rank, residual_init
from finetune.model.quantization import stored_method

ENDS = ("embed_tokens", "lm_head", "wte", "embed_out", "word_embeddings")
TENSORS = "__metadata__"


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter as engines will find it.

    Attributes:
        rank: the largest; alpha: lora_alpha.
        scale: what engines must multiply B A with: the one factor of all modules, None where modules differ.
        covers: whether every layer has every targeted kind of module; None where that can't be known.
        ends: the embedding and output layers among the targets.
        saved: modules_to_save. bias: peft's word. leftover: settings that can't be canonical.
        odd: tensors whose names are not `base_model.model.<module>.lora_[AB].weight`.
        local_base: the base is named by a path. other_template: its chat template is not the base's.
        tied: the base's embedding and output layers are one matrix. biased: its linear layers have biases.
        base: the base's config.json, where it is known.
        method: peft's word for it; of what VeRA is written as, LORA.
        quantised: how its base was quantised as it was loaded; stored: how it lies quantised on disk.
    """

    rank: int
    alpha: float
    scale: float | None = 1.0
    rslora: bool = False
    rank_pattern: bool = False
    alpha_pattern: bool = False
    dora: bool = False
    bias: str = "none"
    lora_bias: bool = False
    saved: tuple[str, ...] = ()
    new_tokens: bool = False
    residual: str | None = None
    regex: bool = False
    covers: bool | None = True
    ends: tuple[str, ...] = ()
    experts: bool = False
    leftover: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    local_base: str | None = None
    other_template: bool = False
    tied: bool = False
    biased: bool = False
    base: Mapping[str, Any] | None = None
    base_stops: frozenset[int] | None = None
    stops: frozenset[int] = frozenset()
    method: str = "LORA"
    quantised: str | None = None
    stored: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """A merged model's folder as engines will find it; None where the file or key is not there.

    Attributes:
        config, tokenizer_config, generation: the JSON files.
        tensors: names in the safetensors files; shards: file name -> bytes; index: weight_map's files.
        modes: file name -> mode bits; links: symbolic links.
        tokens: highest token id + 1; rows: of the embedding; base_rows: of the base's.
        stops: ids that training ends a turn with. digits: the tokenizer cuts digits off with `Digits`.
        begins: the token that the tokenizer puts before every text and the chat template does not write.
        merge_dtype: the dtype in which the sum was made.
    """

    config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tensors: frozenset[str]
    shards: Mapping[str, int]
    index: frozenset[str] | None
    modes: Mapping[str, int]
    links: tuple[str, ...]
    tokens: int | None
    rows: int | None
    base_rows: int | None
    eos: frozenset[int]
    tokenizer_eos: int | None
    stops: frozenset[int]
    digits: bool
    jinja: bool
    begins: str | None = None
    merge_dtype: str = "float32"


def recipe_facts(lora: Mapping[str, Any], base: Mapping[str, Any] | None, initial: bool = False) -> AdapterFacts:
    """The adapter that a recipe will export: canonical, where its method and settings allow that.

    Args:
        lora: the section of the recipe's method, or an adapter_config.json; `peft_type` left out is LORA.
        base: the base's config.json; None where it is not known yet.
        initial: whether A and B of the beginning are kept, so that PiSSA and its like become plain.
    """
    method = str(lora.get("peft_type") or "LORA").upper()
    left = leftovers(lora)
    if method in UNSERVED or method in PROMPTS:  # nothing that rules on LoRA's settings ask for
        saved = tuple(lora.get("modules_to_save") or ())
        return AdapterFacts(rank=0, alpha=1.0, saved=saved, leftover=left, base=base, method=method)
    init = lora.get("init_lora_weights", True)
    residual = residual_init(init)
    patterns = [value for value in (lora.get("rank_pattern") or {}).values() if isinstance(value, int)]
    rank = max([int(lora.get("r") or 8), *patterns])
    rank = rank if left else next_rank(2 * rank if residual and initial else rank)
    targets = lora.get("target_modules") or ()
    listed = [targets] if isinstance(targets, str) else list(targets)
    return AdapterFacts(
        rank=rank,
        alpha=float(lora.get("lora_alpha") or 8) if left else float(rank),
        scale=_scale(lora) if left else 1.0,
        rslora=bool(left and lora.get("use_rslora")),
        rank_pattern=bool(left and lora.get("rank_pattern")),
        alpha_pattern=bool(left and lora.get("alpha_pattern")),
        dora=bool(lora.get("use_dora")),
        bias=str(lora.get("bias") or "none"),
        lora_bias=bool(lora.get("lora_bias")),
        saved=tuple(lora.get("modules_to_save") or ()),
        new_tokens=bool(lora.get("trainable_token_indices")),
        residual=str(init) if residual and not initial else None,
        regex=bool(left and isinstance(targets, str) and targets != "all-linear"),
        covers=_covers(lora),
        ends=tuple(end for end in ENDS if any(end == name.rpartition(".")[2] for name in listed)),
        experts=bool(lora.get("target_parameters")),
        leftover=left,
        tied=bool((base or {}).get("tie_word_embeddings")),
        biased=bool((base or {}).get("attention_bias")),
        base=base,
        stored=stored_method(base),
    )


def adapter_facts(folder: Path, base: Mapping[str, Any] | None = None) -> AdapterFacts:
    """An adapter's folder as it is.

    Raises:
        RecipeError: adapter_config.json or adapter_model.safetensors is missing or broken.
    """
    config = read_json(folder / "adapter_config.json", needed=True)
    shapes = tensor_shapes(folder / "adapter_model.safetensors")
    named = str(config.get("base_model_name_or_path") or "")
    local = named if Path(named).is_absolute() or named.startswith(".") else None
    facts = recipe_facts(config, base)
    if facts.method != "LORA":
        return replace(facts, local_base=local)
    pairs = {name: match for name in shapes if (match := PAIR.match(name))}
    modules = {match[2] for match in pairs.values()}
    ranks = [shapes[name][0] for name, match in pairs.items() if "A" in (match[3], match[4])]
    odd = sorted(name for name in shapes if name not in pairs and _is_plain_name(name))
    whole = [name for name in shapes if name not in pairs and name not in odd]
    return replace(
        facts,
        rank=max(ranks, default=int(config.get("r") or 8)),
        alpha=float(config.get("lora_alpha") or 8),
        scale=_scale(config),
        rslora=bool(config.get("use_rslora")),
        rank_pattern=bool(config.get("rank_pattern")),
        alpha_pattern=bool(config.get("alpha_pattern")),
        regex=isinstance(config.get("target_modules"), str) and config["target_modules"] != "all-linear",
        covers=_all_covered(modules, base) if base else _covers(config),
        ends=tuple(sorted({module.rpartition(".")[2] for module in modules} & set(ENDS))),
        new_tokens=facts.new_tokens or any(name.endswith((f"{end}.weight",)) for end in ENDS for name in whole),
        odd=tuple(odd),
        local_base=local,
    )


def model_facts(
    folder: Path, base: Mapping[str, Any] | None = None, stops: Iterable[int] = (), merge_dtype: str = "float32"
) -> ModelFacts:
    """A model's folder as it is; only headers of the weights are read."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            shapes |= tensor_shapes(file)
    config, generation = read_json(folder / "config.json", needed=True), read_json(folder / "generation_config.json")
    index = read_json(folder / "model.safetensors.index.json")
    tokenizer = read_json(folder / "tokenizer.json")
    added = {item["content"]: item["id"] for item in tokenizer.get("added_tokens", ())}
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    ids = [*(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))), *added.values()]
    settings = read_json(folder / "tokenizer_config.json")
    end = settings.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    tokenizer_eos = added.get(end) if end else None
    embeddings = [shape for name, shape in shapes.items() if name.endswith(("embed_tokens.weight", "wte.weight"))]
    return ModelFacts(
        config=config,
        tokenizer_config=settings,
        generation=generation,
        tensors=frozenset(shapes),
        shards={file.name: file.stat().st_size for file in files if file.suffix == ".safetensors"},
        index=frozenset(index["weight_map"].values()) if index else None,
        modes={file.name: file.stat().st_mode & 0o777 for file in files},
        links=tuple(file.name for file in sorted(folder.iterdir()) if file.is_symlink()),
        tokens=max(ids) + 1 if ids else None,
        rows=embeddings[0][0] if embeddings else config.get("vocab_size"),
        base_rows=(base or {}).get("vocab_size"),
        eos=frozenset([*ids_of(config.get("eos_token_id")), *ids_of(generation.get("eos_token_id"))]),
        tokenizer_eos=tokenizer_eos,
        stops=frozenset(stops),
        digits=splits_digits(tokenizer),
        jinja=(folder / "chat_template.jinja").is_file(),
        begins=_begins(folder, settings, tokenizer),
        merge_dtype=merge_dtype,
    )


def splits_digits(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json cuts digits apart by a rule that OpenVINO's and ONNX Runtime's translations drop."""
    return '"Digits"' in json.dumps(tokenizer.get("pre_tokenizer"))


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from a safetensors file's header (https://github.com/huggingface/safetensors, Format).

    Raises:
        RecipeError: it can't be read.
    """
    try:
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > 100_000_000:  # the format's own limit
                raise ValueError("not a safetensors file")
            header = json.loads(stream.read(size))
    except (OSError, ValueError, struct.error) as error:
        raise RecipeError(f"{file}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    return {name: tuple(item["shape"]) for name, item in header.items() if name != TENSORS}


def read_json(file: Path, needed: bool = False) -> dict[str, Any]:
    """A JSON file's mapping; empty where it is not there and not needed.

    Raises:
        RecipeError: it is needed and not there, or broken.
    """
    if not file.is_file() and not needed:
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file}: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _begins(folder: Path, settings: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str | None:
    """What the tokenizer's post-processor puts before a text, where the chat template does not."""
    processors = [tokenizer.get("post_processor") or {}]
    processors += processors[0].get("processors") or []
    first = [item["single"][0] for item in processors if item.get("single")]
    token = next((item["SpecialToken"]["id"] for item in first if "SpecialToken" in item), None)
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else str(settings.get("chat_template") or "")
    return token if token and template and "bos_token" not in template and token not in template else None


def _is_plain_name(name: str) -> bool:
    """A pair's tensor under a name that engines do not know: a wrapper's prefix, or the adapter's own name in it."""
    return bool(PAIR.match(clean_name(name))) or not name.startswith("base_model.model.")


def _scale(lora: Mapping[str, Any]) -> float | None:
    rank, alpha = float(lora.get("r") or 8), float(lora.get("lora_alpha") or 8)
    if lora.get("alpha_pattern") or lora.get("rank_pattern"):
        return None
    return alpha / rank**0.5 if lora.get("use_rslora") else alpha / rank


def _covers(lora: Mapping[str, Any]) -> bool | None:
    if any(lora.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules")):
        return False
    targets = lora.get("target_modules")
    return None if isinstance(targets, str) and targets != "all-linear" else True


def _all_covered(modules: Iterable[str], base: Mapping[str, Any]) -> bool:
    """Every kind of module in as many layers as the base has."""
    layers = int(base.get("num_hidden_layers") or 0)
    kinds: dict[str, int] = {}
    for module in modules:
        if any(part.isdecimal() for part in module.split(".")):
            kind = ".".join("N" if part.isdecimal() else part for part in module.split("."))
            kinds[kind] = kinds.get(kind, 0) + 1
    return all(count >= layers for count in kinds.values())


def ids_of(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value or ())
