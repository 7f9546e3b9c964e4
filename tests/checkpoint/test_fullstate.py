"""An optimizer's state by name and back, bit for bit, or refused with nothing changed."""

from __future__ import annotations

import copy

import pytest
import torch

from finetune.checkpoint.tensors import load_tensors, save_tensors
from finetune.errors import CheckpointError
from finetune.fullstate import (
    full_optimizer,
    full_tensors,
    load_full_optimizer,
    load_full_tensors,
    trainable,
)
from finetune.groups import parameter_groups
from finetune.optimizer import OPTIMIZERS, evaluation_weights
from tests import test_optimizer

NAMES = [f"base_model.{number}" for number in range(3)]


def model_and_optimizer(seed: int = 0) -> tuple[torch.nn.Module, torch.optim.AdamW]:
    """Three parameters in two groups; the last has never had a gradient."""
    torch.manual_seed(seed)
    model = torch.nn.Module()
    parameters = model.base_model = torch.nn.ParameterList([torch.randn(3, 4), torch.randn(4), torch.randn(2, 2)])
    groups = [{"params": [parameters[0], parameters[1]]}, {"params": [model.base_model[2]], "weight_decay": 0.1}]
    return model, torch.optim.AdamW(groups, lr=0.01)


def train(model: torch.nn.Module, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        for index in (0, 1):
            parameter = model.base_model[index]
            generator = torch.Generator().manual_seed(step * 10 + index)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return list(left) == list(right) and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left
    )


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_goes_on_bit_for_bit(tmp_path, fused):
    """10 steps at once = 6 steps, a file, a new optimizer, 4 steps: parameters and state are equal."""
    model, optimizer = model_and_optimizer()
    optimizer.param_groups[0]["fused"] = fused
    train(model, optimizer, range(6))
    save_tensors(tmp_path / "o.safetensors", full_optimizer(model, optimizer))
    save_tensors(tmp_path / "p.safetensors", {str(i): parameter for i, parameter in enumerate(model.base_model)})
    train(model, optimizer, range(6, 10))

    again, resumed = model_and_optimizer(seed=1)
    resumed.param_groups[0]["fused"] = fused
    stored = load_tensors(tmp_path / "p.safetensors")
    with torch.no_grad():
        for i, parameter in enumerate(again.base_model):
            parameter.copy_(stored[str(i)])
    load_full_optimizer(again, resumed, load_tensors(tmp_path / "o.safetensors"))
    train(again, resumed, range(6, 10))
    assert all(torch.equal(left, right) for left, right in zip(model.parameters(), again.parameters(), strict=True))
    assert same(full_optimizer(model, optimizer), full_optimizer(again, resumed))


