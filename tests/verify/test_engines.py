"""verify against real engines serving SmolLM2-135M-Instruct: llama.cpp's server, and transformers' where installed."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from finetune.commands import command_parser
from finetune.data.chat import ChatEncoder
from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.errors import GateError
from finetune.verify.command import verify_command
from finetune.verify.golden import FACTS, SAMPLES, make_facts, make_golden, read_golden, write_facts, write_golden
from tests.serving.battery import SMOLLM2
from tests.verify.conftest import Said, write_manifest

pytestmark = pytest.mark.slow
QUESTIONS = [
    "What is the capital of France?", "Name 3 fruits, numbered.", "What is 2 + 2?", "Write the word 'rain' 3 times.",
    "Is the sun a star? Answer yes or no.", "Translate 'good morning' into Spanish.", "What colour is grass?",
    "Give JSON with the keys a and b, both 1.",
]  # fmt: skip
LIMIT = 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The dequantised model in float32 with its own golden samples."""
    from finetune.model.gguf_base import load_gguf
    from finetune.model.load import Source, load_tokenizer, locate

    folder = tmp_path_factory.mktemp("smollm2")
    tokenizer = load_tokenizer(SMOLLM2)
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = load_gguf(Source(locate(SMOLLM2)), SMOLLM2.gguf_file, tokenizer, options).eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = 2
    encoder = ChatEncoder(tokenizer)
    prompts, answers, logprobs = [], [], []
    for question in QUESTIONS:
        prompts.append(encoder.encode_prompt([{"role": "user", "content": question}]))
        ids = torch.tensor([prompts[-1]])
        out = model.generate(
            ids, max_new_tokens=LIMIT, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        tokens = out.sequences[0, ids.shape[1] :].tolist()
        finished = tokens[-1] == 2
        tokens = tokens[:-1] if finished else tokens
        answers.append(Said(tokenizer.decode(tokens).strip(), finished, tuple(tokens)))
        logprobs.append([float(s[0].log_softmax(-1)[t]) for s, t in zip(out.logits, tokens, strict=False)])
    samples = [
        Sample({}, ({"role": "user", "content": q}, {"role": "assistant", "content": a.text}), f"questions:{n}")
        for n, (q, a) in enumerate(zip(QUESTIONS, answers, strict=True), 1)
    ]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    goldens = make_golden(samples, prompts, answers, {"": Metric(name="exact_match")}, None, logprobs)
    write_golden(folder / SAMPLES, goldens)
    write_facts(folder / FACTS, make_facts("smollm2", {"name_or_path": "SmolLM2"}, encoder, [2], "float32", LIMIT))
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def float_gguf(tmp_path_factory) -> Path:
    """The package's Q4_1 file with every weight dequantised to float32: the very weights of `bundle`."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    from finetune.model.load import locate

    reader = GGUFReader(str(Path(locate(SMOLLM2)) / str(SMOLLM2.gguf_file)))
    file = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    writer = GGUFWriter(str(file), "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def llama_server(file: Path, template: str = ""):
    """llama.cpp's own HTTP server, inside this process."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 1024, 1, 0
    settings.warmup, settings.fit_params, settings.verbosity = False, False, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if template:
        settings.chat_template = template
    return xllamacpp.Server(settings)


def verified(url: str, bundle: Path, tmp_path: Path, *more: str) -> dict[str, dict[str, str]]:
    """The checks of the report by name."""
    file = tmp_path / "report.json"
    try:
        verify_command(
            command_parser().parse_args(["verify", url, "--bundle", str(bundle), "--json", str(file), *more])
        )
    except GateError as error:
        print(error)
    return {check["name"]: check for check in json.loads(file.read_text())["checks"]}


def failed(checks: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, check in checks.items() if check["status"] == "fail"]


def test_llama_server_in_float32(bundle, float_gguf, tmp_path):
    """The same weights in another engine: same ids for prompts and probes, every answer to the letter."""
    server = llama_server(float_gguf)
    checks = verified(server.listening_address, bundle, tmp_path, "--exact", "1")
    assert {name: check["status"] for name, check in checks.items() if check["status"] != "pass"} == {
        "effect": "unknown"
    }
    assert "18 of 18 conversations have the trained token ids" in checks["template"]["message"]
    assert "8 of 8 to the letter" in checks["answers"]["message"]
    gap = float(checks["model"]["message"].split("log-probabilities ")[1].split()[0])
    assert gap < 1e-3


def test_llama_server_with_another_template(bundle, float_gguf, tmp_path):
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    server = llama_server(float_gguf, chatml)  # without SmolLM2's own system message
    checks = verified(server.listening_address, bundle, tmp_path)
    assert failed(checks) == ["template", "answers"]
    assert "17 of 18 conversations have other token ids" in checks["template"]["message"]  # one has a system message
    assert "8 of 8 golden answers" in checks["model"]["message"]


def test_llama_server_quantised(bundle, tmp_path):
    """The Q4_1 file itself computes otherwise: same prompts, still the same model, answers outside the default limits."""
    from finetune.model.load import locate

    server = llama_server(Path(locate(SMOLLM2)) / str(SMOLLM2.gguf_file))
    checks = verified(server.listening_address, bundle, tmp_path)
    assert failed(checks) == ["answers"]
    assert (
        failed(verified(server.listening_address, bundle, tmp_path, "--tolerance", "1", "--divergence", "0.15")) == []
    )


@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="pip install 'transformers[serving]'")
def test_transformers_serve(bundle, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--device", "cpu", "--dtype", "float32"], **quiet)
    try:
        _wait(f"http://127.0.0.1:{port}/health")
        checks = verified(f"http://127.0.0.1:{port}/v1", bundle, tmp_path, "--model", str(bundle), "--exact", "1")
    finally:
        process.terminate()
        process.wait(30)
    assert failed(checks) == []
    assert checks["tokenizer"]["status"] == "unknown"
    assert "as many tokens as in training" in checks["template"]["message"]
    assert len(read_golden(bundle / SAMPLES)) == 8


def _wait(url: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no server at {url}")
