"""The files under serve/: how to start each engine, in English and Chinese, with nothing of this machine in them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import RecipeError
from finetune.export import ascend, snippets
from finetune.export.adapterfile import next_rank
from finetune.export.gotemplate import GoTemplate
from finetune.export.targets import REWARD_TARGETS, TARGETS, Target, folder_of, gguf_file, types_of
from finetune.recipe_export import TargetSection

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Serving:
    """What the commands need to know of an export.

    Attributes:
        dtype: of the merged model, or the base's for adapters.
        context: longest prompt and answer together, in tokens.
        stops: text of the tokens that end an answer.
        rank: of the adapter; base: the base's hub id, or a path, which is not written anywhere; revision: its commit.
        adapters: (name, folder in the bundle) of the adapters on this base.
        chat_template: whether the adapter's folder has the chat template in a file.
        golden: whether there are golden samples to ask.
        template: Ollama's, where it is a target.
        rewards: names of a reward model's outputs.
        quantised: how the base has to be quantised as it is loaded, to be the one that adapters were trained on; lies:
            the same, or how it lies quantised; trained_in: the dtype that it was loaded in.
    """

    dtype: str
    context: int
    stops: tuple[str, ...]
    rank: int | None = None
    base: str | None = None
    revision: str | None = None
    adapters: tuple[tuple[str, str], ...] = ()
    chat_template: bool = True
    golden: bool = True
    template: GoTemplate | None = None
    rewards: tuple[str, ...] = ()
    quantised: str | None = None
    lies: str | None = None
    trained_in: str = "float32"

    def row(self, engine: str) -> Target:
        """How an engine serves this export."""
        return (REWARD_TARGETS if self.rewards else TARGETS)[engine]


def write_targets(bundle: Path, name: str, targets: Sequence[TargetSection], serving: Serving) -> list[Path]:
    """Writes serve/<engine>/ (adapters: serve/<engine>-adapter/) for every target; GGUF files are not written here.

    Args:
        bundle: the bundle's folder (or its draft).
        name: what clients ask for.

    Returns:
        The files.

    Raises:
        RecipeError: Ollama is a target and its TEMPLATE is missing, or a name can't be put into a command.
    """
    problems = [f"export.targets: {word!r} can't stand in a command; letters, digits and ._- only"
                for word in (name, *(adapter for adapter, _ in serving.adapters))
                if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", word, re.ASCII)]  # fmt: skip
    problems += [f"export.targets: the adapter {folder!r} must lie in the bundle's folder"
                 for _, folder in serving.adapters if not re.fullmatch(r"[\w-][\w./-]*", folder, re.ASCII)
                 or ".." in folder]  # fmt: skip
    if serving.template is None and any(target.engine == "ollama" for target in targets):
        problems.append("export.targets: ollama: its TEMPLATE is missing; see finetune.export.gotemplate")
    if problems:
        raise RecipeError(problems)
    written = []
    for target in targets:
        folder = bundle / "serve" / folder_of(target.engine, target.form)
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in target_files(name, target, serving).items():
            (folder / file).write_text(text, encoding="utf-8")
            written.append(folder / file)
    return written


def target_files(name: str, target: TargetSection, serving: Serving) -> dict[str, str]:
    """File name -> content of one target's folder."""
    row = serving.row(target.engine)
    words = _words(name, target, serving)
    files = {
        "README.md": _readme(row, target, words, serving, 0),
        "README.zh-CN.md": _readme(row, target, words, serving, 1),
    }
    if row.image and _serves(target):
        files["compose.yaml"] = _compose(row, target, words)
    kinds = types_of(target.engine, target.form, target.types)
    if target.engine == "ollama":
        assert serving.template is not None
        for number, kind in enumerate(kinds):
            gguf = gguf_file(name, target.form, kind)
            file = f"Modelfile.{kind}" if number else "Modelfile"
            files[file] = snippets.modelfile(gguf, target.form, serving.template, serving.stops, serving.context)
    if target.engine == "mindie":
        files["config.json"] = json.dumps(snippets.mindie(name, target.form, serving), indent=4) + "\n"
        files["configure.py"] = ascend.CONFIGURE
    run = {
        ("transformers", "adapter"): snippets.PEFT_RUN,
        ("openvino", "adapter"): snippets.OPENVINO_RUN,
        ("onnxruntime", "merged"): snippets.ONNX_RUN,
        ("onnxruntime", "adapter"): snippets.ONNX_RUN,
    }.get((target.engine, target.form))
    if run:
        if target.engine == "transformers":
            run = snippets.peft_run(serving.quantised, serving.trained_in)
        files["run.py"] = run.replace("KIND", words["type"]).replace("FOLDER", words["folder"])
    return files


