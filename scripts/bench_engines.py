"""Other engines that answer the prompts of bench_generate.py, from a folder with the merged model (a bundle, or its base/)."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Answers = Callable[[], list[tuple[int, ...]]]


def ctranslate2(
    folder: Path, tokenizer: Any, prompts: Sequence[Sequence[int]], limit: int, batch: int, threads: int
) -> Answers | None:
    """CTranslate2 in float32 (it has no bfloat16 on CPUs); None where it is not installed."""
    try:
        import ctranslate2 as engine
    except ImportError:
        return None
    place = tempfile.mkdtemp(prefix="bench_generate") + "/ct2"
    engine.converters.TransformersConverter(str(folder)).convert(place)
    model = engine.Generator(place, device="cpu", intra_threads=threads, inter_threads=1)
    words = [tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts]
    stop = [tokenizer.eos_token_id]

    def answers() -> list[tuple[int, ...]]:
        found = model.generate_batch(
            words, max_batch_size=batch, max_length=limit, sampling_topk=1, include_prompt_in_result=False,
            end_token=stop, return_end_token=True,
        )  # fmt: skip
        return [tuple(one.sequences_ids[0]) for one in found]

    return answers


def llama_cpp(
    folder: Path, tokenizer: Any, prompts: Sequence[Sequence[int]], limit: int, batch: int, threads: int
) -> Answers | None:
    """llama.cpp's server with a slot for each answer at once, a bf16 file; None where it or its converter is missing."""
    try:
        import xllamacpp
    except ImportError:
        return None
    from finetune.export.gguf import convert

    if not (ROOT / ".converters").is_dir():
        return None
    file = Path(tempfile.mkdtemp(prefix="bench_generate")) / "model.gguf"
    convert(folder, file, "bf16", ROOT / ".converters")
    room = max(map(len, prompts)) + limit
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = batch * room
    params.n_parallel = batch
    params.n_gpu_layers = 0
    params.fit_params = False
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def answers() -> list[tuple[int, ...]]:
        """All in one request, so that connections are not measured."""
        body = {"prompt": list(map(list, prompts)), "temperature": 0, "top_k": 1, "samplers": ["top_k"],
                "return_tokens": True, "n_predict": limit}  # fmt: skip
        address = server.listening_address.rstrip("/") + "/completion"  # the server lives as long as this function
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=3600) as answer:
            found = json.load(answer)
        found = sorted(found if isinstance(found, list) else [found], key=lambda one: one["index"])
        return [tuple(one["tokens"]) for one in found]

    return answers


ENGINES = {"ctranslate2": ctranslate2, "llama.cpp": llama_cpp}
