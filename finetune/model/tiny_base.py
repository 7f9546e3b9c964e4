"""A tiny random base of another's architecture, made of its configuration and tokenizer; its weights are not needed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.model.byte_tokenizer import byte_tokenizer
from finetune.model.load import load_tokenizer, locate, reason
from finetune.model.tiny import HIDDEN, shrink
from finetune.recipe import ModelSection

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.tiktoken", "*.model", "tekken.json", "spiece*")
SPREAD = 0.05  # by which vectors (norms, biases, sinks) are moved from where they start


@dataclass(frozen=True)
class TinyBase:
    """What was written.

    Attributes:
        architecture: the class, by its name. parameters: how many it has now.
        own_tokenizer: whether the base's own was there.
        notes: what of the base could not be had, or was left out; a line each.
    """

    folder: Path
    architecture: str
    parameters: int
    own_tokenizer: bool
    notes: tuple[str, ...]

    def line(self) -> str:
        return f"{self.architecture} with {self.parameters:,} random parameters"


def write_tiny_base(section: ModelSection, folder: Path, seed: int = 0) -> TinyBase:
    """Writes `folder`: config.json, random weights in float32, tokenizer, and the base's own code where it is trusted.

    Args:
        section: names the base: a folder with config.json, a hub id (config.json and tokenizer are fetched), a GGUF file.

    Raises:
        RecipeError: no configuration, or one that no model is built from; custom code that is not trusted.
    """
    section = section.model_copy(update={"add_tokens": ()})  # the run adds them, as it does to the real base
    name = locate(section)
    config = config_of(section)
    notes = []
    own = section.tokenizer_name_or_path or section.gguf_file or not Path(name).is_dir()
    known = bool(own) or any(next(Path(name).glob(pattern), None) for pattern in TOKENIZER_FILES)
    tokenizer = load_tokenizer(section) if known else byte_tokenizer()
    if not known:
        notes.append(f"no tokenizer in {name}: a byte-level one with a ChatML template stands in for it")
    if getattr(config, "quantization_config", None):
        notes.append("quantization_config: left out; random weights are stored in float32")
    ids = tokenizer.get_vocab().values()
    small = _made(config, shrink(config.to_dict(), max(len(tokenizer), max(ids) + 1), known), name)
    if not known:
        _own_tokens(small, tokenizer)
    model = _build(small, section, name, seed)
    if known:
        _stops_of(model, section, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if section.trust_remote_code and Path(name).is_dir():
        for file in Path(name).glob("*.py"):
            shutil.copyfile(file, folder / file.name)
    _check(model, len(ids))
    return TinyBase(folder, type(model).__name__, sum(p.numel() for p in model.parameters()), known, tuple(notes))


def config_of(section: ModelSection, key: str = "model.name_or_path") -> Any:
    """A base's configuration, out of its config.json or the GGUF file's metadata; no weight is read.

    Args:
        key: the recipe's, which names the base.

    Raises:
        RecipeError: there is none on this machine and no hub to ask.
    """
    from transformers import AutoConfig

    name = locate(section)
    options: dict[str, Any] = {"revision": section.revision, "trust_remote_code": section.trust_remote_code}
    if section.gguf_file:
        options["gguf_file"] = section.gguf_file
    try:
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        way = "; a folder with its config.json and tokenizer will do" if "couldn't connect" in str(error) else ""
        raise RecipeError(f"{key}: no configuration from {name!r}: {reason(error)}{way}") from None


def _made(config: Any, small: dict[str, Any], name: str) -> Any:
    """A configuration of the same class; `name` is where custom code is looked for."""
    made = type(config).from_dict(small)
    made._name_or_path = name
    return made


def _own_tokens(config: Any, tokenizer: Any) -> None:
    """The ids of the tokenizer that stands in."""
    for place in {id(config): config, id(config.get_text_config()): config.get_text_config()}.values():
        place.bos_token_id, place.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        place.pad_token_id = tokenizer.pad_token_id


def _build(config: Any, section: ModelSection, name: str, seed: int) -> Any:
    """The class that the checkpoint is of, so that its weights lie as the base's do; random from `seed`."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    named = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    remote = section.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    own = not remote and getattr(named, "config_class", None) is type(config)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if own and named is not None:
                model = named._from_config(config, dtype=torch.float32)
            else:
                trust = section.trust_remote_code
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust, dtype=torch.float32)
            _randomise(model)
    except (OSError, ValueError, ImportError, TypeError, AttributeError, RuntimeError) as error:
        raise RecipeError(
            f"model.name_or_path: {name}: no tiny model is built from its configuration: {reason(error)}"
        ) from None
    model.config._name_or_path = ""
    return model.eval()


def _randomise(model: Any) -> None:
    """Matrices that keep the size of what goes through them, vectors a little off where the architecture starts them.

    The architecture's own start is too even to tell a wrong scale from a right one, and custom code may leave memory as
    it was.
    """
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, HIDDEN**-0.5)
            else:
                parameter.nan_to_num_(0.0, 0.0, 0.0).add_(torch.randn_like(parameter), alpha=SPREAD)


def _stops_of(model: Any, section: ModelSection, name: str) -> None:
    """The base's own generation config, where it has one."""
    from transformers import GenerationConfig

    try:
        model.generation_config = GenerationConfig.from_pretrained(name, revision=section.revision)
    except (OSError, ValueError):
        return


def _check(model: Any, vocabulary: int) -> None:
    """The logits are finite and depend on what was read; otherwise the rules of tiny.py are wrong for it."""
    import torch

    ids = torch.arange(24).reshape(2, 12) % vocabulary  # (2, 12)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits  # (2, 12, V)
    if not bool(logits.isfinite().all()) or bool((logits[0, -1] == logits[1, -1]).all()):
        raise RuntimeError(f"the tiny {type(model).__name__} does not compute; finetune/model/tiny.py does not fit it")
