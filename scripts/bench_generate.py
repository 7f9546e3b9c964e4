"""Answers to held-out prompts, by our loop and by others: the same model, prompts and greedy tokens, turn by turn in one process.

    python scripts/bench_generate.py                                             # 64 METAR reports, the base
    python scripts/bench_generate.py --adapter runs/metar_decode/bundle/adapter --merged runs/metar_decode/bundle

All ways of transformers get the adapter rounded once to the base's dtype, as an evaluation does it. One by one is measured on
fewer rows and given a row. Other engines are measured where they are installed (scripts/bench_engines.py), on the merged
model; each by itself (`--only`), for threads of one that waits slow what runs beside it. Medians of the repeats; the answers
of the last repeat are counted that are token for token those of `generate` in batches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

WAYS = ("ours", "generate", "one by one", "ctranslate2", "llama.cpp")
Ids = tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/meteorology/metar_decode.yaml")
    parser.add_argument("--adapter", type=Path, help="a run's adapter/ (default: the base alone)")
    parser.add_argument(
        "--merged", type=Path, help="the same model as a folder, for other engines: a bundle, or its base/"
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="answers at once (default 64)")
    parser.add_argument("--alone", type=int, default=8, help="rows that are answered one by one (default 8)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto", help="the recipe's model.dtype (default auto)")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    import torch

    model, tokenizer, prompts, placement, limit = loaded(options)
    alone = range(0, len(prompts), max(1, len(prompts) // options.alone))
    ways = {name: (way, range(len(prompts))) for name, way in of_transformers(
        model, tokenizer, prompts, limit, options.batch, placement).items()}  # fmt: skip
    ways["one by one"] = (one_by_one(model, tokenizer, [prompts[row] for row in alone], limit, placement), alone)
    if options.merged is not None:
        from scripts.bench_engines import ENGINES

        for name in [name for name in ENGINES if name in options.only]:
            threads = torch.get_num_threads()
            engine = ENGINES[name](options.merged, tokenizer, prompts, limit, options.batch, threads)
            if engine is not None:
                ways[name] = (engine, range(len(prompts)))
    lengths = [len(prompt) for prompt in prompts]
    print(f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens, at most {limit} new ones, {options.batch} at "
          f"once, {placement.dtype}, {torch.get_num_threads()} threads", flush=True)  # fmt: skip
    from finetune.evaluate.generate import adapter_in

    with torch.inference_mode(), adapter_in(model, placement.torch_dtype):
        measure({name: way for name, way in ways.items() if name in options.only}, options.repeats)


def measure(ways: dict[str, tuple[Callable[[], Sequence[Ids]], range]], repeats: int) -> None:
    """Each way in turn, and a line for each: time a row, tokens a second, how many times ours, answers equal."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, dict[int, Ids]] = {}
    for _ in range(repeats):
        for name, (way, rows) in ways.items():
            began = time.perf_counter()
            answers = way()
            seconds[name].append((time.perf_counter() - began) / len(rows))
            said[name] = dict(zip(rows, answers, strict=True))
            print(f"  {name}: {seconds[name][-1] * len(rows):.1f} s for {len(rows)} rows", flush=True)
    first = statistics.median(seconds["ours"]) if "ours" in seconds else None
    for name, its in seconds.items():
        middle, own = statistics.median(its), said[name]
        ratio = f"  {middle / first:5.2f} times ours" if first else ""
        same = sum(ids == said["generate"].get(row) for row, ids in own.items()) if "generate" in said else 0
        length = sum(map(len, own.values())) / len(own)
        print(f"{name:12} {1000 * middle:8.1f} ms a row  {length / middle:7.0f} tokens/s  {length:5.1f} tokens a row{ratio}"
              f"  as generate: {same} of {len(own)}")  # fmt: skip


def of_transformers(
    model: Any, tokenizer: Any, prompts: list[list[int]], limit: int, batch: int, placement: Any
) -> dict[str, Callable[[], list[Ids]]]:
    """Our loop, and transformers' `generate` on the same batches in the same order."""
    from finetune.evaluate.generate import generate, generate_batch

    def ours() -> list[Ids]:
        found = dict(generate(model, tokenizer, prompts, limit, batch, placement))
        return [found[row].ids for row in range(len(prompts))]

    def in_batches() -> list[Ids]:
        parts = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
        return [a.ids for part in parts for a in generate_batch(model, tokenizer, part, limit, placement)]

    return {"ours": ours, "generate": in_batches}


def one_by_one(
    model: Any, tokenizer: Any, prompts: list[list[int]], limit: int, placement: Any
) -> Callable[[], list[Ids]]:
    from finetune.evaluate.generate import generate_batch

    return lambda: [generate_batch(model, tokenizer, [p], limit, placement)[0].ids for p in prompts]


def loaded(options: argparse.Namespace) -> tuple[Any, Any, list[list[int]], Any, int]:
    """Model, tokenizer, prompts longest first, placement, and the recipe's limit of new tokens."""
    from finetune import device
    from finetune.inputs import load_data, make_stage
    from finetune.model.attention import attend_for_answers
    from finetune.ready import load_base_of
    from finetune.recipefile import load_recipe

    device.quiet_libraries()
    recipe = load_recipe(options.recipe, [f"model.dtype={options.dtype}", f"data.split.eval_rows={options.rows}"])
    data = load_data(recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"rows": options.rows})}))
    placement = device.start(recipe)
    base = load_base_of(recipe, placement)
    _stage, encoder = make_stage(recipe, base.tokenizer)
    samples = list(data.evaluate)
    prompts = sorted((encoder.encode_prompt(s.prompt, s.tools, s.where) for s in samples), key=len, reverse=True)
    model = base.model
    if options.adapter is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, options.adapter)
    attend_for_answers(base.model, placement.generation_attention)
    return model.eval(), base.tokenizer, [list(p) for p in prompts], placement, recipe.evaluate.max_new_tokens


if __name__ == "__main__":
    main()
