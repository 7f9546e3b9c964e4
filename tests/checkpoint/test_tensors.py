"""Tensors and AdamW's state through a file and back, bit for bit, or refused with nothing changed."""

from __future__ import annotations

import copy

import pytest
import torch

from finetune.checkpoint.tensors import load_optimizer, load_tensors, optimizer_tensors, save_tensors
from finetune.errors import CheckpointError

NAMES = ["a.weight", "a.bias", "b.weight"]


def model_and_optimizer(seed: int = 0) -> tuple[torch.nn.ParameterList, torch.optim.AdamW]:
    """Three parameters in two groups; the last has never had a gradient."""
    torch.manual_seed(seed)
    parameters = torch.nn.ParameterList([torch.randn(3, 4), torch.randn(4), torch.randn(2, 2)])
    groups = [{"params": [parameters[0], parameters[1]]}, {"params": [parameters[2]], "weight_decay": 0.1}]
    return parameters, torch.optim.AdamW(groups, lr=0.01)


def train(parameters: torch.nn.ParameterList, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        for index in (0, 1):
            generator = torch.Generator().manual_seed(step * 10 + index)
            parameters[index].grad = torch.randn(parameters[index].shape, generator=generator)
        optimizer.step()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return list(left) == list(right) and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left
    )


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


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_goes_on_bit_for_bit(tmp_path, fused):
    """10 steps at once = 6 steps, a file, a new optimizer, 4 steps: parameters and state are equal."""
    parameters, optimizer = model_and_optimizer()
    optimizer.param_groups[0]["fused"] = fused
    train(parameters, optimizer, range(6))
    save_tensors(tmp_path / "o.safetensors", optimizer_tensors(optimizer, NAMES))
    save_tensors(tmp_path / "p.safetensors", {str(i): parameter for i, parameter in enumerate(parameters)})
    train(parameters, optimizer, range(6, 10))

    again, resumed = model_and_optimizer(seed=1)
    resumed.param_groups[0]["fused"] = fused
    stored = load_tensors(tmp_path / "p.safetensors")
    with torch.no_grad():
        for i, parameter in enumerate(again):
            parameter.copy_(stored[str(i)])
    load_optimizer(resumed, NAMES, load_tensors(tmp_path / "o.safetensors"))
    train(again, resumed, range(6, 10))
    assert all(torch.equal(left, right) for left, right in zip(parameters, again, strict=True))
    assert same(optimizer_tensors(optimizer, NAMES), optimizer_tensors(resumed, NAMES))


def test_names_and_the_beginning_of_a_parameter_without_gradient():
    parameters, optimizer = model_and_optimizer()
    train(parameters, optimizer, range(2))
    tensors = optimizer_tensors(optimizer, NAMES)
    assert sorted(tensors) == sorted(f"{key}.{name}" for key in ("exp_avg", "exp_avg_sq", "step") for name in NAMES)
    assert [tensors[f"step.{name}"].item() for name in NAMES] == [2.0, 2.0, 0.0]
    assert torch.equal(tensors["exp_avg.b.weight"], torch.zeros(2, 2))
    parameters[2].grad = torch.ones(2, 2)  # with that state it takes its first step as if it had none
    again, resumed = model_and_optimizer()
    load_optimizer(resumed, NAMES, tensors)
    again[2].grad = torch.ones(2, 2)
    optimizer.step()
    resumed.step()
    assert torch.equal(parameters[2], again[2])


def test_the_copy_does_not_change_with_training():
    """Training goes on while a background writer writes."""
    parameters, optimizer = model_and_optimizer()
    train(parameters, optimizer, range(2))
    tensors = optimizer_tensors(optimizer, NAMES)
    before = copy.deepcopy(tensors)
    train(parameters, optimizer, range(2, 4))
    assert same(tensors, before)
    load_optimizer(optimizer, NAMES, tensors)
    train(parameters, optimizer, range(4, 6))
    assert same(tensors, before)  # nor with training after it was loaded


def test_what_does_not_fit_is_refused_whole():
    """T13's transaction: every problem in a line, the optimizer as it was."""
    parameters, optimizer = model_and_optimizer()
    train(parameters, optimizer, range(3))
    tensors = optimizer_tensors(optimizer, NAMES)
    train(parameters, optimizer, range(3, 5))
    before = optimizer_tensors(optimizer, NAMES)
    del tensors["exp_avg.a.bias"]
    tensors["exp_avg.c.weight"] = torch.zeros(2)
    tensors["exp_avg_sq.a.weight"] = torch.zeros(4, 3)
    tensors["step.b.weight"] = torch.tensor(1)
    with pytest.raises(CheckpointError) as error:
        load_optimizer(optimizer, NAMES, tensors)
    assert error.value.problems == [
        "optimizer: exp_avg.a.bias: missing",
        "optimizer: exp_avg.c.weight: no such parameter is trained",
        "optimizer: exp_avg_sq.a.weight: shape (4, 3), expected (3, 4)",
        "optimizer: step.b.weight: torch.int64, expected torch.float32",
    ]
    assert same(optimizer_tensors(optimizer, NAMES), before)


def test_through_accelerate_and_only_plain_adamw():
    from accelerate import Accelerator

    parameters, optimizer = model_and_optimizer()
    wrapped = Accelerator(cpu=True).prepare(optimizer)
    train(parameters, optimizer, range(2))
    tensors = optimizer_tensors(wrapped, NAMES)
    assert same(tensors, optimizer_tensors(optimizer, NAMES))
    _, resumed = model_and_optimizer()
    load_optimizer(Accelerator(cpu=True).prepare(resumed), NAMES, tensors)
    assert same(optimizer_tensors(resumed, NAMES), tensors)
    with pytest.raises(ValueError, match=r"2 names \(2 different\) for 3 parameters"):
        optimizer_tensors(optimizer, NAMES[:2])
    sgd = torch.optim.SGD(parameters, momentum=0.9)
    sgd.step()
    with pytest.raises(TypeError, match="not the state of a plain AdamW: momentum_buffer"):
        optimizer_tensors(sgd, NAMES)
