"""The rules that make a configuration tiny, by hand: what is kept of each family's peculiarities."""

from __future__ import annotations

import pytest

from finetune.model.tiny import HIDDEN, WINDOW, layers_to_keep, shrink
from tests.families.configs import FAMILIES


def test_layers_one_of_every_kind_and_two_at_least():
    """Kinds: dense then experts (DeepSeek); linear x3 then full (Qwen3.5); rope x3 then none (SmolLM3); all alike (Qwen2)."""
    kept = {name: layers_to_keep(FAMILIES[name][1]) for name in ("deepseek_v3", "smollm3", "qwen2", "ernie4_5_moe")}
    assert kept == {"deepseek_v3": [0, 3], "smollm3": [0, 3], "qwen2": [0, 1], "ernie4_5_moe": [0, 1]}
    assert layers_to_keep(FAMILIES["qwen3_5"][1]["text_config"]) == [0, 3]
    assert layers_to_keep({"num_hidden_layers": 1}) == [0]
    assert layers_to_keep({"num_hidden_layers": 32, "attn_layer_period": 4}) == [0, 1, 2, 3]
    assert layers_to_keep({"num_hidden_layers": 6, "mlp_only_layers": [0, 4]}) == [0, 1]


def test_deepseek_keeps_its_shape():
    small = shrink(FAMILIES["deepseek_v3"][1], 259, known_tokens=False)
    told = {
        "hidden_size": HIDDEN, "num_hidden_layers": 2, "first_k_dense_replace": 1, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 24,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "num_attention_heads": 4,
        "num_key_value_heads": 4, "num_nextn_predict_layers": 0, "moe_intermediate_size": 32, "intermediate_size": 96,
        "vocab_size": 320, "tie_word_embeddings": False, "routed_scaling_factor": 2.5,
    }  # fmt: skip
    assert {key: small[key] for key in told} == told
    assert "quantization_config" not in small and small["rope_scaling"]["factor"] == 40


@pytest.mark.parametrize(
    ("family", "heads", "groups", "head_dim"),
    # MHA stays MHA, one group stays one, a head wider than its share of the width stays wider (32 of 64 with 4 heads)
    [("phi3", 4, 4, None), ("gemma3_text", 2, 1, 32), ("qwen3", 4, 2, 32), ("llama", 4, 2, 16), ("glm4", 4, 2, 16)],
)
def test_heads(family, heads, groups, head_dim):
    small = shrink(FAMILIES[family][1], 259)
    assert (small["num_attention_heads"], small["num_key_value_heads"]) == (heads, groups)
    assert small.get("head_dim") == (head_dim if family != "gemma3_text" else 64)


def test_lists_of_frequencies_are_as_long_as_the_new_head_needs():
    """Phi-3: a head of 64 / 4 = 16 has 8 frequencies; MiniCPM3's rope part of 8 has 4; Qwen3.5's 32 x 0.25 = 8 has 4."""
    phi = shrink(FAMILIES["phi3"][1], 259)["rope_scaling"]
    assert len(phi["long_factor"]) == len(phi["short_factor"]) == 8
    assert (phi["long_factor"][0], phi["long_factor"][-1]) == (1.0, 1.0 + 1.3 * 47)
    assert len(shrink(FAMILIES["minicpm3"][1], 259)["rope_scaling"]["long_factor"]) == 4
    assert shrink(FAMILIES["qwen3_5"][1], 259)["text_config"]["rope_parameters"]["mrope_section"] == [2, 1, 1]


def test_small_values_and_switches_stay_as_they_are():
    given = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "sliding_window": 4, "vocab_size": 100,
             "tie_word_embeddings": True, "attention_bias": True, "layer_types": ["a", "b"]}  # fmt: skip
    assert shrink(given, 100) == given
    assert shrink(given | {"sliding_window": 4096}, 100)["sliding_window"] == WINDOW
    assert shrink(given | {"sliding_window": None}, 100)["sliding_window"] is None


def test_vocabulary():
    """Rows for the tokenizer's ids, padded where the base pads; another tokenizer's ids do not reach beyond them."""
    config = {"num_hidden_layers": 2, "vocab_size": 151936, "image_token_id": 151655, "eos_token_id": [151643, 151645]}
    assert shrink(config, 151665)["vocab_size"] == 151680
    assert shrink(config | {"vocab_size": 151665}, 151665)["vocab_size"] == 151665
    other = shrink(config, 259, known_tokens=False)
    assert (other["vocab_size"], other["image_token_id"], other["eos_token_id"]) == (320, 258, [258])
    assert shrink(config, 151644)["eos_token_id"] == [151643]
