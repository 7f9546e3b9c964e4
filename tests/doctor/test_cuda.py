"""NVIDIA's lines: the driver by nvidia-smi, torch by its child."""

from __future__ import annotations

from finetune.device.machine import Answer
from finetune.doctor.cuda import check_cuda
from tests.doctor.recorded_machine import Recorded, ask, child, lines, recorded

H200 = {
    "torch": "2.13.0+cu128", "cuda": "12.8", "hip": None, "available": True, "archs": ["sm_80", "sm_90", "sm_120"],
    "nccl": "2.29.3", "devices": [{"name": "NVIDIA H200", "capability": [9, 0]}], "sum": 16.0,
}  # fmt: skip
SMI = {"nvidia-smi": Answer(0, recorded("nvidia_smi.txt"))}
QUERY = {"nvidia-smi query": Answer(0, recorded("nvidia_query_h200.txt"))}


def said(torch: dict, env: dict | None = None, **commands: Answer | None) -> list[tuple[str, str, str, str]]:
    answers = {
        **SMI,
        **QUERY,
        **{name.replace("_", " ").replace("nvidia smi", "nvidia-smi"): a for name, a in commands.items()},
    }
    machine = Recorded(commands=answers, env=env or {}, there=["/dev/nvidia0", "/dev/nvidiactl"])
    return [(line.subject, line.status, line.what, line.remedy) for line in check_cuda(machine, torch)]


DRIVER = ("CUDA driver", "ok", "570.86.15, up to CUDA 12.8", "")
GPU = ("GPU 0", "ok", "NVIDIA H200, 143771 MiB, 1 in use", "")


def test_a_gpu_that_works():
    assert said(H200) == [
        DRIVER, GPU,
        ("CUDA torch", "ok", "torch 2.13.0+cu128, built for CUDA 12.8, computes on 1 GPU(s)", ""),
        ("CUDA kernels", "ok", "NVIDIA H200: compute capability 9.0", ""),
        ("CUDA bfloat16", "ok", "computed by all GPUs", ""),
        ("NCCL", "ok", "2.29.3", ""),
    ]  # fmt: skip


def test_a_torch_without_cuda(capsys):
    commands = {**SMI, **QUERY, "torch child": child({"torch": "2.13.0+cpu", "cuda": None, "available": False})}
    assert ask(Recorded(commands=commands, there=["/dev/nvidia0"])) == 2
    assert lines(capsys.readouterr().out, "CUDA torch") == [
        "error CUDA torch torch 2.13.0+cpu is a CPU build: the GPU stays unused",
        "do: pip install torch (the wheel on PyPI for Linux x86_64 has CUDA; others: download.pytorch.org/whl/cuXYZ)",
    ]


def test_an_old_gpu():
    """A V100 in use: no kernels for it, no bfloat16."""
    v100 = {"name": "Tesla V100-SXM2-32GB", "capability": [7, 0]}
    found = said(H200 | {"devices": [v100]}, nvidia_smi_query=Answer(0, recorded("nvidia_query_v100.txt")))
    assert found[1:2] + found[3:5] == [
        ("GPU 0", "warning", "Tesla V100-SXM2-32GB, 32768 MiB, 30100 in use",
         "another process holds it: nvidia-smi lists them; CUDA_VISIBLE_DEVICES chooses another GPU"),
        ("CUDA kernels", "error",
         "Tesla V100-SXM2-32GB: compute capability 7.0, torch has kernels for sm_80, sm_90, sm_120",
         "install a torch built for it: an older one for old GPUs, the newest CUDA's for new ones"),
        ("CUDA bfloat16", "warning", "Tesla V100-SXM2-32GB: only emulated, slowly", "model.dtype: float32 in the recipe"),
    ]  # fmt: skip


