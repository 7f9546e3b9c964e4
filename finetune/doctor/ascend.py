"""Ascend, from the device nodes up: npu-smi, driver, CANN, kernels, torch-npu on them, and what the SoC can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finetune.device import npu_probe
from finetune.device.compatibility import Processor, pairing, processor, python_problem
from finetune.device.machine import Machine
from finetune.doctor.cann import Cann, check_cann, check_driver, check_kernels, find_cann
from finetune.doctor.finding import ERROR, WARNING, Finding, error, ok, warning
from finetune.doctor.hccl import check_rank_table
from finetune.doctor.npu_smi import Table, check_npu_smi

PACKAGE = "torch-npu"


def check_ascend(machine: Machine) -> tuple[list[Finding], npu_probe.Probe]:
    """All lines about Ascend, one where there is nothing of it; and the probe, for what comes after."""
    findings, table = check_npu_smi(machine)
    cann, version = find_cann(machine), machine.version(PACKAGE)
    probed = npu_probe.probe(machine=machine)
    here = bool(findings) or bool(probed.facts.get("count"))
    if not here and cann is None and version is None:
        return [ok("Ascend", f"no device, driver, CANN or {PACKAGE} here"), *check_rank_table(machine)], probed
    findings += check_driver(machine, table.version)
    names = soc_names(table, probed)
    findings += software(machine, cann, here, probed, [known for name in names if (known := processor(name))])
    findings.append(installed(probed, here))
    if version is not None:
        findings += [*autoload(machine, probed), *matrix(machine, version, cann)]
    findings += [soc(name, probed) for name in names]
    return findings + check_rank_table(machine), probed


def software(
    machine: Machine, cann: Cann | None, here: bool, probed: npu_probe.Probe, socs: Sequence[Processor]
) -> list[Finding]:
    """CANN and its kernels. Where the probe computed, what looks wrong in files and variables is no error."""
    works = probed.status == "ok"
    if cann is None and works:
        return []
    findings = check_cann(machine, cann, wanted=here)
    if here and cann:
        findings += check_kernels(machine, cann, socs[0] if socs else None)
    if works:
        findings = [replace(line, status=WARNING) if line.status == ERROR else line for line in findings]
    return findings


def installed(probed: npu_probe.Probe, here: bool) -> Finding:
    """torch-npu, by its versions and a child process that tried it."""
    if probed.status == "ok":
        return ok(PACKAGE, probed.what)
    if here:
        return error(PACKAGE, f"{probed.what} [{probed.status}]", probed.remedy)
    if probed.status == "not_installed":
        return ok(PACKAGE, "not installed, and no NPU here")
    if probed.status == "no_device":
        return warning(
            PACKAGE, f"{probed.what}; there is none here", f"pip uninstall {PACKAGE} where no NPU is to be used"
        )
    return warning(
        PACKAGE,
        f"{probed.what} [{probed.status}]; there is no NPU here and finetune goes on without it",
        f"pip uninstall {PACKAGE}: other programs fail over it; with an NPU: {probed.remedy}",
    )


def autoload(machine: Machine, probed: npu_probe.Probe) -> list[Finding]:
    """torch loads torch-npu by itself; a broken one takes every program that imports torch along."""
    subject, switch = "torch autoload", "TORCH_DEVICE_BACKEND_AUTOLOAD"
    if not probed.breaks_torch or machine.env.get(switch) == "0":
        return []
    said = f"`import torch` fails in every program here, {PACKAGE} being loaded with it"
    return [error(subject, said, f"until {PACKAGE} is right: export {switch}=0, or pip uninstall {PACKAGE}")]


def matrix(machine: Machine, version: str, cann: Cann | None) -> list[Finding]:
    """torch, torch-npu, CANN and Python against what is documented."""
    subject, findings = "Ascend versions", []
    wrong = python_problem(version, machine.python)
    if wrong:
        findings.append(error(subject, wrong, "make an environment with one of these"))
    if cann is None or cann.version is None:
        return findings
    verdict = pairing(version, cann.version)
    if verdict.kind == "documented":
        return [*findings, ok(subject, verdict.what)]
    return [*findings, warning(subject, verdict.what, verdict.remedy)]


def soc_names(table: Table, probed: npu_probe.Probe) -> list[str]:
    """Names of the SoCs here, each once: the runtime's where it answers, else npu-smi's."""
    names = probed.facts.get("names") or [chip.name for chip in table.chips]
    return list(dict.fromkeys(names))


def soc(name: str, probed: npu_probe.Probe) -> Finding:
    """What the processor can do."""
    known = processor(name)
    if known is None and name == "Ascend910":
        return ok("SoC", "Ascend910 by npu-smi, as it calls the chips of Atlas A3; torch says more when it works")
    if known is None:
        return warning("SoC", f"{name}: not known here", "look up whether it computes bfloat16 before you train on it")
    return _judged(name, known, bool(probed.facts.get("bf16", known.bf16)))


def _judged(name: str, known: Processor, bf16: bool) -> Finding:
    said = f"{name}: {known.family}, {known.purpose}, float16{' and bfloat16' if bf16 else ', no bfloat16'}"
    if known.purpose != "training":
        return warning("SoC", said, "train elsewhere; here evaluate, and serve in float16 (export.dtype: float16)")
    if not bf16:
        return warning("SoC", said, "model.dtype: float32 in the recipe; serve in float16 (export.dtype: float16)")
    return ok("SoC", said)
