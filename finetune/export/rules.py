"""The servability rules: one row each, with the engines that it holds for, the fix and where it is known from.

Evidence: measured = run here or in the research before it; source, documentation = read there; unknown = not run, and
refused until it is. The engines' versions are those of docs/serving.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from finetune.export.adapterfile import PROMPTS
from finetune.export.facts import AdapterFacts, ModelFacts

Severity = Literal["wrong", "refused", "warning"]

VLLM = ("vllm", "vllm-ascend")
GGUF = ("llama.cpp", "ollama")
SERVERS = (*VLLM, "mindie", "sglang", "tgi")
ENGINES = ("transformers", *SERVERS, *GGUF, "openvino", "onnxruntime")
NOT_PEFT = tuple(engine for engine in ENGINES if engine != "transformers")  # transformers reads adapters through peft

CANON = "export writes adapters canonical: run finetune export on it"
MERGE = "set form: merged"


@dataclass(frozen=True)
class Rule:
    """One thing that an engine can't do, or does wrong.

    Attributes:
        form: of a target, for which the rule is asked.
        engines: what it is for each engine; absent: nothing.
        test: what is the matter, in words; nothing where all is well.
        fix: what to do about it.
    """

    id: str
    form: Literal["adapter", "merged"]
    engines: Mapping[str, Severity]
    test: Callable[[AdapterFacts], str]
    fix: str
    evidence: str


@dataclass(frozen=True)
class ModelRule:
    """The same of a merged model's folder."""

    id: str
    engines: Mapping[str, Severity]
    test: Callable[[ModelFacts], str]
    fix: str
    evidence: str


def each(engines: tuple[str, ...], severity: Severity) -> dict[str, Severity]:
    """The same severity for several engines."""
    return dict.fromkeys(engines, severity)


def _norms(facts: AdapterFacts) -> list[str]:
    return [name for name in facts.saved if "norm" in name.lower() or name.rpartition(".")[2].startswith("ln_")]


def _untouched_layers(facts: AdapterFacts) -> str:
    how = {False: "some layers have no adapter", None: "target_modules is a pattern, and may leave out layers"}
    return how.get(facts.covers, "")


def _whole(facts: AdapterFacts) -> str:
    norms = _norms(facts)
    saved = [name for name in facts.saved if name not in norms]
    words = [f"modules_to_save {', '.join(saved)}"] if saved else []
    words += ["trained token rows or a resized vocabulary"] if facts.new_tokens else []
    said = ("peft_type", "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters")
    words += [word for line in facts.leftover if (word := line.split(":")[0]) not in said]  # no other rule says it
    return " and ".join(words)


def _ends(facts: AdapterFacts) -> str:
    if not facts.ends:
        return ""
    return f"LoRA on {', '.join(facts.ends)}{' of a base that ties the two' if facts.tied else ''}"


def _lost_stops(facts: AdapterFacts) -> str:
    if facts.base_stops is None or facts.stops <= facts.base_stops:
        return ""
    lost = sorted(facts.stops - facts.base_stops)
    return f"answers end with token {', '.join(map(str, lost))}, which the base does not stop at"


def _mindie_model(facts: AdapterFacts) -> str:
    kind = (facts.base or {}).get("model_type")
    return f"model_type {kind!r} takes no adapters" if kind and kind not in ("qwen2", "qwen3", "llama") else ""


def _quantised(facts: AdapterFacts) -> str:
    kind = facts.stored or facts.quantised
    return f"the adapter was trained on its base in {kind}, and answers otherwise on another" if kind else ""


def _not_in_vllm(facts: AdapterFacts) -> str:
    on_load = facts.quantised is not None and facts.quantised != "nf4"
    kind = facts.stored or facts.quantised
    return f"it can't have the base in {kind}, as the adapter was trained on" if on_load or kind == "torchao" else ""


def _in_vllm(facts: AdapterFacts) -> str:
    kind = facts.stored or facts.quantised
    return f"the base has to be in {kind}, as the adapter was trained on" if kind and not _not_in_vllm(facts) else ""


