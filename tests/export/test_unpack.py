"""Checkpoints whose weights lie quantised, read as plain ones: numbers by hand, and what the libraries themselves load."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import RecipeError
from finetune.export.merge import merge
from finetune.export.unpack import unpacked
from finetune.export.weights import model_tensors
from finetune.model.quantization import describe
from tests.equivalence.tiny_models import tiny_model
from tests.export.made import IDS, make


def folder_of(folder: Path, tensors: dict[str, torch.Tensor], **settings) -> dict:
    """A folder with these tensors and a config.json that says how they are quantised."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return {"dtype": "float16", "quantization_config": settings}


def weight_of(folder: Path, config: dict, name: str = "l.weight") -> torch.Tensor:
    stored = unpacked(model_tensors(folder), config, torch.float32)[name].settled()
    return stored.elements(0, stored.count).view(stored.shape)


def int32(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def test_gptq_by_hand(tmp_path):
    """Eight inputs, one output's column: 0x87654321 holds 1, 2 ... 8 from the lowest bits on; the other's 15, 0, 0 ...

    Two groups of four inputs; zeros (8, 2) and (4, 15) stored less one, each row of them in the lowest 2 of 8 places; 15
    lies as 14. Output 0: scales 0.5, 2: 0.5 (q - 8) for inputs 0-3, 2 (q - 4) for 4-7. Output 1: 0.25 (q - 2), 1 (q - 15).
    With act-order, g_idx puts inputs into groups in another order.
    """
    words = torch.tensor(
        [[int32(0x87654321), 0x0000000F, *[0] * 6]], dtype=torch.int32
    )  # eight outputs, of which two count
    zeros = torch.tensor([[0x17], [0xE3]], dtype=torch.int32)  # less one: 7, 1 and 3, 14
    scales = torch.tensor([[0.5, 0.25, *[1.0] * 6], [2.0, 1.0, *[1.0] * 6]], dtype=torch.float16)
    tensors = {"l.qweight": words, "l.qzeros": zeros, "l.scales": scales, "l.bias": torch.tensor([3.0])}
    wanted = [[-3.5, -3.0, -2.5, -2.0, 2.0, 4.0, 6.0, 8.0], [3.25, -0.5, -0.5, -0.5, -15.0, -15.0, -15.0, -15.0]]
    config = folder_of(tmp_path, tensors, quant_method="gptq", bits=4, group_size=4)
    config_v2 = config["quantization_config"] | {"checkpoint_format": "gptq_v2"}
    assert weight_of(tmp_path, config)[:2].tolist() == wanted
    assert unpacked(model_tensors(tmp_path), config)["l.bias"].load().tolist() == [3.0]
    tensors["l.g_idx"] = torch.tensor([1, 0, 0, 0, 1, 1, 1, 0], dtype=torch.int32)
    folder_of(tmp_path, tensors)
    assert weight_of(tmp_path, config)[0].tolist() == [-6.0, -3.0, -2.5, -2.0, 2.0, 4.0, 6.0, 0.0]
    assert weight_of(tmp_path, {**config, "quantization_config": config_v2})[0, 1] == 0.5 * (2 - 7)  # not less one


def test_awq_by_hand(tmp_path):
    """Eight outputs in an int32, from the lowest bits on those numbered 0, 2, 4, 6, 1, 3, 5, 7.

    Input 0: 0x76543210 gives outputs 0, 2, 4, 6 the values 0-3 and 1, 3, 5, 7 the values 4-7; input 1: fifteen for output 7
    only. One group of two inputs: zeros 1 everywhere, scales 1, 2 ... 8.
    """
    tensors = {
        "l.qweight": torch.tensor([[0x76543210], [int32(0xF0000000)]], dtype=torch.int32),
        "l.qzeros": torch.tensor([[0x11111111]], dtype=torch.int32),
        "l.scales": torch.arange(1, 9).half()[None],
    }
    config = folder_of(tmp_path, tensors, quant_method="awq", bits=4, group_size=2, version="gemm")
    first = [1 * (0 - 1), 2 * (4 - 1), 3 * (1 - 1), 4 * (5 - 1), 5 * (2 - 1), 6 * (6 - 1), 7 * (3 - 1), 8 * (7 - 1)]
    second = [-1, -2, -3, -4, -5, -6, -7, 8 * 14]
    assert weight_of(tmp_path, config).T.tolist() == [first, second]


def test_compressed_tensors_by_hand(tmp_path):
    """pack-quantized, symmetric int4: stored plus 8, eight inputs an int32 from the lowest bits on; a scale a group of 4.

    0x0F876543 is 3, 4, 5, 6, 7, 8, 15, 0: less 8: -5, -4, -3, -2, -1, 0, 7, -8. Scales 0.5 and 2.
    """
    pytest.importorskip("compressed_tensors")
    tensors = {
        "l.weight_packed": torch.tensor([[0x0F876543]], dtype=torch.int32),
        "l.weight_scale": torch.tensor([[0.5, 2.0]]),
        "l.weight_shape": torch.tensor([1, 8]),
        "l.input_scale": torch.tensor([1.0]),
    }
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 4}
    config = folder_of(
        tmp_path, tensors, quant_method="compressed-tensors", format="pack-quantized",
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}},
    )  # fmt: skip
    assert weight_of(tmp_path, config).tolist() == [[-2.5, -2.0, -1.5, -1.0, -2.0, 0.0, 14.0, -16.0]]
    assert set(unpacked(model_tensors(tmp_path), config)) == {"l.weight"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"quant_method": "gptq", "bits": 3}, "GPTQ with bits 3"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"-:x": {}}}, "dynamic is not read"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ with bits 4, version 'gemv'"),
        ({"quant_method": "aqlm"}, "quantised with 'aqlm' are not read"),
    ],
)
def test_what_is_not_read(settings, why):
    with pytest.raises(RecipeError, match=why):
        unpacked({}, {"quantization_config": settings})


