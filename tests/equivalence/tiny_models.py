"""Random models of many architectures, a few layers each, built from transformers' own configurations."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCABULARY = 96
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "head_dim": 16,
}  # fmt: skip
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 192}
# Name in transformers (XConfig, XForCausalLM) and settings. Sliding windows of 6 tokens.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", COMMON),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", COMMON | {"head_dim": 16}),
    "qwen3-swa": (
        "Qwen3Config",
        "Qwen3ForCausalLM",
        COMMON | {"head_dim": 16, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", COMMON | {"sliding_window": 6}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        COMMON | {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2},
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
         "eos_token_id": 2},
    ),
    "qwen3-moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", COMMON | EXPERTS | {"head_dim": 16, "hidden_size": 256}),
    "gpt-oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        COMMON | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
                  "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    "qwen3-next": (
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        COMMON | LINEAR | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                           "shared_expert_intermediate_size": 32},
    ),
    "qwen3.5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", COMMON | LINEAR),
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", COMMON | {"layer_types": ["conv", "full_attention"] * 2}),
    "falcon-h1": (
        "FalconH1Config",
        "FalconH1ForCausalLM",
        COMMON | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8},
    ),
    "mamba": (
        "MambaConfig",
        "MambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0},
    ),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 256, "word_embed_proj_dim": 64},
    ),
}  # fmt: skip


def tiny_model(name: str, attention: str = "eager", dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random model of MODELS in eval mode, the same at every call."""
    config_name, model_name, settings = MODELS[name]
    config = getattr(transformers, config_name)(**settings | changes)
    config._attn_implementation = attention
    torch.manual_seed(0)
    return getattr(transformers, model_name)(config).to(dtype).eval()
