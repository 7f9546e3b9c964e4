"""The files of a merge: safetensors' own bytes, nothing half-written, resumed to the same bytes, little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import GateError, RecipeError
from finetune.export import merge as merging
from finetune.export.merge import merge
from finetune.export.shards import STATE, parse_size
from tests.conftest import ROOT
from tests.export.made import make, tensors

LINEAR = {"target_modules": "all-linear"}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), "llama", {"num_hidden_layers": 1}, **LINEAR)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The undisturbed merge in shards of 100 kB."""
    folder = tmp_path_factory.mktemp("whole")
    merge(made.base, made.adapter, folder, None, "100KB")
    return contents(folder)


def test_one_file_is_what_safetensors_writes(made, tmp_path):
    merged = merge(made.base, made.adapter, tmp_path, None)
    assert merged.files == ("model.safetensors",) and [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]
    save_file(tensors(tmp_path), tmp_path / "again.safetensors", {"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert merged.bytes == sum(t.nbytes for t in tensors(tmp_path).values())
    assert (merged.tensors, merged.changed) == (12, 7)


def test_types_of_several_widths_lie_aligned(made, tmp_path):
    """bfloat16 of odd length beside float32 and integers: each in its own dtype, in safetensors' own order."""
    base = tmp_path / "base"
    base.mkdir()
    stored = load_file(made.base / "model.safetensors")
    stored["model.norm.weight"] = stored["model.norm.weight"].bfloat16()
    stored |= {
        "odd": torch.ones(3, dtype=torch.bfloat16),
        "ids": torch.arange(5),
        "mask": torch.tensor([True, False, True]),
    }
    stored["empty"] = torch.zeros(0, 4)
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    (base / "config.json").write_bytes((made.base / "config.json").read_bytes())
    for dtype in (None, torch.float16):
        output = tmp_path / str(dtype)
        output.mkdir()
        merge(base, made.adapter, output, dtype)
        ours = tensors(output)
        assert ours["ids"].tolist() == [0, 1, 2, 3, 4] and ours["mask"].tolist() == [True, False, True]
        assert {ours[n].dtype for n in stored if stored[n].is_floating_point()} == (
            {torch.float16} if dtype else {torch.float32, torch.bfloat16}
        )
        save_file(ours, tmp_path / "again.safetensors", {"format": "pt"})
        assert (output / "model.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_tensor_larger_than_the_limit_has_a_shard_of_its_own(made, tmp_path):
    merge(made.base, made.adapter, tmp_path, None, "20KB")
    sizes = [[tensor.nbytes for tensor in load_file(file).values()] for file in sorted(tmp_path.glob("*.safetensors"))]
    everything = [size for shard in sizes for size in shard]
    assert sorted(everything) == sorted(tensor.nbytes for tensor in load_file(made.base / "model.safetensors").values())
    assert all(len(shard) == 1 for shard in sizes if sum(shard) > 20_000)
    assert sum(sum(shard) > 20_000 for shard in sizes) == 5 and len(sizes) == 10


def test_shards_and_index(made, whole):
    index = json.loads(whole["model.safetensors.index.json"])
    names = [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
    assert list(whole) == [*names, "model.safetensors.index.json"]
    base = load_file(made.base / "model.safetensors")
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in base.values())}
    assert sorted(index["weight_map"]) == list(index["weight_map"]) == sorted(base)
    assert set(index["weight_map"].values()) == set(names)


def test_sizes():
    assert [parse_size(text) for text in ("5GB", "300 MiB", "1.5kb", "12")] == [5 * 10**9, 300 * 2**20, 1500, 12]
    with pytest.raises(RecipeError, match="max_shard_size: 'many': a size such as 5GB is needed"):
        parse_size("many")


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_bytes(made, whole, tmp_path):
    """Killed before each open for writing, block, rename and unlink; what has a shard's name is a whole shard."""
    command = [sys.executable, "-m", "tests.export.killed", str(made.base), str(made.adapter), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed_at = json.loads(done.stdout)
    assert killed_at.count("write") == 12 and sum(name.startswith("os.rename") for name in killed_at) == 5
    for point in range(1, len(killed_at) + 1):
        folder = tmp_path / str(point)
        left = contents(folder)
        assert all(left[name] == whole[name] for name in left if name.endswith(".safetensors")), killed_at[point - 1]
        merge(made.base, made.adapter, folder, None, "100KB")
        assert contents(folder) == whole, killed_at[point - 1]


def interrupted(made, folder, monkeypatch, after: int = 1) -> None:
    """A merge that breaks after so many shards."""
    plain, count = merging._write, 0

    def breaking(*arguments):
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_write", breaking)
        with pytest.raises(KeyboardInterrupt):
            merge(made.base, made.adapter, folder, None, "100KB")


def test_finished_shards_are_kept_and_damaged_ones_are_not(made, whole, tmp_path, monkeypatch):
    written = []
    plain = merging._write
    monkeypatch.setattr(merging, "_write", lambda shard, *rest: (written.append(shard.file), plain(shard, *rest))[1])
    for damage in (False, True):
        folder = tmp_path / str(damage)
        folder.mkdir()
        interrupted(made, folder, monkeypatch)
        first = folder / "model-00001-of-00002.safetensors"
        if damage:
            content = bytearray(first.read_bytes())
            content[-1] ^= 1
            first.write_bytes(content)
        written.clear()
        merge(made.base, made.adapter, folder, None, "100KB")
        assert written == ["model-00001-of-00002.safetensors"] * damage + ["model-00002-of-00002.safetensors"]
        assert contents(folder) == whole


@pytest.mark.parametrize("other", ["adapter", "dtype", "shards", "base"])
def test_other_inputs_start_anew(other, made, tmp_path, monkeypatch):
    folder, fresh = tmp_path / "folder", tmp_path / "fresh"
    folder.mkdir()
    fresh.mkdir()
    interrupted(made, folder, monkeypatch)
    assert (folder / STATE).is_file()
    base, adapter, dtype, size = made.base, made.adapter, None, "100KB"
    if other == "adapter":
        adapter = make(tmp_path / "other", "llama", {"num_hidden_layers": 1}, r=2, **LINEAR).adapter
    elif other == "base":
        base = make(tmp_path / "other", "llama", {"num_hidden_layers": 1, "rms_norm_eps": 1e-3}, **LINEAR).base
    elif other == "dtype":
        dtype = torch.bfloat16
    else:
        size = "60KB"
    merge(base, adapter, folder, dtype, size)
    merge(base, adapter, fresh, dtype, size)
    assert contents(folder) == contents(fresh)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapter_that_is_not_finite(value, made, tmp_path):
    """T38: the tensor is named, and nothing has been written."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    stored = load_file(made.adapter / "adapter_model.safetensors")
    name = next(name for name in stored if name.endswith("v_proj.lora_B.weight"))
    stored[name][3, 1] = value
    save_file(stored, adapter / "adapter_model.safetensors", {"format": "pt"})
    (adapter / "adapter_config.json").write_bytes((made.adapter / "adapter_config.json").read_bytes())
    (tmp_path / "out").mkdir()
    with pytest.raises(GateError) as error:
        merge(made.base, adapter, tmp_path / "out", None)
    assert str(error.value) == f"export stopped: the adapter's {name}: not finite (NaN or infinity)"
    assert list((tmp_path / "out").iterdir()) == []


def test_result_that_is_not_finite(made, tmp_path):
    """T38: NaN in a tensor that is only copied, infinity by a cast to float16: named, and no file has its name yet."""
    for change, dtype, named in ((float("nan"), None, "model.norm"), (70000.0, torch.float16, "model.norm")):
        base, output = tmp_path / f"{change}", tmp_path / f"out {change}"
        base.mkdir()
        output.mkdir()
        stored = load_file(made.base / "model.safetensors")
        stored["model.norm.weight"][5] = change
        save_file(stored, base / "model.safetensors", {"format": "pt"})
        (base / "config.json").write_bytes((made.base / "config.json").read_bytes())
        with pytest.raises(GateError, match=f"export stopped: {named}.weight of the merged model is not finite"):
            merge(base, made.adapter, output, dtype)
        assert not list(output.glob("*.safetensors"))


def test_zeros_are_holes_and_minus_zero_is_not(made, tmp_path):
    base, output = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    output.mkdir()
    stored = load_file(made.base / "model.safetensors") | {
        "zeros": torch.zeros(1 << 20),
        "minus": -torch.zeros(1 << 10),
    }
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    (base / "config.json").write_bytes((made.base / "config.json").read_bytes())
    merge(base, made.adapter, output, None)
    file = output / "model.safetensors"
    assert file.stat().st_blocks * 512 < file.stat().st_size - (1 << 21)
    ours = load_file(file)
    assert bool(ours["minus"].signbit().all()) and not bool(ours["zeros"].signbit().any())


@pytest.mark.slow
def test_memory_is_a_few_blocks(tmp_path):
    """340 MB of float32, half of it one embedding, LoRA on all of it: beyond the libraries, less than a tenth of the model."""
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
from bench_merge import LLAMA_3B, make_adapter, make_base, peak_rss
import torch, safetensors
shape = LLAMA_3B | {{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5, "vocab_size": 80000,
                    "num_attention_heads": 8, "num_key_value_heads": 8}}
folder = Path({str(tmp_path)!r})
make_base(folder / "base", shape, zeros=False)
make_adapter(folder / "adapter", shape, 5)
from finetune.export.merge import merge
(folder / "out").mkdir()
torch.randn(64, 64) @ torch.randn(64, 64)
before = peak_rss()
merged = merge(folder / "base", folder / "adapter", folder / "out", None, threads=2)
print(merged.bytes, peak_rss() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size, grown = (int(number) for number in done.stdout.split())
    assert size > 330e6
    assert grown < 34e6, f"{grown / 1e6:.0f} MB"
