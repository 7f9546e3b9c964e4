"""The probe run before packed training: do this model's documents, side by side in a row, see each other?

Whether restarting `position_ids` separates documents depends on the architecture, the attention kernel and the
installed libraries, so nothing is looked up in a list: the model itself is asked, as training will call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from finetune.errors import RecipeError, first_line
from finetune.model.head import TrainedPositions

LENGTHS = (7, 5, 9)  # tokens of the probe's documents
LARGEST_WINDOW = 512  # up to this sliding window the third document is made longer than it
EDGE = 8  # logits are compared at this many positions from both ends of each document
# Largest difference of a document's logits that rounding explains: root mean square, relative to their spread. In
# bfloat16 SmolLM2-135M shows 0.06 where nothing is wrong, and 0.6 where four tokens of context are lost.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}
ADVICE = "or data.allow_cross_doc: true to train with documents that see each other"


def check_isolation(
    model: Any, dtype: torch.dtype, device: torch.device | str, keys: Sequence[str] = ("data.packing",)
) -> None:
    """Packed documents are to the model what they are alone.

    Three documents are packed into a row, and in another order into a second one. When every token of the first row's
    first document is exchanged, the logits of all other documents must stay equal bit for bit. If they move by no more
    than rounding does, the derivative decides, which must be exactly 0: a mixture of experts multiplies as many rows
    by an expert as the router sends there, and the number of rows may change the order of a sum. Then the packed
    logits must be those of each document alone; one of them is longer than the sliding window, if that is small.

    Args:
        model: the causal LM with its adapter, or its TrainedPositions; moved to `device`, used in eval mode and left
            in the mode it was in. No random state is touched.
        dtype: what training computes in, under autocast.
        keys: of the recipe that put documents into one row; the message names them.

    Raises:
        RecipeError: what leaks and by how much, and the two ways on.
    """
    if next(model.parameters()).device.type != torch.device(device).type:
        model.to(device)
    wrapped = model if isinstance(model, TrainedPositions) else TrainedPositions(model)
    half = dtype in (torch.bfloat16, torch.float16)
    try:
        with eval_mode(model), torch.autocast(torch.device(device).type, dtype if half else None, enabled=half):
            problem = Probe(wrapped, torch.device(device), TOLERANCE[dtype]).problem()
    finally:
        if wrapped is not model:
            wrapped.release()
    if problem:
        off = " and ".join(f"{key}: false" for key in keys)
        raise RecipeError(f"{keys[0]}: {type(transformers_model(wrapped)).__name__} {problem}; set {off}, {ADVICE}")


class Probe:
    """Three documents, and what a model makes of them in packed rows and alone."""

    def __init__(self, wrapped: TrainedPositions, device: torch.device, tolerance: float) -> None:
        self.wrapped, self.device, self.tolerance = wrapped, device, tolerance
        self.base = transformers_model(wrapped)
        vocabulary = self.base.get_input_embeddings().weight.shape[0]
        low = min(16, vocabulary // 2)  # the first ids, and the last ones, are often control tokens
        span = min(1000, vocabulary - low)
        window = getattr(self.base.config.get_text_config(), "sliding_window", None)
        self.window = window if window and window <= LARGEST_WINDOW else 0
        draw = torch.Generator().manual_seed(0)
        lengths = (*LENGTHS[:2], self.window + LENGTHS[2])
        first, second, third = (torch.randint(low, low + span, (n,), generator=draw) for n in lengths)
        other = (first - low + span // 2) % span + low  # no token the same
        self.rows = [[first, second, third], [third, first, second]]
        self.lengths = [len(document) for row in self.rows for document in row]
        self.changed_rows = [[other, second, third], self.rows[1]]

    def problem(self) -> str | None:
        """What is wrong with packed rows, if anything."""
        with torch.no_grad():
            alone = self._alone()  # a model that fails here fails without packing too, and says so itself
            try:
                packed = self._packed(self.rows)
            except (TypeError, ValueError, NotImplementedError) as error:  # transformers' ways to say that it can't
                return f"refuses packed rows ({first_line(error)})"
            if not all(bool(logits.isfinite().all()) for logits in packed):
                return "gives logits that are not finite in packed rows"
            return self._leak(packed) or self._difference(packed, alone)

    def _leak(self, packed: list[torch.Tensor]) -> str | None:
        """The logits of a document depend on another one's tokens."""
        after = self._packed(self.changed_rows)
        if torch.equal(packed[0], after[0]):
            return "gives the same logits whatever its input is, so that packing can't be checked"
        if all(torch.equal(one, other) for one, other in zip(packed[1:], after[1:], strict=True)):
            return None
        if _apart(packed[1:], after[1:]) <= self.tolerance and self._derivative() == 0:
            return None
        moved = max(float((one - other).abs().max()) for one, other in zip(packed[1:], after[1:], strict=True))
        return f"lets packed documents see each other: {self._reason()} (logits move by {moved:.1e})"

    def _difference(self, packed: list[torch.Tensor], documents: list[torch.Tensor]) -> str | None:
        """A document has other logits in a packed row than in a row of its own."""
        first, second, third = documents
        alone = [first, second, third, third, first, second]  # as in self.rows
        apart = _apart(packed, alone)
        if apart <= self.tolerance:
            return None
        fit = [index for row in (0, 3) for index in range(row, row + 3) if self.lengths[index] <= self.window]
        keeps_short = bool(fit) and _apart([packed[i] for i in fit], [alone[i] for i in fit]) <= self.tolerance
        what = f"does not keep its sliding window of {self.window} tokens" if keeps_short else "changes the documents"
        return f"{what} in packed rows: logits differ from those of the document alone by {apart:.1%}"

    def _packed(self, rows: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """Float logits (at most 2 * EDGE, V) at the edges of each document, row by row."""
        input_ids = torch.stack([torch.cat(list(row)) for row in rows])  # (B, T)
        position_ids = torch.stack([torch.cat([torch.arange(len(document)) for document in row]) for row in rows])
        marks = [_edges(len(document)) for row in rows for document in row]
        kept = torch.cat(marks).nonzero()[:, 0]
        moved = [tensor.to(self.device) for tensor in (input_ids, kept, position_ids)]
        logits = self.wrapped(moved[0], None, moved[1], moved[2])  # (N, V)
        return list(_wide(logits).split([int(mark.sum()) for mark in marks]))

    def _alone(self) -> list[torch.Tensor]:
        """Logits of the three documents, each in a row of its own, padded as without packing.

        The rows have the packed rows' shape: in bfloat16 another shape alone, with its other order of sums, moves the
        logits of SmolLM2-135M by up to 15 %.
        """
        width, logits = sum(self.lengths[:3]), []
        for pair in (self.rows[0][:2], self.rows[0][2:] * 2):
            input_ids = torch.stack(
                [torch.cat([document, document.new_zeros(width - len(document))]) for document in pair]
            )
            real = torch.stack([torch.arange(width) < len(document) for document in pair])
            edges = [_edges(len(document)) for document in pair]
            keep = torch.zeros_like(real)
            keep[real] = torch.cat(edges)
            kept = keep.flatten().nonzero()[:, 0]
            moved = [tensor.to(self.device) for tensor in (input_ids, real.long(), kept)]
            logits += _wide(self.wrapped(*moved)).split([int(mark.sum()) for mark in edges])
        return logits[:3]

    def _derivative(self) -> float:
        """Largest derivative of the other documents' logits by the first document's embeddings; 0 without any path."""
        embedded: list[torch.Tensor] = []

        def cut(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            embedded.append(output.detach().requires_grad_())
            return embedded[-1]

        hook = self.base.get_input_embeddings().register_forward_hook(cut)
        try:
            with torch.enable_grad():
                logits = torch.cat(self._packed(self.rows)[1:]).flatten()
                weights = torch.linspace(1, 2, len(logits), device=self.device, dtype=logits.dtype)
                (slope,) = torch.autograd.grad((logits * weights).sum(), embedded[-1])  # (B, T, D), or (1, B * T, D)
        finally:
            hook.remove()
        return float(slope.reshape(-1, slope.shape[-1])[: LENGTHS[0]].abs().max())

    def _reason(self) -> str:
        kinds = set(getattr(self.base.config.get_text_config(), "layer_types", None) or ())
        stateful = sorted(kind for kind in kinds if not kind.endswith("attention") or kind == "linear_attention")
        if stateful:
            return f"its {' and '.join(stateful)} layers carry what they have read into the next document"
        return "position_ids that start again do not separate them in this architecture"


def transformers_model(wrapped: TrainedPositions) -> Any:
    """The transformers model under the adapter."""
    return wrapped.model.get_base_model() if hasattr(wrapped.model, "get_base_model") else wrapped.model


def _edges(length: int) -> torch.Tensor:
    """(length,) bool: the first and the last EDGE positions."""
    position = torch.arange(length)
    return (position < EDGE) | (position >= length - EDGE)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _apart(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """Largest difference over the documents: root mean square, relative to the spread of the logits over the words."""
    spread = [other - other.mean(-1, keepdim=True) for other in others]
    return float(torch.stack([(x - y).norm() / z.norm() for x, y, z in zip(some, others, spread, strict=True)]).max())


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module then goes back to its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
