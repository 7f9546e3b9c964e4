"""Chat templates and conversations that the encoder is tested with.

Templates are read from the installed `trl` package, which keeps those of many models as files. For model families it
does not hold, FORMS has a few lines written for these tests that put the same control tokens in the same places.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from finetune.data.chat import IGNORED, Example
from finetune.data.rows import Sample
from tests.conftest import byte_tokenizer

GOLDEN = Path(__file__).parent / "golden"
# transformers 5.17 has no such argument and would hand it to the template: then there is nothing to compare with.
SANITIZES = "sanitize_control_tokens" in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters

_TURNS = "{% for m in messages %}{% if m.role == 'user' %}USER{% elif m.role == 'assistant' %}ASSISTANT{% else %}SYSTEM"
_END = "{% endif %}{% endfor %}{% if add_generation_prompt %}PROMPT{% endif %}"


def _form(begin: str, system: str, user: str, assistant: str, prompt: str) -> str:
    body = _TURNS.replace("SYSTEM", system).replace("USER", user).replace("ASSISTANT", assistant)
    return begin + body.replace("TEXT", "{{ m.content }}") + _END.replace("PROMPT", prompt)


def _chatml(begin: str, separator: str = "{{ '\n' }}", after: str = "{{ '\n' }}") -> str:
    header = "<|im_start|>{{ m.role }}" + separator + "TEXT<|im_end|>" + after
    return _form(begin, header, header, header, "<|im_start|>assistant" + separator)


FORMS = {
    "smollm2": _chatml(
        "{% if messages[0].role != 'system' %}<|im_start|>system{{ '\n' }}Be helpful.<|im_end|>{{ '\n' }}{% endif %}"
    ),
    "internlm3": _chatml("{{ bos_token }}"),
    "phi4": _chatml("", "<|im_sep|>", ""),
    "ernie4_5": _form(
        "<|begin_of_sentence|>", "TEXT{{ '\n' }}", "User: TEXT{{ '\n' }}", "Assistant: TEXT<|end_of_sentence|>",
        "{{ 'Assistant: ' }}",
    ),
    "hunyuan": _form(
        "<｜hy_begin▁of▁sentence｜>", "TEXT<｜hy_place▁holder▁no▁3｜>", "<｜hy_User｜>TEXT<｜hy_Assistant｜>",
        "TEXT<｜hy_place▁holder▁no▁2｜>", "{% if messages[-1].role != 'user' %}<｜hy_Assistant｜>{% endif %}",
    ),
    "mistral": _form("{{ bos_token }}", "TEXT{{ '\n\n' }}", "[INST] TEXT[/INST]", "{{ ' ' }}TEXT</s>", ""),
}  # fmt: skip

CALL = {"id": "c00000001", "type": "function"}
CALL["function"] = {"name": "weather", "arguments": {"city": "Bergen", "days": 2}}  # type: ignore[assignment]
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "asked-tool",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "asked-city"}}},
        },
    },
)


CORPUS = (
    "the wind is 350 at 7 kt, the wind is none; ok ok\nuser assistant\nstation KNRB\n    visibility 10 é è 日本語\n"
    * 20
)


# How Qwen2 and, but for the digits, Llama 3 cut words (the pattern of their tokenizer.json).
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def merging_tokenizer(normalizer: str = "", pattern: str = "", trim_offsets: bool = False) -> Any:
    """Byte-level BPE with merges learnt from CORPUS; words are cut as GPT-2 does, or by another pattern."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pattern:
        words = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    if normalizer:
        tokenizer.normalizer = getattr(normalizers, normalizer)()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([CORPUS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.add_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    fast.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return fast


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


# Whatever is not the assistant's begins with "asked".
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "single": [user("asked 1"), assistant("said 一")],
    "system": [{"role": "system", "content": "asked 0"}, user("asked 1"), assistant("said 1"), user("asked 2"),
               assistant("said\n\n2")],
    "tools": [user("asked 1"), assistant("", tool_calls=[CALL]),
              {"role": "tool", "content": "asked rain", "name": "weather", "tool_call_id": "c00000001"},
              assistant("said 2")],
    "think": [user("asked 1"), assistant("<think>\nthought 1\n</think>\n\nsaid 1"), user("asked 2"),
              assistant("<think>\nthought 2\n</think>\n\nsaid 2")],
    "reasoning": [user("asked 1"), assistant("said 1", reasoning_content="thought 1"), user("asked 2"),
                  assistant("said 2", reasoning_content="thought 2")],
    "assistant_first": [assistant("said 1"), user("asked 2"), assistant("said 2")],
    "two_users": [user("asked 1"), user("asked 2"), assistant("said 2")],
}  # fmt: skip


def conversation(name: str) -> Sample:
    return Sample({}, tuple(CONVERSATIONS[name]), "f:1", TOOLS if name == "tools" else ())


def trained_runs(example: Example) -> list[list[int]]:
    """Stretches of trained ids that stand together."""
    runs: list[list[int]] = [[]]
    for label in example.labels:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def golden_names() -> list[str]:
    return sorted(file.stem for file in GOLDEN.glob("*.json"))


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def template_tokenizer(name: str, base: Any = None) -> Any:
    """A tokenizer (by default of bytes) with the control tokens and the template of a model family; skips without trl."""
    from tokenizers import AddedToken

    record = golden(name)
    tokenizer = base or byte_tokenizer()
    tokenizer.add_special_tokens(
        {"bos_token": record["bos"], "eos_token": record["eos"], "pad_token": record["eos"],
         "additional_special_tokens": record["special"]}
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in record["added"]])
    tokenizer.chat_template = FORMS[name] if name in FORMS else _from_trl(name)
    return tokenizer


def _from_trl(name: str) -> str:
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the templates are in the package trl; pip install --no-deps 'trl==1.16.*'")
    return (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
