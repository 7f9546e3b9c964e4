"""The proof of a converted or quantised file: it is run, and held against the merged model that it was made from."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from finetune.data.chat import Example
from finetune.errors import GateError

TOP = 64  # logprobs asked of the engine at each position
ANSWER_TOKENS = 64  # at most so many of each conversation's answer

# What each type may cost against the merged model in float32: two to five times what was measured on SmolLM2-135M, tuned
# and untuned (docs/benchmarks/serving.md). A model so small is hurt more by quantisation than a large one; llama.cpp's
# own table for Llama 3 8B (tools/perplexity/README.md) has 0.001 for q8_0 and 0.03 for q4_k_m. f32 is the same sums in
# another order, held to equality; 1e-5 is what the engine's float32 logprobs resolve.
LIMITS = {
    "f32": {"mean_kl": 1e-5, "greedy_agreement": 1.0, "max_logprob_difference": 1e-3, "answers_equal": 1.0},
    "f16": {"mean_kl": 1e-4, "greedy_agreement": 0.97},
    "bf16": {"mean_kl": 2e-3, "greedy_agreement": 0.95},
    "q8_0": {"mean_kl": 3e-2, "greedy_agreement": 0.85},
    "q6_k": {"mean_kl": 5e-2, "greedy_agreement": 0.85},
    "q5_k_m": {"mean_kl": 0.25, "greedy_agreement": 0.7},
    "q4_k_m": {"mean_kl": 0.25, "greedy_agreement": 0.7},
}
AT_LEAST = ("greedy_agreement", "answers_equal")


@dataclass(frozen=True)
class Served:
    """How an engine's answers differ from the reference's.

    Attributes:
        positions: answer tokens of the held-out conversations, each predicted from the reference text before it.
        max_logprob_difference: largest |log p(engine) - log p(reference)| over the engine's TOP tokens of a position.
        mean_kl: mean over positions of KL(reference || engine) in nats, over the engine's TOP tokens and one more
            outcome for all the others; by the log sum inequality never more than the KL over the whole vocabulary
            (Cover and Thomas, Elements of Information Theory, theorem 2.7.1).
        greedy_agreement: share of positions where both have the same most likely token.
        answers_equal: share of prompts that both answer greedily with the same tokens, the stop included.
    """

    conversations: int
    positions: int
    max_logprob_difference: float
    mean_kl: float
    greedy_agreement: float
    answers_equal: float


def prove_gguf(
    file: Path, merged: Path, examples: Sequence[Example], type: str, adapter: Path | None = None
) -> dict[str, Any]:
    """Runs a GGUF file through llama.cpp along the reference conversations and compares with the merged model.

    Args:
        file: the model's GGUF file; with an adapter, that of its base.
        merged: folder of the merged model, the reference; computed in float32.
        type: the GGUF type of what is proven, which sets the limits; types without a row are held to q4_k_m's.
        adapter: GGUF file of a LoRA adapter to load on top.

    Returns:
        The numbers, the engine and the limits; only `not run` with the reason where no engine is installed.

    Raises:
        GateError: the engine dies, splits text into other ids than the tokenizer, or a limit is exceeded.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        return {"not run": "no engine for GGUF files here; pip install 'finetune[llamacpp]'"}
    served = measure_gguf(file, merged, examples, adapter)
    limits = LIMITS.get(type, LIMITS["q4_k_m"])
    failed = [
        f"{name} {getattr(served, name):.3g}, limit {limit:g}"
        for name, limit in limits.items()
        if not (getattr(served, name) >= limit if name in AT_LEAST else getattr(served, name) <= limit)
    ]
    if failed:
        what = f"{adapter.name} on {file.name}" if adapter else file.name
        raise GateError(f"export stopped: {what} run by llama.cpp is not the merged model: {'; '.join(failed)}")
    engine = f"xllamacpp {version('xllamacpp')}"
    return {"engine": engine, "type": type, "top": TOP} | asdict(served) | {"limits": limits}


