"""Runs a GGUF file in llama.cpp's server and writes down what it says; a program of its own, for bad files abort.

    python -m finetune.export.run_gguf QUESTIONS.json ANSWERS.json

Attention and its cache are in float32, so that what is seen is the file's doing and not a setting's.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any


def main(questions: Path, answers: Path) -> None:
    """Answers every question in the file.

    Questions: `file`, `adapter` (or null), `threads`, `top` (how many logprobs a position), `conversations` (each `ids`,
    `start`: index of the first answer token, `end`: one past the last that is asked for, `greedy`: how many tokens to
    generate from the prompt), `texts` to tokenise, `messages` (lists of them) to render.
    Answers: `logprobs[conversation][position]` pairs (id, logprob), most likely first, of the token at `start + position`
    given the reference before it; `greedy[conversation]` = `{ids, stopped}`; `ids[text]`; `rendered[messages]`.
    """
    asked = json.loads(questions.read_text(encoding="utf-8"))
    longest = max((len(c["ids"]) + c["greedy"] for c in asked["conversations"]), default=0)
    server = start(asked["file"], asked["adapter"], asked["threads"], longest + 64)
    said: dict[str, Any] = {"logprobs": [], "greedy": []}
    for conversation in asked["conversations"]:
        ids, first = conversation["ids"], conversation["start"]
        steps = range(first, conversation["end"])
        said["logprobs"].append([_next(server, ids[:position], asked["top"]) for position in steps])
        body = _request(ids[:first]) | {"n_predict": conversation["greedy"]}
        answer = _post(server, "/completion", body)
        said["greedy"].append({"ids": answer["tokens"], "stopped": answer["stop_type"] == "eos"})
    texts = [{"content": text, "add_special": False, "parse_special": True} for text in asked["texts"]]
    said["ids"] = [_post(server, "/tokenize", body)["tokens"] for body in texts]
    chats = [_post(server, "/apply-template", {"messages": messages}) for messages in asked["messages"]]
    said["rendered"] = [chat["prompt"] for chat in chats]
    answers.write_text(json.dumps(said), encoding="utf-8")


def start(file: str, adapter: str | None, threads: int, context: int) -> Any:
    """llama.cpp's HTTP server on a port of its own choice on this machine."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = context
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.fit_params = False
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = adapter, 1.0
        params.lora_adapters = [lora]
    return xllamacpp.Server(params)


def _request(ids: list[int]) -> dict[str, Any]:
    return {"prompt": ids, "temperature": 0, "top_k": 1, "samplers": ["top_k"], "return_tokens": True}


def _next(server: Any, ids: list[int], top: int) -> list[tuple[int, float]]:
    """The most likely next tokens with their logprobs over the whole vocabulary (not of what sampling left)."""
    body = _request(ids) | {"n_predict": 1, "n_probs": top, "cache_prompt": True}
    answer = _post(server, "/completion", body)
    return [(item["id"], item["logprob"]) for item in answer["completion_probabilities"][0]["top_logprobs"]]


def _post(server: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        server.listening_address.rstrip("/") + path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy: it is this machine
    with plain.open(request, timeout=600) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
