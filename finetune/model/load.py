"""Tokenizer and base model from a hub id, a local folder, or files inside an installed package (GGUF included)."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.filehash import known_sha256
from finetune.device.environment import local_rank
from finetune.errors import RecipeError, first_line
from finetune.model.attention import load_with_attention
from finetune.model.folder import check_folder
from finetune.model.quantization import KEY, check_quantization, describe
from finetune.model.tokens import AddedTokens, add_to_tokenizer, grow
from finetune.recipe import ModelSection

if TYPE_CHECKING:
    from finetune.device import Placement

# Other forms of the same weights in a hub repository.
NOT_THE_MODEL = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.gguf",
    "*.onnx",
    "*.msgpack",
    "*.h5",
    "original/*",
    "onnx/*",
    "openvino/*",
)


@dataclass(frozen=True)
class Source:
    """What transformers loads the very same base from again: a folder, or a hub id pinned to a commit."""

    name: str
    revision: str | None = None
    trust_remote_code: bool = False

    def folder(self) -> Path:
        """Where its files lie on this machine: the folder itself, or the hub id's in the cache.

        Raises:
            RecipeError: it is not on this machine, and the hub can't be reached.
        """
        if Path(self.name).is_dir():
            return Path(self.name)
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.name, revision=self.revision, ignore_patterns=NOT_THE_MODEL))
        except (OSError, ValueError) as error:
            raise RecipeError(f"the base {self.name!r} is neither a folder nor to be had: {reason(error)}") from None

    def config(self) -> dict[str, Any]:
        """Its config.json; empty where there is none."""
        from transformers.utils.hub import cached_file

        try:
            file = cached_file(
                self.name, "config.json", revision=self.revision, _raise_exceptions_for_missing_entries=False
            )
            return json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        except (OSError, ValueError):
            return {}  # loading the model says what is wrong

    def load(self, **options: Any) -> Any:
        """The model, through AutoModelForCausalLM."""
        from transformers import AutoModelForCausalLM

        with warnings.catch_warnings():  # that of compressed-tensors' settings only `dequantize` is taken, as is meant
            warnings.filterwarnings("ignore", message="You passed `quantization_config`", category=UserWarning)
            return AutoModelForCausalLM.from_pretrained(
                self.name, revision=self.revision, trust_remote_code=self.trust_remote_code, **options
            )


@dataclass(frozen=True)
class Base:
    """A loaded base.

    Attributes:
        model: frozen, in the run's dtype, on the CPU.
        identity: what the manifest records: name, commit or the sha256 of each weight file.
        source: where to load the same base again. For a GGUF file this is the folder that `write_gguf_base` makes.
        added: tokens that the recipe lists; new ones have rows in `model`, not in what `source` loads.
        quantization: how its linear layers are quantised (quantization.describe); None: not at all.
    """

    model: Any
    tokenizer: Any
    identity: dict[str, Any]
    source: Source
    added: AddedTokens = field(default_factory=AddedTokens)
    quantization: dict[str, Any] | None = None


def locate(section: ModelSection) -> str:
    """The folder or hub id that transformers is given.

    Raises:
        RecipeError: the package, folder or GGUF file is not there; something in the folder leads out of it.
    """
    name = section.name_or_path
    if name.startswith("pkg:"):
        package = name.removeprefix("pkg:")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise RecipeError(f"model.name_or_path: {name!r}: no installed package {package!r}; pip install it")
        name = str(next(iter(spec.submodule_search_locations)))
    elif name.startswith(("/", ".")) and not Path(name).is_dir():
        raise RecipeError(f"model.name_or_path: no such folder: {name}")
    if section.gguf_file and Path(name).is_dir() and not (Path(name) / section.gguf_file).is_file():
        found = sorted(file.name for file in Path(name).glob("*.gguf"))
        raise RecipeError(
            f"model.gguf_file: {section.gguf_file!r} is not in {name}; there: {', '.join(found) or 'none'}"
        )
    if section.gguf_file and importlib.util.find_spec("gguf") is None:
        raise RecipeError("model.gguf_file: reading GGUF needs the package gguf; pip install 'finetune[gguf]'")
    if not section.name_or_path.startswith("pkg:"):  # an installed package may be links into the installer's cache
        check_folder("model.name_or_path", name)
    return name


def load_tokenizer(section: ModelSection) -> Any:
    """The tokenizer with its chat template, GGUF's losses mended, and the recipe's tokens added.

    Raises:
        RecipeError: it can't be loaded, with the library's own reason; a token can't be added.
    """
    tokenizer = original_tokenizer(section)
    add_to_tokenizer(tokenizer, section.add_tokens)
    return tokenizer


def original_tokenizer(section: ModelSection) -> Any:
    """The tokenizer as the base has it; raises as `load_tokenizer`."""
    from transformers import AutoTokenizer

    own = section.tokenizer_name_or_path
    name = own or locate(section)
    if own:
        check_folder("model.tokenizer_name_or_path", own)
    gguf_file = None if own else section.gguf_file
    tell_download(name, section.revision)
    options = {"revision": section.revision, "trust_remote_code": section.trust_remote_code}
    try:
        if gguf_file:
            tokenizer = AutoTokenizer.from_pretrained(name, gguf_file=gguf_file, **options)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        key = "model.tokenizer_name_or_path" if own else "model.name_or_path"
        raise RecipeError(f"{key}: no tokenizer from {name!r}: {reason(error)}") from None
    if gguf_file:
        from finetune.model.gguf_base import mend_tokenizer

        mend_tokenizer(tokenizer, Path(name) / gguf_file)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked by position, so any id will do
    return tokenizer


@lru_cache
def tell_download(name: str, revision: str | None) -> None:
    """A line where a hub id has to be downloaded first, once a machine; in a terminal the hub's library shows how far it is."""
    from huggingface_hub import constants, try_to_load_from_cache

    if Path(name).is_dir() or constants.HF_HUB_OFFLINE or local_rank() > 0:
        return
    if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        print(f"base: downloading {name} from {constants.ENDPOINT} to {constants.HF_HUB_CACHE}", flush=True)


