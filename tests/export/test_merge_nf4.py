"""An adapter trained on a 4-bit base, merged into what it was trained on."""

from __future__ import annotations

import pytest
import torch

from finetune.errors import RecipeError
from finetune.export import nf4
from finetune.export.merge import merge
from tests.export.made import make, tensors


def test_needs_bitsandbytes(tmp_path, monkeypatch):
    made = make(tmp_path, "llama", {"num_hidden_layers": 1}, target_modules=["q_proj"])
    monkeypatch.setattr(nf4.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="the package bitsandbytes is needed; pip install bitsandbytes"):
        merge(made.base, made.adapter, tmp_path, None, target="dequantised")


def test_every_linear_weight_goes_through_nf4(tmp_path, monkeypatch):
    """T37: with another rounding in nf4's place, the sum is that rounding plus peft's delta; all else is untouched."""

    def rounded(tensor):
        whole = tensor.elements(0, tensor.count).view(tensor.shape)
        facts = {entry.name: getattr(tensor, entry.name) for entry in nf4.fields(nf4.Stored)}
        return nf4.Held(**facts, data=coarse(whole).contiguous().view(-1).view(torch.uint8))

    def coarse(values: torch.Tensor) -> torch.Tensor:
        return (values * 64).round() / 64

    from finetune.export import merge as merging

    monkeypatch.setattr(merging, "check_bitsandbytes", lambda: None)
    monkeypatch.setattr(merging, "to_nf4_and_back", rounded)
    made = make(tmp_path, "llama", {"num_hidden_layers": 1}, target_modules=["q_proj", "lm_head"])
    (tmp_path / "out").mkdir()
    merged = merge(made.base, made.adapter, tmp_path / "out", None, target="dequantised")
    assert merged.target == "dequantised"
    base, ours = tensors(made.base), tensors(tmp_path / "out")
    for name, tensor in ours.items():
        linear = "_proj." in name
        expected = (coarse(base[name]) if linear else base[name]) + (made.peft[name] - base[name])
        assert float((tensor - expected).abs().max()) < 1e-6, name
        assert torch.equal(tensor, made.peft[name]) is not linear


def test_nf4_is_bitsandbytes_s(tmp_path):
    """T37: the merged weights are those that bitsandbytes de-quantises, plus the delta, bit for bit."""
    functional = pytest.importorskip("bitsandbytes.functional")
    made = make(tmp_path, "llama", {"num_hidden_layers": 1}, target_modules=["q_proj"])
    (tmp_path / "out").mkdir()
    merge(made.base, made.adapter, tmp_path / "out", None, target="dequantised")
    base, ours = tensors(made.base), tensors(tmp_path / "out")
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.o_proj.weight"):
        packed, state = functional.quantize_4bit(base[name], blocksize=64, quant_type="nf4", compress_statistics=True)
        assert torch.equal(ours[name], functional.dequantize_4bit(packed, state))
        assert 0.05 < float((ours[name] - base[name]).norm() / base[name].norm()) < 0.15
    assert torch.equal(ours["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
