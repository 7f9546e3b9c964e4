"""Environment variables that change what a job does: each that is set, what it does, whether its value makes sense."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune.device.machine import Machine
from finetune.doctor import values
from finetune.doctor.finding import Finding, ok
from finetune.doctor.values import Judge, anything, better_off, one_of, whole

SECRET = re.compile(r"TOKEN$|_KEY$|SECRET|PASSWORD|PASSWD", re.I)
DEBUGGING = "for finding faults: unset it for a real run"


@dataclass(frozen=True)
class Variable:
    """One that is known. does: what it changes, in a few words. shown: whether its value may be printed."""

    name: str
    does: str
    judge: Judge = anything
    shown: bool = True


# Sources: Ascend/pytorch docs (environment_variable), CANN's HCCL guide, NVIDIA's NCCL guide, torch's notes on CUDA,
# huggingface_hub's page of environment variables.
VARIABLES = (
    Variable("ASCEND_RT_VISIBLE_DEVICES", "which NPUs a process sees", values.npus),
    Variable("ASCEND_LAUNCH_BLOCKING", "every operator is waited for", better_off(DEBUGGING, "1")),
    Variable("TASK_QUEUE_ENABLE", "queue of operators to the NPU (2 is fastest and takes more memory)",
             better_off("the queue is off, which is slow: 1 or 2", "0", allowed=("1", "2"))),
    Variable("PYTORCH_NPU_ALLOC_CONF", "how the NPU's memory is handed out", values.npu_allocator),
    Variable("PYTORCH_NO_NPU_MEMORY_CACHING", "no memory is kept for later", better_off(DEBUGGING, "1")),
    Variable("MULTI_STREAM_MEMORY_REUSE", "memory of collectives is used again early",
             better_off("2 keeps tensors longer and is advised against: 1", "2", allowed=("0", "1", "3"))),
    Variable("INF_NAN_MODE_ENABLE", "overflow gives inf, as elsewhere",
             better_off("overflow becomes the largest number and NaN becomes 0: a loss that breaks is not seen", "0")),
    Variable("INF_NAN_MODE_FORCE_DISABLE", "overflow is cut off",
             better_off("overflow becomes the largest number and NaN becomes 0: a loss that breaks is not seen", "1")),
    Variable("TORCH_NPU_FALLBACK_CPU_DISABLE", "operators that the NPU lacks are errors, not run on the CPU",
             one_of("0", "1")),
    Variable("TORCH_TRANSFER_TO_NPU", "what torch is asked for on CUDA goes to the NPU",
             better_off("finetune names its devices itself: unset it", "1")),
    Variable("TORCH_DEVICE_BACKEND_AUTOLOAD", "torch loads torch-npu by itself (finetune loads it either way)",
             one_of("0", "1")),
    Variable("CPU_AFFINITY_CONF", "threads are bound to cores"),
    Variable("ASCEND_GLOBAL_LOG_LEVEL", "what CANN logs",
             better_off("debug and info logs slow a run: 3 (errors)", "0", "1", allowed=("2", "3", "4"))),
    Variable("ASCEND_SLOG_PRINT_TO_STDOUT", "CANN logs to the console", better_off("it floods the console: 0", "1")),
    Variable("HCCL_CONNECT_TIMEOUT", "seconds to wait for the other processes to connect", whole(120, 7200, "seconds")),
    Variable("HCCL_EXEC_TIMEOUT", "seconds that a collective may take", whole(0, 2147483647, "seconds")),
    Variable("HCCL_EVENT_TIMEOUT", "seconds to wait for an event", values.event_timeout),
    Variable("HCCL_BUFFSIZE", "MiB of buffer for each group of processes", whole(1, 1 << 20, "MiB")),
    Variable("P2P_HCCL_BUFFSIZE", "MiB of buffer for sends between two processes", whole(0, 1 << 20, "MiB")),
    Variable("HCCL_SOCKET_IFNAME", "network interface through which HCCL begins", values.interfaces),
    Variable("HCCL_IF_IP", "address through which HCCL begins"),
    Variable("HCCL_DETERMINISTIC", "sums in a fixed order", one_of("true", "false", "strict")),
    Variable("HCCL_WHITELIST_DISABLE", "connections of any address are taken", one_of("0", "1")),
    Variable("TORCH_HCCL_BLOCKING_WAIT", "collectives are waited for, without a watchdog", one_of("0", "1")),
    Variable("CUDA_VISIBLE_DEVICES", "which GPUs a process sees", values.gpus),
    Variable("CUDA_LAUNCH_BLOCKING", "every kernel is waited for", better_off(DEBUGGING, "1")),
    Variable("PYTORCH_ALLOC_CONF", "how the device's memory is handed out", values.allocator),
    Variable("PYTORCH_CUDA_ALLOC_CONF", "the older name of PYTORCH_ALLOC_CONF", values.allocator),
    Variable("CUBLAS_WORKSPACE_CONFIG", "matrix products in a fixed order", one_of(":4096:8", ":16:8")),
    Variable("NCCL_DEBUG", "what NCCL says", one_of("version", "warn", "info", "trace")),
    Variable("NCCL_P2P_DISABLE", "GPUs pass data through the host",
             better_off("slow; only for machines whose GPUs can't reach each other", "1")),
    Variable("NCCL_IB_DISABLE", "no InfiniBand or RoCE between machines",
             better_off("slow between machines; unset it where there is such a network", "1")),
    Variable("NCCL_SHM_DISABLE", "no shared memory between processes", better_off("slow; enlarge /dev/shm instead", "1")),
    Variable("NCCL_SOCKET_IFNAME", "network interface of NCCL", values.interfaces),
    Variable("GLOO_SOCKET_IFNAME", "network interface of gloo", values.interfaces),
    Variable("TORCH_NCCL_ASYNC_ERROR_HANDLING", "a failed collective ends its process",
             better_off("a process that fails leaves the others waiting: unset it", "0", allowed=("1", "2", "3"))),
    Variable("ACCELERATE_USE_CPU", "accelerate takes the CPU", values.on_cpu),
    Variable("WORLD_SIZE", "how many processes there are", values.processes),
    Variable("OMP_NUM_THREADS", "threads of each process on the CPU", values.threads),
    Variable("MKL_NUM_THREADS", "threads of Intel's library", values.threads),
    Variable("HF_HUB_OFFLINE", "nothing is downloaded: bases must be in the cache"),
    Variable("TRANSFORMERS_OFFLINE", "nothing is downloaded: bases must be in the cache"),
    Variable("HF_ENDPOINT", "where bases are downloaded from", values.endpoint),
    Variable("HF_HOME", "folder of what is downloaded"),
    Variable("HF_HUB_CACHE", "folder of downloaded bases"),
    Variable("HF_TOKEN", "who asks the Hugging Face hub"),
    Variable("HUGGING_FACE_HUB_TOKEN", "who asks the Hugging Face hub"),
    Variable("MODELSCOPE_API_TOKEN", "who asks ModelScope"),
    Variable("WANDB_API_KEY", "who writes to Weights & Biases"),
    Variable("SWANLAB_API_KEY", "who writes to SwanLab"),
    Variable("HTTPS_PROXY", "downloads go through a proxy", shown=False),
    Variable("https_proxy", "downloads go through a proxy", shown=False),
)  # fmt: skip


def check_variables(machine: Machine) -> list[Finding]:
    """A line for each known variable that is set. Values of secrets, and of proxies (passwords), are never shown."""
    lines = [
        _line(variable, machine.env[variable.name], machine) for variable in VARIABLES if variable.name in machine.env
    ]
    return lines or [ok("environment", "no variable that matters is set")]


def _line(variable: Variable, value: str, machine: Machine) -> Finding:
    status, remedy = variable.judge(value, machine)
    if SECRET.search(variable.name) or not variable.shown:
        shown = "set" if value else "set, but empty"
    else:
        shown = re.sub(r"//[^/@\s]*@", "//...@", value) or "empty"  # an address may carry a password
    return Finding(variable.name, status, f"{shown}: {variable.does}", remedy)
