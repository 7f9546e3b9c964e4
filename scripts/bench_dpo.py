"""A step of DPO with and without prefix sharing, turn by turn in one process: the same model, pairs and losses.

    python scripts/bench_dpo.py                           # SmolLM2-135M, prompts of about 300 tokens, answers of about 60
    python scripts/bench_dpo.py --set train.torch_compile=false --prompt 100 --answer 100

The ids are random, their number varies by a third both ways. A step is the reference's forward pass, the policy's, and
its backward pass, all pairs in one micro-batch. Medians of the repeats, after one step of each that is not counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

WAYS = {"apart": False, "shared": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/finance/compliant_wording_dpo.yaml")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe, as for finetune train"
    )
    parser.add_argument("--prompt", type=int, default=300, help="tokens before the answers, in the mean (default 300)")
    parser.add_argument("--answer", type=int, default=60, help="tokens of an answer, in the mean (default 60)")
    parser.add_argument("--pairs", type=int, default=8, help="a step (default 8)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model, stage, placement, vocabulary = loaded(options)
    import torch

    from finetune.model.prefix_probe import sharing_problem
    from finetune.stages.batch import on_device

    problem = sharing_problem(model.model, placement.torch_dtype, placement.accelerator.device)
    if problem:
        sys.exit(f"this model does not share prefixes: it {problem}")
    items = pairs(options, vocabulary)
    batches = {}
    for name, sharing in WAYS.items():
        stage.prefix_sharing = sharing
        batches[name] = on_device(stage.collate(items), placement.accelerator.device)
    places = " and ".join(f"{batch['input_ids'].numel()} {name}" for name, batch in batches.items())
    print(
        f"{options.pairs} pairs, {placement.dtype}, {torch.get_num_threads()} threads; places of a step: {places}",
        flush=True,
    )
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, tuple[float, torch.Tensor]] = {}
    for turn in range(options.repeats + 1):
        for name, batch in batches.items():
            began = time.perf_counter()
            with placement.autocast():
                loss = stage.loss(model, batch)
            loss.value.backward()
            value = float(loss.value.detach()) / options.pairs  # the host waits for the device
            took = time.perf_counter() - began
            print(f"turn {turn} {name:7} {took:6.2f} s, loss {value:.6f}", flush=True)
            if turn:
                seconds[name].append(took)
            found[name] = (value, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
            model.zero_grad()
    report(seconds, found)


def report(seconds: dict[str, list[float]], found: dict[str, Any]) -> None:
    middle = {name: statistics.median(its) for name, its in seconds.items()}
    for name, its in seconds.items():
        print(f"{name:7} {middle[name]:6.2f} s a step ({min(its):.2f} to {max(its):.2f}), loss {found[name][0]:.6f}")
    one, other = (gradient for _loss, gradient in found.values())
    print(f"shared is {middle['apart'] / middle['shared']:.2f} times as fast; gradients differ by "
          f"{float((one - other).norm() / one.norm()):.1e}")  # fmt: skip


def pairs(options: argparse.Namespace, vocabulary: int) -> list[Any]:
    """Random ones; both answers train whole."""
    from finetune.data.chat import IGNORED, Example
    from finetune.data.items import Pair

    draw = random.Random(5)

    def ids(mean: int) -> tuple[int, ...]:
        return tuple(draw.randrange(20, vocabulary) for _ in range(draw.randint(2 * mean // 3, 4 * mean // 3)))

    def example(prompt: tuple[int, ...]) -> Example:
        answer = ids(options.answer)
        return Example(prompt + answer, (IGNORED,) * len(prompt) + answer, "bench")

    prompts = [ids(options.prompt) for _ in range(options.pairs)]
    return [Pair(example(prompt), example(prompt)) for prompt in prompts]


def loaded(options: argparse.Namespace) -> tuple[Any, Any, Any, int]:
    """The model as it trains, its adapter moved a little from the start; stage, placement, size of the vocabulary."""
    import torch

    from finetune import device
    from finetune.inputs import make_stage
    from finetune.model.speed import prepare_for_training
    from finetune.ready import add_adapter_of, load_base_of
    from finetune.recipefile import load_recipe

    device.quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(options.recipe, (*options.set, f"output_dir={folder}/run"))
        placement = device.start(recipe)
        base = load_base_of(recipe, placement)
    model, _coverage = add_adapter_of(recipe, base)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    wrapped = prepare_for_training(model, recipe.train)
    wrapped.to(placement.accelerator.device).train()
    return wrapped, make_stage(recipe, base.tokenizer)[0], placement, len(base.tokenizer)


if __name__ == "__main__":
    main()
