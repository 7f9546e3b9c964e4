"""The servability rules: each says no to one thing, yes to a plain export, and what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from finetune.errors import RecipeError
from finetune.export.canon import canonical
from finetune.export.facts import AdapterFacts, ModelFacts, adapter_facts, model_facts, recipe_facts
from finetune.export.rules import ADAPTER_RULES, ENGINES, MODEL_RULES
from finetune.export.servable import check_folder, check_targets, config_of_base, findings, model_findings, stop_or_warn
from finetune.export.targets import TARGETS
from finetune.recipe import ModelSection
from finetune.recipe_export import TargetSection
from finetune.recipe_peft import LoraSection
from tests.conftest import ROOT
from tests.export.test_canon import make

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning"),  # what is tried here, peft warns of
    pytest.mark.filterwarnings("ignore:.*lora_bias=True.*"),
    pytest.mark.filterwarnings("ignore:.*have invalid shape.*lora_B.bias"),
]
LORA = LoraSection().model_dump()
BASE = {"model_type": "qwen2", "num_hidden_layers": 2, "vocab_size": 259, "tie_word_embeddings": True}
PLAIN = AdapterFacts(rank=16, alpha=16.0, base=BASE)
GOOD = ModelFacts(
    config={"torch_dtype": "float16", "rope_theta": 5e4, "rope_parameters": {"rope_theta": 5e4}, "vocab_size": 259},
    tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "x"},
    generation={}, tensors=frozenset({"model.embed_tokens.weight"}), shards={"model.safetensors": 10}, index=None,
    modes={"config.json": 0o644}, links=(), tokens=259, rows=259, base_rows=259, eos=frozenset({257}),
    tokenizer_eos=257, stops=frozenset({257}), digits=False, jinja=True,
)  # fmt: skip

# A row of ADAPTER_RULES -> what breaks it.
BREAKS = [
    ("A1", {"rslora": True}), ("A2", {"alpha_pattern": True}), ("A3", {"rank_pattern": True}), ("A4", {"scale": 2.0}),
    ("A5", {"covers": False}), ("A6", {"saved": ("norm",)}), ("A7", {"residual": "pissa"}), ("A8", {"rank": 700}),
    ("A8", {"rank": 128}), ("A9", {"dora": True}), ("A10", {"bias": "all"}), ("A10", {"lora_bias": True}),
    ("A11", {"saved": ("lm_head",)}), ("A12", {"ends": ("lm_head",)}), ("A13", {"odd": ("x.default.weight",)}),
    ("A14", {"regex": True}), ("A15", {"alpha": 8.5}), ("A16", {"local_base": "/models/x"}),
    ("A17", {"other_template": True}), ("A18", {"method": "IA3"}),
    ("A19", {"method": "PREFIX_TUNING"}),
    ("Q1", {"quantised": "nf4"}), ("Q1", {"quantised": "int8"}), ("Q2", {"stored": "awq"}), ("Q2", {"quantised": "nf4"}),
    ("E1", {"experts": True}), ("E2", {"base": {"model_type": "gemma3_text"}}),
    ("E3", None), ("M7", {"stops": frozenset({5}), "base_stops": frozenset({2})}),
]  # fmt: skip
MODEL_BREAKS = [
    ("M1", {"config": {"tie_word_embeddings": True}, "tensors": frozenset({"lm_head.weight"})}),
    ("M2", {"config": {"rope_parameters": {"rope_theta": 5e4}}}),
    ("M3", {"tokenizer_config": {"tokenizer_class": "TokenizersBackend"}}),
    ("M4", {"config": {"dtype": "float16"}}), ("M4", {"config": {"torch_dtype": "bfloat16"}}),
    ("M4", {"config": {"torch_dtype": "float16", "model_type": "qwen2"}}), ("M4", {"config": {"torch_dtype": "float32"}}),
    ("M5", {"links": ("model.safetensors",)}), ("M5", {"modes": {"model.safetensors": 0o600}}),
    ("M6", {"rows": 300}), ("M7", {"stops": frozenset({3})}), ("M7", {"tokenizer_eos": 9}),
    ("M8", {"tokenizer_config": {}}), ("M9", {"digits": True}), ("M9", None), ("E6", {"begins": "<s>"}),
    ("M10", {"merge_dtype": "bfloat16"}),
    ("M11", {"index": frozenset({"a.safetensors"})}), ("M11", {"shards": {"model.safetensors": 6_000_000_000}}),
    ("M12", {"config": {"torch_dtype": "float16", "text_config": {"vocab_size": 259}}}),
]  # fmt: skip


def test_every_row_of_the_tables_is_tried_here():
    assert [rule.id for rule in ADAPTER_RULES] == [rule for rule, _ in BREAKS]
    assert [rule.id for rule in MODEL_RULES] == [rule for rule, _ in MODEL_BREAKS]
    assert {f"A{number}" for number in range(1, 20)} <= {rule.id for rule in ADAPTER_RULES}
    assert {f"M{number}" for number in range(1, 13)} <= {rule.id for rule in MODEL_RULES}
    for rule in (*ADAPTER_RULES, *MODEL_RULES):
        assert set(rule.engines) <= set(ENGINES) == set(TARGETS) and rule.fix and rule.evidence


@pytest.mark.parametrize("row", range(len(BREAKS)), ids=[rule for rule, _ in BREAKS])
def test_each_adapter_rule_breaks_alone(row):
    """The row says something of its one breach, with its fix, for just its engines; and nothing of a plain adapter."""
    rule, (_, changes) = ADAPTER_RULES[row], BREAKS[row]
    if changes is None:  # a standing remark: it goes where the engine takes no adapter at all
        assert rule.test(PLAIN) and not rule.test(replace(PLAIN, base={"model_type": "gemma3_text"}))
        return
    assert rule.test(PLAIN) == ""
    broken = replace(PLAIN, **changes)
    for engine in ENGINES:
        said = [(f.severity, f.fix) for f in findings(broken, engine, rule.form) if f.message == rule.test(broken)]
        assert said == ([(rule.engines[engine], rule.fix)] if engine in rule.engines else []), engine
        clean = [f.rule for f in findings(PLAIN, engine, rule.form)]
        assert clean == (["E3"] if (engine, rule.form) == ("mindie", "adapter") else [])


@pytest.mark.parametrize("row", range(len(MODEL_BREAKS)), ids=[rule for rule, _ in MODEL_BREAKS])
def test_each_model_rule_breaks_alone(row):
    rule, (_, changes) = MODEL_RULES[row], MODEL_BREAKS[row]
    if changes is None:
        assert rule.test(GOOD) and not rule.test(replace(GOOD, digits=True))
        return
    assert rule.test(GOOD) == ""
    broken = replace(GOOD, **changes)
    for engine in ENGINES:
        said = [(f.severity, f.fix) for f in model_findings(broken, engine) if f.message == rule.test(broken)]
        assert said == ([(rule.engines[engine], rule.fix)] if engine in rule.engines else []), engine
        assert [f.rule for f in model_findings(GOOD, engine)] == (
            ["M9"] if engine in ("openvino", "onnxruntime") else []
        )


# The battery of adapters that were served: what vLLM 0.32 and llama.cpp made of each as peft wrote it.
BATTERY = {
    "plain": ({}, "", ""), "rslora": ({"use_rslora": True}, "", "wrong"),
    "alphapat": ({"alpha_pattern": {"q_proj": 32}}, "", "wrong"), "rankpat": ({"rank_pattern": {"q_proj": 4}}, "", ""),
    "regex": ({"target_modules": ".*q_proj"}, "", ""), "r12": ({"r": 12}, "", ""),
    "dora": ({"use_dora": True}, "refused", "refused"), "lora_bias": ({"lora_bias": True}, "refused", "refused"),
    "mts_lmhead": ({"modules_to_save": ["lm_head"]}, "refused", "refused"),
    "mts_norm": ({"modules_to_save": ["norm"]}, "refused", "wrong"),
    "tti": ({"trainable_token_indices": [3]}, "refused", "refused"),
    "tgt_embed": ({"target_modules": ["q_proj", "embed_tokens"]}, "", "refused"),
    "tgt_lmhead": ({"target_modules": ["q_proj", "lm_head"]}, "", "refused"),
    "pissa": ({"init_lora_weights": "pissa"}, "refused", "wrong"),
}  # fmt: skip


@pytest.mark.parametrize("name", BATTERY)
def test_the_rules_foresee_the_battery(name, tmp_path):
    """What the rules say of the files agrees with what the engines did."""
    settings, vllm, llama = BATTERY[name]
    make(tmp_path / "a", **settings)
    found = check_folder(targets("vllm", "llama.cpp"), adapter=tmp_path / "a", base_config=BASE)
    said = {(finding.engine, finding.severity) for finding in found}
    for engine, severity in (("vllm (adapter)", vllm), ("llama.cpp (adapter)", llama)):
        serious = {level for what, level in said if what == engine} - {"warning"}
        assert (severity in serious) if severity else serious == set()


def targets(*engines, form="adapter", **more):
    return [TargetSection(engine=engine, form=form, **more) for engine in engines]


def refused(found):
    return [(finding.engine, finding.rule) for finding in found if finding.severity != "warning"]


def test_what_becomes_canonical_is_no_finding():
    """rsLoRA, patterns, a pattern of targets, an odd alpha, alpha / r = 2: transformed, so nothing is refused."""
    odd = {
        "use_rslora": True,
        "alpha_pattern": {"q_proj": 3},
        "rank_pattern": {"v_proj": 3},
        "lora_alpha": 8.5,
        "r": 12,
    }
    assert refused(check_targets(LORA | odd, BASE, targets(*ENGINES))) == []
    assert refused(check_targets(LORA | odd, BASE, targets(*ENGINES, form="merged"))) == []
    facts = recipe_facts(LORA | odd, BASE)
    assert (facts.rank, facts.alpha, facts.scale, facts.rslora) == (16, 16.0, 1.0, False)


def test_dora_is_served_merged_only():
    found = check_targets(LORA | {"use_dora": True, "use_rslora": True}, BASE, targets("vllm", "llama.cpp"))
    with pytest.raises(RecipeError) as caught:
        stop_or_warn(found)
    assert caught.value.problems[0] == (
        "export.targets: vllm (adapter): use_dora: DoRA is not served as an adapter; set form: merged or use_dora: false "
        "(A9, refused)"
    )
    assert [(f.engine, f.rule) for f in found] == [
        ("vllm (adapter)", "A9"), ("llama.cpp (adapter)", "A1"), ("llama.cpp (adapter)", "A9"),
    ]  # fmt: skip
    assert check_targets(LORA | {"use_dora": True}, BASE, targets("vllm", "llama.cpp", form="merged")) == []


def test_lora_bias_is_refused_before_training():
    """It can't be served, and not be merged into layers that have no bias."""
    assert refused(check_targets(LORA | {"lora_bias": True}, BASE, targets("vllm", form="merged"))) == [
        ("vllm (merged)", "A10")
    ]
    assert (
        check_targets(LORA | {"lora_bias": True}, BASE | {"attention_bias": True}, targets("vllm", form="merged")) == []
    )


