"""What matches nothing in the model is an error with the nearest names, by peft's own rules; and what is covered is told."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model

from finetune.errors import RecipeError
from finetune.lora_fields import TIED_WAYS_OUT
from finetune.model.adapter import add_adapter
from finetune.model.score import with_score_head
from finetune.recipe_peft import LoraSection
from tests.equivalence.tiny_models import tiny_model

SMALL = {"num_hidden_layers": 2}
EXPERTS = SMALL | {"num_experts": 4, "moe_intermediate_size": 32, "hidden_size": 64}


def refused(lora: dict, name: str = "llama", **changes) -> list[str]:
    with pytest.raises(RecipeError) as error:
        add_adapter(tiny_model(name, **SMALL | changes), LoraSection(**lora), seed=0)
    return error.value.problems


NOTHING = [
    ({"target_modules": ["q_projj"]}, ["lora.target_modules: 'q_projj' matches no layer; did you mean 'q_proj'?"]),
    ({"target_modules": ["zzz", "embed_token"]},
     ["lora.target_modules: 'embed_token' matches no layer; did you mean 'embed_tokens'?",
      "lora.target_modules: 'zzz' matches no layer; linear layers: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, "
      "up_proj, v_proj"]),
    ({"target_modules": "q_proj"},
     ["lora.target_modules: 'q_proj' is a pattern for whole names and matches no layer; linear layers: down_proj, gate_proj, "
      "k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"]),
    ({"target_modules": "all-linar"},
     ["lora.target_modules: 'all-linar' is a pattern for whole names and matches no layer; did you mean 'all-linear'?"]),
    ({"target_modules": ["self_attn"]},
     ["lora.target_modules: 'self_attn' is a LlamaAttention, no linear layer; linear layers: down_proj, gate_proj, k_proj, "
      "lm_head, o_proj, q_proj, up_proj, v_proj"]),
    ({"target_modules": ".*self_attn.*"},
     ["lora.target_modules: '.*self_attn.*' matches model.layers.0.self_attn, which is no linear layer"]),
    ({"rank_pattern": {"q_projj": 8}, "alpha_pattern": {"k_proj": 3, "nothing": 3}},
     ["lora.rank_pattern: 'q_projj' matches nothing that is targeted; did you mean 'q_proj'?",
      "lora.alpha_pattern: 'nothing' matches nothing that is targeted; allowed: down_proj, gate_proj, k_proj, o_proj, q_proj, "
      "up_proj, v_proj"]),
    ({"target_modules": ["q_proj"], "rank_pattern": {"k_proj": 8}},
     ["lora.rank_pattern: 'k_proj' matches nothing that is targeted; did you mean 'q_proj'?"]),
    ({"exclude_modules": ["q_proj", "lm_head"]},
     ["lora.exclude_modules: 'lm_head' leaves out nothing that is targeted; allowed: down_proj, gate_proj, k_proj, o_proj, "
      "q_proj, up_proj, v_proj"]),
    ({"target_modules": ["q_proj"], "exclude_modules": "k_proj"},
     ["lora.exclude_modules: 'k_proj' leaves out nothing that is targeted; did you mean 'q_proj'?"]),
    ({"target_modules": ["q_proj"], "exclude_modules": ".*q_proj"}, ["lora.exclude_modules: '.*q_proj' leaves no target over"]),
    ({"target_modules": ["q_proj"], "layers_to_transform": [1, 2, 7]},
     ["lora.layers_to_transform: 2: no target in such a layer; they are in 0 to 1",
      "lora.layers_to_transform: 7: no target in such a layer; they are in 0 to 1"]),
    ({"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layer"},
     ["lora.layers_pattern: 'layer' is no list of layers; did you mean 'layers'?"]),
    ({"modules_to_save": ["lm_hed", "norm"]},
     ["lora.modules_to_save: 'lm_hed' is no module of the model; did you mean 'lm_head'?"]),
    ({"target_parameters": ["experts.down_proj"], "target_modules": []},
     ["lora.target_parameters: 'experts.down_proj' is no parameter of the model"]),
    ({"trainable_token_indices": [5, 96, 200]},
     ["lora.trainable_token_indices: 96, 200: beyond the vocabulary of 96 rows (0 to 95); for tokens that are not there yet "
      "use model.add_tokens"]),
    ({"trainable_token_indices": {"embed_token": [5]}},
     ["lora.trainable_token_indices: 'embed_token' is no module of the model; did you mean 'embed_tokens'?"]),
    ({"target_modules": ["q_proj"], "lora_bias": True}, ["lora.lora_bias: q_proj: have no bias to merge it into"]),
    ({"ensure_weight_tying": True},
     ["lora.ensure_weight_tying: the base's embedding and output layer are two tensors; leave it out"]),
]  # fmt: skip


@pytest.mark.parametrize(("lora", "lines"), NOTHING, ids=[str(lora) for lora, _ in NOTHING])
def test_what_matches_nothing(lora, lines):
    assert refused(lora) == lines


def test_experts_that_no_linear_layer_holds_are_named():
    """Qwen3-MoE's experts are two parameters of three dimensions a layer; a wrong name of one has the nearest."""
    assert refused({"target_modules": ["expert"]}, "qwen3-moe", **EXPERTS)[0].endswith(
        "; experts: lora.target_parameters: [experts.down_proj, experts.gate_up_proj]"
    )
    (line,) = refused({"target_modules": [], "target_parameters": ["experts.down_projj"]}, "qwen3-moe", **EXPERTS)
    assert (
        line
        == "lora.target_parameters: 'experts.down_projj' is no parameter of the model; did you mean 'experts.down_proj'?"
    )


