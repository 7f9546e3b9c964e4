"""Environment variables: values that make sense, values that do not, and values that are nobody's business."""

from __future__ import annotations

import pytest

from finetune.doctor.variables import VARIABLES, check_variables
from tests.doctor.recorded_machine import Recorded, ask


def said(env: dict[str, str], **changes: object) -> list[tuple[str, str, str]]:
    found = check_variables(Recorded(env=env, **changes))  # type: ignore[arg-type]
    return [(line.status, line.what, line.remedy) for line in found]


def test_secrets_are_never_shown(capsys):
    """Neither in the lines nor in the JSON, and no password in an address."""
    secret = "hf_abcdefgh12345678"
    env = {
        "HF_TOKEN": secret, "WANDB_API_KEY": secret, "HTTPS_PROXY": f"http://me:{secret}@proxy:8080",
        "HF_ENDPOINT": f"https://me:{secret}@mirror.example/hf", "MODELSCOPE_API_TOKEN": "",
    }  # fmt: skip
    assert said(env) == [
        ("ok", "https://...@mirror.example/hf: where bases are downloaded from", ""),
        ("ok", "set: who asks the Hugging Face hub", ""),
        ("ok", "set, but empty: who asks ModelScope", ""),
        ("ok", "set: who writes to Weights & Biases", ""),
        ("ok", "set: downloads go through a proxy", ""),
    ]
    for target in (None, "-"):
        assert ask(Recorded(env=env), json_file=target) == 0
        assert secret not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value", "status", "remedy"), [
    ("ASCEND_RT_VISIBLE_DEVICES", "0,1,2", "ok", ""),
    ("ASCEND_RT_VISIBLE_DEVICES", "1,0", "error", "must ascend, each once: 0,1"),
    ("ASCEND_RT_VISIBLE_DEVICES", "0,0", "error", "must ascend, each once: 0"),
    ("ASCEND_RT_VISIBLE_DEVICES", "npu:0", "error", "numbers separated by commas, ascending, as 0,1,2"),
    ("ASCEND_RT_VISIBLE_DEVICES", "", "warning", "it is empty and hides every NPU: unset it"),
    ("ASCEND_LAUNCH_BLOCKING", "1", "warning", "for finding faults: unset it for a real run"),
    ("ASCEND_LAUNCH_BLOCKING", "0", "ok", ""),
    ("TASK_QUEUE_ENABLE", "2", "ok", ""),
    ("TASK_QUEUE_ENABLE", "0", "warning", "the queue is off, which is slow: 1 or 2"),
    ("TASK_QUEUE_ENABLE", "3", "error", "allowed: 1, 2"),
    ("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:64", "ok", ""),
    ("PYTORCH_NPU_ALLOC_CONF", "roundup_power2_divisions:[256:1,512:2,>:8]", "ok", ""),
    ("PYTORCH_NPU_ALLOC_CONF", "expandable_segments=True", "error",
     "'expandable_segments=True': key:value pairs separated by commas, as expandable_segments:True"),
    ("PYTORCH_ALLOC_CONF", "max_split_size_mb:20", "error", "max_split_size_mb: a whole number above 20"),
    ("PYTORCH_CUDA_ALLOC_CONF", "garbage_collection_threshold:80", "error", "garbage_collection_threshold: between 0 and 1"),
    ("HCCL_CONNECT_TIMEOUT", "600", "ok", ""),
    ("HCCL_CONNECT_TIMEOUT", "60", "error", "a whole number of seconds from 120 to 7200"),
    ("HCCL_BUFFSIZE", "200MB", "error", "a whole number of MiB from 1 to 1048576"),
    ("HCCL_DETERMINISTIC", "TRUE", "ok", ""),
    ("TORCH_DEVICE_BACKEND_AUTOLOAD", "0", "ok", ""),
    ("TORCH_DEVICE_BACKEND_AUTOLOAD", "off", "error", "allowed: 0, 1"),
    ("CUDA_VISIBLE_DEVICES", "0,GPU-8932f937-d72c", "ok", ""),
    ("CUDA_VISIBLE_DEVICES", "", "warning", "it hides every GPU: unset it, unless that is meant"),
    ("CUDA_VISIBLE_DEVICES", "cuda:0", "error", "'cuda:0' is no device: numbers or GPU-... separated by commas"),
    ("CUDA_VISIBLE_DEVICES", "1,1", "error", "a device is named twice"),
    ("NCCL_P2P_DISABLE", "1", "warning", "slow; only for machines whose GPUs can't reach each other"),
    ("HF_ENDPOINT", "hf-mirror.com", "error", "an address is needed, as https://hf-mirror.com"),
    ("HF_ENDPOINT", "https://hf-mirror.com", "ok", ""),
    ("OMP_NUM_THREADS", "8", "ok", ""),
    ("OMP_NUM_THREADS", "64", "warning", "this process may use 8 cores: set at most that, shared among the processes"),
    ("OMP_NUM_THREADS", "all", "error", "a whole number from 1 on"),
    ("ACCELERATE_USE_CPU", "true", "warning", "accelerate takes the CPU whatever is here: unset it"),
    ("WORLD_SIZE", "8", "warning",
     "no launcher set it here: unset WORLD_SIZE and RANK, or the job waits for processes that never come"),
])  # fmt: skip
def test_one_variable(name, value, status, remedy):
    known = next(variable for variable in VARIABLES if variable.name == name)
    assert said({name: value}) == [(status, f"{value or 'empty'}: {known.does}", remedy)]


def test_variables_that_depend_on_others():
    both = said(
        {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    )
    assert [line[0] for line in both] == ["error", "ok"]
    assert both[0][2] == "PYTORCH_ALLOC_CONF is set too, and torch-npu takes one of them only: unset one"
    times = said({"HCCL_EXEC_TIMEOUT": "1800", "HCCL_EVENT_TIMEOUT": "1800"})
    assert times[1][2] == "must be greater than HCCL_EXEC_TIMEOUT (1800)"
    assert [line[0] for line in said({"HCCL_EXEC_TIMEOUT": "1800", "HCCL_EVENT_TIMEOUT": "0"})] == ["ok", "ok"]
    assert said({"WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"})[0][0] == "ok"


def test_network_interfaces():
    net = ["/sys/class/net/lo", "/sys/class/net/eth0"]
    assert said({"HCCL_SOCKET_IFNAME": "eth"}, there=net)[0][0] == "ok"
    assert said({"NCCL_SOCKET_IFNAME": "^docker,lo"}, there=net)[0][0] == "ok"
    assert said({"NCCL_SOCKET_IFNAME": "=ib0"}, there=net)[0][2] == "no such network interface; here: eth0, lo"


def test_nothing_set():
    assert said({}) == [("ok", "no variable that matters is set", "")]
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
