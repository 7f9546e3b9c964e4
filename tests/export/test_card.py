"""The model card: the hub's library reads it, its snippet runs, its numbers are the manifest's, nothing is invented."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from finetune.export.card import HUB_LICENCES, write_card
from tests.export.servers import Hub, serving

BOTH = ("README.md", "README.zh-CN.md")


class BaseCard(Hub):
    """A hub with one file."""

    def _answer(self, method, path, body):
        return (200, "---\nlicense: llama3.2\n---\n") if path == "/org/base/resolve/abc/README.md" else (404, "")


@pytest.fixture
def bundle(finished_run, tmp_path):
    return shutil.copytree(finished_run[1].bundle, tmp_path / "bundle")


@pytest.fixture
def manifest(bundle):
    return json.loads((bundle / "MANIFEST.json").read_text())


def card_of(bundle, manifest):
    from huggingface_hub import ModelCard

    write_card(bundle, manifest)
    return ModelCard((bundle / "README.md").read_text(encoding="utf-8"))


def table_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|") and "---" not in line]


def numbers(text: str) -> list[str]:
    """Numbers and hashes in code and tables, which both languages must share."""
    return re.findall(r"(?<![\w.])\d[\d.e+-]*\d|(?<![\w.])\d", "\n".join(table_rows(text)))


def test_the_hub_reads_what_was_meant(bundle, manifest):
    """Front matter through huggingface_hub's own classes, there and back; every score is a result."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    manifest["base"] = {"name_or_path": "org/model", "revision": "main", "commit": commit}
    manifest["recipe"] = yaml.safe_load((bundle / "recipe.yaml").read_text()) | {
        "card": {"language": ["en", "zh"], "licence": "Apache-2.0"}
    }
    manifest["data"]["sources"][0]["name"] = f"org/rows@{commit}"
    card = card_of(bundle, manifest)
    data = card.data.to_dict()
    assert {key: data[key] for key in data if key not in ("model-index", "metrics")} == {
        "base_model": "org/model", "base_model_relation": "finetune", "language": ["en", "zh"],
        "library_name": "transformers", "license": "apache-2.0", "pipeline_tag": "text-generation",
        "tags": ["lora", "peft", "finetune"], "datasets": ["org/rows"],
    }  # fmt: skip
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == manifest["scores"]["tuned"]
    assert {(result.task_type, result.dataset_type) for result in card.data.eval_results} == {
        ("text-generation", "larger")
    }
    assert card.data.model_name == "tiny"
    assert f"[org/model](https://huggingface.co/org/model) at `{commit}`" in card.text


def test_intervals_stand_behind_their_scores_in_both_languages(bundle, manifest):
    """A score without one (of the held-out loss) stands alone; a difference that may be 0 is named."""
    manifest["scores"] = {"base": {"field_match": 0.25, "mean_logprob": -2.0},
                          "tuned": {"field_match": 0.75, "mean_logprob": -1.0}}  # fmt: skip
    manifest["intervals"] |= {
        "rows": {"": 9}, "groups": {"": 5}, "base": {"field_match": [0.1, 0.4]}, "tuned": {"field_match": [0.6, 0.9]},
        "difference": {"field_match": [-0.01, 0.8]},
    }  # fmt: skip
    english = card_of(bundle, manifest).text
    for text in (english, (bundle / "README.zh-CN.md").read_text(encoding="utf-8")):
        rows = table_rows(text)
        head = next(row for row in rows if row.startswith(("| Score |", "| 得分 |")))
        assert head.count("|") == 5 and "|---|---|---|---|\n" in text
        assert "| `field_match` | 0.250 [0.100, 0.400] | 0.750 [0.600, 0.900] | 0.500 [-0.010, 0.800] |" in rows
        assert "| `mean_logprob` | -2.000 | -1.000 | 1.000 |" in rows
    assert "percentile bootstrap of 1000 draws of 9 held-out samples in 5 groups that are drawn whole." in english
    assert "The difference may be 0 (its interval holds it): `field_match`." in english
    assert "counted together" not in english
    manifest["scores"] = {who: {"entity_micro_f1": 0.5} for who in ("base", "tuned")}
    assert "`*_macro_f1`: mean of\nF1 over their types" in card_of(bundle, manifest).text


