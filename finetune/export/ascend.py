"""What the serve READMEs say of the two engines on Ascend: chips, files, and why the weights are merged.

Read, not run: vllm-ascend of 22 Aug 2026 (quick start, LoRA and quantisation guides, lora/punica_npu.py), MindIE-LLM of
23 April 2026 (service parameters, Multi-LoRA, atb_llm/utils/file_utils.py, the Qwen README), msmodelslim of 2 July 2026.
"""

from __future__ import annotations

# vllm-ascend's quick start, Atlas A2.
NPU = {
    "devices": ["/dev/davinci0", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"],
    "volumes": [
        "/usr/local/dcmi:/usr/local/dcmi:ro", "/usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro",
        "/usr/local/Ascend/driver/lib64/:/usr/local/Ascend/driver/lib64/:ro",
        "/usr/local/Ascend/driver/version.info:/usr/local/Ascend/driver/version.info:ro",
        "/etc/ascend_install.info:/etc/ascend_install.info:ro",
    ],
}  # fmt: skip

# The graph mode that the 300I Duo lacks; braces are doubled, as these texts go through str.format.
_NO_GRAPH = """--additional-config '{{"ascend_compilation_config": {{"enable_npugraph_ex": false}}}}'"""
_QUANT = "msmodelslim quant --model_path . --save_path ../{name}-w8a8 --device npu --model_type"

VLLM = (
    (
        "Which chip: 910B (Atlas A2), bfloat16, one device. 910C (A3): the image's -a3 tag and both devices of a card, "
        "/dev/davinci0 and /dev/davinci1; bfloat16. 310P (Atlas 300I Duo) has no bfloat16: the -310p tag, --dtype float16 "
        f"and {_NO_GRAPH}. 910A is not on its list.",
        "按芯片：910B（Atlas A2）用 bfloat16，单卡即可。910C（A3）用 -a3 镜像，并映射一张卡的两个设备 /dev/davinci0 与 "
        "/dev/davinci1，bfloat16。310P（Atlas 300I Duo）不支持 bfloat16：用 -310p 镜像、--dtype float16，并加 "
        f"{_NO_GRAPH}。910A 不在其支持列表中。",
    ),
    (
        "It runs in an environment of its own, not in that of training: torch 2.10 and CANN 9.1 go together.",
        "须用独立环境，不可与训练环境共用：torch 2.10 配 CANN 9.1。",
    ),
)
VLLM_MERGED = (
    (
        "Merged weights are the usual form here: they run with everything that the engine has (quantisation, graphs, expert "
        "parallelism), at the speed of the base.",
        "此处以合并权重为常规形式：引擎的全部功能（量化、图模式、专家并行）均可使用，速度与基座相同。",
    ),
    (
        f"W8A8: {_QUANT} MODEL --quant_type w8a8 reads these merged weights, in float16 or bfloat16 (no adapters); serve its "
        "folder with --quantization ascend, and run finetune verify against it, as its answers are others.",
        f"W8A8 量化：{_QUANT} 模型名 --quant_type w8a8，其输入即此合并后的 float16 或 bfloat16 权重（不接受适配器）；"
        "以 --quantization ascend 服务其输出目录，并用 finetune verify 核对，因为回答会有变化。",
    ),
)
VLLM_ADAPTER = (
    (
        "Adapters run unquantised or with W8A8 dynamic; from rank 128 on, and on the 300I Duo at any rank, by plain torch "
        "operators, which are slower; adapters of experts neither quantised nor expert-parallel. Else serve the merged model.",
        "适配器支持非量化或 W8A8 动态量化；秩达 128 起（300I Duo 上任何秩）改用较慢的普通 torch 算子；"
        "专家层的适配器不支持量化与专家并行。否则请服务合并模型。",
    ),
)

MINDIE_START = (
    "find . -type d -exec chmod 750 {{}} +",
    "find . -type f -exec chmod 640 {{}} +",
    "chown -R $(id -u):$(id -g) .   # the user that starts MindIE",
    "python3 serve/{folder}/configure.py $MINDIE/conf/config.json   # MINDIE: its folder mindie_llm",
    "mindie_llm_server",
)
MINDIE = (
    (
        "Which chip: the dtype is torch_dtype of the weights' config.json (merged: export.dtype; an adapter: its base's): "
        "bfloat16 for 910B and 910C (Atlas A2, A3; Qwen2 and Qwen2.5 run there in nothing else), float16 for 310P (300I Duo), "
        "which has no bfloat16. 910A is not on its list.",
        "按芯片：精度取自权重目录 config.json 的 torch_dtype（合并权重即 export.dtype，适配器则为其基座的）：910B、910C（Atlas "
        "A2、A3）用 bfloat16（Qwen2 与 Qwen2.5 在其上仅支持 bfloat16），310P（300I Duo）不支持 bfloat16，用 float16。"
        "910A 不在其支持列表中。",
    ),
    (
        "Run it in the container, with the bundle mounted at /bundle and an adapter's base at /base; image and docker run: "
        "MindIE's quick start. configure.py puts the keys of serve/{folder}/config.json into MindIE's own (mode 640): paths, "
        "lengths, one device (npuDeviceIds and worldSize for more), no TLS on 127.0.0.1.",
        "在容器内运行，发布包挂载到 /bundle，适配器的基座挂载到 /base；镜像与 docker run 见 MindIE 快速入门。configure.py "
        "将 serve/{folder}/config.json 中的键写入 MindIE 自身的配置（权限 640）：路径、长度、单卡（多卡改 npuDeviceIds 与 "
        "worldSize）、127.0.0.1 上不启用 TLS。",
    ),
    (
        "Files must be real (no links), owned by the user (or its group) that runs MindIE and not writable by others; paths "
        "of 0-9 a-z A-Z _ . / - only; at most 1024 files in a folder. Folders need the x bit, so never chmod -R 640.",
        "文件须为真实文件（非链接），属主（或属组）为运行 MindIE 的用户，其他用户不可写；路径仅可含 0-9 a-z A-Z _ . / -；"
        "每个目录至多 1024 个文件。目录需要 x 权限，切勿 chmod -R 640。",
    ),
)
MINDIE_MERGED = (
    (
        "Merged weights are the usual form here: adapters are for a few models only, and not with quantisation or prefix "
        "cache.",
        "此处以合并权重为常规形式：适配器仅支持少数模型，且不能与量化、前缀缓存同时使用。",
    ),
    (
        f"W8A8: {_QUANT} MODEL --quant_type w8a8 reads these merged weights, in float16 or bfloat16 (no adapters); "
        "modelWeightPath is then its folder, with the same modes. Run finetune verify against it, as its answers are others.",
        f"W8A8 量化：{_QUANT} 模型名 --quant_type w8a8，其输入即此合并后的 float16 或 bfloat16 权重（不接受适配器）；"
        "随后 modelWeightPath 指向其输出目录，权限要求相同。请用 finetune verify 核对，因为回答会有变化。",
    ),
)
MINDIE_ADAPTER = (
    (
        "The base at /base is yours: its config.json needs torch_dtype, vocab_size and, where transformers 5 wrote it, "
        "rope_theta beside rope_parameters; without rope_theta 10000 is taken.",
        "/base 处的基座需自备：其 config.json 须有 torch_dtype、vocab_size；若由 transformers 5 写出，还须在 rope_parameters 之外"
        "有 rope_theta，否则按 10000 计算。",
    ),
    (
        "Adapters: Qwen2.5 7B to 72B, Qwen2-72B, Qwen3-32B, Llama 3.1 8B and 70B; linear layers; about ten; not with "
        "quantisation, prefix cache, split fuse, asynchronous scheduling or speculation. Else serve the merged model.",
        "适配器：仅 Qwen2.5 7B 至 72B、Qwen2-72B、Qwen3-32B、Llama 3.1 8B 与 70B；线性层；约十个以内；不能与量化、"
        "前缀缓存、SplitFuse、异步调度、投机推理同时使用。否则请服务合并模型。",
    ),
)

# Python of the container's: the standard library only.
CONFIGURE = '''"""Puts the keys of config.json beside this file into MindIE's: python3 configure.py MINDIE/conf/config.json"""

import json
import sys
from pathlib import Path


def put(keys, into):
    """Sections go down, everything else is replaced; the first model is a section."""
    for key, value in keys.items():
        if isinstance(value, dict):
            put(value, into.setdefault(key, {}))
        elif key == "ModelConfig" and into.get(key):
            put(value[0], into[key][0])
        else:
            into[key] = value


file = Path(sys.argv[1])
config = json.loads(file.read_text())
put(json.loads((Path(__file__).parent / "config.json").read_text()), config)
file.write_text(json.dumps(config, indent=4) + chr(10))
file.chmod(0o640)
'''