def test_kernels_run_on_later_minors_and_ptx_on_later_majors():
    def status(archs: list[str], capability: list[int]) -> str:
        found = said(H200 | {"archs": archs, "devices": [{"name": "G", "capability": capability}]})
        return next(line[1] for line in found if line[0] == "CUDA kernels")

    assert status(["sm_80"], [8, 6]) == "ok"
    assert status(["sm_86"], [8, 0]) == "error"
    assert status(["sm_80"], [9, 0]) == "error"
    assert status(["sm_80", "compute_80"], [9, 0]) == "ok"
    assert status(["sm_90a"], [9, 0]) == "ok"


def test_why_torch_sees_no_gpu():
    blind = {name: H200[name] for name in ("torch", "cuda", "hip", "archs")} | {"available": False}
    assert said(blind, {"CUDA_VISIBLE_DEVICES": ""})[-1] == (
        "CUDA torch", "error", "torch 2.13.0+cu128, built for CUDA 12.8, sees no GPU",
        "CUDA_VISIBLE_DEVICES is '', which hides every GPU: unset it",
    )  # fmt: skip
    old = Answer(0, recorded("nvidia_smi.txt").replace("CUDA Version: 12.8", "CUDA Version: 11.4"))
    assert said(blind, nvidia_smi=old)[-1][3] == (
        "the driver ends at CUDA 11.4: update it, or install a torch built for CUDA 11"
    )
    assert said(blind)[-1][3].startswith("check /dev/nvidia*")
    broken = {**blind, "available": True, "error": "RuntimeError: CUDA error: out of memory"}
    assert said(broken)[-1][2:] == (
        "torch 2.13.0+cu128, built for CUDA 12.8: RuntimeError: CUDA error: out of memory",
        "another process holds the GPU's memory: nvidia-smi lists them",
    )
    assert said(H200 | {"sum": 15.0})[-1][1] == "error"


def test_a_driver_that_does_not_answer():
    failed = Answer(9, recorded("nvidia_failed.txt"))
    assert said(H200, nvidia_smi_query=failed) == [(
        "CUDA driver", "error",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver "
        "is installed and running.",
        "the kernel module does not answer: `dmesg | grep -i nvidia`; reinstall the driver",
    )]  # fmt: skip
    updated = said(H200, nvidia_smi_query=Answer(18, recorded("nvidia_mismatch.txt")))
    assert updated[0][2:] == (
        "Failed to initialize NVML: Driver/library version mismatch",
        "the driver was updated under the running kernel module: restart the machine",
    )
    assert said(H200, nvidia_smi_query=Answer(None))[0][2] == "nvidia-smi did not answer"
    assert said({}, nvidia_smi_query=None)[0][1:3] == ("error", "/dev/nvidia* is there, nvidia-smi is not")
    slim = said(H200, nvidia_smi_query=None)
    assert slim[0][1:3] == ("warning", "nvidia-smi is not here, though torch sees GPUs")
    assert slim[1][2] == "torch 2.13.0+cu128, built for CUDA 12.8, computes on 1 GPU(s)"


def test_no_gpu_at_all():
    machine = Recorded()
    assert [line.what for line in check_cuda(machine, {"cuda": "13.0"})] == [
        "no NVIDIA driver here; torch is built for CUDA 13.0"
    ]


def test_a_torch_that_does_not_import(capsys):
    """Its child says why, or dies, or hangs; the doctor goes on."""
    error = "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory"
    for answer, what in (
        (child({"error": error}), error),
        (Answer(-11, "", "Fatal Python error: Segmentation fault"),
         "`import torch` ended the process (signal 11): Fatal Python error: Segmentation fault"),
        (Answer(None), "`import torch` did not end within 120 s"),
    ):  # fmt: skip
        assert ask(Recorded(commands={"torch child": answer})) == 2
        assert lines(capsys.readouterr().out, "import torch") == [
            f"error import torch {what}", "do: install torch again; `python -c 'import torch'` shows more",
        ]  # fmt: skip
