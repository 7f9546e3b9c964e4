"""GGUF conversion without llama.cpp: what is refused, what a converter's failure reads like, what reading back catches.

A stand-in for convert_hf_to_gguf.py plays the converter; the real one runs in tests/serving.
"""

from __future__ import annotations

import errno
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.errors import GateError, RecipeError
from finetune.export import gguf
from finetune.export.gguf import available, convert, convert_adapter

# Writes what a converter would, from options at its top; {lines} runs first.
STAND_IN = """
import argparse, json, sys
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("model"); parser.add_argument("--outtype"); parser.add_argument("--outfile")
parser.add_argument("--model-name")
asked = parser.parse_args()
eos, layers, template, kind = 257, 2, (Path(asked.model) / "chat_template.jinja").read_text(), asked.outtype
{lines}
import gguf, numpy
writer = gguf.GGUFWriter(asked.outfile, "llama")
writer.add_file_type({{"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}}[kind])
writer.add_block_count(layers); writer.add_eos_token_id(eos); writer.add_chat_template(template)
writer.add_tokenizer_pre("gpt-2"); writer.add_token_list([str(i) for i in range(258)])
for name in ["token_embd.weight", *(f"blk.{{i}}.attn_norm.weight" for i in range(layers))]:
    writer.add_tensor(name, numpy.zeros(32, dtype=numpy.float32))
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
"""


@pytest.fixture
def converter(tmp_path):
    """A function: a converter's folder whose script runs these lines before it writes."""

    def make(lines: str = "") -> Path:
        folder = tmp_path / "converter"
        folder.mkdir(exist_ok=True)
        for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
            (folder / name).write_text(STAND_IN.format(lines=lines), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def nothing_on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_what_is_missing_is_named_with_the_fix(converter, nothing_on_path, tmp_path, monkeypatch):
    assert available(None) == (
        "GGUF: convert_hf_to_gguf.py is not on PATH, and no `converter:` names its folder; "
        "scripts/get_llama_cpp_converters.sh fetches llama.cpp's; then set `converter: .converters`"
    )
    assert available(tmp_path) == f"GGUF: convert_hf_to_gguf.py is not in {tmp_path}; {gguf.GET}"
    folder = converter()
    assert available(folder, ["f32", "f16", "bf16", "q8_0"]) is None
    assert available(folder, ["q8_1"]) == "GGUF: no type 'q8_1'; did you mean 'q8_0'?"
    assert available(folder, ["f16", "q4_k_m"]) == (
        "GGUF: q4_k_m needs llama.cpp's program llama-quantize on PATH or in the converter's folder; "
        "install llama.cpp, or take one of f32, f16, q8_0, bf16"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sentencepiece" else object())
    assert available(folder) == "GGUF: the converter needs sentencepiece; pip install 'finetune[gguf]'"


def test_the_converter_on_path_is_found(converter, monkeypatch, tmp_path, tiny_base):
    folder = converter()
    (folder / "convert_hf_to_gguf.py").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert available(None) is None
    assert convert(tiny_base, tmp_path / "out/m.gguf", "f16", None)["type"] == "f16"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ("eos = 256", "eos_token_id 256, not 257"),
        ("layers = 1", "1 layers, not 2"),
        ("template = template.strip() + ' '", "chat template "),
        ("kind = 'f16'", "file type 1, not 0"),
    ],
)
def test_a_file_that_is_not_the_folder_is_not_kept(converter, lines, wrong, tmp_path, tiny_base):
    with pytest.raises(GateError, match=rf"m.gguf.*is not the model in {re.escape(str(tiny_base))}: {wrong}"):
        convert(tiny_base, tmp_path / "out/m.gguf", "f32", converter(lines))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "raise NotImplementedError('BPE pre-tokenizer was not recognized - update get_vocab_base_pre()')",
            "llama.cpp's converter doesn't know how this tokenizer splits text",
        ),
        (
            "print('ERROR:hf-to-gguf:Model XForCausalLM is not supported', file=sys.stderr); sys.exit(1)",
            r"convert_hf_to_gguf.py failed \(1\): ERROR:hf-to-gguf:Model XForCausalLM is not supported",
        ),
        ("raise KeyError('rope')", r"convert_hf_to_gguf.py failed \(1\): KeyError: 'rope'"),
    ],
)
def test_a_converter_s_refusal_is_one_line(converter, lines, said, tmp_path, tiny_base):
    with pytest.raises(RecipeError, match=said) as caught:
        convert(tiny_base, tmp_path / "out/m.gguf", "f32", converter(lines))
    assert len(caught.value.problems) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_stays_what_it_is(converter, tmp_path, tiny_base):
    with pytest.raises(OSError, match="No space left") as caught:
        convert(tiny_base, tmp_path / "m.gguf", "f32", converter("raise OSError(28, 'No space left on device')"))
    assert caught.value.errno == errno.ENOSPC


def test_nothing_is_overwritten(converter, tmp_path, tiny_base):
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(RecipeError, match=r"m.gguf: exists; it is not overwritten"):
        convert(tiny_base, tmp_path / "m.gguf", "f32", converter())
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_quantised_types_go_through_llama_quantize(converter, tmp_path, tiny_base):
    """The program is given the folder's own dtype and the type; one that only copies is found out."""
    folder = converter()
    program = folder / "llama-quantize"
    program.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"open({str(tmp_path / 'asked')!r}, 'w').write(sys.argv[3])\nshutil.copyfile(sys.argv[1], sys.argv[2])\n"
    )
    program.chmod(0o755)
    assert available(folder, ["q4_k_m"]) is None
    with pytest.raises(GateError, match="file type 0, not 15"):
        convert(tiny_base, tmp_path / "out/m.gguf", "q4_k_m", folder)
    assert (tmp_path / "asked").read_text() == "Q4_K_M"
    assert list((tmp_path / "out").iterdir()) == []


def adapter(folder: Path, names: tuple[str, ...], **config) -> Path:
    folder.mkdir()
    tensors = {f"base_model.model.{name}": torch.zeros(2, 2) for name in names}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2} | config))
    return folder


PAIR = ("model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight")


@pytest.mark.parametrize(
    ("names", "config", "said"),
    [
        (PAIR, {"use_rslora": True}, "llama.cpp does not serve use_rslora"),
        (PAIR, {"alpha_pattern": {"q_proj": 4}}, "llama.cpp does not serve alpha_pattern"),
        (PAIR, {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights pissa_niter_4 changed the base's weights"),
        ((*PAIR, "model.norm.weight"), {}, "no adapter for base_model.model.model.norm.weight (1 such tensors)"),
        ((*PAIR, "lm_head.lora_A.weight"), {}, "no adapter for base_model.model.lm_head.lora_A.weight"),
    ],
)
def test_an_adapter_that_llama_cpp_serves_wrong_is_refused(converter, names, config, said, tmp_path, tiny_base):
    folder = adapter(tmp_path / "adapter", names, **config)
    with pytest.raises(RecipeError, match=re.escape(said)):
        convert_adapter(folder, tiny_base, tmp_path / "a.gguf", "f32", converter())
    assert not (tmp_path / "a.gguf").exists()
