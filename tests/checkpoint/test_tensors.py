"""Tensors through a file and back, bit for bit, or refused."""

from __future__ import annotations

import pytest
import torch

from finetune.checkpoint.tensors import load_tensors, save_tensors
from finetune.errors import CheckpointError


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def test_any_tensors_come_back_bit_for_bit(tmp_path):
    """Views, a transposed one, names of one storage, no dimension, no elements, integers, NaN's own bits."""
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    nan = torch.tensor([0x7FC01234, -0x3EDCC], dtype=torch.int32).view(torch.float32)
    tensors = {
        "whole": whole, "row": whole[1], "transposed": whole.T, "again": whole, "scalar": torch.tensor(3.0),
        "none": torch.zeros(0, 5), "rng": torch.get_rng_state(), "bf16": whole.to(torch.bfloat16), "nan": nan,
        "parameter": torch.nn.Parameter(whole[:2]),
    }  # fmt: skip
    save_tensors(tmp_path / "t.safetensors", tensors)
    loaded = load_tensors(tmp_path / "t.safetensors")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert bits(loaded[name]) == bits(tensor)


def test_a_file_that_is_none_is_one_line(tmp_path):
    """T46: a pickle under our name is not unpickled."""
    file = tmp_path / "t.safetensors"
    with pytest.raises(CheckpointError, match=r"t.safetensors: .*No such file"):
        load_tensors(file)
    torch.save({"a": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"t.safetensors: Error while deserializing header"):
        load_tensors(file)
    save_tensors(file, {"a": torch.zeros(300)})
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"t.safetensors: Error while deserializing header"):
        load_tensors(file)