def test_scores_data_training_and_proof_are_the_manifests(bundle, manifest):
    """As of an older version, whose manifest has no intervals."""
    del manifest["intervals"]
    manifest["scores"] = {"base": {"field_match": 0.25, "field/same": 0.5, "finished": 1.0},
                          "tuned": {"field_match": 0.75, "field/same": 0.5, "finished": 1.0}}  # fmt: skip
    manifest["data"]["screening"] |= {"phone": 3, "email": 1}
    manifest["data"]["sources"][0] |= {"licence": "CC-BY-4.0", "provenance": "counted by hand"}
    text = card_of(bundle, manifest).text
    rows = table_rows(text)
    assert [row for row in rows if "0.5" in row or "0.25" in row] == [
        "| `field_match` | 0.250 | 0.750 |", "| `field/same` | 0.500 | 0.500 |",
    ]  # fmt: skip
    assert "9 held-out samples: 8 rows asked for, taken from the training files; all rows with the same `group`" in text
    assert "Lowest: `field/same` 0.500, `field_match` 0.750." in text
    assert "No better than the base: `field/same`." in text
    digest = manifest["data"]["sources"][0]["sha256"]
    assert f"| larger.jsonl | CC-BY-4.0 | counted by hand | 40 | `{digest}` |" in rows
    assert "- `personal_data`: email 1, phone 3 (policy: report)." in text
    assert "- `secrets`: none found (policy: error)." in text
    assert "- `near_duplicates`: not looked for." in text
    assert "| `train.learning_rate` | 0.01 |" in rows and "| `seed` | 3 |" in rows
    training, proof = manifest["training"], manifest["merge_proof"]
    assert f"9 steps, {training['tokens']} tokens ({training['trained_tokens']} trained)" in text
    assert f"largest difference of a logit {proof['max_logit_difference']:.2e}" in text
    assert "same greedy token in 100.00 %" in text


def test_the_snippet_runs_in_the_bundle_and_answers_as_the_model(bundle, manifest, monkeypatch, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_card(bundle, manifest)
    snippets = [re.search(r"```python\n(.*?)```", (bundle / name).read_text(), re.DOTALL)[1] for name in BOTH]
    monkeypatch.chdir(bundle)
    for snippet in snippets:
        exec(snippet, {})
    printed = capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    model = AutoModelForCausalLM.from_pretrained(bundle)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3 7?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert printed == (tokenizer.decode(ids, skip_special_tokens=True) + "\n") * 2


def test_both_languages_say_the_same(bundle, manifest):
    """The same numbers in the same order, the same sections, the same code but for its comment."""
    write_card(bundle, manifest)
    english, chinese = ((bundle / name).read_text(encoding="utf-8") for name in BOTH)
    english = english.split("---\n", 2)[2]
    assert numbers(english) == numbers(chinese)
    assert len(numbers(english)) > 20
    assert english.count("\n## ") == chinese.count("\n## ") == 8
    assert "](README.zh-CN.md)" in english and "](README.md)" in chinese


@pytest.mark.parametrize(
    ("files", "licence", "said"),
    [
        ({"README.md": "---\nlicense: mit\n---\n# x"}, {"license": "mit"}, "The base states `mit` (README.md)."),
        (
            {"README.md": "---\nlicense: other\nlicense_name: qwen\nlicense_link: https://x.org/l\n---\n"},
            {"license": "other", "license_name": "qwen", "license_link": "https://x.org/l"},
            "The base states `qwen` (README.md).",
        ),
        ({"LICENSE": "\n   Apache License\n Version 2.0"}, {"license": "apache-2.0"}, "(LICENSE)."),
        (
            {"LICENSE.txt": "The Example Model Terms\n\n1. No."},
            {"license": "other", "license_name": "The Example Model Terms"},
            "The base states `The Example Model Terms` (LICENSE.txt).",
        ),
        ({"README.md": "# no front matter"}, {"license": "unknown"}, "Which licence the base has is unknown"),
        ({"README.md": "---\n: [\n---\n"}, {"license": "unknown"}, "Which licence the base has is unknown"),
        ({}, {"license": "unknown"}, "Which licence the base has is unknown"),
    ],
)
def test_the_licence_is_what_the_bases_files_say(bundle, manifest, tmp_path, files, licence, said):
    base = tmp_path / "base"
    base.mkdir()
    for name, text in files.items():
        (base / name).write_text(text)
    manifest["base"] = {"name_or_path": str(base), "revision": None, "sha256": {}}
    card = card_of(bundle, manifest)
    data = card.data.to_dict()
    assert {key: value for key, value in data.items() if key.startswith("license")} == licence
    assert data["license"] in HUB_LICENCES
    assert said in card.text
    assert "base_model" not in data


def test_a_hub_base_is_asked_for_its_card_once(bundle, manifest, monkeypatch):
    """At its commit; both cards and the component list share the answer. Without a network it is asked once, too."""
    import huggingface_hub

    from finetune.export.sbom import write_sbom

    with serving(BaseCard()) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            huggingface_hub, "hf_hub_url", lambda name, file, revision: f"{hub.url}/{name}/resolve/{revision}/{file}"
        )
        manifest["base"] = {"name_or_path": "org/base", "revision": None, "commit": "abc"}
        assert card_of(bundle, manifest).data.license == "llama3.2"
        document = json.loads(write_sbom(bundle, manifest).read_text())
        assert document["components"][0]["licenses"] == [{"license": {"name": "llama3.2"}}]
        assert hub.paths("GET") == ["/org/base/resolve/abc/README.md"]
        for _again in range(2):
            manifest["base"]["commit"] = "none"
            assert card_of(bundle, manifest).data.license == "unknown"
        assert hub.paths("GET")[1:] == ["/org/base/resolve/none/README.md"]