def _in_peft(facts: AdapterFacts) -> str:
    kind = facts.stored or facts.quantised
    return f"the base has to be loaded in {kind}, as the adapter was trained on" if kind else ""


_MINDIE_LORA = "Qwen2.5 7B-72B, Qwen2-72B, Qwen3-32B, Llama 3.1 8B and 70B"

ADAPTER_RULES = (
    Rule("A1", "adapter", each((*GGUF, "sglang", "openvino"), "wrong"),
         lambda f: "use_rslora: the scale is taken as lora_alpha / r, or 1" if f.rslora else "",
         CANON, "measured: llama.cpp, OpenVINO; source: SGLang, Ollama"),
    Rule("A2", "adapter", each((*GGUF, "sglang", "tgi", "mindie", "openvino"), "wrong") | {"vllm-ascend": "warning"},
         lambda f: "alpha_pattern is not read" if f.alpha_pattern else "",
         CANON, "measured: llama.cpp; source: SGLang, TGI, MindIE, older vLLM"),
    Rule("A3", "adapter", each(("sglang", "tgi", "mindie", "openvino"), "wrong") | {"vllm-ascend": "warning"},
         lambda f: "rank_pattern: one rank is taken for the scale of all modules" if f.rank_pattern else "",
         CANON, "source: SGLang, TGI, MindIE, older vLLM; measured right: llama.cpp, vLLM 0.32"),
    Rule("A4", "adapter", {"openvino": "wrong"},
         lambda f: "lora_alpha / r is not 1, and adapter_config.json is not read" if f.scale != 1 else "",
         CANON, "measured"),
    Rule("A5", "adapter", {"tgi": "wrong"}, _untouched_layers,
         "target every layer, or set form: merged: TGI drops a kind of module that one layer lacks", "source"),
    Rule("A6", "adapter", each(NOT_PEFT, "refused") | each(GGUF, "wrong"),
         lambda f: f"modules_to_save {', '.join(_norms(f))}: trained norms are not taken" if _norms(f) else "",
         MERGE, "measured: llama.cpp ignores them, vLLM refuses"),
    Rule("A7", "adapter",
         each(NOT_PEFT, "wrong") | each(VLLM, "refused") | {"transformers": "warning"},
         lambda f: f"init_lora_weights {f.residual!r} changed the base's weights" if f.residual else "",
         "set lora.init_lora_weights: true, or keep the initial A and B, which make it a plain adapter of rank 2r",
         "measured: llama.cpp wrong, vLLM refuses"),
    Rule("A8", "adapter", each(VLLM, "refused"),
         lambda f: f"rank {f.rank} is above 512, the last step of --max-lora-rank" if f.rank > 512 else "",
         "set r to 512 or less, or form: merged", "source"),
    Rule("A8", "adapter", {"vllm-ascend": "warning"},
         lambda f: f"rank {f.rank}: from 128 on the LoRA kernels fall back to slower ones" if f.rank >= 128 else "",
         "a lower r, or form: merged", "source"),
    Rule("A9", "adapter", each(NOT_PEFT, "refused"),
         lambda f: "use_dora: DoRA is not served as an adapter" if f.dora else "",
         "set form: merged or use_dora: false", "measured: vLLM, llama.cpp; source: SGLang; unknown: the others"),
    Rule("A10", "adapter", each(NOT_PEFT, "refused"),
         lambda f: "lora_bias" if f.lora_bias else f"bias {f.bias!r}" if f.bias != "none" else "",
         "set bias: none and lora_bias: false", "measured: vLLM, llama.cpp (lora_bias)"),
    Rule("A10", "merged", each(ENGINES, "refused"),
         lambda f: "lora_bias can't be merged into layers without a bias" if f.lora_bias and not f.biased else "",
         "set lora_bias: false", "measured: peft refuses the merge"),
    Rule("A11", "adapter", each(NOT_PEFT, "refused"), _whole,
         f"{MERGE} and serve it with its own tokenizer", "measured: vLLM, llama.cpp; source: SGLang, MindIE"),
    Rule("A12", "adapter",
         each((*GGUF, "mindie", "sglang", "tgi", "openvino", "onnxruntime"), "refused") | {"vllm-ascend": "warning"},
         _ends, f"{MERGE} (it unties the two), or leave these layers out of target_modules",
         "measured: llama.cpp dies, vLLM 0.32 is right; source: MindIE; unknown: the others"),
    Rule("A13", "adapter", each(ENGINES, "refused"),
         lambda f: f"tensors under names that are not peft's: {', '.join(f.odd[:3])}" if f.odd else "",
         CANON, "source"),
    Rule("A14", "adapter", {"sglang": "refused"},
         lambda f: "target_modules is a pattern; a list is needed" if f.regex else "", CANON, "source"),
    Rule("A15", "adapter", each(("ollama", "mindie"), "refused"),
         lambda f: (f"lora_alpha {f.alpha:g} must be a whole number of at most 1024"
                    if f.alpha != int(f.alpha) or f.alpha > 1024 else
                    f"rank {f.rank} is above 1024" if f.rank > 1024 else ""),
         CANON, "source"),
    Rule("A16", "adapter", each(ENGINES, "warning"),
         lambda f: f"the base is named by a path, {f.local_base}" if f.local_base else "",
         "the operator gives the base's folder; MANIFEST.json has its sha256", "source"),
    Rule("A17", "adapter", each((*SERVERS, *GGUF), "warning"),
         lambda f: "its chat template is not the base's, which engines take" if f.other_template else "",
         "start with the --chat-template that the README gives, or set form: merged", "measured: vLLM warns"),
    Rule("A18", "adapter", each(NOT_PEFT, "refused"),
         lambda f: f"peft_type {f.method}: engines read LoRA adapters only" if f.method != "LORA" else "",
         "serve it with peft (engine: transformers), or merged (form: merged) where the method merges",
         "source: vLLM (r and lora_alpha are required), llama.cpp; documentation or unknown: the others"),
    Rule("A19", "merged", each(ENGINES, "refused"),
         lambda f: f"peft_type {f.method}: {PROMPTS[f.method]}, and nothing is merged" if f.method in PROMPTS else "",
         "take {engine: transformers, form: adapter}, which peft serves, or train lora", "source: peft"),
    Rule("Q1", "adapter", each(tuple(engine for engine in NOT_PEFT if engine != "vllm"), "refused"), _quantised,
         f"{MERGE}: into the weights that it was trained on", "unknown"),
    Rule("Q1", "adapter", {"vllm": "refused"}, _not_in_vllm,
         f"{MERGE}; vLLM quantises only to nf4 as it loads, and reads gptq, awq, compressed-tensors and bitsandbytes folders",
         "documentation"),
    Rule("Q2", "adapter", {"vllm": "warning"},
         _in_vllm,
         "the command serves it on that base; check with finetune verify, or set form: merged", "documentation; not run"),
    Rule("Q2", "adapter", {"transformers": "warning"}, _in_peft,
         "run.py does; whoever loads it otherwise has another model", "measured"),
    Rule("E1", "adapter", each(NOT_PEFT, "refused"),
         lambda f: "target_parameters: LoRA on fused experts has no form that engines read" if f.experts else "",
         MERGE, "unknown"),
    Rule("E2", "adapter", {"mindie": "refused"}, _mindie_model,
         f"{MERGE}; adapters: {_MINDIE_LORA}", "documentation"),
    Rule("E3", "adapter", {"mindie": "warning"},
         lambda f: "" if _mindie_model(f) else f"adapters are for {_MINDIE_LORA}, without quantisation or prefix cache",
         MERGE, "documentation"),
    Rule("M7", "adapter", each((*SERVERS, *GGUF, "openvino", "onnxruntime"), "wrong"), _lost_stops,
         f"{MERGE}: it stops where training ended its answers", "measured: vLLM runs to its limit"),
)  # fmt: skip


