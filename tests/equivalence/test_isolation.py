"""The probe before packed training: passes what keeps documents apart, refuses what does not, says why, leaves no trace."""

from __future__ import annotations

import pytest
import torch
from transformers import MistralForCausalLM

from finetune.errors import RecipeError
from finetune.model.adapter import add_adapter
from finetune.model.head import TrainedPositions
from finetune.model.isolation import ADVICE, Probe, check_isolation
from finetune.recipe_peft import LoraSection
from tests.equivalence.tiny_models import tiny_model

CPU = torch.device("cpu")
ISOLATED = ["llama", "qwen3", "qwen3-swa", "mistral", "gemma3", "gpt2"]


def refusal(model, dtype=torch.float32) -> str:
    with pytest.raises(RecipeError) as error:
        check_isolation(model, dtype, CPU)
    (problem,) = error.value.problems
    assert problem.endswith(f"; set data.packing: false, {ADVICE}")
    return problem.removesuffix(f"; set data.packing: false, {ADVICE}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ISOLATED)
def test_passes(name, attention, dtype):
    """T30, the other side: what T29 shows to be isolated is let through; logits move by exactly 0."""
    model = tiny_model(name, attention, dtype)
    check_isolation(model, dtype, CPU)
    probe = Probe(TrainedPositions(model), CPU, 0.0)
    with torch.no_grad():
        before, after = probe._packed(probe.rows), probe._packed(probe.changed_rows)
    assert [torch.equal(one, other) for one, other in zip(before, after, strict=True)] == [False] + [True] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "architecture", "reason"),
    [
        ("gpt-oss", "GptOssForCausalLM", "position_ids that start again do not separate them in this architecture"),
        ("qwen3-next", "Qwen3NextForCausalLM", "its linear_attention layers carry what they have read"),
        ("qwen3.5", "Qwen3_5ForCausalLM", "its linear_attention layers carry what they have read"),
        ("mamba", "MambaForCausalLM", "layers carry what they have read"),
        ("lfm2", "Lfm2ForCausalLM", "its conv layers carry what they have read"),
        ("falcon-h1", "FalconH1ForCausalLM", "its hybrid layers carry what they have read"),
        ("opt", "OPTForCausalLM", "position_ids that start again do not separate them in this architecture"),
    ],
)
def test_refuses(name, architecture, reason, dtype):
    """T30: architectures that leak stop the run, in bfloat16 too, with what leaks and the two ways on."""
    problem = refusal(tiny_model(name, dtype=dtype), dtype)
    assert problem.startswith(f"data.packing: {architecture} lets packed documents see each other: ")
    assert reason in problem


def test_experts_round_otherwise():
    """A mixture of experts moves by rounding when another document routes otherwise; the derivative is exactly 0.

    The same derivative is not 0 for LFM2, whose leak in bfloat16 is as small as its rounding.
    """
    model = tiny_model("qwen3-moe", "sdpa")
    check_isolation(model, torch.float32, CPU)
    assert Probe(TrainedPositions(model), CPU, 1e-4)._derivative() == 0.0
    assert Probe(TrainedPositions(tiny_model("lfm2", dtype=torch.bfloat16)), CPU, 1e-4)._derivative() > 1e-3
    assert all(parameter.grad is None for parameter in model.parameters())


class Windowless(MistralForCausalLM):
    """Packs by a 4-D mask of the documents, and so loses the sliding window (transformers takes such a mask as it is)."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, **rest):
        if attention_mask is None:
            document = (position_ids == 0).cumsum(-1)
            seen = (document[:, :, None] == document[:, None, :]).tril()[:, None]  # (B, 1, T, T)
            attention_mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **rest)


def test_sliding_window():
    """Documents kept apart, window lost: refused. With the window wide open there is nothing to lose."""
    model = tiny_model("mistral")
    model.__class__ = Windowless
    problem = refusal(model)
    assert problem.startswith(
        "data.packing: Windowless does not keep its sliding window of 6 tokens in packed rows: logits differ from those"
    )
    model = tiny_model("mistral", sliding_window=200)
    model.__class__ = Windowless
    assert "sliding window of 200 tokens" in refusal(model)
    model = tiny_model("mistral", sliding_window=None)
    model.__class__ = Windowless
    check_isolation(model, torch.float32, CPU)


class Positionless(MistralForCausalLM):
    """A forward that knows no position_ids, as older remote code."""

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_no_position_ids():
    """A model that can't be told positions is refused with its own words, not with a traceback."""
    model = tiny_model("mistral")
    model.__class__ = Positionless
    assert "Positionless refuses packed rows" in refusal(model)
    assert "position_ids" in refusal(model)


class Broken(MistralForCausalLM):
    """A forward that fails whatever it is given."""

    def forward(self, input_ids, **rest):
        raise ValueError("no such expert")


def test_a_model_that_fails_anyway_says_so_itself():
    """That is no matter of packing: its own error, not the advice to switch packing off."""
    model = tiny_model("mistral")
    model.__class__ = Broken
    with pytest.raises(ValueError, match="no such expert"):
        check_isolation(model, torch.float32, CPU)


def test_leaves_no_trace():
    """With the adapter on: modes, hooks, random state and gradients are as before, also after a refusal."""
    for name in ("qwen3", "gpt-oss"):
        model, _ = add_adapter(tiny_model(name), LoraSection(lora_dropout=0.3), seed=0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        model.train()
        model.get_base_model().model.norm.eval()
        modes = [module.training for module in model.modules()]
        state = torch.get_rng_state()
        if name == "qwen3":
            check_isolation(model, torch.float32, CPU)
        else:
            assert "GptOssForCausalLM" in refusal(model)
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)
        assert not model.get_output_embeddings()._forward_pre_hooks
        assert not model.get_input_embeddings()._forward_hooks
        assert all(parameter.grad is None for parameter in model.parameters())


def test_takes_the_wrapped_model():
    """What training calls can be probed as it is, and stays wrapped."""
    wrapped = TrainedPositions(tiny_model("llama"))
    check_isolation(wrapped, torch.float32, CPU)
    assert len(wrapped.model.get_output_embeddings()._forward_pre_hooks) == 1


def test_not_finite():
    """Logits that are not numbers are said to be that, not to be isolated."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3, 0] = torch.nan
    assert refusal(model) == "data.packing: LlamaForCausalLM gives logits that are not finite in packed rows"
