"""Cores, memory, disks and libraries: what is said of them, and when it is an error."""

from __future__ import annotations

from dataclasses import replace

from finetune.doctor.finding import GIB, Finding
from finetune.doctor.host import cgroup_cores, cgroup_memory, check_host
from finetune.doctor.packages import check_packages, need, within
from tests.doctor.recorded_machine import CPUINFO, MEMINFO, REQUIRES, VERSIONS, Recorded


def found(machine: Recorded, subject: str) -> Finding:
    return next(finding for finding in check_host(machine) + check_packages(machine) if finding.subject == subject)


V2 = {
    "/proc/self/cgroup": "0::/job\n",
    "/sys/fs/cgroup/cpu.max": "max 100000\n",
    "/sys/fs/cgroup/job/cpu.max": "250000 100000\n",
}


def test_a_quota_below_the_cores():
    """torch would start four threads for two and a half cores."""
    machine = Recorded(files={"/proc/cpuinfo": CPUINFO, "/proc/meminfo": MEMINFO} | V2)
    assert found(machine, "CPU") == Finding(
        "CPU", "warning",
        "Intel(R) Xeon(R) Platinum 8480+: 4 cores (8 logical), bfloat16 by AMX and AVX512-BF16; the cgroup's quota is 2.5",
        "torch starts a thread for each core: export OMP_NUM_THREADS=2",
    )  # fmt: skip
    assert found(replace(machine, env={"OMP_NUM_THREADS": "2"}), "CPU").status == "ok"


def test_cgroups_of_both_versions():
    assert cgroup_cores(Recorded(files=V2)) == 2.5
    v1 = {
        "/proc/self/cgroup": "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n1:name=systemd:/\n",
        "/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us": "150000",
        "/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": str(8 * GIB),
        "/sys/fs/cgroup/memory/docker/ab/memory.usage_in_bytes": str(3 * GIB),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    # "cpu,cpuacct" is mounted as such and linked as cpu
    assert cgroup_cores(Recorded(files=v1)) == 1.5
    assert cgroup_memory(Recorded(files=v1)) == (8 * GIB, 3 * GIB)
    assert (cgroup_cores(Recorded(files={})), cgroup_memory(Recorded(files={}))) == (None, (None, 0))


def test_a_cpu_without_bfloat16():
    old = CPUINFO.replace("avx512_bf16 amx_bf16", "avx2")
    assert found(Recorded(files={"/proc/cpuinfo": old}), "CPU").what == (
        "Intel(R) Xeon(R) Platinum 8480+: 4 cores (8 logical), no instructions for bfloat16: it computes in float32"
    )
    assert found(Recorded(files={}, arch="aarch64"), "CPU").what.startswith("aarch64: 8 cores, no instructions")


def test_memory_by_the_tighter_limit():
    limits = {"/sys/fs/cgroup/memory.max": str(4 * GIB), "/sys/fs/cgroup/memory.current": str(1 * GIB)}
    machine = Recorded(files={"/proc/meminfo": MEMINFO, **limits})
    assert found(machine, "memory") == Finding(
        "memory", "warning", "62.0 GiB, 50.0 GiB free; the cgroup allows 4.0 GiB, 3.0 GiB of it free",
        "end other processes or raise the container's limit (docker --memory); a base in bfloat16 takes 2 bytes a parameter",
    )  # fmt: skip
    full = replace(machine, files={**machine.files, "/sys/fs/cgroup/memory.current": str(4 * GIB - 1024)})
    assert found(full, "memory").status == "error"
    assert found(Recorded(files={}), "memory").what == "unknown: /proc/meminfo can't be read"


def test_disks():
    """docker's 64 MiB of shared memory; a full disk; a cache that is another's; folders that are not there yet."""
    docker = Recorded(free={"/": 200 * GIB, "/dev/shm": 64 << 20, "/tmp": 100 * GIB})
    assert found(docker, "disk: /dev/shm") == Finding(
        "disk: /dev/shm", "warning", "/dev/shm: 64 MiB free",
        "docker --shm-size=8g or --ipc=host: processes share batches in it",
    )  # fmt: skip
    full = Recorded(free={"/": 1 << 20, "/dev/shm": 8 * GIB, "/tmp": 100 * GIB})
    assert (found(full, "disk: here").status, found(full, "disk: here").what) == ("error", "/runs: 1 MiB free")
    other = Recorded(env={"HF_HOME": "/data/hf"}, free={"/": 0, "/data": 90 * GIB}, locked=["/data"])
    assert found(other, "disk: hub cache").what == "/data/hf/hub: this user may not write to /data"
    assert found(Recorded(env={"HF_HUB_CACHE": "/x"}), "disk: hub cache").what == "/x: 200.0 GiB free"
    assert "disk: /dev/shm" not in [line.subject for line in check_host(Recorded(free={"/": 1}))]  # macOS has none
    assert found(Recorded(env={"TMPDIR": "/scratch"}), "disk: temporary").what == "/scratch: 200.0 GiB free"


def test_libraries_against_the_metadata_and_the_tested_set():
    assert found(Recorded(), "torch") == Finding("torch", "ok", "2.12.0 (needed: >=2.10; tested: 2.13.0)")
    old = Recorded(versions=VERSIONS | {"transformers": "4.57.1"})
    assert found(old, "transformers") == Finding(
        "transformers", "error", "4.57.1 is outside >=5.17,<6", "pip install transformers==5.23.0"
    )
    new = Recorded(versions=VERSIONS | {"torch": "2.14.0+cu130"})
    assert found(new, "torch") == Finding(
        "torch", "warning", "2.14.0+cu130 (needed: >=2.10; tested: 2.13.0): newer than what is tested",
        "if something breaks: pip install torch==2.13.0",
    )  # fmt: skip
    gone = Recorded(versions={"torch": "2.13.0"})
    assert found(gone, "peft") == Finding(
        "peft", "error", "not installed; needed: >=0.20,<0.22", "pip install peft==0.21.2"
    )
    python = found(replace(Recorded(), python="3.10.4"), "Python")
    assert (python.status, python.what) == ("error", "3.10.4; finetune needs >=3.11")


def test_optional_libraries():
    """Those of extras for developers are left out; one that is here in the wrong version is an error of its own."""
    assert found(Recorded(), "optional libraries").what == "datasets 5.2.0"
    absent = Recorded(versions={"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"})
    assert found(absent, "optional libraries").what == "none; not installed: datasets [hub]"
    old = Recorded(versions=VERSIONS | {"datasets": "2.14.0"})
    assert found(old, "datasets") == Finding(
        "datasets", "error", "2.14.0 is outside >=5, which finetune[hub] needs", 'pip install "datasets>=5"'
    )


def test_a_checkout_that_is_not_installed():
    line = check_packages(Recorded(requirements={}))
    assert [(finding.subject, finding.status) for finding in line] == [("finetune", "warning")]


def test_requirements_in_parts():
    told = [need(text) for text in (*REQUIRES, "finetune[gguf,hub]; extra == 'dev'", "numpy (>=1.26)")]
    assert [(one.name, one.allowed, one.extra) for one in told] == [
        ("torch", ">=2.10", ""), ("transformers", ">=5.17,<6", ""), ("peft", ">=0.20,<0.22", ""),
        ("datasets", ">=5", "hub"), ("x", ">=1", "dev"), ("finetune", "", "dev"), ("numpy", ">=1.26", ""),
    ]  # fmt: skip
    assert within("2.13.0+cpu", ">=2.10")
    assert within("5.18.0rc1", ">=5.17,<6")
    assert not within("6.0.0", ">=5.17,<6")