def measure_gguf(file: Path, merged: Path, examples: Sequence[Example], adapter: Path | None = None) -> Served:
    """The numbers of `prove_gguf`, held to no limit.

    Raises:
        GateError: the engine dies, or splits text into other ids than the tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(merged)
    texts = sorted({tokenizer.decode(example.ids) for example in examples})
    said = run_gguf(file, adapter, [_question(example) for example in examples], texts)
    differ = [text for text, ids in zip(texts, said["ids"], strict=True) if ids != _ids(tokenizer, text)]
    if differ:
        raise GateError(
            f"{file.name}: llama.cpp splits {len(differ)} of {len(texts)} texts into other ids than the tokenizer, "
            f"the first {differ[0][:80]!r}"
        )
    model = AutoModelForCausalLM.from_pretrained(merged, attn_implementation="eager", dtype=torch.float32).eval()
    return compare_served(model, examples, said)


def run_gguf(
    file: Path,
    adapter: Path | None,
    conversations: Sequence[dict[str, Any]],
    texts: Sequence[str],
    messages: Sequence[Sequence[dict[str, Any]]] = (),
) -> dict[str, Any]:
    """What llama.cpp says to these questions (see finetune/export/run_gguf.py), in a process of its own.

    Raises:
        GateError: the engine refused the file or died of it.
    """
    asked = {
        "file": str(file), "adapter": str(adapter) if adapter else None, "threads": torch.get_num_threads(), "top": TOP,
        "conversations": list(conversations), "texts": list(texts), "messages": list(messages),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder) / "questions.json", Path(folder) / "answers.json"
        questions.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-m", "finetune.export.run_gguf", str(questions), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0 or not answers.is_file():
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
            telling = [line for line in lines if "GGML_ASSERT" in line or "error" in line.lower()]
            what = f"{adapter.name} on {file.name}" if adapter else file.name
            raise GateError(f"{what}: llama.cpp died of it ({done.returncode}): {(telling or lines)[-1][:300]}")
        return json.loads(answers.read_text(encoding="utf-8"))


@torch.inference_mode()
def compare_served(model: Any, examples: Sequence[Example], said: dict[str, Any]) -> Served:
    """The numbers; `said` are the engine's answers to the `_question` of each example, in order."""
    largest, kl, agreed, equal, positions = 0.0, 0.0, 0, 0, 0
    stops = _stops(model)
    for example, logprobs, greedy in zip(examples, said["logprobs"], said["greedy"], strict=True):
        start = _question(example)["start"]
        ids = torch.tensor([example.ids])  # (1, T)
        reference = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)  # (T, V)
        for offset, pairs in enumerate(logprobs):
            row = reference[start + offset - 1]  # (V,): what comes at start + offset
            theirs = torch.tensor([logprob for _, logprob in pairs], dtype=torch.float64)  # (TOP,)
            ours = row[[token for token, _ in pairs]]
            largest = max(largest, (theirs - ours).abs().max().item())
            kl += _grouped_kl(ours, theirs)
            agreed += int(row.argmax()) == pairs[0][0]
        positions += len(logprobs)
        equal += _same_answer(model, list(example.ids[:start]), greedy, stops)
    count = len(examples)
    return Served(count, positions, largest, kl / positions, agreed / positions, equal / count)


def _question(example: Example) -> dict[str, Any]:
    """What the engine is asked about one conversation: its last answer's tokens, and the greedy answer to its prompt."""
    trained = [position for position, label in enumerate(example.labels) if label >= 0]
    end = trained[-1] + 1
    start = end
    while start > 1 and example.labels[start - 1] >= 0:
        start -= 1
    end = min(end, start + ANSWER_TOKENS)
    return {"ids": list(example.ids), "start": start, "end": end, "greedy": end - start + 8}


def _same_answer(model: Any, prompt: list[int], greedy: dict[str, Any], stops: set[int]) -> bool:
    """Whether the reference, too, would have chosen every token of the engine's greedy answer, and its end."""
    answer = list(greedy["ids"])
    if answer and answer[-1] in stops:
        answer.pop()
    if stops & set(answer):  # it went on where the reference ends
        return False
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]  # (T, V)
    chosen = logits[len(prompt) - 1 :].argmax(-1).tolist()  # len(answer) + 1
    ends = chosen[-1] in stops
    return chosen[:-1] == answer and (ends if greedy["stopped"] else True)


def _grouped_kl(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """KL(ours || theirs) over the listed tokens and one outcome for the rest; both are logprobs, (TOP,)."""
    listed = (ours.exp() * (ours - theirs)).sum().item()
    # The engine's logprobs are float32 sums over the vocabulary: below 1e-6 its rest is rounding.
    rest, their_rest = (max(1.0 - side.exp().sum().item(), 1e-6) for side in (ours, theirs))
    return listed + rest * math.log(rest / their_rest)


def _stops(model: Any) -> set[int]:
    ids = model.generation_config.eos_token_id
    return set(ids) if isinstance(ids, list) else {ids}


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids
