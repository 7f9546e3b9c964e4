"""The model families that are tried: config.json of a published model of each, as far as it decides what is built."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

SILU = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "initializer_range": 0.02}
GEMMA_VISION = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896, "patch_size": 14}  # fmt: skip
LONG_ROPE = {"type": "longrope", "short_factor": [1.0 + 0.01 * i for i in range(48)],
             "long_factor": [1.0 + 1.3 * i for i in range(48)]}  # fmt: skip
SHORT_LONG_ROPE = {"type": "longrope", "original_max_position_embeddings": 32768,
                   "short_factor": [1.0 + 0.02 * i for i in range(16)],
                   "long_factor": [1.0 + 0.02 * i for i in range(16)]}  # fmt: skip

# Title in the table, and the configuration. Where a config class has a default, that is the published value.
FAMILIES: dict[str, tuple[str, Config]] = {
    "qwen2": ("Qwen2, Qwen2.5", SILU | {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151936, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32768, "max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": False,
        "rope_theta": 1000000.0, "tie_word_embeddings": True, "bos_token_id": 151643, "eos_token_id": 151645,
    }),
    "qwen3": ("Qwen3", SILU | {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1000000.0, "tie_word_embeddings": True,
        "bos_token_id": 151643, "eos_token_id": 151645,
    }),
    "qwen3_moe": ("Qwen3-MoE", SILU | {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 151936, "hidden_size": 2048,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 40960,
        "rope_theta": 1000000.0, "tie_word_embeddings": False, "bos_token_id": 151643, "eos_token_id": 151645,
    }),
    "qwen3_5": ("Qwen3.5", {
        "model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"], "tie_word_embeddings": False,
        "image_token_id": 248056, "video_token_id": 248057, "vision_start_token_id": 248053, "vision_end_token_id": 248054,
        "text_config": SILU | {
            "model_type": "qwen3_5_text", "vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288,
            "num_hidden_layers": 32, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25,
                                "mrope_section": [11, 11, 10], "mrope_interleaved": True},
        },
        "vision_config": {"model_type": "qwen3_5_vision", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
                          "num_heads": 16, "out_hidden_size": 4096, "num_position_embeddings": 2304},
    }),
    "llama": ("Llama 2, 3", SILU | {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "max_position_embeddings": 131072, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192},
        "tie_word_embeddings": True, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
    }),
    "mistral": ("Mistral", SILU | {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 32768, "sliding_window": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }),
    "gemma3_text": ("Gemma 3, text", {
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "vocab_size": 262144, "hidden_size": 1152,
        "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 256, "sliding_window": 512, "query_pre_attn_scalar": 256, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000, "max_position_embeddings": 32768, "sliding_window_pattern": 6,
        "bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0,
    }),
    "gemma3": ("Gemma 3, with images", {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "mm_tokens_per_image": 256,
        "boi_token_index": 255999, "eoi_token_index": 256000, "image_token_index": 262144, "eos_token_id": [1, 106],
        "text_config": {
            "model_type": "gemma3_text", "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "sliding_window": 1024, "query_pre_attn_scalar": 256,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": GEMMA_VISION,
    }),
    "glm4": ("GLM-4", {
        "model_type": "glm4", "architectures": ["Glm4ForCausalLM"], "vocab_size": 151552, "hidden_size": 4096,
        "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 2,
        "head_dim": 128, "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "attention_bias": False,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "eos_token_id": [151329, 151336, 151338], "pad_token_id": 151329,
    }),
    "glm4_moe": ("GLM-4.5 (MoE)", {
        "model_type": "glm4_moe", "architectures": ["Glm4MoeForCausalLM"], "vocab_size": 151552, "hidden_size": 4096,
        "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 46, "num_attention_heads": 96,
        "num_key_value_heads": 8, "head_dim": 128, "partial_rotary_factor": 0.5, "rope_theta": 1000000,
        "attention_bias": True, "n_routed_experts": 128, "num_experts_per_tok": 8, "n_shared_experts": 1,
        "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": True, "use_qk_norm": False,
        "routed_scaling_factor": 1.0, "num_nextn_predict_layers": 1, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "eos_token_id": [151329, 151336, 151338], "pad_token_id": 151329,
    }),
    "deepseek_v3": ("DeepSeek-V3, R1", {
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 129280,
        "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "num_nextn_predict_layers": 1, "max_position_embeddings": 163840,
        "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
                                              "mscale": 1.0, "mscale_all_dim": 1.0,
                                              "original_max_position_embeddings": 4096},
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                "weight_block_size": [128, 128]},
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
    }),
    "internlm3": ("InternLM3", {
        "model_type": "internlm3", "architectures": ["InternLM3ForCausalLM"], "vocab_size": 128512, "hidden_size": 4096,
        "intermediate_size": 10240, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 2,
        "head_dim": 128, "max_position_embeddings": 32768, "rope_theta": 50000000, "rms_norm_eps": 1e-5,
        "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"}, "qkv_bias": False, "bias": False,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": [2, 128131], "pad_token_id": 2,
    }),
    "hunyuan_v1_dense": ("Hunyuan, dense", {
        "model_type": "hunyuan_v1_dense", "architectures": ["HunYuanDenseV1ForCausalLM"], "vocab_size": 120818,
        "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "attention_head_dim": 128, "use_qk_norm": True,
        "max_position_embeddings": 262144, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1,
                         "mscale": 1.0, "mscale_all_dim": 1.0},
        "tie_word_embeddings": True, "bos_token_id": 120000, "eos_token_id": 120020, "pad_token_id": 120002,
    }),
    "hunyuan_v1_moe": ("Hunyuan, MoE", {
        "model_type": "hunyuan_v1_moe", "architectures": ["HunYuanMoEV1ForCausalLM"], "vocab_size": 128167,
        "hidden_size": 4096, "intermediate_size": 3072, "moe_intermediate_size": [3072] * 32, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "attention_head_dim": 128,
        "num_experts": 64, "moe_topk": [8] * 32, "num_shared_expert": [1] * 32, "use_mixed_mlp_moe": True,
        "use_qk_norm": True, "max_position_embeddings": 32768, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1,
                         "mscale": 1.0, "mscale_all_dim": 1.0},
        "tie_word_embeddings": True, "bos_token_id": 127959, "eos_token_id": 127960, "pad_token_id": 127961,
    }),
    "ernie4_5": ("ERNIE 4.5, dense", {
        "model_type": "ernie4_5", "architectures": ["Ernie4_5ForCausalLM"], "vocab_size": 103424, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 18, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 500000, "rms_norm_eps": 1e-5,
        "use_bias": False, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }),
    "ernie4_5_moe": ("ERNIE 4.5, MoE", {
        "model_type": "ernie4_5_moe", "architectures": ["Ernie4_5_MoeForCausalLM"], "vocab_size": 103424,
        "hidden_size": 2560, "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_hidden_layers": 28,
        "num_attention_heads": 20, "num_key_value_heads": 4, "moe_num_experts": 64, "moe_k": 6,
        "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": 27, "moe_layer_interval": 1,
        "max_position_embeddings": 131072, "rope_theta": 500000, "rms_norm_eps": 1e-5, "use_bias": False,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }),
    "minicpm3": ("MiniCPM3", {
        "model_type": "minicpm3", "architectures": ["MiniCPM3ForCausalLM"], "vocab_size": 73448, "hidden_size": 2560,
        "intermediate_size": 6400, "num_hidden_layers": 62, "num_attention_heads": 40, "num_key_value_heads": 40,
        "kv_lora_rank": 256, "q_lora_rank": 768, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
        "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "initializer_range": 0.1, "rope_scaling": SHORT_LONG_ROPE, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": [2, 73440],
    }),
    "phi3": ("Phi-3, Phi-3.5, Phi-4", {
        "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "vocab_size": 32064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "sliding_window": 262144,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "rope_scaling": LONG_ROPE, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000,
    }),
    "smollm3": ("SmolLM3", SILU | {
        "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "vocab_size": 128256, "hidden_size": 2048,
        "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9, "no_rope_layer_interval": 4, "max_position_embeddings": 65536,
        "rope_theta": 5000000.0, "tie_word_embeddings": True, "bos_token_id": 128000, "eos_token_id": 128012,
        "pad_token_id": 128004,
    }),
    "gpt_oss": ("gpt-oss", {
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "vocab_size": 201088, "hidden_size": 2880,
        "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "attention_bias": True, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "rope_theta": 150000,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                         "original_max_position_embeddings": 4096},
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
        "swiglu_limit": 7.0, "tie_word_embeddings": False, "eos_token_id": 200002, "pad_token_id": 199999,
    }),
}  # fmt: skip
