"""A bundle on disk: its files against the manifest, and its model as a server of its own, through transformers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Message
from finetune.errors import DataError, RecipeError, first_line
from finetune.verify.check import FAIL, PASS, Check
from finetune.verify.golden import FACTS, read_facts
from finetune.verify.wire import Reply, ServerError

if TYPE_CHECKING:
    from finetune.data.chat import ChatEncoder
    from finetune.model.load import Source

MANIFEST = "MANIFEST.json"
ADAPTER = "adapter"


def check_files(folder: Path) -> Check:
    """Every file of the bundle is there with the sha256 that the manifest gives it, and no other file.

    Hidden files are left alone: a hub's client and git put theirs beside what they download.

    Raises:
        RecipeError: no manifest, or not one.
    """
    from finetune.data.filehash import file_sha256

    try:
        recorded: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except OSError as error:
        raise RecipeError(f"{folder / MANIFEST}: can't be read: {error.strerror}; not a bundle?") from None
    except (ValueError, LookupError, TypeError):
        raise RecipeError(f"{folder / MANIFEST}: not a bundle's manifest") from None
    here = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {MANIFEST}
    missing = sorted(recorded.keys() - here)
    changed = sorted(name for name in here & recorded.keys() if file_sha256(folder / name) != recorded[name])
    extra = sorted(name for name in here - recorded.keys() if not name.startswith("."))
    said = [f"{what}: {', '.join(names)}" for what, names in
            (("missing", missing), ("changed", changed), ("not in the manifest", extra)) if names]  # fmt: skip
    if said:
        return Check("files", FAIL, "; ".join(said), "copy or download the bundle again, whole")
    return Check("files", PASS, f"{len(recorded)} files have the sha256 of the manifest")


class Folder:
    """The model of a bundle, answering greedily with its own generation config, one prompt at a time.

    That is the merged one, or the adapter on its base where there is none: it is never merged (virtual tokens), or not yet.

    Args:
        trust_remote_code: the folder's own *.py may run, where its config.json asks for that.
        dtype: to compute in; None: the one that the weights are stored in.
        like: prompts go through that one's tokenizer and template, and answers stop where its do; None: the folder's own.

    Raises:
        RecipeError: transformers can't load it; its own reason.
    """

    engine = "transformers"

    def __init__(
        self, folder: Path, trust_remote_code: bool = False, dtype: str | None = None, like: Folder | None = None
    ) -> None:
        from finetune.device import first_available

        self.where = self.model = str(folder)
        merged = (folder / "config.json").is_file() or not (folder / ADAPTER / "adapter_config.json").is_file()
        own = folder if merged else folder / ADAPTER
        self._encoder: ChatEncoder = like._encoder if like else _encoder(own, trust_remote_code)
        options = {} if dtype is None else {"dtype": dtype}
        self._model, stops = (_load if merged else _load_adapter)(folder, trust_remote_code, options)
        self._stops: int | list[int] | None = like._stops if like else stops
        self._model.to(first_available().name)

    @property
    def vocabulary(self) -> int:
        """Ids that the model has a row for."""
        return self._model.get_input_embeddings().num_embeddings

    @property
    def room(self) -> int | None:
        """Positions that the model has for prompt and answer; None where it sets no bound."""
        return getattr(self._model.config.get_text_config(), "max_position_embeddings", None)

    def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        max_tokens: int,
        hear: Callable[[str], None] | None = None,
    ) -> Reply:
        """The greedy answer; `hear` is told what of it is there, as it grows.

        Raises:
            ServerError: the chat template refuses the messages.
        """
        try:
            return self.ask_ids(self._encoder.encode_prompt(messages, tools), max_tokens, hear)
        except DataError as error:
            raise ServerError(str(error)) from None

    ask_whole = ask

    def ask_ids(self, ids: Sequence[int], max_tokens: int, hear: Callable[[str], None] | None = None) -> Reply:
        """The greedy answer to prompt ids, with the log-probabilities of its tokens."""
        import torch
        from transformers import GenerationConfig

        from finetune.model.virtual import generation_inputs

        prompt = torch.tensor([list(ids)], device=self._model.device)  # (1, T)
        stops = self._stops
        tokenizer = self._encoder.tokenizer
        config = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        heard = _Heard(tokenizer, hear)
        started = time.perf_counter()
        with torch.inference_mode():
            asked, inputs, before = generation_inputs(self._model, prompt, torch.ones_like(prompt))
            out = asked.generate(**inputs, generation_config=config, streamer=heard)
        row = out.sequences[0, before:].tolist()
        stopped = row[-1] in ({stops} if isinstance(stops, int) else set(stops or ()))
        tokens = row[:-1] if stopped else row
        logprobs = [float(step[0].float().log_softmax(-1)[t]) for step, t in zip(out.logits, tokens, strict=False)]
        return Reply(
            text=tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            reason="stop" if stopped else "length",
            prompt_tokens=len(ids),
            tokens=len(row),
            logprobs=tuple(zip((tokenizer.decode([t]) for t in tokens), logprobs, strict=True)),
            first=heard.times[1] - started,
            seconds=time.perf_counter() - started,
        )

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[int, ...] | None:
        """Through the folder's own chat template; none at all where it refuses what another one took."""
        try:
            return tuple(self._encoder.encode_prompt(messages, tools))
        except DataError:
            return ()

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Of the text alone, without special tokens."""
        return tuple(self._encoder.tokenizer(text, add_special_tokens=False).input_ids)

    def relatives(self) -> list[str]:
        """A folder holds one model."""
        return []


class _Heard:
    """A streamer of transformers' kind: the first it is given is the prompt, then token after token; it notes the times."""

    def __init__(self, tokenizer: Any, hear: Callable[[str], None] | None) -> None:
        self.times: list[float] = []
        self._ids: list[int] = []
        self._tokenizer, self._hear = tokenizer, hear

    def put(self, ids: Any) -> None:
        if self.times and self._hear:
            self._ids += ids.flatten().tolist()
            self._hear(self._tokenizer.decode(self._ids, skip_special_tokens=True).strip())
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def _encoder(folder: Path, trust_remote_code: bool) -> ChatEncoder:
    """Raises RecipeError: there is no tokenizer in the folder."""
    from transformers import AutoTokenizer

    from finetune.data.chat import ChatEncoder

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"{folder}: no tokenizer: {first_line(error)}") from None
    return ChatEncoder(tokenizer)


