"""Training on a checkpoint that lies quantised on disk: loaded as it lies, merged unpacked, or into the original."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from finetune.cli import main
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import write_tiny_recipe
from tests.equivalence.test_quantised import SHORT

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def packed(tiny_base, tmp_path_factory):
    """A function: the tiny base saved quantised by transformers (bitsandbytes, torchao) or by compressed-tensors."""

    def make(kind: str):
        from transformers import AutoModelForCausalLM

        from finetune.model.quantise import loading_options

        folder = tmp_path_factory.mktemp(kind) / "packed"
        shutil.copytree(tiny_base, folder)
        (folder / "model.safetensors").unlink()
        if kind == "compressed-tensors":
            with_compressed_tensors(tiny_base, folder)
        elif kind in ("gptq", "awq"):
            with_four_bits(tiny_base, folder, kind)
        else:
            options = loading_options(kind, False, torch.float32, "cpu")
            AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32, **options).save_pretrained(folder)
        return folder

    return make


def with_compressed_tensors(base, folder) -> None:
    """W4A16 in groups of 32, symmetric, packed by the package's own compressor."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import save_file

    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    said = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip
    scheme = QuantizationConfig.model_validate(said).config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = tensor
            continue
        scale = tensor.view(tensor.shape[0], -1, 32).abs().amax(-1) / 7.5
        zeros = torch.zeros_like(scale, dtype=torch.int8)
        state = {"weight": tensor, "weight_scale": scale, "weight_zero_point": zeros}
        for last, piece in compressor.compress(state, scheme).items():
            tensors[f"{name.removesuffix('weight')}{last}"] = piece.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))


def with_four_bits(base, folder, kind) -> None:
    """Rounded to nearest in groups of 32 inputs and packed as GPTQ or AWQ have it, written out apart from unpack.py."""
    from safetensors.torch import save_file

    def words(values, along):  # eight values in an int32, along inputs (0) or outputs (1)
        order = range(8) if kind == "gptq" else (0, 2, 4, 6, 1, 3, 5, 7)
        values = values.long() if along else values.long().T  # (..., eights)
        eights = values.reshape(values.shape[0], -1, 8)
        packed = sum(eights[..., which] << (4 * place) for place, which in enumerate(order))
        packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).int()
        return packed.contiguous() if along else packed.T.contiguous()

    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = tensor.half()
            continue
        module, groups = name.removesuffix("weight"), tensor.shape[1] // 32
        parts = tensor.T.reshape(groups, 32, -1)  # (groups, 32, out)
        low, high = parts.amin(1), parts.amax(1)
        scales = ((high - low) / 15).half()
        zeros = (-low / scales.float()).round().clamp(1, 15)
        integers = (parts / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15).reshape(tensor.shape[1], -1)
        tensors[f"{module}scales"] = scales
        tensors[f"{module}qweight"] = words(integers, 0 if kind == "gptq" else 1)
        tensors[f"{module}qzeros"] = words(zeros - int(kind == "gptq"), 1)
        if kind == "gptq":
            tensors[f"{module}g_idx"] = (torch.arange(tensor.shape[1]) // 32).int()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = {"quant_method": kind, "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
    said |= {"checkpoint_format": "gptq"} if kind == "gptq" else {"version": "gemm", "zero_point": True}
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16", "quantization_config": said}
    (folder / "config.json").write_text(json.dumps(config))


NO_GPTQMODEL = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("gptqmodel", "optimum")), reason="gptqmodel is not installed"
)


# gptqmodel leaves temporary folders to the end of the process, and Python says so.
LEAVES_FOLDERS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *(pytest.param(kind, kind, marks=[pytest.mark.slow, NO_GPTQMODEL, LEAVES_FOLDERS]) for kind in ("gptq", "awq")),
        ("compressed-tensors", "compressed-tensors"),
        pytest.param("nf4", "bitsandbytes", marks=pytest.mark.slow),
        pytest.param("int8", "bitsandbytes", marks=pytest.mark.slow),
        pytest.param("int8_weight_only", "torchao", marks=pytest.mark.slow),
    ],
)
def test_trained_and_merged(packed, tiny_base, tiny_data, tmp_path, capsys, kind, method):
    """T37 for a checkpoint: plain weights are what it unpacks to plus the delta; `original` asks for the original.

    Either way the merged folder's config.json says nothing of quantisation. A bare adapter says by its base's config
    what it was trained on.
    """
    base = packed(kind)
    recipe = load_recipe(write_tiny_recipe(tmp_path, base, tiny_data), SHORT)
    result = run(recipe)
    told, proof = result.manifest["base"]["quantization"], result.manifest["merge_proof"]
    assert (told["method"], told["stored"], result.manifest["merge"]["target"]) == (method, True, "dequantised")
    assert proof["greedy_agreement"] >= 0.98 and proof["max_logit_difference"] < (
        2e-2 if kind == "int8" else 1e-3 if kind in ("gptq", "awq") else 1e-6
    )
    assert proof["evaluated"]["max_logprob_difference"] < (2e-4 if kind in ("gptq", "awq") else 1e-5)
    config = json.loads((result.bundle / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    tensors = load_file(recipe.output_dir / "adapter/adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{NAME.removesuffix('weight')}lora_{half}.weight"] for half in "AB")
    merged, plain = load_file(result.bundle / "model.safetensors"), load_file(tiny_base / "model.safetensors")
    assert merged.keys() == plain.keys()
    assert not torch.allclose(merged[NAME], plain[NAME] + 2 * b @ a, atol=1e-4)
    export = ["export", str(recipe.output_dir), "--output", str(tmp_path / "original"), "--merge-into", "original"]
    capsys.readouterr()
    assert main(export) == 2
    assert (
        f"the base lies quantised on disk ({method}); name the model that it was made from" in capsys.readouterr().err
    )
    assert main([*export, "--base", str(tiny_base)]) == 0
    assert f"merged into the original base, NOT the {method} one" in capsys.readouterr().out
    original = load_file(tmp_path / "original/model.safetensors")
    assert torch.allclose(original[NAME], plain[NAME] + 2 * b @ a, atol=1e-6)
    manifest = json.loads((tmp_path / "original/MANIFEST.json").read_text())
    assert manifest["base"]["quantization"] == told and manifest["merge_proof"]["limits"] is None
    assert manifest["merge_proof"]["mean_kl"] > proof["mean_kl"]
    bare = ["export", str(recipe.output_dir / "adapter"), "--output", str(tmp_path / "bare")]
    assert main([*bare, "--trained-on", "nf4"]) == 2
    assert "lies quantised itself; leave it out" in capsys.readouterr().err
    assert main([*bare, "--set", "export.dtype=float32"]) == 0  # a half-precision config.json would have it in that
    assert (tmp_path / "bare/model.safetensors").read_bytes() == (result.bundle / "model.safetensors").read_bytes()