def load_base(section: ModelSection, placement: Placement, gguf_folder: Path, cache: Path | None = None) -> Base:
    """Tokenizer and frozen base in the run's dtype.

    Args:
        gguf_folder: where a GGUF base is going to lie as a folder that others can load.
        cache: where a GGUF base is kept de-quantised, so that the next run need not do it again; None: nowhere.

    Raises:
        RecipeError: it can't be loaded, with the library's own reason.
    """
    name = locate(section)
    if section.gguf_file and cache is not None:
        from finetune.model.gguf_kept import plain_section

        plain = plain_section(section, placement.torch_dtype, cache)
        if plain is not None:
            base = load_base(plain, placement, gguf_folder)
            base.model.config._name_or_path = ""
            identity = identity_of(section.name_or_path, section.revision, name, None, section.gguf_file)
            return replace(base, identity=identity, source=Source(str(gguf_folder.resolve())))
    tokenizer = original_tokenizer(section)
    added = add_to_tokenizer(tokenizer, section.add_tokens)
    asked = Source(name, section.revision, section.trust_remote_code)
    # use_safetensors: a pickled pytorch_model.bin is refused, not run.
    quantization = describe(section.quantization, None if section.gguf_file else asked.config())
    options: dict[str, Any] = {"dtype": placement.torch_dtype, "use_safetensors": True}
    if quantization is not None:
        check_quantization(quantization, placement.device.name, placement.engine)
        options |= quantised_options(quantization, placement.torch_dtype, str(placement.accelerator.device))
    try:
        if section.gguf_file:
            from finetune.model.gguf_base import load_gguf

            del options["use_safetensors"]
            model = load_gguf(
                asked, section.gguf_file, tokenizer, options | {"attn_implementation": placement.attention}
            )
        else:
            free = section.attn_implementation == "auto"
            model = load_with_attention(asked.load, placement.attention, free, **options)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"model.name_or_path: no model from {name!r}: {reason(error)}") from None
    except RuntimeError as error:  # transformers' word for a weight that the method can't hold; torch's for memory
        if quantization is None or "conversion" not in str(error):
            raise
        raise RecipeError(
            f"{KEY}: {quantization['method']}: not every layer of {name!r} can be quantised so (int4_weight_only needs inputs "
            f"in groups of 32): {reason(error)}"
        ) from None
    grow(model, added)
    model.requires_grad_(False)
    model.config.use_cache = False
    if quantization is not None:
        from finetune.model.quantise import settle

        settle(model)
    commit = commit_of(name, section.revision)  # a branch may move on; the commit is what was trained on
    again = replace(asked, revision=commit or section.revision)
    source = Source(str(gguf_folder.resolve())) if section.gguf_file else again
    identity = identity_of(section.name_or_path, section.revision, name, commit, section.gguf_file)
    if quantization is not None:
        identity |= {"quantization": quantization}
    return Base(model, tokenizer, identity, source, added, quantization)


def quantised_options(quantization: Mapping[str, Any] | None, dtype: Any, device: str) -> dict[str, Any]:
    """What transformers needs to load a base in fewer bits; nothing for one that is not.

    Args:
        dtype: torch's, that is computed in.
    """
    if quantization is None:
        return {}
    from finetune.model.quantise import loading_options

    return loading_options(quantization["method"], quantization["stored"], dtype, device)


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a hub id that lies in the cache; None for a folder."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    return (
        None if Path(name).is_dir() else extract_commit_hash(cached_file(name, "config.json", revision=revision), None)
    )


def set_stop_ids(model: Any, tokenizer: Any, trained: Iterable[int]) -> None:
    """The ids that training ends a turn with go where engines look for them, beside those the base has.

    transformers and vLLM read generation_config and config; without the right id an answer runs to its limit.
    """
    generation = model.generation_config
    known = generation.eos_token_id if generation.eos_token_id is not None else model.config.eos_token_id
    known = [known] if isinstance(known, int) else list(known or [])
    stops = list(dict.fromkeys([*sorted(set(trained)), *known]))
    generation.eos_token_id = model.config.eos_token_id = stops[0] if len(stops) == 1 else stops
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id


def identity_of(
    named: str, revision: str | None, place: str, commit: str | None, gguf_file: str | None = None
) -> dict[str, Any]:
    """What the manifest says of a base: its name, and the hub's commit or the sha256 of a folder's weight files.

    Args:
        named: as the user wrote it.
        place: the folder or hub id.
    """
    identity: dict[str, Any] = {"name_or_path": named, "revision": revision}
    folder = Path(place)
    if not folder.is_dir():
        return identity | {"commit": commit}
    files = [folder / gguf_file] if gguf_file else sorted(folder.glob("*.safetensors"))
    return identity | {"sha256": {file.name: known_sha256(file) for file in files}}


def reason(error: Exception) -> str:
    """Its first line, with the way on where it is about custom code."""
    line = first_line(error)
    # transformers names its own argument, in a later line
    return f"{line} Read that code, then set model.trust_remote_code: true" if "custom code" in line else line