@pytest.mark.parametrize("end", ["embed_tokens", "lm_head"])
def test_lora_on_a_tied_layer(end):
    """T36: as an adapter only where an engine was seen to serve it right; merged, the merge unties the two."""
    lora = LORA | {"target_modules": ["q_proj", end]}
    refuse = ["mindie", "sglang", "tgi", "llama.cpp", "ollama", "openvino", "onnxruntime"]
    found = check_targets(lora, BASE, targets(*ENGINES))
    assert refused(found) == [(f"{engine} (adapter)", "A12") for engine in refuse]
    assert f"LoRA on {end} of a base that ties the two; set form: merged" in found[-1].line()
    assert refused(check_targets(lora, BASE, targets(*ENGINES, form="merged"))) == []


def test_an_initialisation_that_changes_the_base():
    lora = LORA | {"init_lora_weights": "pissa", "r": 300}
    assert refused(check_targets(lora, BASE, targets("llama.cpp", "vllm"))) == [
        ("llama.cpp (adapter)", "A7"), ("vllm (adapter)", "A7"),
    ]  # fmt: skip
    kept = check_targets(lora, BASE, targets("llama.cpp", "vllm"), initial=True)
    assert [(f.engine, f.rule, f.message.split(",")[0]) for f in kept] == [
        ("vllm (adapter)", "A8", "rank 600 is above 512")
    ]


def test_types_dtypes_and_names():
    found = check_targets(LORA, BASE, targets("llama.cpp", form="merged", types=("q4_k_m", "q4_km")))
    assert [f.message for f in found] == ["types: 'q4_km' is not one; did you mean 'q4_k_m'?"]
    assert refused(check_targets(LORA, BASE, targets("vllm", form="merged", types=("f16",)))) == [
        ("vllm (merged)", "E4")
    ]
    assert refused(check_targets(LORA, BASE, targets("llama.cpp", types=("q4_k_m",)))) == [
        ("llama.cpp (adapter)", "E4")
    ]
    assert refused(check_targets(LORA, BASE, targets("vllm", "vllm"))) == [("vllm (adapter)", "E5")]
    assert refused(check_targets(LORA, BASE, targets("mindie", form="merged"), dtype="float32")) == [
        ("mindie (merged)", "M4")
    ]
    found = check_targets(LORA, BASE, targets("mindie", form="merged"), dtype="bfloat16")
    assert [(f.severity, f.rule) for f in found] == [("warning", "M4")]
    assert stop_or_warn(found) == [found[0].line()]


def test_the_dtype_of_each_chip():
    """910B and 910C: bfloat16; 910A and 310P have none. MindIE takes Qwen2 on the former in nothing else, and no float32."""

    def said(engine, dtype, base=BASE):
        found = check_targets(LORA, base, targets(engine, form="merged"), dtype=dtype)
        return [(f.severity, f.message.split(",")[0].split(":")[0].split(";")[0]) for f in found if f.rule == "M4"]

    none = [("warning", "910A and 310P (Atlas 300I Duo) have no bfloat16")]
    assert said("mindie", "bfloat16") == said("vllm-ascend", "bfloat16") == none
    assert said("vllm-ascend", "float16") == said("mindie", "float16", {"model_type": "llama"}) == []
    assert said("mindie", "float16") == [("warning", "on 910B and 910C (A2")]
    assert said("vllm-ascend", "float32") == [("warning", "its attention computes in 16 bits")]
    assert said("mindie", "float32") == [("refused", "torch_dtype 'float32' must be float16 or bfloat16")]
    assert said("vllm", "bfloat16") == said("vllm", "float32") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modes": {"config.json": 0o666}}, "writable by others"),
        ({"modes": {"config.json": 0o644, "model (1).json": 0o644}}, "'model (1).json'"),
        (
            {"modes": {f"{number}.json": 0o640 for number in range(1025)}},
            "1025 files in a folder, at most 1024 are read",
        ),
        ({"modes": {f"{number}.json": 0o640 for number in range(1024)}}, ""),
    ],
)
def test_files_that_mindie_does_not_read(changes, message):
    found = [f.message for f in model_findings(replace(GOOD, **changes), "mindie") if f.severity == "refused"]
    assert found == ([found[0]] if message else []) and all(message in line for line in found)