class Named(torch.nn.Module):
    """Parameters by the names of a peft model."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = torch.nn.Module()
        for name, parameter in test_optimizer.parameters(seed).items():
            *path, last = name.split(".")
            place = self.inner
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, torch.nn.Module())
                place = getattr(place, part)
            place.register_parameter(last, parameter)

    def optimizer(self, optim: str):
        args = {"min_8bit_size": 6} if optim == "adamw_8bit" else {}
        section = test_optimizer.section(
            optim, optim_args=args, weight_decay=0.1, loraplus_lr_ratio=1.0 if OPTIMIZERS[optim].freezes_down else 4.0
        )
        return OPTIMIZERS[optim].build(parameter_groups(trainable(self), section), section)


@pytest.mark.parametrize("optim", [test_optimizer.needs(optim) for optim in test_optimizer.ON_CPU])
def test_every_optimizer_goes_on_bit_for_bit(tmp_path, optim):
    """10 steps at once = 6 steps, files as a checkpoint has them, another model and optimizer, 4 steps."""
    model, again = Named(0), Named(1)
    optimizer, resumed = model.optimizer(optim), again.optimizer(optim)
    head = dict(trainable(model))[test_optimizer.HEAD]

    def steps(model: Named, optimizer, numbers: range) -> None:
        for step in numbers:
            test_optimizer.give_gradients(dict(trainable(model)), step)
            if step < 7:
                dict(trainable(model))[test_optimizer.HEAD].grad = None  # it begins after the checkpoint
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (2 if step < 3 else 1)
            optimizer.step()

    begun = head.detach().clone()
    steps(model, optimizer, range(6))
    assert torch.equal(head, begun)
    with evaluation_weights(optimizer):
        save_tensors(tmp_path / "o.safetensors", full_optimizer(model, optimizer))
        save_tensors(tmp_path / "p.safetensors", full_tensors(model))
    steps(model, optimizer, range(6, 10))
    load_full_tensors(again, load_tensors(tmp_path / "p.safetensors"))
    load_full_optimizer(again, resumed, load_tensors(tmp_path / "o.safetensors"))
    steps(again, resumed, range(6, 10))
    assert all(torch.equal(left, right) for left, right in zip(model.parameters(), again.parameters(), strict=True))
    with evaluation_weights(optimizer), evaluation_weights(resumed):
        assert same(full_tensors(model), full_tensors(again))
        assert same(full_optimizer(model, optimizer), full_optimizer(again, resumed))


@pytest.mark.parametrize("optim", [test_optimizer.needs("schedule_free_adamw")])
def test_weights_of_training_are_not_saved_by_mistake(optim):
    model = Named(0)
    with pytest.raises(TypeError, match="outside of evaluation_weights the parameters are not those to save"):
        full_optimizer(model, model.optimizer(optim))


def test_names_and_the_beginning_of_a_parameter_without_gradient():
    model, optimizer = model_and_optimizer()
    train(model, optimizer, range(2))
    tensors = full_optimizer(model, optimizer)
    assert sorted(tensors) == sorted(f"{key}.{name}" for key in ("exp_avg", "exp_avg_sq", "step") for name in NAMES)
    assert [tensors[f"step.{name}"].item() for name in NAMES] == [2.0, 2.0, 0.0]
    assert torch.equal(tensors["exp_avg.base_model.2"], torch.zeros(2, 2))
    model.base_model[2].grad = torch.ones(2, 2)  # with that state it takes its first step as if it had none
    again, resumed = model_and_optimizer()
    load_full_optimizer(again, resumed, tensors)
    again.base_model[2].grad = torch.ones(2, 2)
    optimizer.step()
    resumed.step()
    assert torch.equal(model.base_model[2], again.base_model[2])


def test_the_copy_does_not_change_with_training():
    """Training goes on while a background writer writes."""
    model, optimizer = model_and_optimizer()
    train(model, optimizer, range(2))
    tensors = full_optimizer(model, optimizer)
    before = copy.deepcopy(tensors)
    train(model, optimizer, range(2, 4))
    assert same(tensors, before)
    load_full_optimizer(model, optimizer, tensors)
    train(model, optimizer, range(4, 6))
    assert same(tensors, before)  # nor with training after it was loaded


def test_what_does_not_fit_is_refused_whole():
    """T13's transaction: every problem in a line, the optimizer as it was."""
    model, optimizer = model_and_optimizer()
    train(model, optimizer, range(3))
    tensors = full_optimizer(model, optimizer)
    train(model, optimizer, range(3, 5))
    before = full_optimizer(model, optimizer)
    del tensors["exp_avg.base_model.1"]
    tensors["exp_avg.base_model.9"] = torch.zeros(2)
    tensors["exp_avg_sq.base_model.0"] = torch.zeros(4, 3)
    tensors["step.base_model.2"] = torch.tensor(1)
    with pytest.raises(CheckpointError) as error:
        load_full_optimizer(model, optimizer, tensors)
    assert error.value.problems == [
        "exp_avg.base_model.1: missing",
        "exp_avg.base_model.9: no such parameter is trained",
        "exp_avg_sq.base_model.0: shape (4, 3), expected (3, 4)",
        "step.base_model.2: torch.int64, expected torch.float32",
    ]
    assert same(full_optimizer(model, optimizer), before)


def test_through_accelerate_and_only_plain_adamw():
    from accelerate import Accelerator

    model, optimizer = model_and_optimizer()
    wrapped = Accelerator(cpu=True).prepare(optimizer)
    train(model, optimizer, range(2))
    tensors = full_optimizer(model, wrapped)
    assert same(tensors, full_optimizer(model, optimizer))
    again, resumed = model_and_optimizer()
    load_full_optimizer(again, Accelerator(cpu=True).prepare(resumed), tensors)
    assert same(full_optimizer(again, resumed), tensors)
    sgd = torch.optim.SGD(model.parameters(), momentum=0.9)
    sgd.step()
    with pytest.raises(TypeError, match="not the state of adamw: momentum_buffer"):
        full_optimizer(model, sgd)