def dtype_of(facts: ModelFacts) -> str:
    """What the config says, in either spelling."""
    return str(facts.config.get("torch_dtype") or facts.config.get("dtype") or "").removeprefix("torch.")


def _one_spelling(facts: ModelFacts) -> str:
    rope = facts.config.get("rope_parameters") or {}
    if "rope_theta" in rope and facts.config.get("rope_theta") != rope["rope_theta"]:
        return "config.json has rope_parameters and no rope_theta: 10000 is taken without a word"
    scaled = rope.get("rope_type", "default") != "default"
    return (
        "config.json has no rope_scaling beside rope_parameters"
        if scaled and not facts.config.get("rope_scaling")
        else ""
    )


def _vocabulary(facts: ModelFacts) -> str:
    if facts.tokens is None or facts.rows is None:
        return ""
    if facts.tokens > facts.rows:
        return f"the tokenizer has ids up to {facts.tokens - 1}, the embedding {facts.rows} rows"
    grown = facts.base_rows is not None and facts.rows > facts.base_rows >= facts.tokens
    return (
        f"{facts.rows} rows, {facts.base_rows} in the base, but the tokenizer reaches {facts.tokens}" if grown else ""
    )


def _no_stop(facts: ModelFacts) -> str:
    known = facts.eos | ({facts.tokenizer_eos} if facts.tokenizer_eos is not None else set())
    lost = sorted(facts.stops - known)
    return f"token {', '.join(map(str, lost))} ends an answer and is no eos anywhere" if lost else ""


