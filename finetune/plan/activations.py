"""What a micro-batch takes between its forward and its backward pass: one function a term, in bytes.

Each term was derived by listing what autograd saves (torch.autograd.graph.saved_tensors_hooks) in a layer of a Llama with
peft's LoRA, eager and sdpa attention, bfloat16 under autocast and float32, plain and with the CPU's fused ops;
tests/plan/test_activations.py repeats that to the byte. Whoever changes what the training path keeps changes the term here,
and the test says which.

Names: c, bytes of a number in matrix products (2 under autocast to bfloat16, else 4); "mixed" is c < 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.plan.layers import Layer
from finetune.plan.rows import MicroBatch
from finetune.plan.shape import Shape


@dataclass(frozen=True)
class Keeping:
    """How activations are kept.

    Attributes:
        checkpointed: only each layer's input, and one layer at a time the rest. offloaded: in the host's memory.
        dropout: of the adapters' inputs.
        frozen_down: lora_A is not trained, so that no input of it is kept (LoRA-FA).
            smoothed: label smoothing. distilled: bytes of a teacher's number in logits, 0 without one.
        fused: by the CPU's functions for norms, MLPs, LoRA layers and attention, which keep what they were given.
    """

    checkpointed: bool = False
    offloaded: bool = False
    dropout: bool = False
    frozen_down: bool = False
    smoothed: bool = False
    distilled: int = 0
    fused: bool = False


Term = Callable[[Layer, Shape, MicroBatch, Keeping], float]


def norms(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """Each norm's input as float32, and the float32 root a token (a row of heads has one each, not counted). Fused its
    output as it is, which an adapter that reads it keeps anyway."""
    each, widths = shape.computes if keeping.fused else 4, layer.norms
    if keeping.fused and not keeping.dropout and not keeping.frozen_down:
        widths -= sum(part.width for part in layer.adapted if part.own and not part.last)
    return batch.tokens * (each * widths + 4 * round(layer.norms / layer.hidden))


def adapter_inputs(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """The input of each lora_A: under autocast a copy for each layer, peft casting to float32 and autocast back; in
    float32, or fused, the tensor itself, once for layers that read the same one. With dropout one each, and its mask.
    A fused MLP makes the input of its last layer again."""
    if keeping.frozen_down:
        return batch.tokens * sum(part.width for part in layer.adapted) * keeping.dropout
    copied = keeping.dropout or (shape.computes < 4 and not keeping.fused)
    again = keeping.fused and layer.gated
    widths = sum(
        part.width for part in layer.adapted if (copied or part.own) and not (again and part.width == layer.feed)
    )
    masks = sum(part.width for part in layer.adapted) * keeping.dropout
    return batch.tokens * (shape.computes * widths + masks)


def adapter_ranks(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """What lora_A gives, the input of lora_B; not where it is computed again."""
    again = computed_again(layer, shape, keeping)
    ranks = sum(part.rank for part in layer.adapted if not (again and part.height == layer.feed))
    return batch.tokens * shape.computes * ranks


def adapter_casts(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """Under autocast A and B in the compute dtype, kept from their first use to the end of the backward pass."""
    if shape.computes == 4 or keeping.fused:
        return 0
    return shape.computes * sum(part.rank * (part.width + part.height) for part in layer.adapted)


def feed_forward(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """Gated: what the gate gives, its activation (not if fused), and the other factor. Else the activation's input."""
    if computed_again(layer, shape, keeping):
        return 0
    gated = 2 if keeping.fused else 3
    return batch.tokens * shape.computes * layer.feed * (gated if layer.gated else 1)


def computed_again(layer: Layer, shape: Shape, keeping: Keeping) -> bool:
    """Whether the backward pass makes the wide tensors of a gated feed-forward again; see model/lora_mlp.py."""
    adapted = any(layer.feed in (part.width, part.height) for part in layer.adapted)
    return keeping.fused and layer.gated and adapted and shape.computes < 4 and not keeping.dropout


