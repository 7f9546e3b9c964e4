"""Tiny models built in process, one finished run of a tiny recipe, and no network."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml

from finetune.recipe import Recipe
from finetune.recipefile import load_recipe

ROOT = Path(__file__).resolve().parent.parent
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same for tools: schemas in a system turn, calls as Hermes and Qwen write them.
CHATML_TOOLS = (
    "{% if tools %}<|im_start|>system\nTools:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_connect = socket.socket.connect


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Every connection beyond this machine fails, here and (HF_HUB_OFFLINE) in the libraries."""

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach the network: {address}")
        return _connect(self, address)

    socket.socket.connect = guarded
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)  # tiny models: more threads only wait for each other
    yield
    socket.socket.connect = _connect


def byte_tokenizer():
    """A tokenizer whose ids can be worked out by hand: one token a byte, then three control tokens. pad is eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|im_start|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = CHATML
    return fast


def tiny_llama(vocabulary: int, seed: int = 0):
    """A random two-layer Llama in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, rope_theta=50000.0,
        bos_token_id=256, eos_token_id=257, pad_token_id=257,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A saved tiny base with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tool_base(tiny_base, tmp_path_factory) -> Path:
    """The tiny base with a chat template that knows tools."""
    folder = tmp_path_factory.mktemp("tools") / "base"
    shutil.copytree(tiny_base, folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML_TOOLS
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A folder with `write_tiny_data`."""
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def write_tiny_data(folder: Path) -> Path:
    """A template and forty rows of a task a tiny model learns: say which of two numbers is larger."""
    template = {
        "name": "larger",
        "description": "the larger of two digits",
        "columns": {
            "a": {"type": "int", "minimum": 0, "maximum": 9},
            "b": {"type": "int", "minimum": 0, "maximum": 9},
            "group": {"type": "str"},
        },
        "messages": [
            {"role": "user", "content": "{{ a }} {{ b }}?"},
            {
                "role": "assistant",
                "content": "larger {{ [a, b] | max }}\n{% if a == b %}same yes{% else %}same no{% endif %}",
            },
        ],
        "metric": {"name": "fields", "separator": " "},
        "examples": [{"row": {"a": 3, "b": 7, "group": "x"}, "answer": "larger 7\nsame no"}],
    }
    (folder / "larger.yaml").write_text(yaml.safe_dump(template, sort_keys=False), encoding="utf-8")
    rows = [{"a": a, "b": b, "group": f"g{(a * 7 + b) % 20}"} for a in range(8) for b in range(5)]
    (folder / "larger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def tiny_recipe(tiny_base, tiny_data, tmp_path):
    """A function: the tiny recipe's file with changes on top, and the loaded recipe."""

    def make(*overrides: str, name: str = "tiny") -> Recipe:
        return load_recipe(write_tiny_recipe(tmp_path, tiny_base, tiny_data, name), overrides)

    return make


def write_tiny_recipe(folder: Path, base: Path, data: Path, name: str = "tiny") -> Path:
    """The tiny recipe's YAML; its run goes to folder/run."""
    recipe = {
        "name": name,
        "output_dir": str(folder / "run"),
        "seed": 3,
        "device": "cpu",
        "model": {"name_or_path": str(base), "dtype": "float32"},
        "lora": {"r": 4, "lora_alpha": 8},
        "data": {
            "template": str(data / "larger.yaml"),
            "train": str(data / "larger.jsonl"),
            "split": {"by": "group", "eval_rows": 8},
        },
        "train": {"global_batch_size": 4, "max_steps": 9, "learning_rate": 0.01},
        "evaluate": {"max_new_tokens": 24},
        "gate": {"better_than_base": False},
        "export": {"parity_rows": 4},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def finished_run(tiny_base, tiny_data, tmp_path_factory):
    """The tiny recipe run once from data to bundle: (recipe, result)."""
    from finetune.run import run

    folder = tmp_path_factory.mktemp("finished")
    recipe = load_recipe(write_tiny_recipe(folder, tiny_base, tiny_data))
    return recipe, run(recipe)
