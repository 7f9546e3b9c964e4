"""The folder around the weights: the base's own bytes, patched only where the merged model differs."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from finetune.errors import RecipeError
from finetune.export.layout import same_tokenizer, write_layout
from finetune.export.merge import merge
from tests.conftest import byte_tokenizer, tiny_llama
from tests.export.made import edit


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A base and its tokenizer as transformers 5 saves them."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = byte_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base(saved, tmp_path) -> Path:
    """The same, as a publisher's folder: both spellings, odd formatting, further files."""
    folder = tmp_path / "base"
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_theta": 50000.0, "rope_scaling": None, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=4, sort_keys=False))  # no last newline
    template = (folder / "chat_template.jinja").read_text()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("backend", "is_local", "local_files_only"):
        settings.pop(key, None)
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, "note": "\u00e9 \u6587"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False))
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    (folder / "generation_config.json").write_text('{\n  "temperature": 0.6,\n  "eos_token_id": 257\n}\n')
    (folder / "LICENSE").write_text("licence\r\n")
    (folder / "README.md").write_text("the base's card")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"not taken")
    (folder / ".gitattributes").write_text("not taken")
    return folder


def laid_out(base: Path, tokenizer: Path, output: Path, **settings):
    output.mkdir()
    return write_layout(base, tokenizer, output, **settings)


def test_nothing_changed_nothing_patched(base, saved, tmp_path):
    """T39: every file is the base's, byte for byte; the training tokenizer is the same one, saved by transformers 5."""
    layout = laid_out(base, saved, tmp_path / "out", stops=[257], tied=True)
    assert layout.patched == () and layout.tokenizer == "base"
    assert layout.copied == (
        "LICENSE", "chat_template.jinja", "config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json",
    )  # fmt: skip
    for name in layout.copied:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes(), name
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(layout.copied)


def test_what_changed_is_patched_in_the_file_s_own_manner(base, saved, tmp_path):
    layout = laid_out(base, saved, tmp_path / "out", dtype="bfloat16", tied=False, vocabulary=300, stops=[258, 257])
    assert layout.patched == ("config.json", "generation_config.json")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "out"))
    changes = {"dtype": "bfloat16", "torch_dtype": "bfloat16", "tie_word_embeddings": False, "vocab_size": 300}
    assert after == before | changes | {"eos_token_id": [258, 257]}
    assert list(after) == list(before)
    text = (tmp_path / "out/config.json").read_text()
    assert text == json.dumps(after, indent=4)
    assert (tmp_path / "out/generation_config.json").read_text() == (
        '{\n  "temperature": 0.6,\n  "eos_token_id": [\n    258,\n    257\n  ]\n}\n'
    )


def test_spellings_of_transformers_4_are_added(saved, tmp_path):
    """A folder that only transformers 5 wrote: rope_theta, torch_dtype, a known tokenizer class, the template twice."""
    (tmp_path / "v5").mkdir()
    for file in saved.iterdir():
        shutil.copyfile(file, tmp_path / "v5" / file.name)
    layout = laid_out(tmp_path / "v5", saved, tmp_path / "out", stops=[257])
    assert layout.patched == ("config.json", "special_tokens_map.json", "tokenizer_config.json")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["rope_theta"] == 50000.0 and config["rope_scaling"] is None and config["torch_dtype"] == "float32"
    assert config["rope_parameters"]["rope_theta"] == 50000.0
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == (tmp_path / "out/chat_template.jinja").read_text()
    assert not {"backend", "is_local", "local_files_only"} & set(settings)
    assert not isinstance(settings.get("extra_special_tokens"), list)
    assert json.loads((tmp_path / "out/special_tokens_map.json").read_text())["eos_token"] == "<|im_end|>"


