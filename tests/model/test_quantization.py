"""What is known of a quantised base before anything is loaded, and what only the device and the engine tell."""

from __future__ import annotations

import json
import shutil

import pytest

from finetune.cli import main
from finetune.errors import RecipeError
from finetune.model import quantization
from finetune.model.quantization import check_quantization, describe, stored_method
from tests.conftest import write_tiny_recipe


@pytest.fixture
def checked(tiny_base, tiny_data, tmp_path, capsys):
    """A function: what `finetune check` says of the tiny recipe with changes, and its exit code."""

    def check(*settings: str, base=tiny_base) -> tuple[int, str]:
        recipe = write_tiny_recipe(tmp_path, base, tiny_data)
        code = main(["check", str(recipe), *(word for setting in settings for word in ("--set", setting))])
        told = capsys.readouterr()
        return code, told.out + told.err

    return check


NF4 = "model.quantization=nf4"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.quantization=nf5"], "model.quantization: input should be 'none', 'nf4'"),
        ([NF4, "device=npu"], "model.quantization: nf4 does not run on npu; bitsandbytes has no kernels for it"),
        (["lora.init_lora_weights=loftq"], "this base is not quantised: set model.quantization: nf4"),
        (["model.quantization=int8", "lora.init_lora_weights=loftq"], "this base is int8: set model.quantization: nf4"),
        ([NF4, "lora.init_lora_weights=pissa"], "pissa needs the base's weights in full precision, this base is nf4"),
        ([NF4, "lora.init_lora_weights=olora"], "set loftq, which is made for it"),
        (["model.quantization=int8", "lora.use_dora=true"], "lora.use_dora: reads the norms of weights"),
        ([NF4, "train.torch_compile=true"], "train.torch_compile: not with a quantised base; set it to false"),
        ([NF4, "lora.target_parameters=[mlp.up_proj.weight]"], "lora.target_parameters: not on a quantised base"),
        (["export.merge_into=dequantised"], "export.merge_into: dequantised: the base is not quantised; leave it out"),
        (["model.quantization=int8_weight_only", "lora.init_lora_weights=pissa"], "set true"),
    ],
)  # fmt: skip
def test_known_at_check(checked, settings, words):
    """A line with key, value, reason and way out; nothing is loaded."""
    code, said = checked(*settings)
    assert code == 2 and words in said


def test_all_at_once_and_packages_by_name(checked, monkeypatch):
    found = quantization.importlib.util.find_spec
    monkeypatch.setattr(
        quantization.importlib.util, "find_spec", lambda name: None if name == "torchao" else found(name)
    )
    code, said = checked(
        "model.quantization=int4_weight_only", "lora.init_lora_weights=olora", "train.torch_compile=true"
    )
    assert code == 2
    assert "model.quantization: int4_weight_only: the package torchao is needed; pip install torchao" in said
    assert "lora.init_lora_weights: olora" in said and "train.torch_compile" in said


def test_a_checkpoint_that_lies_quantised(checked, tiny_base, tmp_path, monkeypatch):
    """By its config.json alone: an unknown kind, a missing package, quantised twice."""
    base = shutil.copytree(tiny_base, tmp_path / "packed")
    config = json.loads((base / "config.json").read_text())

    def said(**settings):
        (base / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
        return checked(base=base)

    code, told = said(quant_method="aqlm")
    assert code == 2 and "lie quantised with 'aqlm'" in told and "awq, bitsandbytes, compressed-tensors" in told
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    code, told = said(quant_method="gptq", bits=4)
    assert code == 2
    for package in ("gptqmodel", "optimum"):
        assert f"a base quantised with gptq: the package {package} is needed; pip install {package}" in told
    code, told = said(quant_method="compressed-tensors")
    assert code == 2 and "pip install compressed-tensors" in told
    monkeypatch.undo()
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    code, told = checked(NF4, base=base)
    assert code == 2 and "the base is quantised already (bitsandbytes); leave it out" in told
    code, told = checked("export.merge_into=original", base=base)
    assert code == 2 and "finetune export RUN --merge-into original --base ORIGINAL" in told


def test_a_gguf_is_named_by_its_folder(tiny_base, tiny_data, tmp_path, capsys):
    base = shutil.copytree(tiny_base, tmp_path / "gguf")
    (base / "m.gguf").write_bytes(b"")
    recipe = write_tiny_recipe(tmp_path, base, tiny_data)
    assert main(["check", str(recipe), "--set", NF4, "--set", "model.gguf_file=m.gguf"]) == 2
    assert "name that run's folder `base` as model.name_or_path" in capsys.readouterr().err


def test_device_and_engine(tiny_recipe):
    for engine in ("fsdp2", "zero2", "zero3"):
        with pytest.raises(RecipeError, match=rf"{engine} would have to cut packed weights; launch without sharding"):
            check_quantization(describe("nf4"), "cpu", engine)
    with pytest.raises(RecipeError, match="nf4 does not run on npu; bitsandbytes has no kernels"):
        check_quantization(describe("nf4"), "npu", "single")
    with pytest.raises(RecipeError, match=r"model.name_or_path: awq does not run on npu; take the original model"):
        check_quantization(describe("none", {"quantization_config": {"quant_method": "awq"}}), "npu", "ddp")
    check_quantization(describe("int8_weight_only"), "cuda", "ddp")


def test_what_a_config_says():
    assert stored_method(None) is stored_method({}) is stored_method({"quantization_config": None}) is None
    assert stored_method({"quantization_config": {"load_in_8bit": True}}) == "bitsandbytes"
    told = describe("none", {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert told == {"method": "gptq", "stored": True, "settings": {"quant_method": "gptq", "bits": 4}}
