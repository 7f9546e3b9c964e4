"""Time: matrix products at the device's peak, everything else by the bytes that it moves; both times what is reached."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.plan.activations import Keeping, attended, computed_again, kept, stays_in_documents
from finetune.plan.hardware import Hardware
from finetune.plan.rows import MicroBatch
from finetune.plan.shape import Shape

# How often a byte that is kept for the backward pass goes over the memory bus, by the bytes of a number in products:
# written, read by the next operation, read again in the backward pass, its gradient as often; under autocast more than
# twice as often, with the casts to float32 and back that peft and norms make. Fitted, see docs/benchmarks/plan.md.
MOVED = {2: 17.0, 4: 7.0}
MOVED_FUSED = {2: 76.0, 4: 48.0}  # of what the CPU's fused ops keep, which is much less; fitted too
FORWARD = 0.4  # of these, in the forward pass
# Operations of a decoder layer with LoRA on seven linear layers, counted in peft's and transformers' code: nine a LoRA
# layer, twelve for two norms, a dozen for rotary angles and attention, a few for the rest; backward twice as many.
CALLS_FORWARD, CALLS_BACKWARD = 92, 184


@dataclass(frozen=True)
class Work:
    """What a step computes.

    Attributes:
        products: FLOP of matrix products. moved: bytes of everything else. calls: operations that the host starts.
    """

    products: float = 0.0
    moved: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.products + other.products, self.moved + other.moved, self.calls + other.calls)

    def seconds(self, hardware: Hardware, dtype: str) -> float:
        reached = hardware.efficiency
        products = self.products / (hardware.flops[dtype] * reached.products[dtype])
        return max(products + self.moved / (hardware.bandwidth * reached.traffic), self.calls * reached.launch)


def forward_flops(shape: Shape, batch: MicroBatch, adapted: bool = True) -> float:
    """2 FLOP for each weight that a token goes through; attention 2 x 2 for each pair of positions and number of a
    query; the output layer at trained positions only."""
    per_token, queries = 0, 0
    for layer, count in shape.kinds.items():
        ranks = sum(part.rank * (part.width + part.height) for part in layer.adapted) if adapted else 0
        per_token += count * (layer.product + ranks)
        queries += count * layer.queries
    pairs = float(attended(shape, batch))
    if stays_in_documents(shape) or shape.attention == "sdpa":
        pairs /= 2  # a causal kernel leaves out what no token sees
    head = batch.trained * shape.vocabulary * shape.hidden
    return 2.0 * (batch.tokens * per_token + head) + 4.0 * pairs * queries


def training(shape: Shape, batch: MicroBatch, keeping: Keeping) -> Work:
    """Forward and backward of one micro-batch.

    Backward: the gradient of each product's input, as much as forward; that of the weight too for an adapter's, not
    for a frozen one. Attention's is twice its forward pass, and the fused kernel's computes the weights again. So does a
    fused feed-forward with two of its products, in half precision.
    """
    forward = forward_flops(shape, batch)
    plain = forward_flops(shape, batch, adapted=False)
    pairs = 4.0 * attended(shape, batch) * sum(layer.queries * count for layer, count in shape.kinds.items())
    again = forward if keeping.checkpointed else 0.0
    wide = sum(
        n * layer.hidden * layer.feed for layer, n in shape.kinds.items() if computed_again(layer, shape, keeping)
    )
    products = forward + again + plain + 2 * (forward - plain) + pairs + 4.0 * batch.tokens * wide
    activations = kept(shape, batch, Keeping(dropout=keeping.dropout, smoothed=keeping.smoothed, fused=keeping.fused))
    size = sum(activations.terms.values())
    times = (MOVED_FUSED if keeping.fused else MOVED)[shape.computes]
    moved = times * (size + activations.head) + (FORWARD * times * size if keeping.checkpointed else 0.0)
    passes = 3 if keeping.checkpointed else 2
    calls = len(shape.layers) * (CALLS_FORWARD * (passes - 1) + CALLS_BACKWARD)
    return Work(products, moved + passes * sum(layer.bytes * count for layer, count in shape.kinds.items()), calls)


def forward_only(shape: Shape, batch: MicroBatch, adapted: bool = False, fused: bool = False) -> Work:
    """A pass without gradient: a reference, a teacher."""
    found = kept(shape, batch, Keeping(fused=fused))
    moved = FORWARD * (MOVED_FUSED if fused else MOVED)[shape.computes] * (sum(found.terms.values()) + found.head)
    weights = sum(layer.bytes * count for layer, count in shape.kinds.items())
    return Work(forward_flops(shape, batch, adapted), moved + weights, len(shape.layers) * CALLS_FORWARD)


def optimizing(trained: int, state: int) -> Work:
    """A step of the optimizer: weights, gradients and state read and written."""
    return Work(0.0, 2.0 * (8 * trained + state))
