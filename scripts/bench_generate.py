"""Answers to held-out prompts, by our loop and by others: the same model, prompts and greedy tokens, turn by turn in one process.

    python scripts/bench_generate.py                                   # 64 METAR reports, the base
    python scripts/bench_generate.py --adapter runs/metar_decode/adapter --rows 500 --only ours --repeats 1   # an evaluation

One by one is measured on fewer rows and given a row. Other engines are measured where they are installed (CTranslate2 in float32
on the base without adapter). Medians of the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

WAYS = ("ours", "generate", "one by one", "ctranslate2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/meteorology/metar_decode.yaml")
    parser.add_argument("--adapter", type=Path, help="a run's adapter/ (default: the base alone)")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="answers at once (default 64)")
    parser.add_argument("--alone", type=int, default=8, help="rows that are answered one by one (default 8)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    model, tokenizer, prompts, placement, limit = loaded(options)
    import torch

    from finetune.evaluate.generate import generate, generate_batch

    def ours() -> int:
        return sum(
            len(answer.ids) for _, answer in generate(model, tokenizer, prompts, limit, options.batch, placement)
        )

    def in_batches() -> int:
        parts = [prompts[start : start + options.batch] for start in range(0, len(prompts), options.batch)]
        return sum(len(a.ids) for part in parts for a in generate_batch(model, tokenizer, part, limit, placement))

    def alone() -> int:
        step = max(1, len(prompts) // options.alone)
        return sum(len(generate_batch(model, tokenizer, [p], limit, placement)[0].ids) for p in prompts[::step])

    ways: dict[str, tuple[Callable[[], int], int]] = {
        "ours": (ours, len(prompts)),
        "generate": (in_batches, len(prompts)),
        "one by one": (alone, len(prompts[:: max(1, len(prompts) // options.alone)])),
    }
    if options.adapter is None and "ctranslate2" in options.only:
        engine = converted(model, tokenizer, prompts, limit, options.batch)
        if engine is not None:
            ways["ctranslate2"] = (engine, len(prompts))
    ways = {name: way for name, way in ways.items() if name in options.only}
    lengths = [len(prompt) for prompt in prompts]
    print(f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens, at most {limit} new ones, {options.batch} at "
          f"once, {placement.dtype}, {torch.get_num_threads()} threads")  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    with torch.inference_mode():
        for _ in range(options.repeats):
            for name, (way, rows) in ways.items():
                began = time.perf_counter()
                tokens[name] = way()
                seconds[name].append((time.perf_counter() - began) / rows)
    first = statistics.median(seconds["ours"]) if "ours" in seconds else None
    for name, its in seconds.items():
        middle, rows = statistics.median(its), ways[name][1]
        ratio = f"  {middle / first:5.2f} times ours" if first else ""
        print(f"{name:12} {1000 * middle:8.1f} ms a row  {tokens[name] / rows / middle:7.0f} tokens/s{ratio}")


def loaded(options: argparse.Namespace) -> tuple[Any, Any, list[list[int]], Any, int]:
    """Model, tokenizer, prompts longest first, placement, and the recipe's limit of new tokens."""
    from finetune import device
    from finetune.inputs import load_data, make_stage
    from finetune.model.attention import attend_for_answers
    from finetune.ready import load_base_of
    from finetune.recipefile import load_recipe

    device.quiet_libraries()
    recipe = load_recipe(options.recipe)
    data = load_data(recipe)
    placement = device.start(recipe)
    base = load_base_of(recipe, placement)
    _stage, encoder = make_stage(recipe, base.tokenizer)
    held_out = list(data.evaluate)
    samples = (
        (held_out + list(data.train))[: options.rows] if options.rows > len(held_out) else held_out[: options.rows]
    )
    prompts = sorted((encoder.encode_prompt(s.prompt, s.tools, s.where) for s in samples), key=len, reverse=True)
    model = base.model
    if options.adapter is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, options.adapter)
    attend_for_answers(base.model, placement.generation_attention)
    return model.eval(), base.tokenizer, [list(p) for p in prompts], placement, recipe.evaluate.max_new_tokens


def converted(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], limit: int, batch: int
) -> Callable[[], int] | None:
    """The base in CTranslate2; None where that is not installed."""
    try:
        import ctranslate2
    except ImportError:
        return None
    import torch

    placed = model.dtype
    place = Path(tempfile.mkdtemp(prefix="bench_generate"))
    model.to(torch.float32).save_pretrained(place / "hf")
    tokenizer.save_pretrained(place / "hf")
    ctranslate2.converters.TransformersConverter(str(place / "hf")).convert(str(place / "ct2"))
    model.to(placed)
    engine = ctranslate2.Generator(str(place / "ct2"), device="cpu", intra_threads=torch.get_num_threads())
    words = [tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts]

    def answers() -> int:
        found = engine.generate_batch(
            words, max_batch_size=batch, max_length=limit, sampling_topk=1, include_prompt_in_result=False,
            end_token=[tokenizer.eos_token_id],
        )  # fmt: skip
        return sum(len(one.sequences_ids[0]) for one in found)

    return answers


if __name__ == "__main__":
    main()
