"""NVIDIA: the driver by nvidia-smi, and whether the installed torch can use what is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.device.machine import Machine
from finetune.doctor.finding import Finding, error, ok, warning

QUERY = "index,name,driver_version,memory.total,memory.used"
COMMAND = ("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits")
PATIENCE = 30.0  # seconds; a driver in trouble answers late or never
UTILITY = "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
BF16_FROM = 8.0  # compute capability: Ampere
INSTALL = "pip install torch (the wheel on PyPI for Linux x86_64 has CUDA; others: download.pytorch.org/whl/cuXYZ)"


@dataclass(frozen=True)
class Gpu:
    """A line of nvidia-smi. total, used: MiB. Not compute_cap: older drivers refuse the whole query for it."""

    index: str
    name: str
    driver: str
    total: int
    used: int


def check_cuda(machine: Machine, torch: dict[str, Any]) -> list[Finding]:
    """The driver, the GPUs, and torch on them.

    Args:
        torch: what finetune.device.cuda_probe says.
    """
    answer = machine.run(COMMAND, PATIENCE)
    nodes = machine.paths("/dev/nvidia[0-9]*")
    if answer is None and not nodes:
        built = f"; torch is built for CUDA {torch['cuda']}" if torch.get("cuda") else ""
        return [ok("CUDA", f"no NVIDIA driver here{built}")]
    if answer is None and torch.get("available"):
        said = "nvidia-smi is not here, though torch sees GPUs"
        return [warning("CUDA driver", said, f"in a container: {UTILITY}"), *_torch(machine, torch, None)]
    if answer is None or answer.code != 0:
        return [_no_driver((answer.out + answer.err) if answer else "", answer is None)]
    gpus = [gpu for line in answer.out.splitlines() if (gpu := _gpu(line))]
    if not gpus:
        return [warning("CUDA driver", "nvidia-smi lists no GPU", "in a container: docker run --gpus all")]
    header = machine.run(("nvidia-smi",), PATIENCE)
    newest = re.search(r"CUDA Version:\s*([\d.]+)", header.out if header else "")
    said = f"{gpus[0].driver}" + (f", up to CUDA {newest[1]}" if newest else "")
    findings = [ok("CUDA driver", said), *(_memory(gpu) for gpu in gpus)]
    return [*findings, *_torch(machine, torch, newest[1] if newest else None)]


def _torch(machine: Machine, torch: dict[str, Any], newest: str | None) -> list[Finding]:
    """Whether torch uses these GPUs: built for CUDA, driver new enough, kernels for their generation."""
    if "torch" not in torch:
        return []  # the line of torch's import says it
    if torch.get("hip"):
        return [error("CUDA torch", f"torch {torch['torch']} is built for ROCm; the GPU is NVIDIA's", INSTALL)]
    if not torch.get("cuda"):
        return [error("CUDA torch", f"torch {torch['torch']} is a CPU build: the GPU stays unused", INSTALL)]
    built = f"torch {torch['torch']}, built for CUDA {torch['cuda']}"
    if "error" in torch:
        return [error("CUDA torch", f"{built}: {_one_line(torch['error'])}", _remedy(torch["error"]))]
    if not torch.get("available"):
        return [error("CUDA torch", f"{built}, sees no GPU", _unseen(machine, torch["cuda"], newest))]
    if torch.get("sum") != 16.0:
        return [
            error(
                "CUDA torch",
                f"{built}: 1 + 1, eight times, gave {torch.get('sum')} instead of 16.0",
                "do not train on this GPU; look at `nvidia-smi -q` and dmesg (Xid)",
            )
        ]
    findings = [ok("CUDA torch", f"{built}, computes on {len(torch['devices'])} GPU(s)")]
    findings += [_generation(device, torch["archs"]) for device in torch["devices"]]
    findings.append(_bf16(torch["devices"]))
    if torch.get("nccl"):
        findings.append(ok("NCCL", torch["nccl"]))
    elif len(torch["devices"]) > 1:
        findings.append(error("NCCL", "torch has none: no training on several GPUs", INSTALL))
    return findings


def _generation(device: dict[str, Any], archs: Sequence[str]) -> Finding:
    """Kernels run on the same major generation from their minor one on (sm_80 on 8.6); PTX on anything newer.

    Source: CUDA C++ programming guide, binary and PTX compatibility.
    """
    major, small = device["capability"]
    binary = [divmod(int(arch[3:]), 10) for arch in archs if re.fullmatch(r"sm_\d+", arch)]
    ptx = [divmod(int(arch[8:]), 10) for arch in archs if re.fullmatch(r"compute_\d+", arch)]
    exact = [f"sm_{major}{small}{letter}" in archs for letter in "af"]
    runs = any(m == major and s <= small for m, s in binary) or any(p <= (major, small) for p in ptx) or any(exact)
    said = f"{device['name']}: compute capability {major}.{small}"
    if runs:
        return ok("CUDA kernels", said)
    have = ", ".join(archs)
    return error(
        "CUDA kernels",
        f"{said}, torch has kernels for {have}",
        "install a torch built for it: an older one for old GPUs, the newest CUDA's for new ones",
    )


def _bf16(devices: Sequence[dict[str, Any]]) -> Finding:
    old = [device["name"] for device in devices if float("{}.{}".format(*device["capability"])) < BF16_FROM]
    if not old:
        return ok("CUDA bfloat16", "computed by all GPUs")
    return warning("CUDA bfloat16", f"{', '.join(old)}: only emulated, slowly", "model.dtype: float32 in the recipe")


def _memory(gpu: Gpu) -> Finding:
    said = f"{gpu.name}, {gpu.total} MiB, {gpu.used} in use"
    if gpu.total and gpu.used > gpu.total // 10:
        return warning(
            f"GPU {gpu.index}",
            said,
            "another process holds it: nvidia-smi lists them; CUDA_VISIBLE_DEVICES chooses another GPU",
        )
    return ok(f"GPU {gpu.index}", said)


def _unseen(machine: Machine, built: str, newest: str | None) -> str:
    """Why a torch with CUDA sees no GPU, the likeliest first."""
    visible = machine.env.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides every GPU: unset it"
    if newest is not None and _numbers(newest)[0] < _numbers(built)[0]:
        return f"the driver ends at CUDA {newest}: update it, or install a torch built for CUDA {_numbers(newest)[0]}"
    return "check /dev/nvidia* (in a container: docker run --gpus all) and CUDA_VISIBLE_DEVICES"


def _no_driver(said: str, absent: bool) -> Finding:
    if absent:
        return error(
            "CUDA driver",
            "/dev/nvidia* is there, nvidia-smi is not",
            f"in a container: {UTILITY}; else install the driver",
        )
    line = _one_line(said) or "nvidia-smi did not answer"
    if "version mismatch" in line:
        return error("CUDA driver", line, "the driver was updated under the running kernel module: restart the machine")
    if "No devices" in line:
        return warning("CUDA driver", line, "in a container: docker run --gpus all")
    return error(
        "CUDA driver", line, "the kernel module does not answer: `dmesg | grep -i nvidia`; reinstall the driver"
    )


def _remedy(error: str) -> str:
    if "out of memory" in error:
        return "another process holds the GPU's memory: nvidia-smi lists them"
    if "no kernel image" in error:
        return "torch has no kernels for this GPU: install one built for it"
    return "the driver and torch's CUDA do not fit, or the GPU failed: `nvidia-smi -q`, dmesg (Xid)"


def _gpu(line: str) -> Gpu | None:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 5:
        return None
    total, used = (int(text) if text.isdigit() else 0 for text in parts[3:])
    return Gpu(parts[0], parts[1], parts[2], total, used)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _one_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 200 else line[:197] + "..."
