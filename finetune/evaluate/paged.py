"""Answers drawn by transformers' continuous batching: a finished one makes room for the next, in a paged KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import TrainingError
from finetune.evaluate.generate import Answer, as_answer

if TYPE_CHECKING:
    from finetune.evaluate.sample import Sampling

PAGE = 16  # tokens of a block of the cache
TOKENS_AT_ONCE = 256  # of prompts, at least, in one forward pass


def paged_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], seed: int | None, sampling: Sampling
) -> list[Answer]:
    """One answer a prompt, in the order of the prompts.

    All of them draw from one random stream in the order in which they are worked on. That is a function of the prompts
    and of `sampling`, because every prompt waits in the queue before the work begins; on another number of processes
    the answers are others.

    Args:
        seed: None for the likeliest token at each step.
        model: a transformers model, perhaps with adapters in its layers; in eval mode. The work is done in a thread of
            its own, where no autocast holds: its weights must be of one dtype.

    Raises:
        TrainingError: transformers could not answer all of them.
    """
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    longest = max(len(prompt) for prompt in prompts)
    rows = min(sampling.batch_size, len(prompts))
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or None}
    settings = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, do_sample=seed is not None, **(drawn if seed is not None else {}),
        eos_token_id=model.generation_config.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    cache = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=rows * (-(-(longest + sampling.max_new_tokens) // PAGE) + 1),
        max_batch_tokens=max(TOKENS_AT_ONCE, longest, rows), seed=seed, use_async_batching=False, use_cuda_graph=False,
        auto_switch_to_flash=False,
    )  # fmt: skip
    manager = model.init_continuous_batching(generation_config=settings, continuous_batching_config=cache)
    names = manager.add_requests([list(prompt) for prompt in prompts])
    manager.start()
    results: dict[str, Any] = {}
    try:
        while len(results) < len(names) and (manager.is_running() or not manager.output_router.output_queue.empty()):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                results[result.request_id] = result
    finally:
        manager.stop(block=True)
        manager.destroy()
    failed = [name for name in names if name not in results or results[name].error is not None]
    if failed:
        reason = next((results[name].error for name in failed if name in results), "its thread ended")
        raise TrainingError(f"grpo.engine: paged: {len(failed)} of {len(names)} answers failed: {reason}")
    return [as_answer(tokenizer, results[name].generated_tokens, settings.eos_token_id) for name in names]