def _hidden(facts: ModelFacts) -> list[str]:
    return [name for name, mode in facts.modes.items() if mode & 0o044 != 0o044]


def _odd_names(facts: ModelFacts) -> list[str]:
    return [name for name in facts.modes if not re.fullmatch(r"[0-9a-zA-Z_./-]+", name)]


def _shards(facts: ModelFacts) -> str:
    if facts.index is not None and facts.index != frozenset(facts.shards):
        odd = sorted(facts.index ^ frozenset(facts.shards))
        return f"model.safetensors.index.json and the files differ: {', '.join(odd[:3])}"
    if facts.index is None and len(facts.shards) > 1:
        return f"{len(facts.shards)} weight files and no model.safetensors.index.json"
    return ""


def _large(facts: ModelFacts) -> str:
    large = [name for name, size in facts.shards.items() if size > 5_000_000_000 * 1.1]
    return f"{', '.join(large)} is larger than 5 GB" if large else ""


MODEL_RULES = (
    ModelRule("M1", each(ENGINES, "wrong"),
              lambda f: "config.json ties the embeddings, and the weights hold an lm_head of their own"
              if f.config.get("tie_word_embeddings") and "lm_head.weight" in f.tensors else "",
              "merge with finetune export, which unties them", "measured"),
    ModelRule("M2", each(("transformers", "tgi", "mindie"), "wrong"), _one_spelling,
              "write both spellings: finetune export does", "measured: transformers 4.57; source: MindIE, TGI"),
    ModelRule("M3", each(("transformers", "tgi", "mindie"), "refused"),
              lambda f: "tokenizer_class TokenizersBackend is unknown to transformers 4"
              if f.tokenizer_config.get("tokenizer_class") == "TokenizersBackend" else "",
              "PreTrainedTokenizerFast: finetune export writes it", "measured"),
    ModelRule("M4", {"mindie": "refused"},
              lambda f: f"torch_dtype {f.config.get('torch_dtype')!r} must be float16 or bfloat16"
              if f.config.get("torch_dtype") not in ("float16", "bfloat16") else "",
              "set export.dtype: bfloat16 for 910B and 910C (A2, A3), float16 for 310P (Atlas 300I Duo)", "source"),
    ModelRule("M4", each(("mindie", "vllm-ascend"), "warning"),
              lambda f: "910A and 310P (Atlas 300I Duo) have no bfloat16; 910B and 910C (A2, A3) have it"
              if dtype_of(f) == "bfloat16" else "",
              "for 910A and 310P set export.dtype: float16; vllm-ascend: --dtype float16",
              "documentation"),
    ModelRule("M4", {"mindie": "warning"},
              lambda f: "on 910B and 910C (A2, A3) it runs Qwen2 and Qwen2.5 in bfloat16 only"
              if dtype_of(f) == "float16" and f.config.get("model_type") == "qwen2" else "",
              "there, set export.dtype: bfloat16", "documentation"),
    ModelRule("M4", {"vllm-ascend": "warning"},
              lambda f: "its attention computes in 16 bits: the command serves float32 weights in bfloat16"
              if dtype_of(f) == "float32" else "",
              "set export.dtype: bfloat16 (310P: float16), so that what is scored is what is served", "source"),
    ModelRule("M5", {"mindie": "refused"},
              lambda f: f"symbolic links: {', '.join(f.links)}" if f.links else
              "writable by others" if any(mode & 0o002 for mode in f.modes.values()) else
              f"a name with other characters than letters, digits, _, ., / and -: {_odd_names(f)[0]!r}" if _odd_names(f) else
              f"{len(f.modes)} files in a folder, at most 1024 are read" if len(f.modes) > 1024 else "",
              "real files, chmod 640; folders 750; export.max_shard_size: 5GB", "source"),
    ModelRule("M5", each(ENGINES, "warning"),
              lambda f: f"only their owner can read {', '.join(_hidden(f)[:3])}" if _hidden(f) else "",
              "chmod 644, or serve as their owner", "measured"),
    ModelRule("M6", each(ENGINES, "wrong"), _vocabulary,
              "export with the tokenizer of the training", "measured: llama.cpp says nothing"),
    ModelRule("M7", each(ENGINES, "wrong"), _no_stop,
              "write it in generation_config.json and config.json: finetune export does", "measured: vLLM"),
    ModelRule("M7", each(GGUF, "warning"),
              lambda f: "an answer's end is not the tokenizer's eos, the one that a GGUF names"
              if f.stops and f.tokenizer_eos not in f.stops and not _no_stop(f) else "",
              "llama.cpp knows the usual ends by their text; finetune verify shows it", "measured: <|im_end|>"),
    ModelRule("M8", each(("transformers", "tgi", "mindie"), "warning"),
              lambda f: "the chat template is in chat_template.jinja only"
              if f.jinja and not f.tokenizer_config.get("chat_template") else "",
              "put it into tokenizer_config.json too: finetune export does", "measured"),
    ModelRule("M9", each(("openvino", "onnxruntime"), "wrong"),
              lambda f: "the tokenizer cuts digits apart, which its translation drops: other ids than in training"
              if f.digits else "",
              "serve with another engine, or send token ids", "measured on SmolLM2"),
    ModelRule("M9", each(("openvino", "onnxruntime"), "warning"),
              lambda f: "" if f.digits else "the tokenizer is translated; equal ids are not proven here",
              "finetune verify against the running server", "measured on SmolLM2"),
    ModelRule("E6", each(GGUF, "wrong"),
              lambda f: f"the tokenizer puts {f.begins} before every prompt, which the chat template does not write"
              if f.begins else "",
              "take it out of tokenizer.json's post_processor before the conversion", "source"),
    ModelRule("M10", each(ENGINES, "warning"),
              lambda f: f"merged in {f.merge_dtype}: twice the error of a float32 merge cast once"
              if f.merge_dtype in ("bfloat16", "float16") else "",
              "merge with finetune export", "measured: KL 4.3e-4 and 2.1e-4"),
    ModelRule("M11", each(ENGINES, "wrong"), _shards, "export into an empty folder", "source"),
    ModelRule("M11", each(ENGINES, "warning"), _large, "export.max_shard_size: 5GB", "documentation"),
    ModelRule("M12", {"mindie": "refused"},
              lambda f: "" if "vocab_size" in f.config else "config.json has no vocab_size, which is read before all else",
              "take a model of text only, or another engine", "documentation"),
)  # fmt: skip
