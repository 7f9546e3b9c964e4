"""What an optimizer costs: seconds a step, its state in memory, and its part of a checkpoint.

    python scripts/bench_optim.py                      # every optimizer whose package is installed, on a CPU
    python scripts/bench_optim.py --device cuda --rank 64

The parameters are those of LoRA on all linear layers of SmolLM2-135M, the gradients random; optimizers take turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from typing import Any

import torch
from torch import nn

from finetune.fullstate import full_optimizer
from finetune.groups import parameter_groups
from finetune.optimizer import OPTIMIZERS, evaluation_weights
from finetune.recipe import TrainSection

WIDTH, HIDDEN, KEYS, LAYERS = 576, 1536, 192, 30
LINEAR = {
    "q_proj": (WIDTH, WIDTH), "k_proj": (WIDTH, KEYS), "v_proj": (WIDTH, KEYS), "o_proj": (WIDTH, WIDTH),
    "gate_proj": (WIDTH, HIDDEN), "up_proj": (WIDTH, HIDDEN), "down_proj": (HIDDEN, WIDTH),
}  # fmt: skip


class Lora(nn.Module):
    """A and B of every linear layer, by their names in the peft model."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.named: dict[str, nn.Parameter] = {}
        for layer in range(LAYERS):
            for linear, (inputs, outputs) in LINEAR.items():
                for part, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
                    self.named[f"base_model.model.layers.{layer}.{linear}.{part}.default.weight"] = nn.Parameter(
                        torch.randn(shape) / 10
                    )

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return iter(self.named.items())


def installed(name: str) -> bool:
    package = OPTIMIZERS[name].package
    return package is None or importlib.util.find_spec(package[1]) is not None


def state_bytes(optimizer: Any) -> int:
    """Of the tensors in the state, each storage once."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def seconds_a_step(model: Lora, optimizer: Any, device: str, steps: int) -> float:
    times = []
    for _ in range(steps):
        for parameter in model.named.values():
            parameter.grad = torch.randn_like(parameter) / 100
        _wait(device)
        start = time.perf_counter()
        optimizer.step()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    model = Lora(given.rank)
    for name, parameter in model.named.items():
        model.named[name] = nn.Parameter(parameter.detach().to(given.device))
    count = sum(parameter.numel() for parameter in model.named.values())
    print(f"{count:,} parameters in {len(model.named)} tensors; {given.device}, torch {torch.__version__}")
    optimizers, found = {}, {}
    for name in filter(installed, OPTIMIZERS):
        constant = {"lr_scheduler_type": "constant"} if name == "schedule_free_adamw" else {}
        section = TrainSection(max_steps=1, optim=name, **constant)  # type: ignore[arg-type]
        optimizers[name] = OPTIMIZERS[name].build(parameter_groups(model.named.items(), section), section)
        found[name] = [seconds_a_step(model, optimizers[name], given.device, 3)]  # makes the state
    for _ in range(given.repeats):
        for name, optimizer in optimizers.items():
            found[name].append(seconds_a_step(model, optimizer, given.device, given.steps))
    print(f"{'optimizer':<22}{'ms/step':>10}{'state MB':>12}{'bytes/param':>14}{'checkpoint MB':>16}")
    for name, optimizer in optimizers.items():
        held = state_bytes(optimizer)
        with evaluation_weights(optimizer):
            saved = sum(tensor.nbytes for tensor in full_optimizer(model, optimizer).values())
        milliseconds = 1000 * statistics.median(found[name][1:])
        print(f"{name:<22}{milliseconds:>10.1f}{held / 1e6:>12.2f}{held / count:>14.2f}{saved / 1e6:>16.2f}")


if __name__ == "__main__":
    main()