def test_a_licence_of_ones_own_is_other_with_its_name(bundle, manifest):
    manifest["recipe"] = yaml.safe_load((bundle / "recipe.yaml").read_text())
    manifest["recipe"]["card"] = {"licence": "Mine 1.0", "intended_use": "digits", "limits": "two of them"}
    card = card_of(bundle, manifest)
    assert (card.data.license, card.data["license_name"]) == ("other", "Mine 1.0")
    assert "- Intended use: digits\n- Limits: two of them" in card.text
    assert "`Mine 1.0`, as the recipe states." in card.text


def test_text_of_others_stays_in_its_cell(bundle, manifest):
    """Columns, line breaks, tags and front matter in names and provenance change neither table nor metadata."""
    hostile = "a|b\n---\nlicense: mit\n<script>x</script> `"
    manifest["data"]["sources"][0] |= {"name": "a|b.jsonl", "provenance": hostile, "licence": "x\n|y"}
    manifest["scores"] = {"base": {}, "tuned": {"field/a|b": 0.5}}
    del manifest["intervals"]
    text = (bundle / "data_template.yaml").read_text()
    content = yaml.safe_load(text) | {"description": hostile}
    (bundle / "data_template.yaml").write_text(yaml.safe_dump(content))
    card = card_of(bundle, manifest)
    assert card.data.license == "unknown"
    for name in BOTH:
        text = (bundle / name).read_text(encoding="utf-8")
        assert "<script" not in text
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table_rows(text) if "sha256" in row or "jsonl" in row}
        assert widths <= {3, 6}
    assert "| `field/a\\|b` | - | 0.500 |" in card.text


def test_no_path_of_this_machine_is_in_it(bundle, manifest, finished_run, tmp_path):
    write_card(bundle, manifest)
    for name in BOTH:
        text = (bundle / name).read_text(encoding="utf-8")
        for path in (
            str(tmp_path),
            manifest["base"]["name_or_path"],
            str(finished_run[0].output_dir),
            str(Path.home()),
        ):
            assert path not in text


def test_a_bundle_of_an_adapter_made_elsewhere(bundle, manifest):
    """No recipe, data, training or scores: said so, in both languages, and no section of empty tables."""
    for name in ("recipe.yaml", "data_template.yaml"):
        (bundle / name).unlink()
    card = card_of(bundle, {key: manifest[key] for key in ("name", "base", "versions")})
    assert card.data.eval_results is None
    assert "None: this adapter was not evaluated by the toolkit." in card.text
    assert "Not known to the toolkit." in card.text
    assert "Not by this toolkit." in card.text
    assert "## Reproduce" not in card.text and "Merged model and adapter" not in card.text
    chinese = (bundle / "README.zh-CN.md").read_text(encoding="utf-8")
    assert "本工具没有评测过这个适配器。" in chinese and "## 复现" not in chinese


def test_the_snippet_of_a_template_with_tools_passes_them(bundle, manifest, monkeypatch, capsys):
    """The prompt that the snippet makes shows the tools, in both languages; special tokens stay in what is printed."""
    from transformers import AutoTokenizer

    from tests.conftest import CHATML_TOOLS

    template = {
        "name": "calls", "description": "x", "columns": {"a": {"type": "int"}},
        "tools": [{"name": "double", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}],
        "messages": [
            {"role": "user", "content": "twice {{ a }}?"},
            {"role": "assistant", "tool_calls": [{"name": "double", "arguments": {"x": "{{ a }}"}}]},
        ],
        "metric": {"name": "tool_calls"},
        "examples": [{"row": {"a": 3}, "answer": '[{"name": "double", "arguments": {"x": 3}}]'}],
    }  # fmt: skip
    (bundle / "data_template.yaml").write_text(json.dumps(template, indent=1), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    tokenizer.chat_template = CHATML_TOOLS
    tokenizer.save_pretrained(bundle)
    write_card(bundle, manifest)
    monkeypatch.chdir(bundle)
    for name in BOTH:
        text = (bundle / name).read_text(encoding="utf-8")
        snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        made: dict = {}
        exec(snippet, made)
        prompt = tokenizer.decode(made["inputs"]["input_ids"][0])
        assert prompt.startswith('<|im_start|>system\nTools:\n{"type": "function", "function": {"name": "double"')
        assert "skip_special_tokens=False" in snippet and '"arguments": {"x": 3}}]' in text
    capsys.readouterr()


def test_a_worked_example_may_lack_a_nullable_column(bundle, manifest):
    """Over all rows a column that none has is a typo; one example need not have every column that may be null."""
    file = bundle / "data_template.yaml"
    template = yaml.safe_load(file.read_text(encoding="utf-8"))
    template["columns"]["remark"] = {"type": "str", "nullable": True}
    file.write_text(yaml.safe_dump(template, allow_unicode=True, sort_keys=False), encoding="utf-8")
    text = card_of(bundle, manifest).text
    assert template["examples"][0]["answer"].strip().splitlines()[0] in text