def _load(folder: Path, trust_remote_code: bool, options: dict[str, Any]) -> tuple[Any, Any]:
    """The merged model, and the ids that its answers stop at."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=trust_remote_code, **options
        )
    except Exception as error:  # safetensors, torch and transformers each have their own for a damaged file
        raise _no_model(folder, error) from None
    return model.eval(), model.generation_config.eos_token_id


def _load_adapter(folder: Path, trust_remote_code: bool, options: dict[str, Any]) -> tuple[Any, Any]:
    """The adapter on the base that is beside it, or that it names; and the ids that its answers stop at."""
    from peft import PeftModel
    from transformers import GenerationConfig

    source = base_of(folder, trust_remote_code)
    told = folder / ADAPTER / "generation_config.json"
    try:
        model = PeftModel.from_pretrained(source.load(**options), str(folder / ADAPTER)).eval()
        stops = GenerationConfig.from_pretrained(told.parent).eos_token_id if told.is_file() else None
    except Exception as error:  # as above
        raise _no_model(folder, error, f"; its adapter needs the base {source.name}") from None
    return model, list(read_facts(folder / FACTS).stop_ids) if stops is None else stops


def base_of(folder: Path, trust_remote_code: bool) -> Source:
    """The base of a run's or a bundle's folder: beside the adapter, or as the adapter or the manifest names it."""
    from finetune.export.facts import read_json
    from finetune.model.load import Source

    if (folder / "base").is_dir():
        return Source(str(folder / "base"))
    file = folder / ADAPTER / "adapter_config.json"
    if file.is_file():
        config = read_json(file, needed=True)
        return Source(str(config.get("base_model_name_or_path")), config.get("revision"), trust_remote_code)
    named = read_json(folder / MANIFEST, needed=True).get("base") or {}
    revision = named.get("commit") or named.get("revision")
    return Source(str(named.get("name_or_path")), revision, trust_remote_code)


def _no_model(folder: Path, error: Exception, more: str = "") -> RecipeError:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    way = " Read that code, then add --trust-remote-code" if "custom code" in line else ""
    return RecipeError(f"{folder}: no model: {line}{way}{more}")
