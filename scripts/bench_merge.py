"""What a merge costs: peft's merge_and_unload + save_pretrained against the streamed merge, and a model larger than memory.

    python scripts/bench_merge.py                    # 3.2B parameters, bfloat16, LoRA r=16 on all linear layers
    python scripts/bench_merge.py --layers 4         # the same, smaller
    python scripts/bench_merge.py --large            # a 30B-sized sparse file, memory only

The two ways take turns, each in a process of its own; the table has the medians. The base is Llama-3.2-3B's shape with
random weights. Folder and model are made under --folder and removed at the end: 13 GB, and a few MB for --large, whose base
and result are zeros but for one layer and lie on the disk as holes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LLAMA_3B = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
            "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True}  # fmt: skip
LLAMA_30B = {"hidden_size": 6656, "intermediate_size": 17920, "num_hidden_layers": 60, "num_attention_heads": 52,
             "num_key_value_heads": 52, "vocab_size": 32000, "tie_word_embeddings": False}  # fmt: skip
SHARD = 5_000_000_000
Shape = tuple[int, ...]


def linear(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of a layer's linear modules."""
    h, m = shape["hidden_size"], shape["intermediate_size"]
    kv = h * shape["num_key_value_heads"] // shape["num_attention_heads"]
    return {"self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, h),
            "mlp.gate_proj": (m, h), "mlp.up_proj": (m, h), "mlp.down_proj": (h, m)}  # fmt: skip


def weights(shape: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of all tensors."""
    h = shape["hidden_size"]
    yield "model.embed_tokens.weight", (shape["vocab_size"], h)
    for i in range(shape["num_hidden_layers"]):
        for name, size in linear(shape).items():
            yield f"model.layers.{i}.{name}.weight", size
        yield f"model.layers.{i}.input_layernorm.weight", (h,)
        yield f"model.layers.{i}.post_attention_layernorm.weight", (h,)
    yield "model.norm.weight", (h,)
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", (shape["vocab_size"], h)


def make_base(folder: Path, shape: dict[str, Any], zeros: bool) -> None:
    """A Llama folder in shards of 5 GB; random, or with `zeros` holes only."""
    import torch

    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "rms_norm_eps": 1e-5,
              "rope_theta": 500000.0, "max_position_embeddings": 4096, "hidden_act": "silu"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | shape))
    groups: list[list[tuple[str, Shape, int]]] = [[]]
    for name, size in weights(shape):
        count = size[0] * (size[1] if len(size) > 1 else 1) * 2
        if sum(entry[2] for entry in groups[-1]) + count > SHARD:
            groups.append([])
        groups[-1].append((name, size, count))
    torch.manual_seed(0)
    noise = (torch.randn(8_000_000) * 0.02).to(torch.bfloat16).view(torch.uint8).numpy().data
    index = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        header, offset = {}, 0
        for name, size, count in group:
            header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, offset + count]}
            offset += count
            index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            if zeros:
                stream.truncate(8 + len(text) + offset)
            left = 0 if zeros else offset
            while left:
                left -= stream.write(noise[: min(left, len(noise))])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def make_adapter(folder: Path, shape: dict[str, Any], layers: int) -> None:
    """LoRA r=16 on all linear layers; lora_B is not zero in the first `layers`."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(1)
    tensors = {}
    for i in range(shape["num_hidden_layers"]):
        for name, (out, inner) in linear(shape).items():
            place = f"base_model.model.model.layers.{i}.{name}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(16, inner) * 0.01
            tensors[f"{place}.lora_B.weight"] = torch.randn(out, 16) * 0.01 * (i < layers)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "bias": "none",
              "target_modules": [name.rpartition(".")[2] for name in linear(shape)]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def with_peft(base: Path, adapter: Path, output: Path, threads: int) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.save_pretrained(output, max_shard_size="5GB")


def streamed(base: Path, adapter: Path, output: Path, threads: int) -> None:
    sys.path.insert(0, str(ROOT))
    from finetune.export.merge import merge

    merge(base, adapter, output, None, threads=threads)


WAYS = {"peft": with_peft, "streamed": streamed}


def peak_rss() -> int:
    """Bytes: the largest resident memory this process has had, mapped files included."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def once(way: str, base: Path, adapter: Path, output: Path, threads: int) -> dict[str, float]:
    """One merge in a process of its own, into an empty folder: wall seconds from its start, peak memory."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    command = [sys.executable, __file__, "--way", way, str(base), str(adapter), str(output), "--threads", str(threads)]
    used, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - used.children_user - used.children_system
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
    return {"wall": wall, "cpu": cpu, "rss": float(done.stdout.split()[-1])}


def same_bytes(left: Path, right: Path) -> str:
    """Whether the two results hold the same tensors, bit for bit."""
    sys.path.insert(0, str(ROOT))
    from finetune.export.weights import model_tensors

    ours, theirs = model_tensors(left), model_tensors(right)
    names = set(ours) & set(theirs)
    equal = sum(
        all((ours[n].raw(s, min(1 << 24, ours[n].size - s)) == theirs[n].raw(s, min(1 << 24, theirs[n].size - s))).all()
            for s in range(0, ours[n].size, 1 << 24)) for n in names
    )  # fmt: skip
    return f"{equal} of {len(set(ours) | set(theirs))} tensors are equal bit for bit"


def measure(folder: Path, shape: dict[str, Any], repeats: int, threads: int) -> str:
    base, adapter = folder / "base", folder / "adapter"
    make_base(base, shape, zeros=False)
    make_adapter(adapter, shape, shape["num_hidden_layers"])
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(repeats):
        for way in list(WAYS) if number % 2 == 0 else list(reversed(WAYS)):
            shutil.rmtree(folder / "output", ignore_errors=True)
            os.sync()  # neither way pays for what the other left to be written
            runs[way].append(once(way, base, adapter, folder / "output", threads))
            print(f"{way}: {runs[way][-1]}", file=sys.stderr)
    medians = {way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]} for way in WAYS}
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    lines = [f"{size / 1e9:.1f} GB of bfloat16, {threads} threads, medians of {repeats}", "",
             "| way | wall, s | all walls, s | seconds of all cores | peak memory, MB |", "|---|---|---|---|---|"]  # fmt: skip
    for way, values in medians.items():
        walls = ", ".join(f"{run['wall']:.1f}" for run in runs[way])
        lines.append(f"| {way} | {values['wall']:.1f} | {walls} | {values['cpu']:.1f} | {values['rss'] / 1e6:.0f} |")
    ours, theirs = medians["streamed"], medians["peft"]
    lines += [
        "",
        f"{theirs['wall'] / ours['wall']:.1f} times faster with {ours['rss'] / theirs['rss']:.3f} of the memory",
    ]
    return "\n".join(lines)