def test_checking_a_recipe_needs_no_torch():
    code = (
        "import sys; from finetune.export.servable import check_targets; from finetune.recipe_export import TargetSection;"
        "check_targets({'use_dora': True}, None, [TargetSection(engine='vllm', form='adapter')]);"
        "print(sorted({'torch', 'transformers', 'peft', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_facts_of_a_folder(tmp_path):
    """As peft wrote it, and canonical: the silently wrong become right."""
    make(tmp_path / "a", use_rslora=True, alpha_pattern={"q_proj": 32}, r=12)
    facts = adapter_facts(tmp_path / "a", BASE)
    assert (facts.rank, facts.rslora, facts.alpha_pattern, facts.scale, facts.covers) == (12, True, True, None, True)
    wrong = check_folder(targets("llama.cpp", "sglang", "openvino", "vllm"), adapter=tmp_path / "a", base_config=BASE)
    assert refused(wrong) == [
        ("llama.cpp (adapter)", "A1"), ("llama.cpp (adapter)", "A2"), ("sglang (adapter)", "A1"),
        ("sglang (adapter)", "A2"), ("openvino (adapter)", "A1"), ("openvino (adapter)", "A2"),
        ("openvino (adapter)", "A4"),
    ]  # fmt: skip
    canonical(tmp_path / "a", tmp_path / "b")
    assert refused(check_folder(targets(*ENGINES), adapter=tmp_path / "b", base_config=BASE)) == []


def test_layers_without_an_adapter_are_counted_against_the_base(tmp_path):
    make(tmp_path / "a", layers_to_transform=[0])
    canonical(tmp_path / "a", tmp_path / "b")
    assert refused(check_folder(targets("tgi", "vllm"), adapter=tmp_path / "b", base_config=BASE)) == [
        ("tgi (adapter)", "A5")
    ]


def test_names_and_whole_tensors_of_a_folder(tmp_path):
    make(tmp_path / "a")
    file = tmp_path / "a/adapter_model.safetensors"
    zeros = torch.zeros(8, 64)
    save_file({"_orig_mod.base_model.model.model.layers.0.q_proj.lora_A.default.weight": zeros}, file)
    assert adapter_facts(tmp_path / "a").odd == (
        "_orig_mod.base_model.model.model.layers.0.q_proj.lora_A.default.weight",
    )
    save_file({"base_model.model.model.embed_tokens.weight": torch.zeros(300, 64)}, file)
    facts = adapter_facts(tmp_path / "a")
    assert (facts.odd, facts.new_tokens) == ((), True)
    file.write_bytes(b"nothing")
    with pytest.raises(RecipeError, match="can't be read"):
        adapter_facts(tmp_path / "a")


def test_a_stop_that_the_base_does_not_know(tmp_path, tiny_base):
    """M7: the adapter's own tokenizer is not read, so its answers would run to their limit."""
    make(tmp_path / "a")
    common = {"adapter": tmp_path / "a", "base_config": BASE, "stops": [257]}
    assert refused(check_folder(targets("vllm"), **common, base_stops=[2])) == [("vllm (adapter)", "M7")]
    assert refused(check_folder(targets("vllm"), **common, base_stops=[2, 257])) == []


def test_the_template_of_an_adapter(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a/chat_template.jinja").write_text("mine")
    for base, rules in (("mine", []), ("another", ["A17"]), (None, [])):
        found = check_folder(targets("vllm"), adapter=tmp_path / "a", base_config=BASE, base_template=base)
        assert [finding.rule for finding in found] == rules


def test_the_bundle_of_a_run_is_served_everywhere(finished_run, tiny_base):
    """The toolkit's own export breaks no rule; MindIE wants 16 bits, and says so."""
    bundle = finished_run[1].bundle
    base = json.loads((tiny_base / "config.json").read_text())
    facts = model_facts(bundle, base, stops=[257])
    assert (facts.tokens, facts.rows, facts.base_rows, facts.tokenizer_eos, facts.eos) == (258, 258, 258, 257, {257})
    everywhere = targets(*ENGINES, form="merged")
    found = check_folder(everywhere, model=bundle, base_config=base, stops=[257])
    assert refused(found) == [("mindie (merged)", "M4")]
    assert {(f.engine, f.rule) for f in found if f.severity == "warning"} == {
        ("openvino (merged)", "M9"), ("onnxruntime (merged)", "M9"), ("vllm-ascend (merged)", "M4"),
    }  # fmt: skip
    odd = check_folder(everywhere, model=bundle, base_config=base, stops=[3])
    assert {f.rule for f in odd if f.severity == "wrong"} == {"M7"}


def test_a_token_before_every_prompt(finished_run, tmp_path):
    """llama.cpp puts the tokenizer's first token before prompts; training took the chat template's text alone."""
    folder = tmp_path / "model"
    shutil.copytree(finished_run[1].bundle, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    single = [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    for processor in ({"single": single}, {"type": "Sequence", "processors": [{}, {"single": single}]}):
        file.write_text(json.dumps(tokenizer | {"post_processor": processor}))
        found = check_folder(targets("vllm", "llama.cpp", form="merged"), model=folder, stops=[257])
        assert refused(found) == [("llama.cpp (merged)", "E6")] and "<|bos|> before every prompt" in found[0].message
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    assert refused(check_folder(targets("llama.cpp", form="merged"), model=folder, stops=[257])) == []


def test_the_configuration_of_a_base_before_training(tiny_base, tmp_path):
    """A folder's, or the hub cache's; nothing is fetched for it."""
    config = config_of_base(ModelSection(name_or_path=str(tiny_base)))
    assert (config["model_type"], config["tie_word_embeddings"]) == ("llama", True)
    assert config_of_base(ModelSection(name_or_path="nobody/has-this")) is None


def test_a_folder_as_transformers_5_writes_it(tiny_base):
    """rope_parameters alone and TokenizersBackend: other numbers, or no tokenizer, in transformers 4."""
    found = check_folder(targets("transformers", "tgi", "vllm", form="merged"), model=tiny_base)
    said = {(f.engine, f.rule) for f in found}
    assert {("transformers (merged)", "M2"), ("tgi (merged)", "M2"), ("transformers (merged)", "M3")} <= said
    assert not any(engine.startswith("vllm") for engine, rule in said if rule in ("M2", "M3"))


@pytest.mark.parametrize("name", ["serving.md", "serving.zh-CN.md"])
def test_the_document_has_every_engine_and_rule(name):
    """A row each, and nothing that is not there; the refusing engines of two rows by their names."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    cells = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    rules = {rule for key in cells for rule in key.split(", ") if re.fullmatch(r"[AEMQ]\d+", rule)}
    assert rules == {rule.id for rule in (*ADAPTER_RULES, *MODEL_RULES)} | {"E4", "E5"}
    assert {key.strip("`") for key in cells if key.startswith("`")} == set(ENGINES)
    for engine, row in TARGETS.items():
        version = (
            row.version.split(" (")[0].removeprefix("the converters of ").removeprefix("model server ").split(",")[0]
        )
        assert version in cells[f"`{engine}`"], engine
