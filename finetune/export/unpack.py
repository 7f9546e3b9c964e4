"""A checkpoint whose weights lie quantised, read as one of plain weights: each is worked out when its turn comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from finetune.errors import RecipeError
from finetune.export.dequantise import held, row_scaled
from finetune.export.weights import CODES, FLOATS, Stored, header
from finetune.model.quantization import STORED, needs, stored_method

Pieces = Mapping[str, Stored]  # of one layer, by the last part of their names
INTEGERS = {
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
# Of activations and the cache, which a merged model in full precision has no use for.
NOT_WEIGHTS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point", "k_scale",
               "v_scale", "q_scale")  # fmt: skip
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where output 0, 1, 2 ... of eight is within its int32


@dataclass(frozen=True)
class Packed(Stored):
    """A weight that is worked out from the tensors that hold it."""

    values: Callable[[], torch.Tensor] = field(default=lambda: torch.empty(0), compare=False)

    def settled(self) -> Stored:
        """The weight itself, in memory."""
        return held(self, self.values().to(FLOATS[self.dtype]))

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """Fills `buffer` (uint8) with the weight's bytes from `start` on."""
        self.settled().read_into(buffer, start)


def unpacked(
    tensors: Mapping[str, Stored], config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> dict[str, Stored]:
    """The tensors, every quantised layer's replaced by one plain `.weight`.

    Args:
        config: config.json with its quantization_config. dtype: of the weights; None: that of config.json.

    Raises:
        RecipeError: a way of packing that is not read here; a package that reads it is missing.
    """
    method, said = stored_method(config), config["quantization_config"]
    if method is None or method not in READERS:
        raise RecipeError(f"config.json: weights quantised with {method!r} are not read; merge into the original model")
    problems = needs(tuple(p for p in STORED[method].packages if p not in READ_HERE), "merge into a de-quantised base")
    if problems:
        raise RecipeError(problems)
    dtype = dtype or getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float16"))
    reader, marks = READERS[method](said, tensors)
    layers: dict[str, dict[str, Stored]] = {}
    for name, tensor in tensors.items():
        module, _, last = _split(name)
        layers.setdefault(module, {})[last] = tensor
    plain: dict[str, Stored] = {}
    for module, pieces in layers.items():
        own = {f"{module}.{last}" if module else last: t for last, t in pieces.items() if last not in NOT_WEIGHTS}
        if marks.isdisjoint(pieces):
            plain |= own
            continue
        shape, values, used = reader(module, pieces)
        name = f"{module}.weight"
        size = shape[0] * shape[1] * dtype.itemsize
        first = next(iter(pieces.values()))
        plain[name] = Packed(name, CODES[dtype], shape, first.file, 0, size, values=values)
        plain |= {key: tensor for key, tensor in own.items() if _split(key)[2] not in used}
    return plain


def _split(name: str) -> tuple[str, str, str]:
    """A layer and what is its own: bitsandbytes' `weight.absmax` and the like count as one word."""
    module, dot, last = name.rpartition(".")
    for marker in (".weight.", ".weight"):
        at = name.find(marker)
        if at > 0 and (marker == ".weight." or name.endswith(".weight")):
            return name[:at], ".", name[at + 1 :]
    return module, dot, last


def tensor_of(stored: Stored) -> torch.Tensor:
    """The whole tensor in its own dtype, integers too."""
    dtype = FLOATS.get(stored.dtype) or INTEGERS[stored.dtype]
    return stored.raw(0, stored.size).view(dtype).view(stored.shape)


Reader = Callable[[str, Pieces], tuple[tuple[int, int], Callable[[], torch.Tensor], tuple[str, ...]]]
Read = tuple[Reader, frozenset[str]]  # and the names that tell a quantised layer


def _gptq(said: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Read:
    bits, form = int(said["bits"]), said.get("checkpoint_format") or "gptq"
    if bits not in (2, 4, 8) or said.get("dynamic") or form not in ("gptq", "gptq_v2"):
        raise RecipeError(
            f"config.json: GPTQ with bits {bits}, checkpoint_format {form!r}{', dynamic' if said.get('dynamic') else ''} is "
            "not read (2, 4 or 8 bits in gptq or gptq_v2 are); merge into the original model"
        )

    def read(module: str, pieces: Pieces) -> tuple[tuple[int, int], Callable[[], torch.Tensor], tuple[str, ...]]:
        rows, outputs = pieces["qweight"].shape
        shape = (outputs, rows * (32 // bits))
        values = partial(gptq_weight, pieces, bits, first_zero=form == "gptq")
        return shape, values, ("qweight", "qzeros", "scales", "g_idx")

    return read, frozenset({"qweight"})


def gptq_weight(pieces: Pieces, bits: int, first_zero: bool) -> torch.Tensor:
    """(out, in): scale (q - zero) of each input's group (arXiv 2210.17323, in AutoGPTQ's packing).

    Args:
        pieces: qweight (in / n, out) and qzeros (groups, out / n), n values in an int32 from its lowest bits on; scales
            (groups, out); g_idx (in,), the group of each input, else they follow each other.
        first_zero: the zeros are stored less one, as AutoGPTQ's first format has them.
    """
    quantised = _fields(tensor_of(pieces["qweight"]), bits, 0)  # (in, out)
    zeros = _fields(tensor_of(pieces["qzeros"]), bits, 1)  # (groups, out)
    if first_zero:
        zeros = (zeros + 1) & (2**bits - 1)
    scales = tensor_of(pieces["scales"])
    inputs, groups = quantised.shape[0], scales.shape[0]
    in_turn = torch.arange(inputs) // -(-inputs // groups)
    group = tensor_of(pieces["g_idx"]).long() if "g_idx" in pieces else in_turn
    return (scales[group] * (quantised - zeros[group])).T


def _awq(said: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Read:
    bits, version = int(said.get("bits", said.get("w_bit", 4))), str(said.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        raise RecipeError(
            f"config.json: AWQ with bits {bits}, version {version!r} is not read (4 bits in gemm are); merge into the "
            "original model"
        )

    def read(module: str, pieces: Pieces) -> tuple[tuple[int, int], Callable[[], torch.Tensor], tuple[str, ...]]:
        inputs, columns = pieces["qweight"].shape
        return (columns * 8, inputs), partial(awq_weight, pieces), ("qweight", "qzeros", "scales")

    return read, frozenset({"qweight"})


def awq_weight(pieces: Pieces) -> torch.Tensor:
    """(out, in): scale (q - zero) of each group of inputs (arXiv 2306.00978, in AutoAWQ's `gemm` packing).

    Args:
        pieces: qweight (in, out / 8) and qzeros (groups, out / 8), eight values in an int32 in AWQ_ORDER; scales (groups, out).
    """
    quantised, zeros = (_fields(tensor_of(pieces[name]), 4, 1, AWQ_ORDER) for name in ("qweight", "qzeros"))
    scales = tensor_of(pieces["scales"])
    size = quantised.shape[0] // scales.shape[0]
    return ((quantised - zeros.repeat_interleave(size, 0)) * scales.repeat_interleave(size, 0)).T


def _fields(packed: torch.Tensor, bits: int, dim: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """The values in int32s (rows, columns), spread along `dim`.

    Args:
        order: the place within its int32 of each value; None: from the lowest bits on.
    """
    places = torch.tensor(order or range(32 // bits), dtype=torch.int32) * bits
    spread = (packed.unsqueeze(dim + 1) >> places.view(-1, *[1] * (1 - dim))) & (2**bits - 1)
    return spread.reshape(*packed.shape[:dim], -1, *packed.shape[dim + 1 :])


def _bitsandbytes(said: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Read:
    def read(module: str, pieces: Pieces) -> tuple[tuple[int, int], Callable[[], torch.Tensor], tuple[str, ...]]:
        if "SCB" in pieces:
            rows, columns = pieces["weight"].shape
            whole = partial(lambda p: row_scaled(tensor_of(p["weight"]), tensor_of(p["SCB"]), torch.float32), pieces)
            return (rows, columns), whole, ("weight", "SCB", "weight_format")
        state = {last: tensor_of(piece) for last, piece in pieces.items() if last.startswith("weight.")}
        shape = _four_bits(pieces, state).shape
        values = partial(_of_four_bits, pieces)
        return (int(shape[0]), int(shape[1])), values, ("weight", *state)

    return read, frozenset({"SCB", "weight.absmax"})


def _four_bits(pieces: Pieces, state: dict[str, torch.Tensor]) -> Any:
    from bitsandbytes.functional import QuantState

    return QuantState.from_dict(
        {last.removeprefix("weight."): value for last, value in state.items()}, device=torch.device("cpu")
    )


def _of_four_bits(pieces: Pieces) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    state = {last: tensor_of(piece) for last, piece in pieces.items() if last.startswith("weight.")}
    return dequantize_4bit(tensor_of(pieces["weight"]), _four_bits(pieces, state))


def _compressed_tensors(said: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Read:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    schemes = QuantizationConfig.model_validate(dict(said))
    if len(schemes.config_groups) != 1:
        raise RecipeError(
            "config.json: compressed-tensors with several groups of layers is not read; merge into the original model"
        )
    (scheme,) = schemes.config_groups.values()
    compressor: Any = BaseCompressor.get_value_from_registry(scheme.format or schemes.format)

    def read(module: str, pieces: Pieces) -> tuple[tuple[int, int], Callable[[], torch.Tensor], tuple[str, ...]]:
        if "weight_shape" in pieces:
            rows, columns = tensor_of(pieces["weight_shape"]).tolist()
        else:
            rows, columns = pieces["weight"].shape
        used = tuple(last for last in pieces if last.startswith("weight"))

        def values() -> torch.Tensor:
            return compressor.decompress({last: tensor_of(pieces[last]) for last in used}, scheme)["weight"]

        return (int(rows), int(columns)), values, used

    return read, frozenset({"weight_packed", "weight_scale"})


def _torchao(said: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Read:
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    notes: dict[str, str] = {}
    for file in {tensor.file for tensor in tensors.values()}:
        notes |= header(file)[0].get("__metadata__", {})
    kinds = {name: json.loads(text) for name, text in notes.items() if name.endswith("weight") and text.startswith("{")}
    marks = {f"_weight_{piece}" for kind in kinds.values() for piece in kind.get("_tensor_data_names", ())}

    def read(module: str, pieces: Pieces) -> tuple[tuple[int, int], Callable[[], torch.Tensor], tuple[str, ...]]:
        used, name = tuple(last for last in pieces if last in marks), f"{module}.weight"
        own = {name: notes[name], "tensor_names": json.dumps([name])}

        def tensor() -> Any:
            flat = {f"{module}.{last}": tensor_of(pieces[last]) for last in used}
            return unflatten_tensor_state_dict(flat, own)[0][name]

        rows, columns = tensor().shape
        return (rows, columns), lambda: tensor().dequantize(), used

    return read, frozenset(marks)


READERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Stored]], Read]] = {
    "gptq": _gptq, "awq": _awq, "bitsandbytes": _bitsandbytes, "compressed-tensors": _compressed_tensors,
    "torchao": _torchao,
}  # fmt: skip
READ_HERE = ("gptqmodel", "optimum")  # what needs no package of theirs
