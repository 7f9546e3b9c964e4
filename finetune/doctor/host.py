"""The machine itself: cores that may really be used, memory that may really be had, room on the disks it writes to."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from finetune.device.machine import Machine
from finetune.doctor.finding import ERROR, GIB, WARNING, Finding, error, gib, ok, warning

UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 where there is no limit
BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}  # in /proc/cpuinfo


def check_host(machine: Machine) -> list[Finding]:
    """CPU, memory and disks."""
    return [cpu(machine), memory(machine), *disks(machine)]


def cpu(machine: Machine) -> Finding:
    """Model, cores, instructions. torch counts the cores of the machine, not those that a cgroup's quota leaves."""
    text = machine.read("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.M)
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)).split())
    logical = machine.cores()
    real = max(1, logical // _threads_per_core(text))
    quota = cgroup_cores(machine)
    cores = f"{real} cores" + (f" ({logical} logical)" if logical != real else "")
    bf16 = [name for flag, name in BF16_FLAGS.items() if flag in flags]
    said = f"{model[1].strip() if model else machine.arch}: {cores}"
    said += f", bfloat16 by {' and '.join(bf16)}" if bf16 else ", no instructions for bfloat16: it computes in float32"
    if quota is not None and quota < real:
        said += f"; the cgroup's quota is {quota:g}"
        if not machine.env.get("OMP_NUM_THREADS"):
            return warning(
                "CPU",
                said,
                f"torch starts a thread for each core: export OMP_NUM_THREADS={max(1, int(quota))}",
            )
    return ok("CPU", said)


def memory(machine: Machine) -> Finding:
    """What is free, the machine's and the cgroup's, whichever is less."""
    text = machine.read("/proc/meminfo") or ""
    facts = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    if "MemTotal" not in facts:
        return warning(
            "memory",
            "unknown: /proc/meminfo can't be read",
            "outside Linux nothing is known of it; in a container mount /proc",
        )
    free = facts.get("MemAvailable", facts.get("MemFree", 0))
    said = f"{gib(facts['MemTotal'])}, {gib(free)} free"
    limit, used = cgroup_memory(machine)
    if limit is not None and limit < facts["MemTotal"]:
        free = min(free, limit - used)
        said += f"; the cgroup allows {gib(limit)}, {gib(max(0, limit - used))} of it free"
    if free >= 4 * GIB:
        return ok("memory", said)
    remedy = "end other processes or raise the container's limit (docker --memory); a base in bfloat16 takes 2 bytes a parameter"
    return Finding("memory", ERROR if free < GIB else WARNING, said, remedy)


def disks(machine: Machine) -> list[Finding]:
    """Room where runs are written, where bases are cached, in shared memory, and for temporary files."""
    env = machine.env
    data = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or machine.home + '/.cache'}/huggingface"
    hub = env.get("HF_HUB_CACHE") or f"{data}/hub"
    temporary = env.get("TMPDIR") or "/tmp"
    room = "free space, or set output_dir: checkpoints and bundles go here"
    lines = [
        _disk(machine, "disk: here", machine.cwd, 10 * GIB, room),
        _disk(machine, "disk: hub cache", hub, 20 * GIB, "free space, or HF_HOME elsewhere: bases are downloaded here"),
        _disk(machine, "disk: temporary", temporary, 2 * GIB, "set TMPDIR to a folder with space"),
    ]
    if machine.free_bytes("/dev/shm") is None:
        return lines  # outside Linux
    shared = "docker --shm-size=8g or --ipc=host: processes share batches in it"
    return [*lines, _disk(machine, "disk: /dev/shm", "/dev/shm", GIB, shared)]


def cgroup_cores(machine: Machine) -> float | None:
    """The quota of CPU time in cores, the least of this cgroup and those above it; None: no limit."""
    quotas = []
    for folder in _cgroups(machine, "cpu"):
        both = (machine.read(f"{folder}/cpu.max") or "").split()  # v2: "200000 100000"
        if len(both) != 2:
            both = [(machine.read(f"{folder}/cpu.cfs_{name}_us") or "").strip() for name in ("quota", "period")]
        if all(part.isdigit() for part in both) and int(both[1]):
            quotas.append(int(both[0]) / int(both[1]))
    return min(quotas, default=None)


def cgroup_memory(machine: Machine) -> tuple[int | None, int]:
    """The tightest limit of memory in bytes and what is used of it; (None, 0): no limit."""
    found = []
    for folder in _cgroups(machine, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            said = (machine.read(f"{folder}/{limit}") or "").strip()
            if said.isdigit() and int(said) < UNLIMITED:
                usage = (machine.read(f"{folder}/{used}") or "0").strip()
                found.append((int(said), int(usage) if usage.isdigit() else 0))
    return min(found, key=lambda pair: pair[0] - pair[1], default=(None, 0))


def _cgroups(machine: Machine, controller: str) -> list[str]:
    """Folders of this process's cgroup and those above it. Inside a container the root is its own cgroup."""
    folders = []
    for line in (machine.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = f"/sys/fs/cgroup/{controller}" if controllers else "/sys/fs/cgroup"
        place = PurePosixPath(path)
        folders += [f"{root}{'' if str(part) == '/' else part}" for part in (place, *place.parents)]
    return folders or ["/sys/fs/cgroup"]


def _threads_per_core(text: str) -> int:
    """Hardware threads that share a core; 1 where /proc/cpuinfo does not say (Arm)."""
    siblings, cores = re.search(r"^siblings\s*:\s*(\d+)", text, re.M), re.search(r"^cpu cores\s*:\s*(\d+)", text, re.M)
    return max(1, int(siblings[1]) // int(cores[1])) if siblings and cores and int(cores[1]) else 1


def _disk(machine: Machine, subject: str, folder: str, wanted: int, remedy: str) -> Finding:
    """The folder, or the nearest one above it that is there."""
    place = PurePosixPath(folder)
    there = next((str(part) for part in (place, *place.parents) if machine.free_bytes(str(part)) is not None), "/")
    free = machine.free_bytes(there) or 0
    said = f"{folder}: {gib(free)} free"
    if not machine.writable(there):
        return error(subject, f"{folder}: this user may not write to {there}", remedy)
    if free < wanted:
        return Finding(subject, ERROR if free < min(wanted, GIB) // 16 else WARNING, said, remedy)
    return ok(subject, said)
