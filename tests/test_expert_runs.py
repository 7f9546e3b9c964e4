"""LoRA on fused experts through a whole run: trained, stopped, resumed, merged, proved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetune.checkpoint.tensors import load_tensors
from finetune.errors import RecipeError
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import byte_tokenizer, write_tiny_recipe
from tests.equivalence.test_resume import assert_same_bits, run_until, stir
from tests.equivalence.tiny_models import tiny_model

IDS = {"vocab_size": 258, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257, "num_hidden_layers": 2}
MOE = IDS | {"num_experts": 4, "moe_intermediate_size": 32, "hidden_size": 64, "max_position_embeddings": 1024}
OSS = IDS | {"max_position_embeddings": 1024}
FUSED = "lora.target_parameters=[experts.gate_up_proj, experts.down_proj]"
RUNS = {
    "qwen3-moe": (MOE, ("lora.target_modules=[q_proj]", FUSED)),
    "gpt-oss": (OSS, ("lora.target_modules=[]", FUSED, "model.attn_implementation=eager")),  # it has no other on a CPU
    "qwen3-moe, all-linear": (MOE, ()),
}


def base_of(folder: Path, architecture: str, changes: dict) -> Path:
    tiny_model(architecture, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_experts_from_data_to_bundle(name, tiny_data, tmp_path, monkeypatch):
    """Resumed = uninterrupted, bit for bit; merged = adapter below 1e-5; every expert's both matrices have changed, those
    without LoRA have not; the manifest says what was covered."""
    changes, more = RUNS[name]
    base = base_of(tmp_path / "base", name.partition(",")[0], changes)
    settings = (*more, "train.max_steps=6", "train.save_steps=2", "train.micro_batch_size=2", "evaluate.rows=2")
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = load_recipe(write_tiny_recipe(tmp_path / "whole", base, tiny_data), settings)
    result = run(whole)
    stopped = load_recipe(write_tiny_recipe(tmp_path / "stopped", base, tiny_data), settings)
    run_until(stopped, 7, monkeypatch)
    stir()
    run(stopped, resume="auto")
    assert_same_bits(stopped.output_dir, whole.output_dir)
    assert result.manifest["merge_proof"]["max_logit_difference"] < 1e-5
    told = json.loads((result.bundle / "MANIFEST.json").read_text())["training"]["lora"]
    assert "experts.down_proj x2" in told.partition("without:")[0] and "experts.gate_up_proj x2" in told
    before, after = load_tensors(base / "model.safetensors"), load_tensors(result.bundle / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {tensor for tensor in before if not torch.equal(before[tensor], after[tensor])}
    experts = {tensor for tensor in before if ".experts." in tensor and "bias" not in tensor}
    assert experts <= changed
    assert all(".experts." in t or "q_proj" in t or "all-linear" in name for t in changed)


def test_targets_that_serve_no_experts_are_told_before_training(tiny_recipe, tiny_data, tmp_path):
    """all-linear on Qwen3-MoE is on parameters, which only the loaded base tells: the run stops before its first step."""
    base = base_of(tmp_path / "base", "qwen3-moe", MOE)
    recipe = tiny_recipe(f"model.name_or_path={base}", "export.targets=[{engine: vllm, form: adapter}]")
    with pytest.raises(RecipeError) as error:
        run(recipe)
    assert any("LoRA on fused experts has no form that engines read" in problem for problem in error.value.problems)
    assert not (recipe.output_dir / "adapter").exists()
