"""The streamed merge is peft's merge where that is right, bit for bit; and the adapter's own answers where it isn't."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import RecipeError
from finetune.export.merge import merge
from finetune.export.tied import tied_targets
from tests.export.made import IDS, edit, logits, make, merged_folder, reload, tensors

# What peft and transformers say about these very models; nothing of ours is hidden by it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*lora_bias=True.*"),
]
LINEAR = {"target_modules": "all-linear"}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 32, "hidden_size": 64}
VARIANTS = {
    "plain": ("llama", {}, LINEAR),
    "a scale that is no power of two": ("llama", {}, LINEAR | {"r": 3, "lora_alpha": 7}),
    "rslora": ("qwen3", {}, LINEAR | {"use_rslora": True, "lora_alpha": 5}),
    "patterns": (
        "llama",
        {},
        LINEAR
        | {"rank_pattern": {"q_proj": 8, r"model.layers.1.mlp.up_proj": 2}, "alpha_pattern": {"0.self_attn.k_proj": 3}},
    ),
    "dora": ("llama", {}, LINEAR | {"use_dora": True}),
    "biases": ("opt", {}, {"target_modules": ["q_proj"], "bias": "all", "lora_bias": True}),
    "biases of the adapted layers": ("opt", {}, {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"}),
    "embedding and head, untied": ("llama", {}, {"target_modules": ["embed_tokens", "lm_head"]}),
    "whole modules": (
        "llama",
        {},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm", "input_layernorm"]},
    ),
    "tokens, untied": ("llama", {}, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}),
    "conv1d": ("gpt2", {}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "experts by all-linear": ("qwen3-moe", EXPERTS, LINEAR),
    "experts, and tokens beside them": (
        "qwen3-moe", EXPERTS, LINEAR | {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3]}},
    ),
    "experts, gate and up alone": ("qwen3-moe", EXPERTS, {"target_modules": ["q_proj"], "target_parameters": ["gate_up_proj"]}),
    "experts, down alone": (
        "qwen3-moe", EXPERTS, {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"], "use_rslora": True},
    ),
    "parameters (E, in, out)": (
        "gpt-oss",
        {},
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
    "linear attention": ("qwen3.5", {"num_hidden_layers": 4}, LINEAR),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_bit_equal_to_peft(variant, tmp_path):
    """T34: float32, every variant: not one bit differs from `merge_and_unload`, reloaded through transformers."""
    architecture, model, lora = VARIANTS[variant]
    made = make(tmp_path, architecture, model, **lora)
    merged = merged_folder(made, tmp_path / "merged", max_shard_size="50KB")
    model = reload(tmp_path / "merged")
    ours = model.state_dict()
    assert set(ours) == set(made.peft)
    differing = [name for name in ours if not torch.equal(ours[name], made.peft[name])]
    assert differing == []
    assert float((logits(model) - made.logits).abs().max()) < 1e-5
    base = tensors(made.base)
    assert merged.changed == sum(not torch.equal(base[n], t) for n, t in tensors(tmp_path / "merged").items())
    assert merged.changed > 0 and merged.tied is None and merged.vocabulary is None


@pytest.mark.parametrize(
    "lora", [{"target_modules": ["c_attn", "c_proj"]}, {"target_modules": ["wte", "c_fc"]}], ids=str
)
def test_dora_whose_norms_run_down_the_tensor(lora, tmp_path):
    """T34: norms over rows are summed in float64 here, in float32 by peft: equal to 1e-6, not in every bit."""
    made = make(tmp_path, "gpt2", {}, use_dora=True, fan_in_fan_out=True, **lora)
    merged_folder(made, tmp_path / "merged")
    model = reload(tmp_path / "merged")
    assert float((logits(model) - made.logits).abs().max()) < 1e-5
    if "wte" not in lora["target_modules"]:  # peft's merge is wrong for tied embeddings
        worst = max(float((model.state_dict()[n] - t).abs().max()) for n, t in made.peft.items())
        assert worst < 1e-6


@pytest.mark.parametrize("architecture, lora", [
    ("llama", LINEAR), ("llama", LINEAR | {"use_dora": True}), ("qwen3-moe", LINEAR),
    ("llama", {"target_modules": ["embed_tokens"]}),
], ids=["lora", "dora", "experts", "embedding"])  # fmt: skip
def test_bf16_native(architecture, lora, tmp_path):
    """T35: 0 elements differ from a merge in float32 that is cast once; the adapter stays float32."""
    made = make(tmp_path, architecture, EXPERTS if architecture == "qwen3-moe" else {}, dtype=torch.bfloat16, **lora)
    merged_folder(made, tmp_path / "merged")
    for file in (tmp_path / "merged").glob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}
    ours = reload(tmp_path / "merged").state_dict()
    assert sum(int((ours[n] != t.bfloat16().float()).sum()) for n, t in made.peft.items()) == 0


def test_dtype_asked_for(tmp_path):
    """Cast once from the float32 sum: bfloat16 of a float32 base is the cast of the float32 merge."""
    made = make(tmp_path, "llama", **LINEAR)
    merged = merged_folder(made, tmp_path / "merged", torch.bfloat16)
    ours = tensors(tmp_path / "merged")
    assert merged.dtype == "bfloat16"
    assert all(torch.equal(ours[n], t.bfloat16()) for n, t in made.peft.items())
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


QUERY = {"target_modules": ["q_proj"]}
TIED = {
    "lora on the embedding": ({"target_modules": ["embed_tokens"]}, False),
    "lora on the head": ({"target_modules": ["lm_head"]}, False),
    "lora on both": ({"target_modules": ["embed_tokens", "lm_head"]}, False),
    "lora on both, kept tied": ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "dora on the head": ({"target_modules": ["lm_head"], "use_dora": True}, False),
    "embedding saved": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    "head saved": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "both saved": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "both saved, kept tied": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True,
    ),
    "tokens": ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}, True),
    "tokens alike": (QUERY | {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}}, True),
    "tokens apart": (QUERY | {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 9]}}, False),
    "tokens of the head": (QUERY | {"trainable_token_indices": {"lm_head": [3, 9]}}, False),
}  # fmt: skip


@pytest.mark.parametrize("case", TIED)
def test_tied(case, tmp_path):
    """T36: the reloaded model answers as the adapter did (< 1e-5), and config.tie_word_embeddings says what is stored.

    peft's merge is off by 1 and more where the adapter pulls the two apart, and applies a delta they share twice.
    """
    lora, stays = TIED[case]
    made = make(tmp_path, "llama", {"tie_word_embeddings": True}, **lora)
    merged = merged_folder(made, tmp_path / "merged")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert merged.tied is (None if stays else False)
    assert config["tie_word_embeddings"] is stays
    assert ("lm_head.weight" in tensors(tmp_path / "merged")) is not stays
    assert float((logits(reload(tmp_path / "merged")) - made.logits).abs().max()) < 1e-5


def test_tied_but_both_stored(tmp_path):
    """A tied base whose files hold the output layer too: both get the change they share."""
    made = make(
        tmp_path, "llama", {"tie_word_embeddings": True}, target_modules=["q_proj"], trainable_token_indices=[3, 5]
    )
    stored = load_file(made.base / "model.safetensors")
    save_file(
        stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()},
        made.base / "model.safetensors",
        {"format": "pt"},
    )
    merged_folder(made, tmp_path / "merged")
    ours = tensors(tmp_path / "merged")
    assert torch.equal(ours["lm_head.weight"], ours["model.embed_tokens.weight"])
    assert float((logits(reload(tmp_path / "merged")) - made.logits).abs().max()) < 1e-5


def test_targets_on_tied_layers_are_named():
    """T36: what `check` has to say, from the two configs alone."""
    tied, apart = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
    assert tied_targets(tied, {"target_modules": ["q_proj", "embed_tokens"]}) == ["embed_tokens"]
    assert tied_targets(tied, {"target_modules": "all-linear", "modules_to_save": ["lm_head"]}) == ["lm_head"]
    assert tied_targets({"text_config": tied}, {"target_modules": ["lm_head", "wte"]}) == ["lm_head", "wte"]
    assert tied_targets(apart, {"target_modules": ["lm_head"]}) == []
    assert tied_targets({}, {"target_modules": ["lm_head"]}) == []
    assert tied_targets(tied, {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}) == []
    assert tied_targets(tied, {"trainable_token_indices": [3]}) == []
    assert tied_targets(tied, {"trainable_token_indices": {"embed_tokens": [3], "lm_head": [3]}}) == []
    assert tied_targets(tied, {"trainable_token_indices": {"embed_tokens": [3], "lm_head": [4]}}) == ["lm_head"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["q_proj"], "trainable_token_indices": [97, 98]},
    {"target_modules": ["embed_tokens", "q_proj"]},
], ids=["plain", "tokens", "embedding"])  # fmt: skip
def test_new_tokens(lora, tied, tmp_path):
    """T36: a vocabulary of 100 instead of 96 rows, saved with the adapter; the rows come from there."""
    if not tied and "embed_tokens" in lora["target_modules"]:
        lora = lora | {"modules_to_save": ["lm_head"]}  # peft saves the head's rows only then
    made = make(tmp_path, "llama", {"tie_word_embeddings": tied}, resize=100, **lora)
    merged = merged_folder(made, tmp_path / "merged")
    assert merged.vocabulary == 100
    assert json.loads((tmp_path / "merged/config.json").read_text())["vocab_size"] == 100
    assert float((logits(reload(tmp_path / "merged")) - made.logits).abs().max()) < 1e-5


def test_new_tokens_in_a_saved_embedding(tmp_path):
    """The trained copy is the embedding; the head keeps the resized rows beside it, which the adapter holds as well."""
    made = make(
        tmp_path,
        "llama",
        {"tie_word_embeddings": True},
        resize=100,
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens"],
    )
    assert merged_folder(made, tmp_path / "merged").tied is False
    assert float((logits(reload(tmp_path / "merged")) - made.logits).abs().max()) < 1e-5
    stored = load_file(made.adapter / "adapter_model.safetensors")
    for name in [name for name in stored if "lm_head" in name or "original_module" in name]:
        del stored[name]
    save_file(stored, made.adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(RecipeError, match=r"embed_tokens.weight 100, lm_head.weight 96; save the adapter with"):
        merged_folder(made, tmp_path / "refused")


@pytest.mark.parametrize("prefix, remove", [("", "transformer."), ("language_model.", "")])
def test_names_with_another_prefix(prefix, remove, tmp_path):
    """Checkpoints of the base model alone, or of one inside a larger model; no skeleton is built for these."""
    made = make(tmp_path, "gpt2", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    plain = load_file(made.base / "model.safetensors")
    renamed = {prefix + name.removeprefix(remove): tensor for name, tensor in plain.items()}
    save_file(renamed, made.base / "model.safetensors", {"format": "pt"})
    (tmp_path / "merged").mkdir()
    merge(made.base, made.adapter, tmp_path / "merged", None)
    ours = tensors(tmp_path / "merged")
    assert set(ours) == set(renamed)
    assert all(torch.equal(ours[prefix + name.removeprefix(remove)], made.peft[name]) for name in plain)


def test_mixtral_and_an_adapter_of_transformers_4(tmp_path):
    """Experts trained one by one, by the checkpoint's names: peft 0.21 fuses them on loading, with the same result."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "base")
    stored, adapter = load_file(tmp_path / "base/model.safetensors"), {}
    for name, tensor in stored.items():
        if any(part in name for part in (".w1.", ".w2.", ".w3.", "q_proj")):
            place = "base_model.model." + name.removesuffix(".weight")
            adapter[f"{place}.lora_A.weight"] = torch.randn(4, tensor.shape[1]) * 0.05
            adapter[f"{place}.lora_B.weight"] = torch.randn(tensor.shape[0], 4) * 0.05
    assert sum(".w1." in name for name in adapter) == 2 * 2 * 4
    (tmp_path / "adapter").mkdir()
    save_file(adapter, tmp_path / "adapter/adapter_model.safetensors", {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 12,
        "target_modules": ["q_proj", "w1", "w2", "w3"],
    }
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "merged").mkdir()
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", None)
    assert merged.changed == len(adapter) // 2
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        expected = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(IDS).logits
    (tmp_path / "merged/config.json").write_bytes((tmp_path / "base/config.json").read_bytes())
    assert float((logits(reload(tmp_path / "merged")) - expected).abs().max()) < 1e-5