@pytest.mark.parametrize("rope, added", [
    (
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ),
    (
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        {"rope_theta": 1e4, "rope_scaling": None, "partial_rotary_factor": 0.5},
    ),
    (
        {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
], ids=["scaled", "partial", "by layer"])  # fmt: skip
def test_rope(rope, added, saved, tmp_path):
    """Also inside text_config, where models that see images keep it."""
    shutil.copytree(saved, tmp_path / "v5")
    config = json.loads((tmp_path / "v5/config.json").read_text())
    config.pop("rope_parameters")
    edit(tmp_path / "v5/config.json", rope_parameters=rope, text_config={"rope_parameters": rope, "vocab_size": 259})
    laid_out(tmp_path / "v5", saved, tmp_path / "out", vocabulary=300)
    after = json.loads((tmp_path / "out/config.json").read_text())
    for place in (after, after["text_config"]):
        assert {key: place[key] for key in added} == added and place["rope_parameters"] == rope
        assert place["vocab_size"] == 300


def test_experts_of_qwen3_have_both_names(saved, tmp_path):
    """transformers 4.57.6 took 128 experts for a model of 4; 5 reads either name."""
    from tests.export.made import make, merged_folder, reload

    made = make(
        tmp_path,
        "qwen3-moe",
        {"num_experts": 4, "moe_intermediate_size": 32, "hidden_size": 64},
        target_modules=["q_proj"],
    )
    assert "num_experts" not in json.loads((made.base / "config.json").read_text())
    merged_folder(made, tmp_path / "merged")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["num_experts"] == config["num_local_experts"] == reload(tmp_path / "merged").config.num_experts == 4


def test_another_tokenizer_is_the_training_one(base, saved, tmp_path):
    """New tokens, or another chat template: the base's tokenizer files stay away, also those the training one lacks."""
    new = byte_tokenizer()
    new.add_tokens(["<new>"])
    new.save_pretrained(tmp_path / "new")
    (base / "merges.txt").write_text("of the base's tokenizer")
    layout = laid_out(base, tmp_path / "new", tmp_path / "out", vocabulary=260)
    assert layout.tokenizer == "training"
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (tmp_path / "new/tokenizer.json").read_bytes()
    assert not (tmp_path / "out/merges.txt").exists()
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "out")("<new>").input_ids == [new.convert_tokens_to_ids("<new>")]
    shutil.copytree(saved, tmp_path / "template")
    (tmp_path / "template/chat_template.jinja").write_text("{{ messages[0].content }}")
    assert same_tokenizer(base, saved) and not same_tokenizer(base, tmp_path / "template")
    assert laid_out(base, tmp_path / "template", tmp_path / "out2").tokenizer == "training"
    settings = json.loads((tmp_path / "out2/tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages[0].content }}"


@pytest.mark.parametrize("trusted", [True, False])
def test_custom_code_comes_along_when_trusted(trusted, base, saved, tmp_path):
    edit(base / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    laid_out(base, saved, tmp_path / "out", trust_remote_code=trusted)
    assert (tmp_path / "out/modeling_own.py").exists() is trusted
    assert ("auto_map" in json.loads((tmp_path / "out/config.json").read_text())) is trusted


def test_a_base_without_generation_config_gets_the_stops(base, saved, tmp_path):
    (base / "generation_config.json").unlink()
    laid_out(base, saved, tmp_path / "out", stops=[257, 258])
    content = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert content == {"bos_token_id": 256, "pad_token_id": 257, "eos_token_id": [257, 258]}


def test_links_that_lead_out_and_broken_json_are_refused(base, saved, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (base / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(RecipeError, match=r"notes.txt is a link to .*secret, outside the folder"):
        laid_out(base, saved, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (base / "notes.txt").unlink()
    (base / "tokenizer_config.json").write_text("{")
    with pytest.raises(RecipeError, match=r"tokenizer_config.json: "):
        laid_out(base, saved, tmp_path / "out2")


def test_round_trip(base, saved, tmp_path):
    """T39: merge, lay out, load, generate: logits equal in memory and on disk; modes follow the umask, not 0600."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules="all-linear", r=4)
    ).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.tensor([byte_tokenizer().apply_chat_template([{"role": "user", "content": "3 7?"}], return_dict=False)])
    in_memory = tuned.merge_and_unload()
    output = tmp_path / "out"
    before = os.umask(0o027)
    try:
        output.mkdir()
        merged = merge(base, tmp_path / "adapter", output, None)
        write_layout(
            base, saved, output, dtype=merged.dtype, tied=merged.tied, vocabulary=merged.vocabulary, stops=[257]
        )
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in output.iterdir()} == {0o640}
    model = AutoModelForCausalLM.from_pretrained(output).eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, in_memory(ids).logits)
        assert torch.equal(
            model.generate(ids, max_new_tokens=12, do_sample=False),
            in_memory.generate(ids, max_new_tokens=12, do_sample=False),
        )
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "config.json",
    ):
        assert (output / name).read_bytes() == (base / name).read_bytes(), name
    assert AutoTokenizer.from_pretrained(output).chat_template == AutoTokenizer.from_pretrained(base).chat_template
