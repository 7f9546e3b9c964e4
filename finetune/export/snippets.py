"""Texts of the serve/ folder: Ollama's Modelfile, MindIE's keys, small programs, the words of the READMEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.export.adapterfile import next_rank
from finetune.export.gotemplate import GoTemplate
from finetune.recipe_export import TargetSection

if TYPE_CHECKING:
    from finetune.export.serving import Serving

WORDS: tuple[Mapping[str, Any], Mapping[str, Any]] = (
    {
        "merged": "merged model", "adapter": "adapter on its base",
        "where": "Run in the bundle's folder (the one with MANIFEST.json).",
        "base": "`BASE` is the folder, `BASE_GGUF` the GGUF file, of the very base that MANIFEST.json names with sha256.",
        "compose": "In a container:",
        "types": "Also there: {types}; put the type into the file names above.",
        "verify": "Then ask the running server the golden samples: same prompt, same answers, right stop.",
        "rewards": "Then ask for the rewards of a conversation ({names}):",
        "asked": [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}],
        "proven": "TEMPLATE writes {count} prompts exactly as the chat template does, compared when this was exported.",
        "quantised": "The adapter was trained on this base in {how}: on the base in full precision, or in other bits, it is "
                     "another model. MANIFEST.json has the settings.",
        "version": "Written for",
    },
    {
        "merged": "合并模型", "adapter": "基座加适配器",
        "where": "在发布包目录（含 MANIFEST.json）中运行。",
        "base": "`BASE` 为基座目录，`BASE_GGUF` 为基座的 GGUF 文件；须与 MANIFEST.json 所记 sha256 的基座一致。",
        "compose": "在容器中：",
        "types": "另有：{types}；将上面文件名中的类型替换即可。",
        "verify": "随后用黄金样本核对运行中的服务：提示一致、回答一致、结束符正确。",
        "rewards": "随后询问一段对话的奖励（{names}）：",
        "asked": [{"role": "user", "content": "问题"}, {"role": "assistant", "content": "回答"}],
        "proven": "TEMPLATE 与对话模板逐字相同：导出时比对了 {count} 个提示。",
        "quantised": "该适配器在 {how} 形式的基座上训练：换成全精度或其他位数的基座就是另一个模型。设置见 MANIFEST.json。",
        "version": "适用版本",
    },
)  # fmt: skip

PEFT_RUN = '''"""One question to the base with its adapter: python serve/FOLDER/run.py "question" (in the bundle's folder)."""

import sys
from pathlib import Path

from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("adapter")
model = AutoPeftModelForCausalLM.from_pretrained("adapter", device_map="auto").eval()
if Path("adapter/generation_config.json").is_file():  # where training ended its answers
    model.generation_config.eos_token_id = GenerationConfig.from_pretrained("adapter").eos_token_id
chat = [{"role": "user", "content": sys.argv[1] if len(sys.argv) > 1 else "Hello"}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids.to(model.device), max_new_tokens=256, do_sample=False)
print(tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
'''

# Of a base that is quantised as it is loaded: what to import, and what to load it with (model/quantise.py).
QUANTISED_RUN = {
    "nf4": ("from transformers import AutoTokenizer, BitsAndBytesConfig",
            'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
            "bnb_4bit_compute_dtype=torch.DTYPE)"),
    "int8": ("from transformers import AutoTokenizer, BitsAndBytesConfig", "BitsAndBytesConfig(load_in_8bit=True)"),
    "int8_weight_only": ("from torchao.quantization import Int8WeightOnlyConfig\n"
                         "from transformers import AutoTokenizer, TorchAoConfig", "TorchAoConfig(Int8WeightOnlyConfig())"),
    "int4_weight_only": ("from torchao.quantization import IntxWeightOnlyConfig\n"
                         "from torchao.quantization.granularity import PerGroup\n"
                         "from transformers import AutoTokenizer, TorchAoConfig",
                         "TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))"),
}  # fmt: skip


def peft_run(quantised: str | None, dtype: str) -> str:
    """PEFT_RUN, for a base that was quantised as it was loaded for training: loaded so again."""
    if quantised is None:
        return PEFT_RUN
    imports, config = QUANTISED_RUN[quantised]
    loaded = f"dtype=torch.{dtype}, quantization_config=base"
    return (
        PEFT_RUN.replace("from transformers import AutoTokenizer, GenerationConfig\n", f"{imports}, GenerationConfig\n")
        .replace("from peft import", "import torch\nfrom peft import")
        .replace("model = Auto", f"base = {config.replace('DTYPE', dtype)}  # as in training\nmodel = Auto")
        .replace('device_map="auto"', f'device_map="auto", {loaded}')
    )


OPENVINO_RUN = '''"""One question to the base with its adapter: python serve/FOLDER/run.py "question" (in the bundle's folder)."""

import sys

import numpy
import openvino
import openvino_genai
from transformers import AutoTokenizer

# transformers' tokenizer, as in training: OpenVINO's translation of it may give other ids
tokenizer = AutoTokenizer.from_pretrained("adapter")
# Only the tensors are read; alpha is the whole scale, which is 1 as the adapter is canonical.
adapters = openvino_genai.AdapterConfig()
adapters.add(openvino_genai.Adapter("adapter/adapter_model.safetensors"), 1.0)
pipeline = openvino_genai.LLMPipeline("serve/FOLDER/model-KIND", "CPU", adapters=adapters)
chat = [{"role": "user", "content": sys.argv[1] if len(sys.argv) > 1 else "Hello"}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
answer = pipeline.generate(openvino.Tensor(numpy.array([ids])), max_new_tokens=256, do_sample=False)
print(tokenizer.decode(answer.tokens[0], skip_special_tokens=True))
'''

ONNX_RUN = '''"""One question: python serve/FOLDER/run.py "question" (in the bundle's folder)."""

import sys
from pathlib import Path

import onnxruntime_genai
from transformers import AutoTokenizer

# transformers' tokenizer, as in training: the builder's own translation may give other ids
tokenizer = AutoTokenizer.from_pretrained("." if Path("tokenizer.json").is_file() else "adapter")
model = onnxruntime_genai.Model("serve/FOLDER/model-KIND")
chat = [{"role": "user", "content": sys.argv[1] if len(sys.argv) > 1 else "Hello"}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
options = onnxruntime_genai.GeneratorParams(model)
options.set_search_options(max_length=len(ids) + 256, do_sample=False)
generator = onnxruntime_genai.Generator(model, options)
generator.append_tokens(ids)
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(list(generator.get_sequence(0))[len(ids) :], skip_special_tokens=True))
'''


def modelfile(gguf: str, form: str, template: GoTemplate, stops: Sequence[str], context: int) -> str:
    """Ollama's Modelfile; paths in it start from its own folder.

    Raises:
        RecipeError: a stop can't be written in it.
    """
    odd = [stop for stop in stops if '"' in stop or not stop.isprintable()]
    if odd:
        raise RecipeError(f"ollama: the stop {odd[0]!r} can't be written in a Modelfile")
    models = [f"FROM ../llama.cpp/{gguf.rpartition('/')[2]}"]
    if form == "adapter":
        models = ["# base.gguf: the base that MANIFEST.json names, as GGUF", "FROM ./base.gguf",
                  f"ADAPTER ../llama.cpp/{gguf.rpartition('/')[2]}"]  # fmt: skip
    return "\n".join([
        *models,
        f'TEMPLATE """{template.text}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        f"PARAMETER num_ctx {context}",
        "# as the answers were scored; Ollama's own default is 0.8",
        "PARAMETER temperature 0",
        "",
    ])  # fmt: skip


def mindie(name: str, form: str, serving: Serving) -> dict[str, Any]:
    """The keys of MindIE's config.json that an operator changes; the bundle is mounted at /bundle."""
    served = name.strip("-._")
    model = {
        "modelName": served if form == "merged" else "base", "modelWeightPath": "/bundle" if form == "merged" else "/base",
        "worldSize": 1, "backendType": "atb", "trustRemoteCode": False,
    }  # fmt: skip
    deploy: dict[str, Any] = {
        "maxSeqLen": serving.context, "maxInputTokenLen": serving.context - 1, "ModelConfig": [model],
    }  # fmt: skip
    if form == "adapter":
        adapters = serving.adapters or ((name, "adapter"),)
        deploy |= {
            "maxLoras": len(adapters), "maxLoraRank": next_rank(serving.rank or 8),
            "LoraModules": [{"name": adapter.replace(".", "-").strip("-_"), "path": f"/bundle/{folder}",
                             "baseModelName": "base"} for adapter, folder in adapters],
        }  # fmt: skip
    return {
        "ServerConfig": {"httpsEnabled": False},
        "BackendConfig": {
            "modelInstanceNumber": 1, "npuDeviceIds": [[0]], "ModelDeployConfig": deploy,
            # Its own 512 would cut answers, and may not be more than maxSeqLen; a prompt must fit into a prefill.
            "ScheduleConfig": {"maxPrefillTokens": max(8192, serving.context), "maxIterTimes": serving.context},
        },
    }  # fmt: skip


def compose_commands(target: TargetSection, words: Mapping[str, str]) -> list[str]:
    """What starts the container, and what Ollama and OpenVINO need beside."""
    file = f"serve/{words['folder']}/compose.yaml"
    if target.engine == "ollama":
        more = ['cp "$BASE_GGUF" serve/ollama-adapter/base.gguf'] if target.form == "adapter" else []
        create = f"ollama create {words['name']} -f /bundle/serve/{words['folder']}/Modelfile"
        return [*more, f"docker compose -f {file} up -d", f"docker compose -f {file} exec ollama {create}"]
    return [f"docker compose -f {file} up"]