def test_a_fused_adapter_on_mixtral(tmp_path):
    """LoRA on Mixtral's fused parameters goes back to w1, w2, w3 of each expert, under the checkpoint's names."""
    from peft import LoraConfig, get_peft_model
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=12, max_position_embeddings=64,
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "base")
    tuned = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "w1", "w2", "w3", "gate"])
    )
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "merged").mkdir()
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", None)
    assert set(tensors(tmp_path / "merged")) == set(tensors(tmp_path / "base"))
    (tmp_path / "merged/config.json").write_bytes((tmp_path / "base/config.json").read_bytes())
    ours, theirs = reload(tmp_path / "merged").state_dict(), tuned.merge_and_unload().state_dict()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


REFUSED = {
    "pissa": (
        {"init_lora_weights": "pissa_niter_4"},
        "init_lora_weights 'pissa_niter_4' changed the base before training",
    ),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights 'olora' changed the base before training"),
    "replication": ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication is set: layers are replicated"),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config is set"),
    "another method": ({"peft_type": "LOHA"}, "peft_type 'LOHA': only LORA, IA3, OFT are merged"),
    "another rank": ({"r": 8}, "model.layers.0.self_attn.q_proj: rank 8 in adapter_config.json, 4 in the tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_its_config(case, tmp_path):
    changes, message = REFUSED[case]
    made = make(tmp_path, "llama", target_modules=["q_proj"])
    edit(made.adapter / "adapter_config.json", **changes)
    with pytest.raises(RecipeError) as error:
        merged_folder(made, tmp_path / "merged")
    assert error.value.problems[0].startswith(f"adapter: {message}")
    assert list((tmp_path / "merged").iterdir()) == []


def test_another_base_is_refused_with_all_tensors_named(tmp_path):
    made = make(tmp_path, "llama", {"num_hidden_layers": 3}, target_modules=["q_proj", "v_proj"])
    other = make(tmp_path / "other", "llama", {"hidden_size": 32}, target_modules=["q_proj"])
    (tmp_path / "out").mkdir()
    with pytest.raises(RecipeError) as error:
        merge(other.base, made.adapter, tmp_path / "out", None)
    assert len(error.value.problems) == 6  # two of each of three layers
    assert "adapter: model.layers.0.self_attn.q_proj.weight: shape [64, 64], in the base [32, 32]" in str(error.value)
    assert "adapter: model.layers.2.self_attn.v_proj.weight: the base" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_lora_bias_needs_a_bias(tmp_path):
    made = make(
        tmp_path, "llama", {"num_hidden_layers": 1, "attention_bias": True}, target_modules=["q_proj"], lora_bias=True
    )
    plain = make(tmp_path / "plain", "llama", {"num_hidden_layers": 1}, target_modules=["q_proj"])
    (tmp_path / "out").mkdir()
    with pytest.raises(RecipeError, match=r"q_proj.bias: the base .* has no such bias, so lora_bias can't be merged"):
        merge(plain.base, made.adapter, tmp_path / "out", None)


def test_quantised_base_and_writing_over_the_base_are_refused(tmp_path):
    made = make(tmp_path, "llama", target_modules=["q_proj"])
    with pytest.raises(RecipeError, match="can't be written over what it is made from"):
        merge(made.base, made.adapter, made.base, None)
    edit(made.base / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    (tmp_path / "out").mkdir()
    with pytest.raises(RecipeError, match=r"stored quantised \(bitsandbytes\)"):
        merge(made.base, made.adapter, tmp_path / "out", None)
