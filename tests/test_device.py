"""The device table: what each row refuses and what to take instead, and what `auto` becomes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from finetune import device
from finetune.device import DEVICES, attentions, npu
from finetune.device.start import dtype_of, name_host_network
from finetune.errors import RecipeError

NPU = "device=npu"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([NPU, "model.attn_implementation=flash_attention_2"], "use sdpa, or npu_fusion_attention for packed rows"),
        ([NPU, "train.optim=adamw_8bit"], "train.optim: adamw_8bit does not run on npu; use adafactor, or adamw_torch"),
        ([NPU, "train.optim=adamw_torch_fused"], "adamw_torch_fused does not run on npu; use adamw_torch"),
        ([NPU, "train.torch_compile=true"], "train.torch_compile: not on npu"),
        (["train.optim=adamw_torch_npu_fused"], "adamw_torch_npu_fused does not run on cpu; use adamw_torch"),
        (["model.attn_implementation=npu_fusion_attention"], "does not run on cpu; allowed: auto, eager, sdpa"),
        (["device=auto", "model.attn_implementation=flash_atention_2"], "did you mean 'flash_attention_2'?"),
        (["device=ascend"], "'cpu', 'cuda' or 'npu'"),
    ],
)
def test_what_a_device_can_t_do_is_refused_before_anything_runs(tiny_recipe, overrides, said):
    with pytest.raises(RecipeError) as caught:
        tiny_recipe(*overrides)
    assert said in str(caught.value)


def test_all_of_it_at_once(tiny_recipe):
    with pytest.raises(RecipeError) as caught:
        tiny_recipe(NPU, "model.attn_implementation=flash_attention_2", "train.optim=adamw_8bit")
    assert "flash_attention_2" in str(caught.value) and "adamw_8bit" in str(caught.value)


def test_attention_in_transformers_words():
    """What trains and what answers, for `auto` and for a name."""
    assert attentions("auto", DEVICES["cpu"]) == ("eager", "sdpa")
    assert attentions("auto", DEVICES["npu"]) == ("sdpa", "sdpa")
    assert attentions("npu_fusion_attention", DEVICES["npu"]) == ("flash_attention_2", "flash_attention_2")


def test_a_device_that_is_not_here_is_said_why(tiny_recipe):
    with pytest.raises(
        RecipeError, match=r"device: 'npu' is not to be had .*torch_npu is not installed.*available: cpu"
    ):
        device.start(tiny_recipe(NPU))


def test_a_chip_without_bfloat16():
    """As on 910A and 310P: `auto` is float32, bfloat16 is refused with the chip's name."""
    old = dataclasses.replace(DEVICES["npu"], bfloat16=lambda: False, chip=lambda: "Ascend910A")
    assert dtype_of("auto", old) == dtype_of("float32", old) == "float32"
    with pytest.raises(RecipeError, match=r"model\.dtype: 'bfloat16': Ascend910A does not compute in it; use float32"):
        dtype_of("bfloat16", old)
    assert dtype_of("bfloat16", dataclasses.replace(DEVICES["cpu"], bfloat16=lambda: False)) == "bfloat16"


@pytest.mark.slow
def test_a_torch_npu_that_can_t_be_loaded_is_kept_away(tmp_path):
    """A package whose import fails as without CANN: said once, in words, and the libraries go on as if it were not there."""
    (tmp_path / "torch_npu").mkdir()
    failing = "libhccl.so: cannot open shared object file: No such file or directory"
    (tmp_path / "torch_npu/__init__.py").write_text(f"raise ImportError({failing!r})\n")
    info = tmp_path / f"torch_npu-{torch.__version__.split('+')[0]}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {torch.__version__}\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    code = (
        "from finetune import device; device.quiet_libraries(); from finetune.device import DEVICES, npu;"
        "import peft, accelerate.utils, transformers.utils as u;"
        "print(u.is_torch_npu_available(), accelerate.utils.is_npu_available(), DEVICES['npu'].available(), npu.load())"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "False False False torch_npu is installed but can't be loaded (cann_missing): libhccl.so"
    )
    assert done.stderr.count("warning: torch_npu is installed") == 1


def test_the_versions_are_compared_before_the_import(monkeypatch):
    monkeypatch.setattr(npu, "installed", lambda: "2.11.0")
    monkeypatch.setattr(npu, "required_torch", lambda machine: "2.11.0")
    npu.load.cache_clear()
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    try:
        here = torch.__version__.partition("+")[0]
        assert npu.load().startswith(f"torch_npu 2.11.0 was built for torch 2.11.0, but torch {here}")
    finally:
        npu.load.cache_clear()
        sys.modules.pop("torch_npu", None)


@pytest.mark.parametrize(
    ("given", "taken"), [({"NCCL_SOCKET_IFNAME": "=lo"}, "lo"), ({"HCCL_SOCKET_IFNAME": "lo"}, "lo"),
                         ({"HCCL_SOCKET_IFNAME": "^lo"}, None), ({"NCCL_SOCKET_IFNAME": "nosuch"}, None),
                         ({"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "eth0"}, "eth0"), ({}, None)],
)  # fmt: skip
def test_the_host_s_numbers_take_the_device_s_network(monkeypatch, given, taken):
    for variable in ("HCCL_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(variable, "")  # so that it is taken back what the call sets
        monkeypatch.delenv(variable)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"lo": [], "eth0": []})
    name_host_network()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == taken


def test_full_determinism(tiny_recipe):
    """torch's switch is as the recipe says; the tiny run's losses are the same with it, on a CPU, bit for bit."""
    device.start(tiny_recipe("full_determinism=true"))
    assert torch.are_deterministic_algorithms_enabled()
    device.start(tiny_recipe())
    assert not torch.are_deterministic_algorithms_enabled()
