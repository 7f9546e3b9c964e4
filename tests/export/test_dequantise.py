"""An adapter trained on a quantised base, merged into what it was trained on (T37)."""

from __future__ import annotations

import pytest
import torch

from finetune.errors import RecipeError
from finetune.export import dequantise
from finetune.export.merge import merge
from finetune.model import quantization
from finetune.model.quantization import METHODS, describe
from tests.export.made import make, tensors

# nf4's sixteen values: quantiles of the normal distribution, to [-1, 1] (arXiv 2305.14314, appendix E).
NF4 = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0, 0.0795803, 0.1609302, 0.2461123,
    0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip


def test_needs_the_method_s_package(tmp_path, monkeypatch):
    made = make(tmp_path, "llama", {"num_hidden_layers": 1}, target_modules=["q_proj"])
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    for method, package in (("nf4", "bitsandbytes"), ("int4_weight_only", "torchao")):
        with pytest.raises(RecipeError, match=f"the package {package} is needed; pip install {package}"):
            merge(made.base, made.adapter, tmp_path, None, quantization=describe(method))


def test_every_quantised_weight_goes_through(tmp_path, monkeypatch):
    """With another rounding in the method's place, the sum is that rounding plus peft's delta; all else is untouched."""

    def coarse(values: torch.Tensor, method: str = "int8") -> torch.Tensor:
        return (values * 64).round() / 64

    monkeypatch.setattr(dequantise, "quantised_and_back", coarse)
    made = make(tmp_path, "llama", {"num_hidden_layers": 1}, target_modules=["q_proj", "lm_head"])
    (tmp_path / "out").mkdir()
    merged = merge(made.base, made.adapter, tmp_path / "out", None, quantization=describe("int8"))
    assert merged.target == "dequantised"
    base, ours = tensors(made.base), tensors(tmp_path / "out")
    for name, tensor in ours.items():
        linear = "_proj." in name
        expected = (coarse(base[name]) if linear else base[name]) + (made.peft[name] - base[name])
        assert float((tensor - expected).abs().max()) < 1e-6, name
        assert torch.equal(tensor, made.peft[name]) is not linear


def test_nf4_by_hand():
    """One block of 64 with the largest value 1: the scale is the mean of the scales, so each value is the nearest of 16."""
    weight = torch.zeros(1, 64)
    weight[0, :6] = torch.tensor([1.0, -0.6, 0.3, -0.09, 0.05, 0.7])
    back = dequantise.quantised_and_back(weight, "nf4")[0]
    near = (NF4[15], NF4[2], NF4[11], NF4[6], NF4[8], NF4[14])
    assert back[:6].tolist() == pytest.approx(near, abs=2e-7) and not back[6:].any()


def test_int8_by_hand():
    """A row's largest value stands for 127. Row 1: 127/64, so steps of 1/64: 0.04 is 2.56 of them, 3. Row 2: steps of 2."""
    weight = torch.tensor([[127 / 64, -1.0, 0.25, 0.04], [254.0, -0.9, 1.1, 4.0]])
    back = dequantise.quantised_and_back(weight, "int8")
    assert back.tolist() == [
        pytest.approx([127 / 64, -1.0, 0.25, 3 / 64], rel=1e-6), pytest.approx([254.0, 0.0, 2.0, 4.0], rel=1e-6),
    ]  # fmt: skip


def test_torchao_by_hand():
    """int8: steps of (largest / 127.5), at most 127. int4: steps of (largest of 32 inputs / 7.5), from -8 to 7.

    Largest 3.75: steps of 0.5 in int4: 3.75 is 7.5 steps, cut to 7: 3.5; -1.3 is -2.6: -3; a second group has its own.
    """
    weight = torch.zeros(1, 64)
    weight[0, :3] = torch.tensor([3.75, -1.3, 0.2])
    weight[0, 32:34] = torch.tensor([-15.0, 4.1])  # steps of 2
    four = dequantise.quantised_and_back(weight, "int4_weight_only")[0]
    assert four[[0, 1, 2, 32, 33]].tolist() == pytest.approx([3.5, -1.5, 0.0, -16.0 + 0.0, 4.0], abs=1e-6)
    eight = dequantise.quantised_and_back(torch.tensor([[1.275, -1.0, 0.013]]), "int8_weight_only")[0]  # steps of 0.01
    assert eight.tolist() == pytest.approx([1.27, -1.0, 0.01], abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_those_of_the_loaded_model(tmp_path, method, dtype):
    """Bit for bit: of a float32 checkpoint loaded in another dtype, each layer is what that model multiplies with.

    Through the model itself: x times an identity is the layer's weight. Only the layers that transformers quantised.
    """
    from transformers import AutoModelForCausalLM

    from finetune.export.weights import model_tensors
    from finetune.model.quantise import loading_options

    made = make(tmp_path, "llama", {"num_hidden_layers": 1, "tie_word_embeddings": True}, target_modules=["q_proj"])
    model = AutoModelForCausalLM.from_pretrained(made.base, dtype=dtype, **loading_options(method, False, dtype, "cpu"))
    through, stored = dequantise.Through(method, dtype), model_tensors(made.base)
    quantised = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if "_proj" in name and not name.endswith("_proj.bias") and hasattr(module, "weight")
    }
    from finetune.export.origins import Skeleton

    assert set(through.weights(Skeleton(made.base).model)) == quantised
    model.train()
    for name in sorted(quantised):
        layer, held = model.get_submodule(name.removesuffix(".weight")), through(stored[name])
        ours = held.elements(0, held.count).view(held.shape)
        with torch.no_grad():
            theirs = layer(torch.eye(held.shape[1], dtype=dtype)).T
        assert held.dtype == {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
        assert torch.equal(ours, theirs), name
        assert 0.001 < float((ours - made_weight(stored[name])).norm() / ours.norm()) < 0.3


def made_weight(stored) -> torch.Tensor:
    return stored.elements(0, stored.count).view(stored.shape)
