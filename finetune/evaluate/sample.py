"""Answers drawn from the model while it is trained, spread over the processes, the same whatever their number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from finetune.device import Placement
from finetune.evaluate.decode import Choose, likeliest
from finetune.evaluate.generate import Answer, adapter_in, generate
from finetune.evaluate.paged import paged_answers
from finetune.model.attention import attend_for_answers


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. `top_k` 0 and `top_p` 1 leave out nothing; `batch_size` answers at once a process.

    `engine`: `transformers`, or `paged` (see paged.py).
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    batch_size: int
    engine: str = "transformers"


def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    seed: int | None,
    sampling: Sampling,
    placement: Placement,
) -> list[Answer]:
    """One answer a prompt, in the order of the prompts, on every process the same list.

    With the engine `transformers` each has a random stream of its own, out of `seed` and its place in `prompts`: how
    answers fall on processes and batches changes the logits' last bits, and nothing else.

    Args:
        model: the peft model; left in the mode and with the attention it came with.
        seed: None for the likeliest token at each step, whatever the rest of `sampling` says.
    """
    from accelerate.utils import gather_object

    accelerator = placement.accelerator
    longest_first = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    mine = longest_first[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, Answer]] = []
    with torch.no_grad(), _generating(model, placement), adapter_in(model, placement.torch_dtype):
        if sampling.engine == "paged" and mine:
            own_seed = None if seed is None else _seed_of(seed, accelerator.process_index)
            given = [prompts[index] for index in mine]
            found += zip(mine, paged_answers(model.get_base_model(), tokenizer, given, own_seed, sampling), strict=True)
            mine = []
        choose: Choose = likeliest
        if seed is not None:
            choose = _draw(sampling, Gumbel([_seed_of(seed, index) for index in mine], accelerator.device))
        own = [prompts[index] for index in mine]
        answers = generate(model, tokenizer, own, sampling.max_new_tokens, sampling.batch_size, placement, choose)
        found += ((mine[place], answer) for place, answer in answers)
    everyone = gather_object(found) if accelerator.num_processes > 1 else found
    return [item for _, item in sorted(everyone, key=lambda pair: pair[0])]


class Gumbel:
    """Noise that makes the highest score a draw: argmax(log p + g), g of Gumbel(0, 1), has p's distribution.

    (Gumbel 1954; Maddison et al., "A* sampling", arXiv 1411.0030, section 2.)

    Args:
        seeds: of the rows' own streams.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, scores: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """(B, V) scores with noise of the rows' own streams; -log of an exponential variable is a Gumbel one."""
        noise = torch.empty_like(scores)
        for row, number in zip(noise, rows, strict=True):
            row.exponential_(generator=self.streams[number])
        return scores - noise.log()


def _draw(sampling: Sampling, noise: Gumbel) -> Choose:
    """A token of each row by its probability, as `sampling` bends it."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    found: list[Any] = []
    if sampling.temperature != 1.0:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(sampling.top_p))

    def choose(scores: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        for warper in found:
            scores = warper(None, scores)  # none of them looks at the tokens before
        return noise(scores, rows).argmax(-1)

    return choose


def _seed_of(seed: int, index: int) -> int:
    """32 bits."""
    return int.from_bytes(hashlib.sha256(f"answer {seed} {index}".encode()).digest()[:4], "big")


@contextmanager
def _generating(model: Any, placement: Placement) -> Iterator[None]:
    """Inside, the peft model is in eval mode with the attention that generation takes, and is not compiled."""
    base = model.get_base_model()
    training, attention = model.training, base.config._attn_implementation
    model.eval()
    attend_for_answers(base, placement.generation_attention)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        base.set_attn_implementation(attention)
        model.train(training)
