"""Adapters that multiply a weight instead of adding to it: (IA)^3 by one number an output or input, OFT by rotations.

Names and arithmetic are peft's (tuners/ia3/layer.py, tuners/oft/layer.py, 0.21), in float32 whatever the base is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from finetune.errors import RecipeError
from finetune.export.weights import Stored

_VECTOR = re.compile(r"(?P<module>.+?)\.ia3_l")
_ROTATION = re.compile(r"(?P<module>.+?)\.oft_R\.weight")


@dataclass(frozen=True)
class Scaling:
    """W' = diag(l) W, or W' = W diag(l) where it is the inputs that are scaled (arXiv 2205.05638, section 3.3).

    Attributes:
        vector: l; (out, 1), or (1, in) for inputs.
        optional: of a bias, which the base may not have.
    """

    vector: Stored
    inputs: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Rotation:
    """W' = W R^T, R of blocks R_i on the diagonal (arXiv 2506.19847, section 3; peft rotates the inputs: y = W R^T x).

    R_i is the Cayley transform of a skew-symmetric Q_i, (I - Q)(I + Q)^-1, or its Neumann series.

    Attributes:
        triangles: (blocks, b (b - 1) / 2), the upper triangles of Q_i, row by row; one row where all blocks share it.
        size: b.
        terms: of the Neumann series; 0 for the inverse itself.
        eps: largest Frobenius norm of all Q_i, times the root of how many there are; None where they are free.
    """

    triangles: Stored
    size: int
    terms: int
    eps: float | None

    def blocks(self) -> torch.Tensor:
        """R_i, (blocks, b, b); one block where all share it."""
        return rotations(self.triangles.load(), self.size, self.terms, self.eps)


def scalings(stored: Mapping[str, Stored]) -> tuple[dict[str, Scaling], dict[str, Stored]]:
    """What each (IA)^3 vector does to which parameter, and the tensors that are none.

    Args:
        stored: tensors of an adapter by name, without peft's prefix.
    """
    found: dict[str, Scaling] = {}
    others = {}
    for name, tensor in stored.items():
        match = _VECTOR.fullmatch(name)
        if match is None:
            others[name] = tensor
            continue
        if len(tensor.shape) != 2 or 1 not in tensor.shape:
            raise RecipeError(f"adapter: {name}: shape {list(tensor.shape)}: only linear layers are merged")
        inputs = tensor.shape[0] == 1 and tensor.shape[1] != 1
        found[f"{match['module']}.weight"] = Scaling(tensor, inputs)
        if not inputs:  # the layer's whole output is scaled, its bias with it
            found[f"{match['module']}.bias"] = Scaling(tensor, optional=True)
    return found, others


def turned(config: Mapping[str, Any], stored: Mapping[str, Stored]) -> tuple[dict[str, Rotation], dict[str, Stored]]:
    """The rotation of each parameter that OFT turns, and the tensors that are none."""
    found: dict[str, Rotation] = {}
    others = {}
    for name, tensor in stored.items():
        match = _ROTATION.fullmatch(name)
        if match is None:
            others[name] = tensor
            continue
        size = (1 + math.isqrt(1 + 8 * tensor.shape[-1])) // 2  # b (b - 1) / 2 numbers
        if len(tensor.shape) != 2 or size * (size - 1) // 2 != tensor.shape[1]:
            raise RecipeError(f"adapter: {name}: shape {list(tensor.shape)}: not the triangles of square blocks")
        terms = int(config.get("num_cayley_neumann_terms", 5)) if config.get("use_cayley_neumann") else 0
        eps = float(config.get("eps", 6e-5)) if config.get("coft") else None
        found[f"{match['module']}.weight"] = Rotation(tensor, size, terms, eps)
    return found, others


def rotations(triangles: torch.Tensor, size: int, terms: int, eps: float | None) -> torch.Tensor:
    """R_i (blocks, b, b) from the upper triangles of Q_i, as OFTRotationModule.get_weight computes them.

    Args:
        triangles, size, terms, eps: as in `Rotation`; with `eps`, Q_i that are longer are cut to that length first
            (COFT, arXiv 2306.07280, section 4).
    """
    count = triangles.shape[0]
    rows, columns = torch.triu_indices(size, size, 1)
    skew = triangles.new_zeros(count, size, size)
    skew[:, rows, columns] = triangles
    skew = skew - skew.transpose(-2, -1)
    if eps is not None:
        limit = eps * 1 / torch.sqrt(torch.tensor(count))
        norms = torch.norm(skew, dim=(1, 2), keepdim=True)
        skew = torch.where(norms <= limit, skew, limit * (skew / norms))
    eye = torch.eye(size, dtype=skew.dtype).expand(count, size, size)
    return _series(skew, eye, terms) if terms else torch.linalg.solve(eye + skew, eye - skew, left=False)


def _series(skew: torch.Tensor, eye: torch.Tensor, terms: int) -> torch.Tensor:
    """I + 2 Q + 2 Q^2 + ... + Q^(terms - 1): the last power counts once (arXiv 2506.19847, section 4.2; peft 0.18 on)."""
    result = eye.clone()
    if terms > 1:
        result.add_(skew, alpha=2.0)
    if terms > 2:
        power = torch.bmm(skew, skew)
        result.add_(power, alpha=2.0)
        for _ in range(3, terms - 1):
            power = torch.bmm(power, skew)
            result.add_(power, alpha=2.0)
        result.add_(torch.bmm(power, skew))
    return result


def scale_rows(weights: torch.Tensor, vector: torch.Tensor, by_column: bool, low: int, high: int) -> None:
    """Rows `low` to `high` of a tensor scaled in place, each row by its number or each column by its."""
    weights *= vector.view(1, -1) if by_column else vector.reshape(-1)[low:high].view(-1, 1)


def rotate_rows(weights: torch.Tensor, blocks: torch.Tensor) -> None:
    """Rows (n, in) of a weight in place: each run of b columns times R_i^T. A row needs no other row."""
    count, size = weights.shape[1] // blocks.shape[-1], blocks.shape[-1]
    runs = weights.view(-1, count, size).transpose(0, 1)  # (blocks, n, b)
    result = torch.bmm(runs, blocks.to(weights.dtype).transpose(1, 2).expand(count, size, size))
    weights.view(-1, count, size).copy_(result.transpose(0, 1))
