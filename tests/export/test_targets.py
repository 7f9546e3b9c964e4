"""What lies under serve/: commands with the right rank, dtype, name and stops, and nothing of this machine."""

from __future__ import annotations

import json
import py_compile
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from finetune.errors import RecipeError
from finetune.export.gotemplate import ollama_template
from finetune.export.rules import ENGINES
from finetune.export.serving import Serving, command, target_files, write_targets
from finetune.export.targets import TARGETS, gguf_file, types_of
from finetune.recipe_export import TargetSection
from tests.data.chats import CONVERSATIONS, template_tokenizer

FORMS = ("merged", "adapter")
PLAIN = [CONVERSATIONS["single"], CONVERSATIONS["system"]]


def serving(**more):
    common = {
        "dtype": "bfloat16", "context": 1280, "stops": ("<|im_end|>",), "rank": 12, "base": "Qwen/Qwen3-8B",
        "revision": "0a1b", "template": ollama_template(template_tokenizer("qwen3"), PLAIN),
    }  # fmt: skip
    return Serving(**(common | more))


def target(engine, form="merged", **more):
    return TargetSection(engine=engine, form=form, **more)


def shell(readme):
    """The arguments of the last command of the README's first block."""
    block = re.search(r"```bash\n(.*?)```", readme, re.DOTALL)[1]
    return shlex.split(block.replace("\\\n", " ").strip().splitlines()[-1])


def test_every_engine_of_a_recipe_has_a_row():
    assert set(TARGETS) == set(ENGINES) == set(TargetSection.model_fields["engine"].annotation.__args__)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_files_of_every_target(engine, form, tmp_path):
    """Both languages, the same commands in each; YAML, JSON and Python parse; nothing is left to fill in."""
    (written := write_targets(tmp_path, "larger", [target(engine, form)], serving(base=str(tmp_path / "base")))).sort()
    folder = tmp_path / "serve" / (engine if form == "merged" else f"{engine}-adapter")
    assert written and all(file.parent == folder for file in written)
    english, chinese = (folder / "README.md").read_text(), (folder / "README.zh-CN.md").read_text()
    blocks = [re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for text in (english, chinese)]
    assert blocks[0] == blocks[1] and blocks[0]
    assert re.search("[一-鿿]", chinese) and not re.search("[一-鿿]", english)
    for file in written:
        text = file.read_text()
        assert str(tmp_path) not in text and "/root" not in text.replace("/root/.", ""), "no path of this machine"
        assert not re.search(r"(?<![$?{])\{[a-z_]+\}", text) or file.name == "run.py", "nothing left to fill in"
    if (folder / "compose.yaml").is_file():
        services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
        (service,) = services.values()
        assert service["image"] == TARGETS[engine].image and ":latest" not in service["image"]
        assert service["ports"][0].startswith(f"127.0.0.1:{TARGETS[engine].port}:")
        assert service["volumes"][0].startswith("../..:/bundle")
        assert all(isinstance(argument, str) for argument in service.get("command", []))
    if (folder / "run.py").is_file():
        py_compile.compile(str(folder / "run.py"), cfile=str(tmp_path / "compiled"), doraise=True)
    server = engine in ("ollama", "mindie") or bool(TARGETS[engine].arguments[form])
    assert (f"finetune verify {TARGETS[engine].api} --bundle . --model " in english) == server


