"""Greedy answers to held-out prompts: batched, sorted by length, with a KV cache, spread over the processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from finetune.data.chat import IGNORED, ChatEncoder, Example
from finetune.data.rows import Sample
from finetune.device import Placement
from finetune.evaluate.callforms import answer_text
from finetune.evaluate.decode import Choose, decode, decodes, likeliest
from finetune.evaluate.quick import quick_linears
from finetune.log import Log
from finetune.model.attention import attend_for_answers
from finetune.model.virtual import generation_inputs, is_prompted
from finetune.recipe_evaluate import EvaluateSection


@dataclass(frozen=True)
class Answer:
    """Text of one answer; `finished` is false when it was cut at `max_new_tokens` before a stop token.

    Tool calls in the text are in canonical form (`callforms.answer_text`). `ids` are the generated ones, the stop token included.
    """

    text: str
    finished: bool
    ids: tuple[int, ...] = ()


def answer(
    model: Any,
    encoder: ChatEncoder,
    samples: Sequence[Sample],
    section: EvaluateSection,
    placement: Placement,
    log: Log,
    what: str,
) -> list[Answer]:
    """One greedy answer a sample, in the order of the samples, on every process the same list.

    Args:
        model: a peft model, or one of transformers.
    """
    from accelerate.utils import gather_object

    accelerator = placement.accelerator
    prompts = [encoder.encode_prompt(sample.prompt, sample.tools, sample.where) for sample in samples]
    longest_first = sorted(range(len(samples)), key=lambda index: len(prompts[index]), reverse=True)
    mine = longest_first[accelerator.process_index :: accelerator.num_processes]
    own = [prompts[index] for index in mine]
    found: list[tuple[int, Answer]] = []
    model.eval()
    attend_for_answers(plain(model), placement.generation_attention)
    # Compiled layers are made for training's shapes; one token at a time would compile them anew again and again.
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"), adapter_in(model, placement.torch_dtype):
        answers = generate(model, encoder.tokenizer, own, section.max_new_tokens, section.batch_size, placement)
        for place, item in log.track(answers, len(own), what):
            index = mine[place]
            found.append((index, with_calls(item, samples[index].tools, encoder.tokenizer)))
    everyone = gather_object(found) if accelerator.num_processes > 1 else found
    return [item for _, item in sorted(everyone, key=lambda pair: pair[0])]


def with_calls(answer: Answer, tools: Sequence[dict[str, Any]], tokenizer: Any) -> Answer:
    """The answer with its tool calls, where tools were on offer and it has some, in canonical form."""
    if not tools:
        return answer
    ids = answer.ids[:-1] if answer.finished else answer.ids
    raw = tokenizer.decode(ids, skip_special_tokens=False)  # special tokens may mark the calls
    return replace(answer, text=answer_text(raw, answer.text, tools))


def answer_logprobs(model: Any, examples: Sequence[Example], placement: Placement) -> list[list[float]]:
    """What the model that is being evaluated gives each trained token of the examples, in nats; see export/parity.py."""
    from finetune.export.parity import answer_logprobs as of_logits
    from finetune.export.parity import logits

    model.eval()
    with placement.autocast(), torch.compiler.set_stance("force_eager"), adapter_in(model, placement.torch_dtype):
        return [of_logits(logits(model, example), example) for example in examples]


def answer_rewards(model: Any, examples: Sequence[Example], placement: Placement) -> list[list[float]]:
    """What the reward model that is being evaluated gives each conversation; see export/rewards.py."""
    from finetune.export.rewards import peft_rewards

    model.eval()
    with placement.autocast(), torch.compiler.set_stance("force_eager"):
        return peft_rewards(model, examples)


def as_example(prompt: Sequence[int], answer: Answer, where: str) -> Example:
    """An answer as if it had been trained: its tokens are the labels."""
    return Example((*prompt, *answer.ids), (IGNORED,) * len(prompt) + answer.ids, where)


@contextmanager
def adapter_in(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """LoRA's float32 weights rounded once to the dtype that autocast would round them to at every step.

    Other methods multiply by theirs, which autocast leaves in float32, or turn them into a rotation first.
    """
    kept = [(p, p.data) for name, p in model.named_parameters() if "lora_" in name and p.dtype == torch.float32]
    try:
        for parameter, data in kept:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    rows_at_once: int,
    placement: Placement,
    choose: Choose = likeliest,
) -> Iterator[tuple[int, Answer]]:
    """The number of each prompt with its answer, as answers end: by `decode` where that computes what the model does.

    Args:
        model: a peft model, or one of transformers.
        choose: of each row's scores the next token, see decode.py.
    """
    base = plain(model)
    stops = model.generation_config.eos_token_id
    if decodes(base) and (not is_prompted(model) or model._adapters_disabled):
        ends = [stops] if isinstance(stops, int) else stops
        at_once = min(rows_at_once, len(prompts))
        with placement.autocast(), head_on_rows(base), quick_linears(base, placement.device, at_once):
            attend = placement.device.attend
            for row, ids in decode(base, prompts, max_new_tokens, ends, rows_at_once, choose, attend):
                yield row, as_answer(tokenizer, ids, stops)
        return
    for start in range(0, len(prompts), rows_at_once):
        rows = range(start, min(start + rows_at_once, len(prompts)))
        batch = [prompts[row] for row in rows]
        processors = [] if choose is likeliest else [_Chosen(choose, rows)]
        yield from zip(
            rows, generate_batch(model, tokenizer, batch, max_new_tokens, placement, processors), strict=True
        )


def plain(model: Any) -> Any:
    """The model of transformers in a peft model; one without adapter is that itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def head_on_rows(model: Any) -> Iterator[None]:
    """Inside, the output head gets what it reads in one piece.

    The last position of many rows is a view with gaps, (B, 1, D) out of (B, T, D). torch.matmul does not fold such a one
    into a matrix: it copies the weights (V, D) once a row, gigabytes of them, and multiplies row by row.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class _Chosen:
    """A logits processor that leaves one token of each row: what `choose` takes."""

    choose: Choose
    rows: Sequence[int]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self.choose(scores, self.rows)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    placement: Placement,
    processors: Sequence[Any] = (),
) -> list[Answer]:
    """One answer a prompt: at each step the token with the highest score.

    Args:
        processors: of transformers' kind, which change the scores (B, V) first.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    width = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id
    device = placement.accelerator.device
    input_ids = torch.tensor(
        [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device
    )  # (B, T)
    attention_mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
    )  # (B, T)
    stops = model.generation_config.eos_token_id
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stops, pad_token_id=pad, use_cache=True
    )
    with placement.autocast(), head_on_rows(plain(model)):
        asked, inputs, before = generation_inputs(model, input_ids, attention_mask)
        output = asked.generate(**inputs, generation_config=config, logits_processor=LogitsProcessorList(processors))
    return [as_answer(tokenizer, row, stops) for row in output[:, before:].tolist()]


def as_answer(tokenizer: Any, ids: Sequence[int], stops: int | Sequence[int]) -> Answer:
    """What generated ids say, up to the first of the stop ids."""
    stop_ids = {stops} if isinstance(stops, int) else set(stops)
    end = next((position for position, token in enumerate(ids) if token in stop_ids), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
    return Answer(text, end is not None, tuple(ids if end is None else ids[: end + 1]))
