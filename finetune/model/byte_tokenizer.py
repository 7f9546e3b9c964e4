"""A tokenizer for a base that has none beside its config.json: a token a byte, and ChatML."""

from __future__ import annotations

from typing import Any

# ChatML (github.com/openai/openai-python, chatml.md of release 0.28), with tools as Hermes and Qwen2.5 write them.
CHATML = (
    "{%- if tools %}<|im_start|>system\n<tools>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>"
    "<|im_end|>\n{% endif %}"
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}"
    "{%- for call in message.tool_calls or [] %}{{ '\n<tool_call>\n' }}{{ (call.function or call) | tojson }}"
    "{{ '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
START, END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def byte_tokenizer() -> Any:
    """256 bytes, then the three control tokens; a turn ends with `<|im_end|>`, a document with `<|endoftext|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=TEXT_END)
    fast.add_special_tokens({"additional_special_tokens": [START, END, TEXT_END]})
    fast.chat_template = CHATML
    return fast
