"""A base from somebody else: its code is not run, its files lead nowhere else. And secrets stay out of what we write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from finetune.errors import RecipeError
from finetune.model.load import load_base, load_tokenizer
from finetune.recipe import ModelSection
from tests.conftest import ROOT, write_tiny_recipe
from tests.test_hub import COMMITS, hub_cache

CODE = """
from pathlib import Path
Path({flag!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
INDEX = "model.safetensors.index.json"
PLACEMENT = SimpleNamespace(torch_dtype=torch.float32, attention="eager")


def load(name: Path | str, **more) -> None:
    load_base(ModelSection(name_or_path=str(name), **more), PLACEMENT, Path("nowhere"))


@pytest.fixture
def base(tiny_base, tmp_path) -> Path:
    """A copy of the tiny base to tamper with."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def make_index(folder: Path, shard: str, index: str = INDEX) -> None:
    """The folder's weights move to `shard`, a path as the index will name it."""
    target = folder / shard
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").rename(target)
    names = [f"model.layers.{i}.input_layernorm.weight" for i in range(2)]
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))


@pytest.mark.parametrize("which", ["model", "tokenizer"])
def test_custom_code_is_refused_without_asking(base, tiny_data, tmp_path, which):
    """T48: `auto_map` without trust_remote_code, stdin closed: exit code 2, one line, nothing run."""
    (base / "own.py").write_text(CODE.format(flag=str(tmp_path / "flag")))
    if which == "model":
        auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        change(base / "config.json", model_type="own", auto_map=auto_map)
    else:
        auto_map = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
        change(base / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=auto_map)
    file = write_tiny_recipe(tmp_path, base, tiny_data)
    command = [sys.executable, "-m", "finetune.cli", "train", str(file)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"model.name_or_path: no {which} from {str(base)!r}: The repository {base} contains custom")
    assert line.endswith("Read that code, then set model.trust_remote_code: true")
    assert "Traceback" not in done.stderr and "[y/N]" not in done.stdout + done.stderr
    assert not (tmp_path / "flag").exists() and not (tmp_path / "run").exists()


def test_custom_code_that_is_not_needed_is_not_run(base, tmp_path):
    """T48: a known architecture with `auto_map` (as many hub models have): transformers' own class is used."""
    (base / "own.py").write_text(CODE.format(flag=str(tmp_path / "flag")))
    change(base / "config.json", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    load(base)
    assert not (tmp_path / "flag").exists()


@pytest.mark.parametrize("index", [INDEX, "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("shard", ["../outside.safetensors", "sub/../../outside.safetensors", "absolute"])
def test_an_index_cannot_name_files_outside(base, tmp_path, shard, index):
    """T48: transformers itself follows these."""
    shard = str(tmp_path / "outside.safetensors") if shard == "absolute" else shard
    (base / "sub").mkdir()
    make_index(base, shard, index)
    assert (tmp_path / "outside.safetensors").is_file()
    with pytest.raises(RecipeError) as error:
        load(base)
    wrong = f"model.name_or_path: {base / index} names {shard!r}, outside the folder; do not trust this model"
    assert error.value.problems == [wrong]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": ["a"]}', "\udcff"])
def test_an_index_that_is_none_is_one_line(base, content):
    (base / INDEX).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecipeError, match=r"model.safetensors.index.json: not an index of weight files"):
        load(base)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "chat_template.jinja", "shards/a.safetensors", "additional_chat_templates/tool.jinja", INDEX]
)  # fmt: skip
def test_a_link_out_of_the_folder_is_refused(base, tmp_path, name):
    """T48: else a chat template linked to a private key would be shipped in the bundle."""
    make_index(base, "shards/a.safetensors") if "model" not in name or name == INDEX else None
    file = base / name
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        file.write_text("x")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to("../" * (name.count("/") + 1) + "elsewhere")
    with pytest.raises(RecipeError) as error:
        load(base)
    assert error.value.problems == [
        f"model.name_or_path: {file} is a link to {tmp_path / 'elsewhere'}, outside the folder; put the file itself "
        "there, or name that folder"
    ]
    with pytest.raises(RecipeError, match=r"model.tokenizer_name_or_path: .* is a link to"):
        load_tokenizer(ModelSection(name_or_path=str(tmp_path), tokenizer_name_or_path=str(base)))