def test_vllm_merged_by_hand():
    files = target_files("larger", target("vllm"), serving())
    assert shell(files["README.md"]) == [
        "vllm", "serve", "$PWD", "--served-model-name", "larger", "--dtype", "bfloat16", "--host", "127.0.0.1",
        "--port", "8000",
    ]  # fmt: skip
    service = yaml.safe_load(files["compose.yaml"])["services"]["vllm"]
    assert service["entrypoint"] + service["command"] == [
        "vllm", "serve", "/bundle", "--served-model-name", "larger", "--dtype", "bfloat16", "--host", "0.0.0.0",
        "--port", "8000",
    ]  # fmt: skip
    devices = service["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]


def test_vllm_with_several_adapters_by_hand():
    """Rank 12 needs --max-lora-rank 16; the base by hub id and commit; each adapter name=folder."""
    adapters = (("larger", "adapter"), ("weather", "adapters/weather"))
    files = target_files("larger", target("vllm", "adapter"), serving(adapters=adapters))
    assert shell(files["README.md"]) == [
        "vllm", "serve", "Qwen/Qwen3-8B", "--revision", "0a1b", "--dtype", "bfloat16", "--enable-lora",
        "--max-lora-rank", "16", "--max-loras", "2", "--lora-modules", "larger=$PWD/adapter",
        "weather=$PWD/adapters/weather", "--chat-template", "adapter/chat_template.jinja", "--host", "127.0.0.1",
        "--port", "8000",
    ]  # fmt: skip
    service = yaml.safe_load(files["compose.yaml"])["services"]["vllm"]
    assert (
        "larger=/bundle/adapter" in service["command"] and "/bundle/adapter/chat_template.jinja" in service["command"]
    )
    assert "${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface" in service["volumes"]
    assert (
        "--chat-template" not in target_files("l", target("vllm", "adapter"), serving(chat_template=False))["README.md"]
    )


def test_a_base_that_is_a_folder_is_the_operators():
    """Its path on this machine is nobody's business: a variable, and the same in the container."""
    files = target_files("larger", target("vllm", "adapter"), serving(base="/data/models/qwen"))
    assert "export BASE=/path/to/base-model\n" in files["README.md"] and '"$BASE"' in files["README.md"]
    assert "--revision" not in files["README.md"]
    service = yaml.safe_load(files["compose.yaml"])["services"]["vllm"]
    assert service["command"][0] == "/base" and "${BASE:?the folder of the base model}:/base:ro" in service["volumes"]


def test_sglang_and_tgi_adapters():
    text = target_files("larger", target("sglang", "adapter"), serving())["README.md"]
    assert '--lora-paths larger="$PWD"/adapter' in text and "--max-lora-rank 16" in text
    assert text.count("--model base:larger") == 1 and "Requests name base:larger" in text
    adapters = (("a", "adapter"), ("b", "adapters/b"))
    words = shell(target_files("larger", target("tgi", "adapter"), serving(adapters=adapters))["README.md"])
    assert words[words.index("--lora-adapters") + 1] == "a=$PWD/adapter,b=$PWD/adapters/b"
    words = shell(target_files("larger", target("tgi"), serving(dtype="float32"))["README.md"])
    assert words[words.index("--dtype") + 1] == "bfloat16", "TGI knows no other than float16 and bfloat16"


def test_llama_cpp_names_its_files():
    """The same names that the converter is given; the first type is in the command, the others in a line."""
    assert types_of("llama.cpp", "merged", ()) == ("f16",) and types_of("llama.cpp", "adapter", ()) == ("f32",)
    assert (
        types_of("ollama", "merged", ("q8_0", "q4_k_m")) == ("q8_0", "q4_k_m") and types_of("vllm", "merged", ()) == ()
    )
    assert gguf_file("larger", "merged", "q8_0") == "serve/llama.cpp/larger-q8_0.gguf"
    assert gguf_file("larger", "adapter", "f32") == "serve/llama.cpp/larger-adapter-f32.gguf"
    files = target_files("larger", target("llama.cpp", types=("q8_0", "f16")), serving())
    assert shell(files["README.md"]) == [
        "llama-server", "-m", "serve/llama.cpp/larger-q8_0.gguf", "--alias", "larger", "--jinja", "-c", "1280", "--host",
        "127.0.0.1", "--port", "8080",
    ]  # fmt: skip
    assert "Also there: f16;" in files["README.md"]
    files = target_files("larger", target("llama.cpp", "adapter"), serving())
    service = yaml.safe_load(files["compose.yaml"])["services"]["llamacpp"]
    assert service["command"][:4] == ["-m", "/base.gguf", "--lora", "/bundle/serve/llama.cpp/larger-adapter-f32.gguf"]
    assert "--chat-template-file /bundle/adapter/chat_template.jinja" in " ".join(service["command"])


def test_the_modelfile_by_hand():
    """One Modelfile a type; TEMPLATE as proven, a stop for each end, greedy as it was scored."""
    done = serving(stops=("<|im_end|>", "<|endoftext|>"))
    files = target_files("larger", target("ollama", types=("q8_0", "q4_k_m")), done)
    assert files["Modelfile"] == (
        "FROM ../llama.cpp/larger-q8_0.gguf\n"
        f'TEMPLATE """{done.template.text}"""\n'
        'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\nPARAMETER num_ctx 1280\n'
        "# as the answers were scored; Ollama's own default is 0.8\nPARAMETER temperature 0\n"
    )
    assert files["Modelfile.q4_k_m"] == files["Modelfile"].replace("q8_0", "q4_k_m")
    assert f"TEMPLATE writes {done.template.proven} prompts exactly" in files["README.md"]
    assert all(limit in files["README.md"] for limit in done.template.limits)
    adapter = target_files("larger", target("ollama", "adapter"), done)["Modelfile"]
    assert "FROM ./base.gguf\nADAPTER ../llama.cpp/larger-adapter-f32.gguf\n" in adapter
    with pytest.raises(RecipeError, match=r"stop 'a\\n' can't be written in a Modelfile"):
        target_files("larger", target("ollama"), serving(stops=("a\n",)))


def test_mindie_keys_by_hand():
    files = target_files("larger.v2", target("mindie", "adapter"), serving())
    deploy = json.loads(files["config.json"])["BackendConfig"]["ModelDeployConfig"]
    assert deploy["maxLoraRank"] == 16 and deploy["maxSeqLen"] == 1280
    assert deploy["LoraModules"] == [{"name": "larger-v2", "path": "/bundle/adapter", "baseModelName": "base"}]
    assert deploy["ModelConfig"][0]["modelWeightPath"] == "/base"
    assert "chmod 640" in files["README.md"] and "chmod 750" in files["README.md"]
    merged = json.loads(target_files("larger", target("mindie"), serving(context=16384))["config.json"])
    assert merged == {
        "ServerConfig": {"httpsEnabled": False},
        "BackendConfig": {
            "modelInstanceNumber": 1, "npuDeviceIds": [[0]],
            "ModelDeployConfig": {
                "maxSeqLen": 16384, "maxInputTokenLen": 16383,
                "ModelConfig": [{"modelName": "larger", "modelWeightPath": "/bundle", "worldSize": 1, "backendType": "atb",
                                 "trustRemoteCode": False}],
            },
            "ScheduleConfig": {"maxPrefillTokens": 16384, "maxIterTimes": 16384},
        },
    }  # fmt: skip


def test_mindie_gets_its_keys(tmp_path):
    """configure.py, run: what MindIE had of its own stays, the first model is filled in; mode 640. A short context: the
    lengths stay within MindIE's limits (maxIterTimes at most maxSeqLen, a prefill no less than a prompt)."""
    for name, text in target_files("larger", target("mindie"), serving(context=256)).items():
        (tmp_path / name).write_text(text)
    model = {"modelName": "llama_65b", "worldSize": 4, "npuMemSize": -1}
    deploy = {"maxSeqLen": 2560, "maxInputTokenLen": 2048, "truncation": 0, "ModelConfig": [model]}
    backend = {"npuDeviceIds": [[0, 1, 2, 3]], "ModelDeployConfig": deploy}
    backend |= {"ScheduleConfig": {"maxPrefillTokens": 8192, "maxIterTimes": 512, "maxBatchSize": 200}}
    own = {"Version": "1.0.0", "ServerConfig": {"port": 1025, "httpsEnabled": True}, "BackendConfig": backend}
    file = tmp_path / "own.json"
    file.write_text(json.dumps(own))
    subprocess.run([sys.executable, str(tmp_path / "configure.py"), str(file)], check=True)
    assert file.stat().st_mode & 0o777 == 0o640
    assert json.loads(file.read_text()) == {
        "Version": "1.0.0",
        "ServerConfig": {"port": 1025, "httpsEnabled": False},
        "BackendConfig": {
            "npuDeviceIds": [[0]], "modelInstanceNumber": 1,
            "ModelDeployConfig": {
                "maxSeqLen": 256, "maxInputTokenLen": 255, "truncation": 0,
                "ModelConfig": [{"modelName": "larger", "worldSize": 1, "npuMemSize": -1, "modelWeightPath": "/bundle",
                                 "backendType": "atb", "trustRemoteCode": False}],
            },
            "ScheduleConfig": {"maxPrefillTokens": 8192, "maxIterTimes": 256, "maxBatchSize": 200},
        },
    }  # fmt: skip


def test_files_of_mindie_are_readable_by_its_user(tmp_path):
    """The README's own commands, run on a bundle with adapters in folders of folders: 640 and 750 everywhere."""
    adapters = (("larger", "adapter"), ("weather", "adapters/weather"))
    for _, folder in adapters:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "adapter_config.json").write_text("{}")
    written = write_targets(tmp_path, "larger", [target("mindie", "adapter")], serving(adapters=adapters))
    block = re.search(r"```bash\n(.*?)```", (written[0].parent / "README.md").read_text(), re.DOTALL)[1]
    lines = [line for line in block.splitlines() if line.startswith(("find", "chown"))]
    assert len(lines) == 3
    subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, check=True)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o640}
    assert {path.stat().st_mode & 0o777 for path in [tmp_path, *tmp_path.rglob("*")] if path.is_dir()} == {0o750}


