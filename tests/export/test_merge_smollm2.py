"""The streamed merge on a real model: SmolLM2-135M, fifty prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from finetune.export.merge import merge
from tests.export.made import tensors
from tests.serving.battery import SMOLLM2

pytestmark = pytest.mark.slow
PROMPTS = [f"{i}. At {i - 9} degrees it is" for i in range(50)]
VARIANTS = {
    "lora": {},
    "rslora": {"use_rslora": True, "rank_pattern": {"v_proj": 4}, "alpha_pattern": {"layers.3.mlp.up_proj": 3}},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa_niter_4", "target_modules": ["q_proj", "v_proj"]},
}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """(folder in float32, the prompts as one padded batch)."""
    from finetune.model.load import load_base

    folder = tmp_path_factory.mktemp("smollm2")
    base = load_base(SMOLLM2, SimpleNamespace(torch_dtype=torch.float32, attention="eager"), Path("nowhere"))
    base.model.save_pretrained(folder)
    batch = base.tokenizer(PROMPTS, return_tensors="pt", padding=True)
    return folder, batch


def answers(model, batch) -> torch.Tensor:
    """Logits at every token of the prompts, (tokens, vocabulary)."""
    with torch.inference_mode():
        return model(**batch).logits[batch.attention_mask.bool()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_answers_like_the_adapter(variant, smollm2, tmp_path):
    """T34: max |difference of logits| < 1e-3, no greedy token of any position differs, and on disk is peft's merge bit for bit.

    Biases: this model has none; tests/export/test_merge.py has them on OPT.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    folder, batch = smollm2
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"} | VARIANTS[variant]
    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), LoraConfig(**settings)
    )
    adapter = tmp_path / "adapter"
    convert = {}
    if variant == "pissa":
        tuned.peft_config["default"].init_lora_weights = True
        tuned.save_pretrained(tmp_path / "initial", save_embedding_layers=False)
        tuned.peft_config["default"].init_lora_weights = settings["init_lora_weights"]
        convert = {"path_initial_model_for_weight_conversion": str(tmp_path / "initial")}
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.005)
    tuned.eval()
    expected = answers(tuned, batch)
    tuned.save_pretrained(adapter, save_embedding_layers=False, **convert)
    if variant == "lora":
        with tuned.disable_adapter():
            assert (
                float((answers(tuned, batch) - expected).abs().max()) > 0.5
            )  # without the adapter the model is another
    output = tmp_path / "merged"
    output.mkdir()
    merge(Path(folder), adapter, output, None, "200MB")
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    in_memory = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    ours = tensors(output)
    assert [name for name in ours if not torch.equal(ours[name], in_memory[name])] == []
    (output / "config.json").write_bytes((folder / "config.json").read_bytes())
    merged = AutoModelForCausalLM.from_pretrained(output, attn_implementation="eager").eval()
    got = answers(merged, batch)
    assert float((got - expected).abs().max()) < 1e-3
    assert int((got.argmax(-1) != expected.argmax(-1)).sum()) == 0