def command(
    target: TargetSection,
    words: Mapping[str, str],
    here: str = '"$PWD"',
    inside: bool = False,
    row: Target | None = None,
) -> list[str]:
    """The program's arguments, a line each; `inside` a container, the bundle is /bundle and a local base /base."""
    more = dict(words) | {"here": here, "host": "0.0.0.0" if inside else "127.0.0.1"}
    more["inner"] = "80" if inside else words["port"]
    pairs = [pair.split("=", 1) for pair in words["pairs"].split()]
    more["loras"] = " ".join(f"{name}={here}/{folder}" for name, folder in pairs)
    more["commas"] = ",".join(f"{name}={here}/{folder}" for name, folder in pairs)
    if inside and words["base"].startswith('"$'):
        more |= {"base": "/base", "base_gguf": "/base.gguf"}
    for key in ("gguf", "lora", "base_gguf"):
        if inside and not more[key].startswith(('"', "/")):
            more[key] = f"/bundle/{more[key]}"
    if inside:
        more["base_gguf"] = "/base.gguf"
        more["template"] = words["template"].replace(" adapter/", " /bundle/adapter/")
        more["template_file"] = words["template_file"].replace(" adapter/", " /bundle/adapter/")
    lines = [line.format_map(more) for line in (row or TARGETS[target.engine]).arguments[target.form]]
    return [line for line in lines if line]


def _words(name: str, target: TargetSection, serving: Serving) -> dict[str, str]:
    """What the placeholders of a target's commands stand for."""
    kinds = types_of(target.engine, target.form, target.types)
    on_hub = bool(serving.base and HUB_NAME.fullmatch(serving.base) and not Path(serving.base).is_absolute())
    revision = f"--revision {serving.revision}" if on_hub and serving.revision else ""
    folder = next((folder for _, folder in serving.adapters), "adapter")
    chat = f"--chat-template {folder}/chat_template.jinja" if serving.chat_template else ""
    return {
        "name": name,
        "dtype": serving.dtype,
        "half": serving.dtype if serving.dtype in ("float16", "bfloat16") else "bfloat16",
        "rank": str(next_rank(serving.rank or 8)),
        "count": str(max(1, len(serving.adapters))),
        "pairs": " ".join(f"{adapter}={folder}" for adapter, folder in serving.adapters or ((name, "adapter"),)),
        "base": str(serving.base) if on_hub else '"$BASE"',
        "base_gguf": '"$BASE_GGUF"',
        "revision": revision,
        "template": chat,
        "template_file": chat.replace("--chat-template", "--chat-template-file"),
        "quantization": "--quantization bitsandbytes" if serving.quantised == "nf4" else "",
        "context": str(serving.context),
        "type": kinds[0] if kinds else "",
        "gguf": gguf_file(name, "merged", kinds[0]) if kinds else "",
        "lora": gguf_file(name, "adapter", kinds[0]) if kinds else "",
        "folder": folder_of(target.engine, target.form),
        "port": str(TARGETS[target.engine].port),
    }