def attention(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """Eager: queries, and keys and values repeated for each head of queries. Fused: queries, keys and values as they
    are, a float32 sum a head, and the result, which in float32 or fused is also the input of an adapter behind it."""
    if shape.attention == "eager":
        return batch.tokens * shape.computes * 3 * layer.queries
    as_it_is = shape.computes == 4 or keeping.fused
    same = layer.projected and as_it_is and not keeping.dropout and not keeping.frozen_down
    numbers = layer.queries * (1 if same else 2) + 2 * layer.keys
    return batch.tokens * (shape.computes * numbers + 4 * layer.heads)


def attention_weights(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """Eager: a weight for each head and pair of positions in float32, and under autocast the same once more in c."""
    if shape.attention != "eager":
        return 0
    return attended(shape, batch) * layer.heads * (4 + (shape.computes if shape.computes < 4 else 0))


TERMS: Mapping[str, Term] = {
    "norms": norms, "adapter inputs": adapter_inputs, "adapter ranks": adapter_ranks, "adapter casts": adapter_casts,
    "feed-forward": feed_forward, "attention": attention, "attention weights": attention_weights,
}  # fmt: skip
BACKWARD_FEED, BACKWARD_WEIGHTS = 3, 10  # gradients at once: of a feed-forward in c; bytes a weight of eager attention
FUSED_FEED = 5  # of a fused MLP: the product's and both factors', and two of the activation's
AGAIN_FEED = 2  # and both factors, where they are computed again
DOCUMENTS = "documents"  # attention within documents, the CPU's own; model/varlen.py


def attended(shape: Shape, batch: MicroBatch) -> int:
    """Pairs of positions that attention computes: of whole rows, filling included, but where it stays in documents."""
    if stays_in_documents(shape):
        return batch.squares
    return batch.rows * (batch.width + shape.prefix) ** 2


def stays_in_documents(shape: Shape) -> bool:
    """Whether attention leaves out what lies in another document."""
    return "flash" in shape.attention or shape.attention == DOCUMENTS


def layer_bytes(layer: Layer, shape: Shape, batch: MicroBatch, keeping: Keeping) -> dict[str, float]:
    """What one layer keeps, by term."""
    return {name: term(layer, shape, batch, keeping) for name, term in TERMS.items()}


def residuals(shape: Shape, batch: MicroBatch) -> float:
    """The inputs of all layers, which checkpointing keeps."""
    return batch.tokens * shape.computes * sum(layer.hidden * count for layer, count in shape.kinds.items())


def ends(shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """Outside the layers: the last norm, and the rows of embeddings."""
    return batch.tokens * ((shape.computes if keeping.fused else 4) + shape.computes) * shape.hidden


def loss_head(shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """At the trained positions, over the vocabulary, a chunk of them at a time: logits, probabilities in float32, and these
    in c; beside it each position's hidden state and its derivative. Where the head trains, the log-softmax that was kept,
    the gradient that goes into it and the one that comes out, float32 each. Label smoothing has all positions at once, and
    one more. Of a distillation the logits of both models and the student's gradient, and float32 copies of a chunk."""
    from finetune.model.token_logps import rows_at_once

    numbers = batch.trained * shape.vocabulary
    if keeping.distilled:
        from finetune.stages.divergence import CHUNK

        return numbers * (2 * shape.computes + keeping.distilled) + DISTILLED_COPIES * 4 * min(numbers, CHUNK)
    if keeping.smoothed or not numbers:
        return numbers * 16
    rows = min(batch.trained, rows_at_once(shape.hidden, shape.vocabulary, shape.head_trains))
    return (
        rows * shape.vocabulary * (12 if shape.head_trains else 8) + 2 * shape.computes * batch.trained * shape.hidden
    )


DISTILLED_COPIES = 10  # of two log-softmaxes, their mixture and products, and gradients of them


def backward_workspace(shape: Shape, batch: MicroBatch, keeping: Keeping) -> float:
    """Gradients inside the widest layer while its backward pass runs; the head's memory is free by then."""
    widest = max((layer.feed for layer in shape.kinds), default=0)
    heads = max((layer.heads for layer in shape.kinds), default=0)
    weights = attended(shape, batch) * heads * BACKWARD_WEIGHTS if shape.attention == "eager" else 0
    feeds = FUSED_FEED if keeping.fused else BACKWARD_FEED
    if any(computed_again(layer, shape, keeping) for layer in shape.kinds):
        feeds += AGAIN_FEED
    return max(batch.tokens * shape.computes * feeds * widest, weights)


@dataclass(frozen=True)
class Kept:
    """Bytes of a micro-batch: kept for the backward pass by term, the loss head, and the workspace beside them."""

    terms: dict[str, float]
    head: float
    workspace: float

    @property
    def total(self) -> float:
        """At the peak: as the backward pass begins at the head, or in the last layer, when the head's part is gone."""
        return sum(self.terms.values()) + max(self.head, self.workspace)


def kept(shape: Shape, batch: MicroBatch, keeping: Keeping) -> Kept:
    """What a micro-batch takes at its peak."""
    each = [(layer_bytes(layer, shape, batch, keeping), count) for layer, count in shape.kinds.items()]
    workspace = backward_workspace(shape, batch, keeping)
    head = loss_head(shape, batch, keeping)
    if not keeping.checkpointed:
        terms = {name: sum(one[name] * count for one, count in each) for name in TERMS}
        if keeping.offloaded:  # one layer's are on their way out while the next one's are made
            terms = {name: 2 * max((one[name] for one, _ in each), default=0.0) for name in TERMS}
        return Kept(terms | {"ends": ends(shape, batch, keeping)}, head, workspace)
    again = max((sum(one.values()) for one, _ in each), default=0.0)  # one layer, computed again
    inputs = residuals(shape, batch)
    if keeping.offloaded:
        inputs = inputs * 2 / max(1, len(shape.layers))
    return Kept({"layer inputs": inputs, "ends": ends(shape, batch, keeping)}, head, again + workspace)