@pytest.mark.parametrize("engine", ["vllm-ascend", "mindie"])
def test_what_the_readme_says_of_ascend(engine):
    """The dtype of each chip, why the weights are merged and how W8A8 is made of them; what an adapter can't do."""
    merged = target_files("larger", target(engine), serving())
    adapter = target_files("larger", target(engine, "adapter"), serving())
    for text in (merged["README.md"], merged["README.zh-CN.md"], adapter["README.md"], adapter["README.zh-CN.md"]):
        assert all(word in text for word in ("910B", "910C", "310P", "300I Duo", "910A", "bfloat16", "float16"))
    assert (
        "Merged weights are the usual form here" in merged["README.md"]
        and "合并权重为常规形式" in merged["README.zh-CN.md"]
    )
    assert "--save_path ../larger-w8a8 " in merged["README.md"] and "msmodelslim" not in adapter["README.md"]
    assert ("--quantization ascend" in merged["README.md"]) == (engine == "vllm-ascend")
    assert "Else serve the merged model." in adapter["README.md"]


@pytest.mark.parametrize("form", FORMS)
def test_vllm_ascend_serves_sixteen_bits(form):
    for dtype, served in (("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "bfloat16")):
        words = shell(target_files("l", target("vllm-ascend", form), serving(dtype=dtype))["README.md"])
        assert words[words.index("--dtype") + 1] == served


def test_the_npu_of_vllm_ascend():
    service = yaml.safe_load(target_files("l", target("vllm-ascend"), serving())["compose.yaml"])["services"][
        "vllm-ascend"
    ]
    assert service["devices"] == ["/dev/davinci0", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"]
    assert service["image"] == "quay.io/ascend/vllm-ascend:v0.23.0" and "deploy" not in service


def test_what_can_not_stand_in_a_command(tmp_path):
    with pytest.raises(RecipeError) as caught:
        write_targets(tmp_path, "a;b", [target("vllm")], serving(adapters=(("x y", "../other"),)))
    assert [problem.split(": ")[1].split(" ")[0] for problem in caught.value.problems] == ["'a;b'", "'x", "the"]
    with pytest.raises(RecipeError, match="ollama: its TEMPLATE is missing"):
        write_targets(tmp_path, "a", [target("ollama")], serving(template=None))
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_vllm_knows():
    """Each flag stands in vLLM 0.32's or SGLang 0.5.23's own list (read there); a new one must be looked up."""
    from finetune.export.serving import _words

    known = {
        "vllm": {"--served-model-name", "--dtype", "--host", "--port", "--revision", "--enable-lora", "--max-lora-rank",
                 "--max-loras", "--lora-modules", "--chat-template"},
        "sglang": {"--model-path", "--served-model-name", "--dtype", "--host", "--port", "--revision", "--enable-lora",
                   "--lora-paths", "--max-lora-rank", "--max-loras-per-batch", "--chat-template"},
        "tgi": {"--model-id", "--revision", "--dtype", "--lora-adapters", "--hostname", "--port"},
        "llama.cpp": {"-m", "--lora", "--alias", "--jinja", "--chat-template-file", "-c", "--host", "--port"},
    }  # fmt: skip
    for engine, flags in known.items():
        used = set()
        for form in FORMS:
            section = target(engine, form)
            lines = command(section, _words("larger", section, serving()))
            used |= {word for word in shlex.split(" ".join(lines)) if word.startswith("-")}
        assert used == flags, engine
