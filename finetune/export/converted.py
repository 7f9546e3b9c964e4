"""Serving files of a bundle: converted weights, proven by running them, and for each target how to start it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.export.adapterfile import PROMPTS
from finetune.export.targets import REWARD_TARGETS, TARGETS, gguf_file
from finetune.recipe_export import TargetSection

if TYPE_CHECKING:
    from finetune.export.record import Record
    from finetune.export.serving import Serving

GGUF_ENGINES = ("llama.cpp", "ollama")
ASKS_IN_CHAT = (
    ("transformers", "adapter"),
    ("openvino", "adapter"),
    ("onnxruntime", "merged"),
    ("onnxruntime", "adapter"),
)
LEAST_CONTEXT = 4096  # tokens, where the base has as many

Say = Callable[[str], None]


def gguf_types(target: TargetSection) -> tuple[str, ...]:
    """The GGUF types that a target is written in; none for engines that read other files."""
    if target.engine not in GGUF_ENGINES:
        return ()
    return target.types or TARGETS[target.engine].types[target.form][:1]


def check_serving(
    lora: Mapping[str, Any],
    base_config: Mapping[str, Any] | None,
    targets: Sequence[TargetSection],
    dtype: str | None,
    quantised: str | None = None,
) -> list[str]:
    """What an operator has to know of these targets; asked before training, and before an export does its work.

    Args:
        lora: settings under peft's names; a task_type of SEQ_CLS is a reward model.
        base_config: the base's config.json, None where it is not at hand.
        dtype: of the merged model, None where the base decides.
        quantised: how the base is quantised as it is loaded; None: not at all, or as it lies.

    Raises:
        RecipeError: what an engine would serve wrong or refuse, a converter that is not there; each with its fix.
    """
    from finetune.export.gguf import available
    from finetune.export.servable import check_targets, stop_or_warn

    # Every export has a merged folder (or an adapter that can't be one), so the rules of transformers hold without a
    # target too.
    wanting = reward_refusals(targets) if lora.get("task_type") == "SEQ_CLS" else []
    form = "adapter" if str(lora.get("peft_type")).upper() in PROMPTS else "merged"
    targets = targets or (TargetSection(engine="transformers", form=form),)  # type: ignore[call-arg,arg-type]
    found = check_targets(lora, base_config, targets, dtype, initial=True, quantised=quantised)
    wanting += [
        f"export.targets: {target.engine}: {why}"
        for target in targets
        if (types := gguf_types(target)) and (why := available(target.converter, types))
    ]
    try:
        notes = stop_or_warn(found)
    except RecipeError as error:
        raise RecipeError(error.problems + wanting) from None
    if wanting:
        raise RecipeError(wanting)
    return notes


def on_load(quantization: Mapping[str, Any] | None) -> str | None:
    """The method of a base that is quantised as it is loaded; None for one that lies quantised, or is not."""
    return quantization["method"] if quantization and not quantization["stored"] else None


def reward_refusals(targets: Sequence[TargetSection]) -> list[str]:
    """A line for each target that would not serve a reward model."""
    return [
        f"export.targets: {target.engine} ({target.form}): does not serve a reward model; take vllm (merged), or none and "
        "load the bundle with transformers' AutoModelForSequenceClassification"
        for target in targets
        if target.form != "merged" or target.engine not in REWARD_TARGETS
    ]


def check_tokenizer(
    tokenizer: Any, conversations: Sequence[list[dict[str, Any]]], targets: Sequence[TargetSection], tools: bool = False
) -> None:
    """What targets make of the tokenizer and its chat template, asked as soon as there is one and before training.

    Args:
        conversations: prompts that Ollama's template has to write as the chat template does.
        tools: whether the data have tools, which that template has no place for.

    Raises:
        RecipeError: an engine would split text otherwise, or can't have the chat template; each with its fix.
    """
    from finetune.export.facts import splits_digits
    from finetune.export.gotemplate import ollama_template

    problems = []
    if not tokenizer.chat_template:
        problems += [
            f"export.targets: {target.engine} ({target.form}): its run.py asks through a chat template, which this tokenizer "
            "lacks; take another engine, or a tokenizer with one: model.tokenizer_name_or_path"
            for target in targets
            if (target.engine, target.form) in ASKS_IN_CHAT
        ]
    if any(target.engine == "ollama" for target in targets):
        if tools:
            problems.append(
                "export.targets: ollama: the data have tools, for which the template made for Ollama has no place; take "
                "llama.cpp, which runs the chat template itself"
            )
        try:
            ollama_template(tokenizer, conversations)
        except RecipeError as error:
            problems += error.problems
    translating = [t.engine for t in targets if t.engine in ("openvino", "onnxruntime") and t.form == "merged"]
    if translating and splits_digits(json.loads(tokenizer.backend_tokenizer.to_str())):
        problems += [
            f"export.targets: {engine}: the tokenizer cuts digits apart, which its translation drops: other ids than in "
            "training; take another engine, or one that is sent token ids (M9, wrong)"
            for engine in translating
        ]
    if problems:
        raise RecipeError(problems)


def add_serving(
    draft: Path,
    base: Path,
    rank: int,
    beside: Sequence[str],
    record: Record,
    targets: Sequence[TargetSection],
    say: Say,
) -> list[dict[str, Any]]:
    """Everything under serve/, checked against what the engines take.

    Args:
        draft: the bundle so far: merged model, adapter, golden samples.
        base: folder of the base; rank: of the canonical adapter, the largest where there are several.
        beside: names of further adapters, in adapters/.

    Returns:
        For the manifest: engine, form, files, and the proof of each converted file.

    Raises:
        RecipeError: a target would serve this export wrong or not at all; a converter is missing or refuses.
        GateError: a converted file is not the model; see export/quantised.py.
    """
    from finetune.export.facts import ids_of, read_json
    from finetune.export.layout import chat_template
    from finetune.export.servable import check_folder, stop_or_warn
    from finetune.export.serving import write_targets

    if not targets:
        return []
    config, generation = read_json(base / "config.json", needed=True), read_json(base / "generation_config.json")
    base_stops = ids_of(generation.get("eos_token_id", config.get("eos_token_id")))
    found = check_folder(
        targets,
        draft / "adapter",
        draft,
        config,
        record.stops,
        base_stops,
        base_template=chat_template(base),
        quantised=on_load(record.quantization),
    )
    for line in stop_or_warn(found):
        say(line)
    done = [_one(draft, base, record, target, say) for target in targets]
    written = write_targets(draft, record.name, targets, _serving(draft, base, rank, beside, record, targets))
    files = [file.relative_to(draft).as_posix() for file in written]
    say(f"serve: {', '.join(dict.fromkeys(Path(file).parent.name for file in files))}: see serve/*/README.md")
    return done


def _one(draft: Path, base: Path, record: Record, target: TargetSection, say: Say) -> dict[str, Any]:
    """Converts and proves what one target needs."""
    proofs: dict[str, Any] = {}
    for kind in gguf_types(target):
        name = gguf_file(record.name, target.form, kind)
        file = draft / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():  # llama.cpp and Ollama share it
            proofs[name] = {"shared": True}
            continue
        proofs[name] = _gguf(draft, base, record, target, kind, file)
        say(_line(name, proofs[name]))
    return {"engine": target.engine, "form": target.form, "converted": proofs}


def _gguf(draft: Path, base: Path, record: Record, target: TargetSection, kind: str, file: Path) -> dict[str, Any]:
    from finetune.export.gguf import convert, convert_adapter
    from finetune.export.quantised import prove_gguf

    if target.form == "merged":
        facts = convert(draft, file, kind, target.converter)
        return {"file": facts, "proof": prove_gguf(file, draft, record.examples, kind)}
    facts = convert_adapter(draft / "adapter", base, file, kind, target.converter)
    own = {"float32": "f32", "float16": "f16"}.get(record.dtype, "bf16")
    with tempfile.TemporaryDirectory(dir=draft.parent) as place:  # the adapter is proven on its base, which is not kept
        whole = Path(place) / f"base-{own}.gguf"
        convert(base, whole, own, target.converter)
        coarser = kind if own == "f32" else own
        return {"file": facts, "proof": prove_gguf(whole, draft, record.examples, coarser, file)}


def _line(name: str, told: dict[str, Any]) -> str:
    proof = told["proof"]
    if "not run" in proof:
        return f"{name}: written, NOT proven: {proof['not run']}"
    return (
        f"{name}: run by {proof['engine']}: mean KL {proof['mean_kl']:.1e}, greedy agreement "
        f"{proof['greedy_agreement']:.2%}, {proof['answers_equal']:.0%} of the answers the same"
    )


def _serving(
    draft: Path, base: Path, rank: int, beside: Sequence[str], record: Record, targets: Sequence[TargetSection]
) -> Serving:
    """What the commands need to know."""
    from transformers import AutoTokenizer

    from finetune.export.gotemplate import ollama_template
    from finetune.export.serving import Serving
    from finetune.verify.golden import SAMPLES, read_golden

    whole = (draft / "config.json").is_file()  # a merged model, which virtual tokens have none of
    config = json.loads(((draft if whole else base) / "config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(draft if whole else draft / "adapter")
    golden = read_golden(draft / SAMPLES) if (draft / SAMPLES).is_file() else []
    template = None
    if any(target.engine == "ollama" for target in targets):
        template = ollama_template(tokenizer, [list(sample.messages) for sample in golden])
    return Serving(
        dtype=str(config.get("dtype") or config.get("torch_dtype")),
        context=_context(config, record),
        stops=tuple(tokenizer.convert_ids_to_tokens(list(record.stops))),
        rank=rank,
        base=record.source.name,
        revision=record.source.revision,
        adapters=((record.name, "adapter"), *((name, f"adapters/{name}") for name in beside)),
        chat_template=(draft / "adapter/chat_template.jinja").is_file(),
        golden=bool(golden),
        template=template,
        rewards=record.rewards,
        quantised=on_load(record.quantization),
        trained_in=record.dtype,
        lies=(record.quantization or {}).get("method"),
    )


def _context(config: dict[str, Any], record: Record) -> int:
    """Tokens that a server has to hold for the longest conversation of the recipe."""
    recipe = record.recipe or {"data": {"max_length": 0}, "evaluate": {"max_new_tokens": 0}}
    parts = recipe.get("mixture") or recipe.get("stages") or [recipe]
    longest = max(part["data"]["max_length"] for part in parts)
    wanted = max(LEAST_CONTEXT, longest + recipe["evaluate"]["max_new_tokens"])
    positions = (config.get("text_config") or config).get("max_position_embeddings") or wanted
    return min(positions, wanted)
