"""`finetune export`: the bundle of a finished run, or of an adapter that was made elsewhere."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checkpoint.lock import RunLock
from finetune.errors import RecipeError, first_line, writing
from finetune.model.quantization import METHODS
from finetune.recipefile import export_section
from finetune.told import tell

if TYPE_CHECKING:
    from finetune.data.chat import Example
    from finetune.export.push import Pushed
    from finetune.export.record import Record
    from finetune.recipe_export import ExportSection

# What a bare adapter is proved on when no prompts are given: prose, digits, code, a table, Chinese.
PROMPTS = (
    "What is the capital of France?",
    "Name three fruits and say in one sentence each why they are healthy.",
    "Add 17 and 25, then multiply the result by 3.",
    "Write a Python function that returns the largest of a list of numbers.",
    "KMSP 220153Z 00000KT 10SM SCT150 BKN190 13/02 A2962: what does this report say?",
    "Date,Open,Close\n2024-01-02,187.15,185.64\n2024-01-03,184.22,184.25\n\nOn which day did the price rise?",
    "请用一句话说明瓦斯浓度超过1.0%时应当采取什么措施。",
    "列出阿司匹林的三种常见不良反应。",
)


def export_command(options: argparse.Namespace) -> list[str]:
    """The commands' lines at the end; what is done meanwhile is printed as it happens.

    Raises:
        RecipeError: the folder is neither a run nor an adapter, wrong settings, an output that exists.
        GateError: a proof failed; there is no bundle.
    """
    folder: Path = options.adapter
    if options.public and not (options.push_to_hub or options.push_to_modelscope):
        raise RecipeError("--public: goes with --push-to-hub or --push-to-modelscope")
    if (folder / "MANIFEST.json").is_file():
        pushed = _push(folder, options)
        tell(options.json, {"bundle": str(folder), "pushed": pushed})
        return pushed or [f"{folder} is a bundle already"]
    if not (folder / "export.json").is_file() and not (folder / "adapter_config.json").is_file():
        if not folder.is_dir():
            raise RecipeError(f"no such folder: {folder}")
        raise RecipeError(f"{folder}: neither a finished run (export.json) nor a PEFT adapter (adapter_config.json)")
    export_one = _export_run if (folder / "export.json").is_file() else _export_adapter
    bundle = export_one(folder, options)
    pushed = _push(bundle, options)
    tell(options.json, {"bundle": str(bundle), "pushed": pushed})
    return [*pushed, f"bundle: {bundle}"]


def _export_run(folder: Path, options: argparse.Namespace) -> Path:
    from finetune import device
    from finetune.export.beside import check_beside
    from finetune.export.bundle import check_free, write_bundle
    from finetune.export.record import read_record
    from finetune.model.load import Source

    if options.prompts:
        raise RecipeError("--prompts: a run is proved on its own held-out rows; only a bare adapter needs prompts")
    if options.trained_on:
        raise RecipeError("--trained-on: for adapters made elsewhere; a run knows what it was trained on")
    record = read_record(folder)
    section = _into(export_section((record.recipe or {}).get("export", {}), options.set), options)
    final = options.output or folder / "bundle"
    check_free(final, options.overwrite)
    original = _original(record.quantization, section, options)
    if options.base and original is None:
        record = replace(record, source=Source(options.base), ship_base=False)
    check_beside(section.adapters, record.name, record.identity, record.source.name)
    _check_targets(record.source.folder(), folder / "adapter", section, record.quantization)
    device.quiet_libraries()
    with RunLock(folder), writing(final):
        write_bundle(record, folder, folder / "adapter", final, section, print, options.overwrite, original)
    return final


def _export_adapter(folder: Path, options: argparse.Namespace) -> Path:
    from finetune import device
    from finetune.export.beside import check_beside
    from finetune.export.bundle import check_free, write_bundle
    from finetune.export.dequantise import Through
    from finetune.export.facts import read_json

    if options.output is None:
        raise RecipeError("--output: where the bundle of a bare adapter goes")
    section = _into(export_section({}, options.set), options)
    check_free(options.output, options.overwrite)
    device.quiet_libraries()
    if options.trained_on:
        Through(options.trained_on).check()
    if read_json(folder / "adapter_config.json", needed=True).get("task_type") == "SEQ_CLS":
        raise RecipeError(
            f"{folder}: an adapter with a score head (task_type SEQ_CLS) is exported from its run's folder"
        )
    record, original = _record_of_adapter(folder, section, options)
    if section.merge_into == "dequantised" and record.quantization is None:
        raise RecipeError(f"--merge-into dequantised: goes with --trained-on {', '.join(METHODS)}")
    check_beside(section.adapters, record.name, record.identity, record.source.name)
    _check_targets(record.source.folder(), folder, section, record.quantization)
    with writing(options.output):
        write_bundle(record, None, folder, options.output, section, print, options.overwrite, original)
    return options.output


def _check_targets(base: Path, adapter: Path, section: ExportSection, quantization: dict[str, Any] | None) -> None:
    """Before any work: what the targets would refuse."""
    from finetune.export.converted import check_serving, on_load
    from finetune.export.facts import read_json

    dtype = None if section.dtype == "auto" else section.dtype
    for line in check_serving(read_json(adapter / "adapter_config.json", True), read_json(base / "config.json"),
                              section.targets, dtype, on_load(quantization)):  # fmt: skip
        print(line)


def _into(section: ExportSection, options: argparse.Namespace) -> ExportSection:
    """`--merge-into` is `--set export.merge_into`."""
    return section.model_copy(update={"merge_into": options.merge_into}) if options.merge_into else section


def _original(quantization: dict[str, Any] | None, section: ExportSection, options: argparse.Namespace) -> Path | None:
    """What `--base` names where the adapter's own base lies quantised and another is to be merged into; else None."""
    from finetune.model.load import Source

    stored = quantization is not None and quantization["stored"]
    return Source(options.base).folder() if stored and section.merge_into == "original" and options.base else None