def compare(folder: Path, shape: dict[str, Any], threads: int) -> str:
    """Both results side by side, on as many layers as --layers says: 6 GB twice is more than some disks have."""
    make_base(folder / "base", shape, zeros=False)
    make_adapter(folder / "adapter", shape, shape["num_hidden_layers"])
    for way in WAYS:
        once(way, folder / "base", folder / "adapter", folder / way, threads)
    return same_bytes(folder / "streamed", folder / "peft")


def measure_large(folder: Path, threads: int) -> str:
    make_base(folder / "base", LLAMA_30B, zeros=True)
    make_adapter(folder / "adapter", LLAMA_30B, layers=1)
    result = once("streamed", folder / "base", folder / "adapter", folder / "output", threads)
    files = list((folder / "output").glob("*.safetensors"))
    size, held = sum(f.stat().st_size for f in files), sum(f.stat().st_blocks * 512 for f in files)
    return (
        f"{size / 1e9:.1f} GB in {len(files)} shards ({held / 1e9:.2f} GB of them not holes): {result['wall']:.1f} s, "
        f"peak memory {result['rss'] / 1e6:.0f} MB with {threads} threads"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--large", action="store_true", help="30B parameters as a sparse file")
    parser.add_argument("--compare", action="store_true", help="compare the two results bit for bit, no times")
    parser.add_argument("--layers", type=int, default=LLAMA_3B["num_hidden_layers"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    given = parser.parse_args()
    if given.way:
        WAYS[given.way](*given.paths, given.threads)
        print(peak_rss())
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        shape = LLAMA_3B | {"num_hidden_layers": given.layers}
        if given.large:
            print(measure_large(Path(folder), given.threads))
        elif given.compare:
            print(compare(Path(folder), shape, given.threads))
        else:
            print(measure(Path(folder), shape, given.repeats, given.threads))


if __name__ == "__main__":
    main()
