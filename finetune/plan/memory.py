"""Memory by part, in bytes a process."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from finetune.plan.activations import Keeping, Kept, kept
from finetune.plan.hardware import Hardware
from finetune.plan.rows import MicroBatch
from finetune.plan.shape import Shape, Tensor

BLOCK_8BIT = 256  # numbers that share a scale in bitsandbytes' optimizers


@dataclass(frozen=True)
class Share:
    """How the processes hold the model.

    Attributes:
        engine: of finetune/engine.py's ENGINES, with ZeRO's stage.
    """

    processes: int = 1
    engine: str = "single"

    def of_base(self, size: int) -> int:
        return ceil(size / self.processes) if self.engine in ("fsdp2", "zero3") else size

    def of_state(self, size: int) -> int:
        """Of gradients after the step's exchange, and of the optimizer's state."""
        return ceil(size / self.processes) if self.engine in ("fsdp2", "zero2", "zero3") else size

    def gathered(self, shape: Shape) -> int:
        """Layers that are whole for the time that they compute: the one at work and the one fetched ahead, and the ends."""
        if self.engine not in ("fsdp2", "zero3"):
            return 0
        return 2 * max((layer.bytes for layer in shape.layers), default=0) + 2 * shape.head


ALONE = Share()


@dataclass(frozen=True)
class Memory:
    """Bytes by part. `loading`: what the process takes at most before training, where that is known to be more."""

    base: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    attention: int
    logits: int
    workspace: int
    allocator: int
    reserve: int
    teacher: int = 0
    loading: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """In the order of a report; parts of nothing are left out."""
        named = {
            "base": self.base, "teacher": self.teacher, "adapter": self.adapter, "gradients": self.gradients,
            "optimizer state": self.optimizer, "activations kept": self.activations,
            "attention weights": self.attention, "loss head": self.logits, "workspace": self.workspace,
            "allocator": self.allocator, "reserve": self.reserve,
        }  # fmt: skip
        return {name: size for name, size in named.items() if size}

    @property
    def training(self) -> int:
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        return max(self.training, self.loading)


def memory_of(
    shape: Shape,
    batch: MicroBatch,
    keeping: Keeping,
    optim: str,
    hardware: Hardware,
    share: Share = ALONE,
    teacher: Shape | None = None,
    stored: int | None = None,
) -> Memory:
    """The memory of a process while it trains.

    Args:
        batch: the largest micro-batch. optim: a row of finetune/optimizer.py.
        stored: bytes of the base's weights as they are read, where the device is the host itself and they are converted.
    """
    found: Kept = kept(shape, batch, keeping)
    terms = dict(found.terms)
    weights = terms.pop("attention weights", 0.0)
    trained = [tensor for tensor in shape.adapter if tensor.trained]
    whole = shape.base
    dequantised = shape.largest * 2  # as it is multiplied, forward, and for the gradient of its input
    # Either the head's part or the layers' workspace is there at the peak, never both.
    head = found.head if found.head >= found.workspace else 0.0
    beside = round(0.0 if head else found.workspace)
    alive = round(sum(terms.values())) + round(weights) + round(head) + beside
    return Memory(
        base=share.of_base(whole),
        adapter=share.of_base(sum(tensor.bytes for tensor in shape.adapter)),
        gradients=share.of_state(sum(tensor.bytes for tensor in trained)),
        optimizer=share.of_state(sum(state_bytes(optim, tensor) for tensor in trained)),
        activations=round(sum(terms.values())),
        attention=round(weights),
        logits=round(head),
        workspace=beside + dequantised + share.gathered(shape),
        allocator=round(hardware.efficiency.wasted * alive),
        reserve=hardware.reserve,
        teacher=teacher.base if teacher else 0,
        loading=hardware.reserve + whole + stored if stored else 0,
    )


def state_bytes(optim: str, tensor: Tensor, smallest_8bit: int = 4096) -> int:
    """What an optimizer keeps of a parameter of float32, as finetune/fullstate.py's STATES list it; `step` counts 4."""
    from finetune.groups import LORA_MATRIX
    from finetune.optimizer import OPTIMIZERS

    state, numbers = OPTIMIZERS[optim].state, tensor.numel
    if state == "muon" and not (len(tensor.shape) == 2 and LORA_MATRIX.search(tensor.name)):
        state = "adamw"
    if state == "adamw_8bit":
        if numbers < smallest_8bit:
            return 8 * numbers
        return 2 * numbers + 2 * 4 * ceil(numbers / BLOCK_8BIT)  # codes, scales; all share two code books of 1 KiB
    if state == "adafactor":
        if len(tensor.shape) < 2:
            return 4 * numbers
        return 4 * (numbers // tensor.shape[-1] + numbers // tensor.shape[-2])
    each = {"adamw": 8, "adamw_npu_fused": 8, "lion": 4, "muon": 4, "schedule_free": 8}[state]
    return each * numbers + (4 if state == "adamw" else 0)