@pytest.mark.parametrize("method", ["nf4", "int8", "int8_weight_only", "int4_weight_only"])
def test_saved_quantised_by_transformers(tmp_path, method):
    """The folder's plain weights are, bit for bit, those that its own layers multiply with; merged, they get the delta.

    After the merge config.json says nothing of quantisation, and nothing is left of scales.
    """
    from transformers import AutoModelForCausalLM

    from finetune.export.layout import write_layout
    from finetune.model.quantise import loading_options

    made = make(tmp_path, "llama", {"num_hidden_layers": 1}, target_modules=["q_proj"])
    options = loading_options(method, False, torch.float32, "cpu")
    AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32, **options).save_pretrained(tmp_path / "packed")
    base, output = tmp_path / "packed", tmp_path / "out"
    config = json.loads((base / "config.json").read_text())
    told = describe("none", config)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, **loading_options(told["method"], True, torch.float32, "cpu")
    )
    plain = unpacked(model_tensors(base), config, torch.float32)
    assert plain.keys() == model_tensors(made.base).keys()
    up = plain["model.layers.0.mlp.up_proj.weight"].settled()
    with torch.no_grad():
        theirs = model.train().get_submodule("model.layers.0.mlp.up_proj")(torch.eye(up.shape[1])).T
    assert torch.equal(up.elements(0, up.count).view(up.shape), theirs)
    output.mkdir()
    merged = merge(base, made.adapter, output, None, quantization=told, trained=torch.float32)
    write_layout(base, base, output, dtype=merged.dtype)
    assert "quantization_config" not in json.loads((output / "config.json").read_text())
    ours, before = load_file(output / "model.safetensors"), load_file(made.base / "model.safetensors")
    assert ours.keys() == before.keys()
    q = plain["model.layers.0.self_attn.q_proj.weight"].settled()
    delta = made.peft["model.layers.0.self_attn.q_proj.weight"] - before["model.layers.0.self_attn.q_proj.weight"]
    got = ours["model.layers.0.self_attn.q_proj.weight"] - q.elements(0, q.count).view(q.shape)
    assert float((got - delta).abs().max()) < 1e-6 and delta.abs().max() > 1e-3
    with pytest.raises(RecipeError, match="its weights are stored quantised"):
        merge(base, made.adapter, tmp_path, None)


@pytest.mark.skipif(importlib.util.find_spec("gptqmodel") is None, reason="gptqmodel is not installed")
def test_gptqmodel_says_the_same(tmp_path):
    """AWQ: gptqmodel's own de-quantisation of a random layer, bit for bit in float16."""
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31 - 1, (64, 4), generator=generator).int()
    zeros = torch.randint(-(2**31), 2**31 - 1, (2, 4), generator=generator).int()
    scales = torch.rand(2, 32, generator=generator).half() / 64
    tensors = {"l.qweight": words, "l.qzeros": zeros, "l.scales": scales}
    config = folder_of(tmp_path, tensors, quant_method="awq", bits=4, group_size=32)
    theirs = dequantize_gemm(words, zeros, scales, 4, 32)
    assert torch.equal(weight_of(tmp_path, config).T.half(), theirs.half())


def test_a_plain_base_has_nothing_to_unpack(tmp_path):
    made = make(tmp_path, "llama", {"num_hidden_layers": 1}, target_modules=["q_proj"])
    wrong = describe("none", {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(RecipeError, match="don't lie quantised, as those that the adapter was trained on do"):
        merge(made.base, made.adapter, tmp_path, None, quantization=wrong)
    assert tiny_model("llama")(IDS).logits.shape[-1] == 96