def _record_of_adapter(folder: Path, section: ExportSection, options: argparse.Namespace) -> tuple[Record, Path | None]:
    """Everything that can be known of an adapter without its run, and the original of a base that lies quantised.

    `--base` goes before what the adapter's configuration names; for such a base it names the original, where that is
    what is to be merged into.
    """
    from finetune.export.facts import read_json
    from finetune.export.record import Record
    from finetune.model.folder import check_folder
    from finetune.model.load import Source, commit_of, identity_of
    from finetune.model.quantization import STORED, describe, needs, stored_method

    check_folder("adapter", str(folder))
    config = read_json(folder / "adapter_config.json", needed=True)
    own, base = config.get("base_model_name_or_path"), options.base
    if (
        section.merge_into == "original"
        and own
        and base
        and stored_method(Source(own, config.get("revision")).config())
    ):
        base = None
    named = base or own
    if not named:
        raise RecipeError(f"{folder}/adapter_config.json names no base (base_model_name_or_path); give it with --base")
    source = Source(named, None if base else config.get("revision"))
    where = source.folder()
    check_folder("base", str(where))
    model = read_json(where / "config.json", needed=True)
    if options.trained_on and stored_method(model):
        raise RecipeError(f"--trained-on {options.trained_on}: {named} lies quantised itself; leave it out")
    quantization = describe(options.trained_on or "none", model)
    problems = (
        needs(STORED[stored].packages, f"{named}: quantised") if (stored := stored_method(model)) in STORED else []
    )
    if problems:
        raise RecipeError(problems)
    dtype = model.get("dtype") or model.get("torch_dtype") or "float32"
    texts = _prompts(options.prompts)
    identity = identity_of(named, source.revision, named, commit_of(named, source.revision))
    record = Record(
        name=folder.resolve().name,
        identity=identity | ({"quantization": quantization} if quantization else {}),
        source=source,
        dtype=dtype,
        stops=(),
        examples=_examples(folder, where, texts),
        quantization=quantization,
    )
    return record, _original(quantization, section, options)


def _prompts(file: Path | None) -> list[list[dict[str, Any]]]:
    """Conversations: one JSON object a line with `messages`, or the built-in prompts."""
    from finetune.data.conversation import read_messages
    from finetune.data.source import read_source
    from finetune.recipe_data import SourceSection

    if file is None:
        return [[{"role": "user", "content": text}] for text in PROMPTS]
    if not file.is_file():
        raise RecipeError(f"--prompts: no such file: {file}")
    problems: list[str] = []
    found = [
        read_messages(row.values.get("messages"), f"{row.where}: messages", problems)
        for row in read_source(SourceSection(path=str(file), kind="jsonl"))  # type: ignore[call-arg]
    ]
    if problems or not found:
        raise RecipeError(problems or f"--prompts: {file} has no rows")
    return found


def _examples(adapter: Path, base: Path, conversations: list[list[dict[str, Any]]]) -> tuple[Example, ...]:
    """The conversations as ids, every position but the first compared; a model without a chat template reads text."""
    from transformers import AutoTokenizer

    from finetune.data.chat import IGNORED, Example

    place = adapter if (adapter / "tokenizer_config.json").is_file() else base
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{place}: no tokenizer: {first_line(error)}") from None
    examples = []
    for number, messages in enumerate(conversations, 1):
        if tokenizer.chat_template:
            asks = messages[-1]["role"] != "assistant"
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        else:
            text = "\n\n".join(str(message["content"]) for message in messages)
        ids = tuple(tokenizer(text, add_special_tokens=not tokenizer.chat_template).input_ids)
        examples.append(Example(ids, (IGNORED, *ids[1:]), f"prompt {number}"))
    return tuple(examples)


def _push(bundle: Path, options: argparse.Namespace) -> list[str]:
    lines = []
    if options.push_to_hub:
        from finetune.export.push import push_to_hub

        lines += _uploaded(push_to_hub(bundle, options.push_to_hub, options.revision, not options.public))
    if options.push_to_modelscope:
        from finetune.export.push import push_to_modelscope

        lines += _uploaded(push_to_modelscope(bundle, options.push_to_modelscope, private=not options.public))
    return lines


def _uploaded(pushed: Pushed) -> list[str]:
    return [*pushed.notes, f"uploaded {len(pushed.files)} files: {pushed.url}"]