@pytest.mark.parametrize("targets", [["embed_tokens"], ["q_proj", "lm_head"], ".*(q_proj|lm_head)"], ids=str)
def test_lora_on_a_tied_end_is_refused(targets):
    (line,) = refused({"target_modules": targets}, tie_word_embeddings=True)
    assert line.endswith(TIED_WAYS_OUT) and line.startswith("lora.target_modules: ")


def test_tying_without_an_end_has_no_effect():
    (line,) = refused({"ensure_weight_tying": True}, tie_word_embeddings=True)
    assert line == "lora.ensure_weight_tying: neither the embedding nor the output layer is trained; leave it out"


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("llama", {}),
        ("llama", {"target_modules": ["q_proj", "model.layers.1.mlp.up_proj", "embed_tokens", "lm_head"]}),
        ("llama", {"target_modules": r".*\.1\..*_proj"}),
        ("llama", {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["0.self_attn.q_proj"]}),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["layers"]}),
        ("gpt2", {}),
        ("gpt-oss", {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]}),
    ],
)
def test_covered_is_what_peft_covers(name, lora):
    """The counts are those of peft's own targeted modules and parameters, and of its own trainable parameters."""
    _, coverage = add_adapter(tiny_model(name), LoraSection(**lora), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(tiny_model(name), LoraConfig(task_type="CAUSAL_LM", **LoraSection(**lora).settings()))
    targeted = [*theirs.base_model.targeted_module_names, *theirs.base_model.targeted_parameter_names]
    assert sum(coverage.matched.values()) == len(targeted)
    # peft tells r = 16, alpha = 32 in this section too
    assert (coverage.trainable, coverage.total) == theirs.get_nb_trainable_parameters()


def test_coverage_is_told_by_kind():
    """Two layers of Qwen3-MoE: experts and router are no linear layers that all-linear sees."""
    model = tiny_model("qwen3-moe", **EXPERTS)
    _, coverage = add_adapter(model, LoraSection(target_modules=["q_proj", "v_proj"]), seed=0)
    assert coverage.matched == {"q_proj": 2, "v_proj": 2}
    assert coverage.unmatched == {"k_proj": 2, "o_proj": 2, "experts.down_proj": 2, "experts.gate_up_proj": 2}
    assert coverage.line().endswith(
        "; on q_proj x2, v_proj x2; without: k_proj x2, o_proj x2, experts.down_proj x2, experts.gate_up_proj x2; "
        "experts: lora.target_parameters: [experts.down_proj, experts.gate_up_proj]"
    )
    section = LoraSection(target_modules=["q_proj"], target_parameters=["experts.down_proj"])
    _, coverage = add_adapter(tiny_model("qwen3-moe", **EXPERTS), section, seed=0)
    assert coverage.matched == {"q_proj": 2, "experts.down_proj": 2}
    assert coverage.hint == "; experts: lora.target_parameters: [experts.gate_up_proj]"


def test_all_linear_covers_the_experts_that_peft_knows():
    """Of Qwen3-MoE: gate and up are one parameter, at twice the rank; of gpt-oss peft knows none, which is told."""
    model, coverage = add_adapter(tiny_model("qwen3-moe", **EXPERTS), LoraSection(), seed=0)
    assert coverage.matched["experts.gate_up_proj"] == coverage.matched["experts.down_proj"] == 2
    assert coverage.unmatched == {} and coverage.hint == ""
    shapes = {
        name: tuple(p.shape)
        for name, p in model.named_parameters()
        if "layers.0.mlp.experts" in name and "lora_A" in name
    }
    assert sorted(shapes.values()) == [(16 * 4, 32), (2 * 16 * 4, 64)]  # (rank x experts, in)
    _, coverage = add_adapter(tiny_model("gpt-oss", **SMALL), LoraSection(), seed=0)
    assert coverage.unmatched == {"experts.down_proj": 2, "experts.gate_up_proj": 2}
    assert refused({"lora_dropout": 0.1}, "qwen3-moe", **EXPERTS) == [
        "lora.lora_dropout: does not work on parameters (target_parameters); leave one of the two out (the experts of this "
        "model are parameters: name its other layers in target_modules)"
    ]


def test_conv1d_lies_transposed():
    """GPT-2's c_attn is (in, out): W + s (B A)^T; the config in the file says so."""
    model, _ = add_adapter(tiny_model("gpt2"), LoraSection(target_modules=["c_attn"]), seed=0)
    assert model.peft_config["default"].fan_in_fan_out is True
    model, _ = add_adapter(tiny_model("llama"), LoraSection(target_modules=["q_proj"]), seed=0)
    assert model.peft_config["default"].fan_in_fan_out is False


def test_under_a_score_head():
    """The head is trained whole, and is no miss."""
    base = with_score_head(tiny_model("llama", **SMALL), ["reward"])
    model, coverage = add_adapter(base, LoraSection(), seed=0)
    assert "score" not in coverage.unmatched and sum(coverage.matched.values()) == 14
    assert any(".score.modules_to_save." in name for name, p in model.named_parameters() if p.requires_grad)


def test_halves_are_float32_over_a_base_in_bfloat16():
    """Frozen ones too (MiCA's B), and a tied pair stays one where peft's would part."""
    model, _ = add_adapter(
        tiny_model("llama", dtype=torch.bfloat16, **SMALL), LoraSection(init_lora_weights="mica"), seed=0
    )
    assert {p.dtype for name, p in model.named_parameters() if "lora_" in name} == {torch.float32}
    base = tiny_model("llama", dtype=torch.bfloat16, tie_word_embeddings=True, **SMALL)
    model, _ = add_adapter(base, LoraSection(target_modules=["embed_tokens"], ensure_weight_tying=True), seed=0)
    embedding, head = model.get_base_model().get_input_embeddings(), model.get_base_model().get_output_embeddings()
    with torch.no_grad():
        embedding.lora_embedding_A["default"].add_(1.0)
    assert torch.equal(head.lora_B["default"].weight, embedding.lora_embedding_A["default"].t())
    assert torch.equal(head.lora_A["default"].weight, embedding.lora_embedding_B["default"].t())
