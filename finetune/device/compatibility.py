"""Which torch, torch_npu, CANN and Python belong together, and what each Ascend processor can do. Data with its source.

Pairings: github.com/Ascend/pytorch, COMPATIBILITY.en.md of 2026-08-21 (commit 9e73e708), where noted its README.md or the
release notes of TorchNPU 26.2.0 (October 2026), which mark it compatible with CANN 8.5, 9.0, 9.1 and 9.2.
Processors: torch_npu/csrc/core/npu/NpuVariables.cpp of the same commit (bfloat16 from 910B1 on; the names), and
docs/en of environment variables there (310P: inference). A pairing that is not listed is unknown, not wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pairing:
    """One documented set. `torch_npu`: its release; corrections (.postN) of it count as later ones."""

    torch_npu: str
    torch: str
    cann: str


PAIRINGS = (
    Pairing("2.13.0", "2.13.0", "9.2.0"),  # TorchNPU 26.2.0; the three below it by its table of compatible ones
    Pairing("2.13.0", "2.13.0", "9.1.0"),
    Pairing("2.13.0", "2.13.0", "9.0.0"),
    Pairing("2.13.0", "2.13.0", "8.5.0"),
    Pairing("2.12.0", "2.12.0", "9.1.0"),
    Pairing("2.11.0", "2.11.0", "9.1.0"),
    Pairing("2.10.0.post4", "2.10.0", "9.1.0"),
    Pairing("2.10.0.post2", "2.10.0", "9.0.0"),  # README.md, "From Binary"
    Pairing("2.9.0.post6", "2.9.0", "9.1.0"),
    Pairing("2.9.0.post2", "2.9.0", "9.0.0"),
    Pairing("2.9.0", "2.9.0", "8.5.0"),
    Pairing("2.8.0.post4", "2.8.0", "9.0.0"),
    Pairing("2.8.0.post2", "2.8.0", "8.5.0"),
    Pairing("2.8.0", "2.8.0", "8.3.RC1"),
    Pairing("2.7.1.post8", "2.7.1", "9.1.0"),
    Pairing("2.7.1.post4", "2.7.1", "9.0.0"),
    Pairing("2.7.1.post2", "2.7.1", "8.5.0"),
    Pairing("2.7.1", "2.7.1", "8.3.RC1"),
)
# Python of each torch, by the same page.
PYTHONS = {
    "2.13.0": ("3.10", "3.11", "3.12", "3.13", "3.14"),
    "2.12.0": ("3.10", "3.11", "3.12", "3.13", "3.14"),
    "2.11.0": ("3.10", "3.11", "3.12", "3.13", "3.14"),
    "2.10.0": ("3.10", "3.11", "3.12", "3.13"),
    "2.9.0": ("3.10", "3.11", "3.12", "3.13"),
    "2.8.0": ("3.9", "3.10", "3.11", "3.12", "3.13"),
    "2.7.1": ("3.9", "3.10", "3.11", "3.12", "3.13"),
}


@dataclass(frozen=True)
class Verdict:
    """What the matrix says: `documented`, `unknown` (not on the page), or `other` (the page names another CANN)."""

    kind: str
    what: str
    remedy: str = ""


def pairing(torch_npu: str, cann: str) -> Verdict:
    """What is documented of a torch_npu with a CANN.

    An exact row decides; without one, a .postN between two rows may go with either's CANN, so it is unknown. A maintenance
    release of a documented CANN (9.0.1 of 9.0.0) counts as that one.
    """
    rows = [row for row in PAIRINGS if _release(row.torch_npu) == _release(torch_npu)]
    said = f"torch_npu {torch_npu} with CANN {cann}"
    if not rows:
        newest = PAIRINGS[0]
        return Verdict(
            "unknown", f"{said}: no CANN is documented for this torch_npu",
            f"documented last: torch_npu {newest.torch_npu} with CANN {newest.cann}; look at COMPATIBILITY.md of "
            "github.com/Ascend/pytorch for a newer row",
        )  # fmt: skip
    exact = [row for row in rows if row.torch_npu == torch_npu]
    if any(same_cann(row.cann, cann) for row in exact):
        return Verdict("documented", f"{said}: a documented pair")
    wanted = ", ".join(f"{row.torch_npu} with CANN {row.cann}" for row in rows)
    if exact:
        return Verdict(
            "other", f"{said}: documented with CANN {exact[0].cann}", f"install CANN {exact[0].cann} ({wanted})"
        )
    if any(same_cann(row.cann, cann) for row in rows):
        return Verdict("documented", f"{said}: another correction (.postN) of a documented pair ({wanted})")
    return Verdict("other", f"{said}: not among the documented pairs", f"documented: {wanted}")


def same_cann(documented: str, installed: str) -> bool:
    """Whether an installed CANN is a documented one: equal, or a later maintenance release (9.0.1 of 9.0.0, not 9.1.0).

    Of a beta or release candidate everything counts.
    """
    one, other = documented.lower(), installed.lower()
    if one == other:
        return True
    plain = re.fullmatch(r"(\d+\.\d+)\.\d+", one), re.fullmatch(r"(\d+\.\d+)\.\d+", other)
    return bool(plain[0] and plain[1] and plain[0][1] == plain[1][1])


def python_problem(torch: str, python: str) -> str | None:
    """What is wrong with a Python for the torch_npu of this torch; None: nothing, or nothing is documented."""
    known = PYTHONS.get(_release(torch))
    short = ".".join(python.split(".")[:2])
    if known is None or short in known:
        return None
    return f"torch_npu for torch {_release(torch)} comes for Python {', '.join(known)}; this is {short}"


@dataclass(frozen=True)
class Processor:
    """A family of SoCs.

    Attributes:
        names: a pattern of the names that torch.npu.get_device_name and npu-smi give, without `Ascend` in front.
        purpose: what it is sold for: `training` or `inference only`.
        ops: the family's name in the names of CANN's kernels (ops) packages.
    """

    family: str
    names: str
    bf16: bool
    purpose: str
    ops: str


# 910B without a digit is the first generation, 910B1 and later are A2's. `Ascend910` alone, as npu-smi calls A3's chips, is
# no name of a SoC.
PROCESSORS = (
    Processor("Atlas A3", r"910_9\d{3}", True, "training", "A3"),
    Processor("Atlas A2", r"910B\d\w*(-\d)?", True, "training", "910b"),
    Processor("Ascend 910 (first generation)", r"910(A|B|PremiumA|ProA|ProB)", False, "training", "910"),
    Processor("Atlas inference (310P)", r"310P\d?\w*", False, "inference only", "310p"),
    Processor("Atlas 200I/500 A2 (310B)", r"310B\d?\w*", True, "inference only", "310b"),
    Processor("Ascend 310", r"310", False, "inference only", "310"),
    Processor("Ascend 950", r"950\w*", True, "training", "950"),
)


def processor(name: str) -> Processor | None:
    """The family of a SoC by its name, `Ascend910B3` or `910B3`; None: not known here."""
    bare = (name.split() or [""])[0].removeprefix("Ascend")
    return next((row for row in PROCESSORS if re.fullmatch(row.names, bare)), None)


def _release(version: str) -> str:
    """`2.10.0` of 2.10.0.post4 or 2.10.0+cpu."""
    match = re.match(r"\d+(\.\d+){0,2}", version)
    return match[0] if match else version
