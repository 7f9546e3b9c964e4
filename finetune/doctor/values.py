"""Whether the value of an environment variable makes sense: a judge takes it and the machine, and gives status and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from finetune.device.machine import Machine
from finetune.doctor.finding import ERROR, OK, WARNING

Judgement = tuple[str, str]
Judge = Callable[[str, Machine], Judgement]
FINE: Judgement = (OK, "")
TRUE = ("1", "true", "yes", "on")


def anything(value: str, machine: Machine) -> Judgement:
    return FINE


def one_of(*allowed: str) -> Judge:
    """One of these words, in any case."""
    words = ", ".join(allowed)

    def judge(value: str, machine: Machine) -> Judgement:
        return FINE if value.lower() in [word.lower() for word in allowed] else (ERROR, f"allowed: {words}")

    return judge


def better_off(remedy: str, *bad: str, allowed: tuple[str, ...] = ("0", "1")) -> Judge:
    """A switch for finding faults, which costs speed or hides something when it is left in one of the `bad` places."""

    def judge(value: str, machine: Machine) -> Judgement:
        if value.lower() in bad:
            return WARNING, remedy
        return FINE if value.lower() in allowed else (ERROR, f"allowed: {', '.join(allowed)}")

    return judge


def whole(low: int, high: int, unit: str) -> Judge:
    """A whole number from `low` to `high`."""

    def judge(value: str, machine: Machine) -> Judgement:
        if value.isdecimal() and low <= int(value) <= high:
            return FINE
        return ERROR, f"a whole number of {unit} from {low} to {high}"

    return judge


def threads(value: str, machine: Machine) -> Judgement:
    """OMP_NUM_THREADS: more threads than cores take turns, and each turn costs."""
    first = value.split(",")[0]
    if not first.isdecimal() or int(first) < 1:
        return ERROR, "a whole number from 1 on"
    if int(first) > machine.cores():
        return WARNING, f"this process may use {machine.cores()} cores: set at most that, shared among the processes"
    return FINE


def npus(value: str, machine: Machine) -> Judgement:
    """ASCEND_RT_VISIBLE_DEVICES: numbers, ascending, each once; torch-npu sees no device where they are not."""
    return _ascending(value) if value.strip() else (WARNING, "it is empty and hides every NPU: unset it")


def gpus(value: str, machine: Machine) -> Judgement:
    """CUDA_VISIBLE_DEVICES: numbers or UUIDs; CUDA reads up to the first that is wrong and forgets the rest."""
    parts = [part.strip() for part in value.split(",")]
    if value.strip() in ("", "-1", "NoDevFiles"):
        return WARNING, "it hides every GPU: unset it, unless that is meant"
    wrong = [part for part in parts if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", part)]
    if wrong:
        return ERROR, f"{wrong[0]!r} is no device: numbers or GPU-... separated by commas"
    return FINE if len(set(parts)) == len(parts) else (ERROR, "a device is named twice")


def interfaces(value: str, machine: Machine) -> Judgement:
    """*_SOCKET_IFNAME: beginnings of names of network interfaces, `^` before those to leave out, `=` before whole names."""
    if value.startswith("^"):
        return FINE
    names = [name.strip() for name in value.lstrip("=").split(",") if name.strip()]
    here = [path.rsplit("/", 1)[-1] for path in machine.paths("/sys/class/net/*")]
    if not here or any(other.startswith(name) for name in names for other in here):
        return FINE
    return ERROR, f"no such network interface; here: {', '.join(here)}"


def endpoint(value: str, machine: Machine) -> Judgement:
    """HF_ENDPOINT: an address with its scheme."""
    parts = urlsplit(value)
    if parts.scheme in ("http", "https") and parts.netloc:
        return FINE
    return ERROR, "an address is needed, as https://hf-mirror.com"


def event_timeout(value: str, machine: Machine) -> Judgement:
    """HCCL_EVENT_TIMEOUT must be longer than HCCL_EXEC_TIMEOUT (Ascend/pytorch docs); 0: for ever."""
    longer = machine.env.get("HCCL_EXEC_TIMEOUT", "")
    if not value.isdecimal():
        return ERROR, "a whole number of seconds"
    if longer.isdecimal() and 0 < int(value) <= int(longer):
        return ERROR, f"must be greater than HCCL_EXEC_TIMEOUT ({longer})"
    return FINE


def npu_allocator(value: str, machine: Machine) -> Judgement:
    """PYTORCH_NPU_ALLOC_CONF: torch-npu from 26.2 on ends the process when PYTORCH_ALLOC_CONF is set as well."""
    if machine.env.get("PYTORCH_ALLOC_CONF"):
        return ERROR, "PYTORCH_ALLOC_CONF is set too, and torch-npu takes one of them only: unset one"
    return allocator(value, machine)


def allocator(value: str, machine: Machine) -> Judgement:
    """`key:value,key:value`; what fits no key is refused when torch starts. Keys: those that a job may want to set."""
    for part in re.sub(r"\[[^]]*\]", "list", value).split(","):
        key, colon, said = part.strip().partition(":")
        if not colon:
            return ERROR, f"{part.strip()!r}: key:value pairs separated by commas, as expandable_segments:True"
        if key == "expandable_segments" and said not in ("True", "False"):
            return ERROR, "expandable_segments: True or False"
        if key == "max_split_size_mb" and not (said.isdecimal() and int(said) > 20):
            return ERROR, "max_split_size_mb: a whole number above 20"
        if key == "garbage_collection_threshold" and not re.fullmatch(r"0?\.\d+", said):
            return ERROR, "garbage_collection_threshold: between 0 and 1"
    return FINE


def processes(value: str, machine: Machine) -> Judgement:
    """WORLD_SIZE: left over from another job it makes the next one wait for processes that never come."""
    launcher = machine.env.get("TORCHELASTIC_RUN_ID") or machine.env.get("ACCELERATE_MIXED_PRECISION")
    if value == "1" or launcher:
        return FINE
    return WARNING, "no launcher set it here: unset WORLD_SIZE and RANK, or the job waits for processes that never come"


def on_cpu(value: str, machine: Machine) -> Judgement:
    return (WARNING, "accelerate takes the CPU whatever is here: unset it") if value.lower() in TRUE else FINE


def _ascending(value: str) -> Judgement:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        return ERROR, "numbers separated by commas, ascending, as 0,1,2"
    numbers = [int(part) for part in parts]
    if numbers != sorted(set(numbers)):
        return ERROR, f"must ascend, each once: {','.join(str(number) for number in sorted(set(numbers)))}"
    return FINE