def _readme(row: Target, target: TargetSection, words: Mapping[str, str], serving: Serving, language: int) -> str:
    """README.md (0) or README.zh-CN.md (1) of one target."""
    say = snippets.WORDS[language]
    lines = [f"# {row.title}: {words['name']} ({say[target.form]})", "", say["where"], ""]
    shell = [line.format_map(words).replace("  ", " ") for line in row.prepare.get(target.form, ())]
    if row.program and row.arguments[target.form]:
        shell.append(" \\\n    ".join([row.program, *command(target, words, row=row)]))
    needed = "\n".join(shell)
    variables = [f"export {key}=/path/to/{what}" for key, what in (("BASE", "base-model"), ("BASE_GGUF", "base.gguf"))
                 if f'"${key}"' in needed]  # fmt: skip
    lines += ["```bash", *variables, *shell, "```", ""]
    if variables:
        lines += [say["base"], ""]
    if row.image and _serves(target):
        lines += [say["compose"], "", "```bash", *snippets.compose_commands(target, words), "```", ""]
    more = types_of(target.engine, target.form, target.types)[1:]
    if more:
        lines += [say["types"].format(types=", ".join(more)), ""]
    if serving.rewards:
        request = json.dumps({"model": words["name"], "messages": say["asked"]}, ensure_ascii=False)
        curl = f"curl {row.api}/classify -H 'Content-Type: application/json' -d '{request}'"
        lines += [say["rewards"].format(names=", ".join(serving.rewards)), "", "```bash", curl, "```", ""]
    elif _serves(target) and serving.golden:
        asked = row.asked[target.form].format_map(words)
        lines += [say["verify"], "", "```bash", f"finetune verify {row.api} --bundle . --model {asked}", "```", ""]
    notes = [note[language].format_map(words) for note in row.notes.get(target.form, ())]
    if target.engine == "ollama" and serving.template:
        notes += [say["proven"].format(count=serving.template.proven), *serving.template.limits]
    if serving.lies and target.form == "adapter":
        notes.insert(0, say["quantised"].format(how=serving.lies))
    notes.append(f"{say['version']} {row.version}. {row.evidence[language]}")
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def _compose(row: Target, target: TargetSection, words: Mapping[str, str]) -> str:
    """compose.yaml; relative paths in it start from its own folder."""
    arguments = shlex.split(" ".join(command(target, words, "/bundle", inside=True, row=row)))
    extra: dict[str, Any] = dict(row.compose)
    volumes = ["../..:/bundle:ro"]
    text = " ".join(arguments)
    if "/base.gguf" in text:
        volumes.append("${BASE_GGUF:?the base's GGUF file}:/base.gguf:ro")
    if "/base " in f"{text} ":
        volumes.append("${BASE:?the folder of the base model}:/base:ro")
    elif words["base"] in arguments:
        volumes.append("${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface")
    if target.engine == "ollama":
        volumes.append("ollama:/root/.ollama")
    if target.engine == "openvino":
        volumes = ["../..:/bundle"]  # the server writes its graph beside the model
    inner = 80 if target.engine == "tgi" else row.port
    service: dict[str, Any] = {"image": row.image}
    if arguments:
        service["entrypoint"] = (row.entrypoint or row.program).split()
        service["command"] = arguments
    service |= {"ports": [f"127.0.0.1:{row.port}:{inner}"], "volumes": [*volumes, *extra.pop("volumes", ())]} | extra
    whole: dict[str, Any] = {"services": {target.engine.replace(".", ""): service}}
    if target.engine == "ollama":
        whole["volumes"] = {"ollama": {}}
    header = f"# in the bundle's folder: docker compose -f serve/{words['folder']}/compose.yaml up\n"
    return header + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)


def _serves(target: TargetSection) -> bool:
    """Whether this form of the engine is a server."""
    return bool(TARGETS[target.engine].arguments[target.form]) or target.engine in ("ollama", "mindie")