def test_a_folder_of_shards_that_is_a_link_is_refused(base, tmp_path):
    """T48"""
    make_index(base, "shards/a.safetensors")
    (base / "shards").rename(tmp_path / "elsewhere")
    (base / "shards").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"shards/a.safetensors is a link to .*elsewhere/a.safetensors, outside"):
        load(base)


def test_links_inside_the_folder_and_to_it_are_fine(base, tmp_path):
    (base / "weights").mkdir()
    (base / "model.safetensors").rename(base / "weights/real.safetensors")
    (base / "model.safetensors").symlink_to("weights/real.safetensors")
    (tmp_path / "alias").symlink_to(base)
    load(base)
    load(tmp_path / "alias")


def linked_cache(home: Path) -> Path:
    """`org/tiny` in a hub cache as on Linux: each file of a snapshot a link into ../../blobs. Returns a snapshot."""
    hub_cache(home)
    repository = home / "hub/models--org--tiny"
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted((repository / "snapshots").rglob("*.*"))):
        file.rename(repository / f"blobs/{number}")
        file.symlink_to(f"../../blobs/{number}")
    return repository / "snapshots" / COMMITS["main"]


def test_the_links_of_a_hub_cache_are_fine_and_no_others_there(tmp_path):
    """T48: a snapshot's folder named as the base."""
    snapshot = linked_cache(tmp_path)
    assert (snapshot / "model.safetensors").is_symlink()
    load(snapshot)
    (tmp_path / "key").write_text("secret")
    (snapshot / "notes.txt").symlink_to("../../../../key")
    with pytest.raises(RecipeError, match=f"notes.txt is a link to {tmp_path}/key, outside"):
        load(snapshot)
    (snapshot / "notes.txt").unlink()
    (snapshot.parents[1] / "blobs/999").symlink_to(tmp_path / "key")  # through a blob that is a link itself
    (snapshot / "notes.txt").symlink_to("../../blobs/999")
    with pytest.raises(RecipeError, match=f"notes.txt is a link to {tmp_path}/key, outside"):
        load(snapshot)
    elsewhere = Path(shutil.copytree(snapshot, tmp_path / "a/b/copy", symlinks=True))
    shutil.copytree(snapshot.parents[1] / "blobs", tmp_path / "blobs", symlinks=True)
    with pytest.raises(RecipeError, match=r"config.json is a link to .*blobs/\d+, outside"):
        load(elsewhere)  # the same links, but this is no hub cache


@pytest.mark.slow
def test_an_index_in_the_hub_cache_cannot_lead_out_either(tmp_path):
    """T48: a hub id; huggingface_hub's own check, which we rely on."""
    snapshot = linked_cache(tmp_path)
    make_index(snapshot, "../../../../outside.safetensors")
    code = (
        "from pathlib import Path; from types import SimpleNamespace; import torch\n"
        "from finetune.model.load import load_base\nfrom finetune.recipe import ModelSection\n"
        "placement = SimpleNamespace(torch_dtype=torch.float32, attention='eager')\n"
        "load_base(ModelSection(name_or_path='org/tiny'), placement, Path('nowhere'))"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode != 0
    assert "RecipeError: model.name_or_path: no model from 'org/tiny': Invalid filename" in done.stderr


SECRETS = {
    name: f"sentinel-{number}-do-not-write"
    for number, name in enumerate([
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "SWANLAB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN", "MODELSCOPE_API_TOKEN", "GITHUB_TOKEN", "COMET_API_KEY", "DB_PASSWORD",
    ])
}  # fmt: skip


@pytest.mark.slow
def test_secrets_of_the_environment_are_written_nowhere(tiny_base, tiny_data, tmp_path):
    """T48: every file of a whole run with a tracker (adapter, bundle, manifest, logs, caches, locks) and the console."""
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    settings = ["report_to=[tensorboard]", "train.max_steps=2", "evaluate.max_new_tokens=4"]
    command = [sys.executable, "-m", "finetune.cli", "train", str(file)]
    done = subprocess.run(
        [*command, *(part for setting in settings for part in ("--set", setting))],
        env=os.environ | SECRETS | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"run/metrics.jsonl", "run/bundle/MANIFEST.json", "run/adapter/adapter_config.json"} <= set(files)
    assert any("events.out.tfevents" in name for name in files)
    written = files | {"stdout": done.stdout, "stderr": done.stderr}
    assert len(done.stdout) > 500
    assert [
        (name, secret) for name, text in written.items() for secret in SECRETS if SECRETS[secret].encode() in text
    ] == []
