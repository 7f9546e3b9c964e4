"""Answers by vLLM, for finetune/evaluate/vllm_engine.py: run as a file by the Python that has vLLM, with nothing of ours.

What is called is what vLLM 0.32 documents (docs.vllm.ai: LLM, SamplingParams, LoRARequest, prompts of token ids).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(job_file: str, answers_file: str) -> None:
    """Reads the job, writes `{"base": [ids, ...], "tuned": [ids, ...]}`, in the order of the prompts."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm = LLM(**job["llm"])
    adapter = LoRARequest("tuned", 1, job["adapter"])
    # By itself first: after an adapter that generate() refused, vLLM 0.32's next call hangs.
    llm.llm_engine.add_lora(adapter)
    params = SamplingParams(**job["sampling"])
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    said = {
        who: [_ids(one) for one in llm.generate(prompts, params, lora_request=lora, use_tqdm=False)]
        for who, lora in (("base", None), ("tuned", adapter))
    }
    Path(answers_file).write_text(json.dumps(said), encoding="utf-8")


def _ids(request: Any) -> list[int]:
    """What was generated, the token that ended it included."""
    output = request.outputs[0]
    ids = list(output.token_ids)
    end = output.stop_reason
    return [*ids, end] if isinstance(end, int) and ids[-1:] != [end] else ids


if __name__ == "__main__":
    main(*sys.argv[1:])
