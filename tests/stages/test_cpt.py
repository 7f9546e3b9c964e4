"""Continued pre-training: the loss of plain transformers, whatever the batches, and a run on a base without chat template."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from finetune.cli import main
from finetune.data.chat import IGNORED
from finetune.data.documents import DocumentEncoder
from finetune.data.pack import pack
from finetune.data.rows import Sample
from finetune.model.head import TrainedPositions
from finetune.recipe_data import DataSection, SourceSection
from finetune.recipe_stages import CptSection
from finetune.stages.cpt import Cpt
from finetune.step import micro_batches_of
from tests.conftest import byte_tokenizer, tiny_llama

TEXTS = (
    "第一条 为了加强安全生产工作，制定本法。",
    "Article 2. This law applies to mines.",
    "Short.",
    "The ventilation system is checked once a shift; methane above 1.0 % stops the work at the face, above 1.5 % the power.",
)


def samples() -> list[Sample]:
    return [
        Sample({"text": text}, ({"role": "text", "content": text},), f"laws.jsonl:{line}")
        for line, text in enumerate(TEXTS, start=1)
    ]


def stage(max_length: int) -> Cpt:
    section = DataSection(
        format="text", train=(SourceSection(path="laws.jsonl"),), eval=(SourceSection(path="e.jsonl"),),
        max_length=max_length, too_long="split",
    )  # fmt: skip
    return Cpt(DocumentEncoder(byte_tokenizer()), section, CptSection())


@pytest.fixture(scope="module")
def model():
    return tiny_llama(258).double()


def loss_and_gradient(model, cpt, batches) -> tuple[float, int, torch.Tensor]:
    """Sum of the loss in nats, tokens it sums over, and the gradient of all parameters as one vector."""
    wrapped = TrainedPositions(model)
    model.zero_grad()
    total, count = 0.0, 0
    for batch in batches:
        loss = cpt.loss(wrapped, batch).value
        loss.backward()
        total, count = total + float(loss.detach()), count + cpt.count(batch)
    wrapped.release()
    return total, count, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_one_document_is_what_transformers_makes_of_labels_that_are_the_ids(model):
    """Its loss is the mean over the tokens after the first, so ours divided by their number."""
    cpt = stage(1000)
    for example in cpt.encode(samples()):
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            theirs = model(input_ids=ids, labels=ids).loss
        total, count, _ = loss_and_gradient(model, cpt, [cpt.collate([example])])
        assert count == len(example.ids) - 1
        assert total / count == pytest.approx(float(theirs), abs=1e-6)


def test_the_loss_by_hand():
    """A model that gives every token the same probability loses log V nats a token: 7 + eos, less the first, are 7."""
    flat = tiny_llama(258)
    with torch.no_grad():
        flat.get_output_embeddings().weight.zero_()
    cpt = stage(100)
    (example,) = cpt.encode([Sample({}, ({"role": "text", "content": "abcdefg"},), "f:1")])
    wrapped = TrainedPositions(flat)
    result = cpt.loss(wrapped, cpt.collate([example]))
    value = float(result.value.detach())
    assert value == pytest.approx(7 * math.log(258), rel=1e-6)
    means = {"loss": value / 7, "token_accuracy": 0.25}
    assert cpt.scores(means) == {"mean_logprob": pytest.approx(-math.log(258)), "token_accuracy": 0.25}
    assert tuple(cpt.scores(means)) == CptSection().held_out_scores


@pytest.mark.parametrize("max_length", [1000, 32])
def test_packs_and_micro_batches_are_the_documents_alone(model, max_length):
    """Whole documents, and pieces of 32 tokens: each alone = padded batches of 4, 2 and 1 = packed rows."""
    cpt = stage(max_length)
    examples = cpt.encode(samples())
    total, count, gradient = loss_and_gradient(model, cpt, [cpt.collate([example]) for example in examples])
    assert count == sum(len(text.encode()) for text in TEXTS)  # a token a byte and eos, less the first
    packed = pack(examples, max(max_length, 64))
    assert len(packed) < len(examples)
    ways = [micro_batches_of(cpt, examples, 1, micro, 0) for micro in (4, 2)]
    ways += [micro_batches_of(cpt, packed, 1, micro, 0) for micro in (1, 3)]
    for batches in ways:
        other_total, other_count, other = loss_and_gradient(model, cpt, batches)
        assert other_count == count
        assert other_total == pytest.approx(total, rel=1e-7)  # the sum is made in float32
        assert float((other - gradient).norm() / gradient.norm()) < 1e-7


def test_eos_is_trained_once_a_document():
    cpt = stage(32)
    examples = cpt.encode(samples())
    assert len(examples) > len(TEXTS)
    assert sum(example.labels.count(257) for example in examples) == len(TEXTS)
    assert sum(len(example.labels) - example.labels.count(IGNORED) for example in examples) == sum(
        len(text.encode()) for text in TEXTS
    )


LINES = [f"Article {i}. In the mine number {i} the air is measured {i + 2} times a day." for i in range(12)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base without chat template, a column of texts, and the recipe of a run on them."""
    folder = tmp_path_factory.mktemp("cpt")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tiny_llama(258).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = [{"text": text, "id": i} for i, text in enumerate(LINES)]
    (folder / "laws.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "name": "laws",
        "stage": "cpt",
        "output_dir": str(folder / "run"),
        "device": "cpu",
        "model": {"name_or_path": str(folder / "base"), "dtype": "float32"},
        "lora": {"r": 4, "lora_alpha": 8},
        "data": {
            "format": "text", "train": "laws.jsonl", "split": {"eval_rows": 3}, "max_length": 48, "too_long": "split",
            "packing": True,
        },
        "train": {"global_batch_size": 4, "max_steps": 4, "learning_rate": 0.01},
        "export": {"parity_rows": 3, "targets": ["vllm"]},
    }  # fmt: skip
    (folder / "laws.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(place) -> Path:
    assert main(["train", str(place / "laws.yaml")]) == 0
    return place / "run"


def test_scores_are_the_held_out_loss(finished, place, capsys):
    """`mean_logprob` of the base = minus the mean loss over all tokens of the held-out documents by plain transformers."""
    from transformers import AutoModelForCausalLM

    from finetune.inputs import load_data
    from finetune.recipefile import load_recipe

    manifest = json.loads((finished / "bundle/MANIFEST.json").read_text())
    held_out = [sample.answer for sample in load_data(load_recipe(place / "laws.yaml")).evaluate]
    assert len(held_out) == 3
    total = count = right = 0
    for folder, who in ((place / "base", "base"), (finished / "bundle", "tuned")):
        model = AutoModelForCausalLM.from_pretrained(folder)
        total = count = right = 0
        for (
            text
        ) in held_out:  # longer than max_length: of pieces the context is the piece only, so they are taken apart
            for example in stage(48).encode([Sample({}, ({"role": "text", "content": text},), "f:1")]):
                ids = torch.tensor([example.ids])
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0, :-1]
                labels = torch.tensor(example.labels[1:])
                total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
                count += int((labels != IGNORED).sum())
                right += int((logits.argmax(-1) == labels).sum())
        assert manifest["scores"][who] == {
            "mean_logprob": pytest.approx(-total / count, abs=1e-5),
            "token_accuracy": pytest.approx(right / count),
        }
    assert manifest["scores"]["tuned"]["mean_logprob"] > manifest["scores"]["base"]["mean_logprob"]


def test_a_bundle_without_answers(finished, capsys):
    """No chat template, no golden samples: the bundle says so where somebody would look for them."""
    bundle = finished / "bundle"
    assert not (bundle / "golden.jsonl").exists() and not (bundle / "chat_template.jinja").exists()
    proof = json.loads((bundle / "MANIFEST.json").read_text())["merge_proof"]
    assert proof["rows"] == 3 and proof["greedy_agreement"] == 1.0
    assert main(["verify", str(bundle)]) == 2
    assert "no golden samples to ask. A run of plain text has no answers" in capsys.readouterr().err
    readme = (bundle / "serve/vllm/README.md").read_text()
    assert "vllm serve" in readme and "finetune verify" not in readme and "--chat-template" not in readme
    card = (bundle / "README.md").read_text()
    assert 'inputs = tokenizer("...", return_tensors="pt")' in card and "apply_chat_template" not in card
    assert "Plain text, as the model predicts it token by token." in card and "Greedy" not in card


def test_show_and_audit(place, capsys):
    assert main(["show", str(place / "laws.yaml"), "--rows", "1", "--set", "data.max_length=200"]) == 0
    out = capsys.readouterr().out
    assert "A⟦rticle" in out and out.endswith("times a day.<|im_end|>⟧\n")
    assert main(["audit", str(place / "laws.yaml"), "--output", str(place / "audit")]) == 0
    audit = json.loads((place / "audit/audit.json").read_text())
    source = audit["sources"][0]
    assert source["rows"] == 12 and not audit["reasons"]
    assert source["trained"] + _held_out_tokens(place) == sum(len(text.encode()) for text in LINES)


def _held_out_tokens(place) -> int:
    from finetune.inputs import load_data
    from finetune.recipefile import load_recipe

    return sum(len(sample.answer.encode()) for sample in load_data(load_recipe(place / "laws.yaml")).evaluate)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["stage=sft"], "laws.jsonl: format text is for stage cpt; stage sft trains on sharegpt, messages, alpaca"),
        (["stage=sft", "data.too_long=error"], "format text is for stage cpt"),
        (["data.format=messages"], "format messages is for stage sft, grpo, distill; stage cpt trains on text"),
        (
            ["data.too_long=split_turns"],
            "data.too_long: split_turns is for conversations; stage cpt takes error, drop or",
        ),
        (["data.train_on=all"], "data.train_on: all: has no effect in stage cpt"),
        (["cpt.fim_seed=3"], "`fim_seed` has no effect without `fim_rate`"),
        (["gate.min={exact_match: 0.5}"], "gate.min.exact_match: not a score of this"),
    ],
)
def test_what_means_nothing_here_is_refused(place, capsys, settings, said):
    extra = [part for setting in settings for part in ("--set", setting)]
    assert main(["check", str(place / "laws.yaml"), *extra]) == 2
    error = capsys.readouterr().err
    assert said in error or (settings == ["stage=sft"] and "data.too_long: split is for documents (stage cpt)" in error)


def test_targets_that_ask_in_chat_need_a_chat_template(place, capsys):
    targets = "[{engine: transformers, form: adapter}, ollama, vllm]"
    from finetune.errors import RecipeError
    from finetune.export.converted import check_tokenizer
    from finetune.recipefile import load_recipe

    recipe = load_recipe(place / "laws.yaml", [f"export.targets={targets}"])
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(RecipeError) as caught:
        check_tokenizer(tokenizer, [], recipe.export.targets)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith(
        "export.targets: transformers (adapter): its run.py asks through a chat template, which this tokenizer lacks"
    )
    assert caught.value.problems[1].startswith("ollama: the tokenizer has no chat template to make its TEMPLATE of")


TEMPLATE = """
name: clause
description: clauses as text
columns:
  number: {type: int}
  text: {type: str}
messages:
  - {role: text, content: "Clause {{ number }}: {{ text }}"}
examples:
  - {row: {number: 3, text: Stop.}, answer: "Clause 3: Stop."}
"""


def test_a_data_template_makes_documents_of_records(place, tmp_path, capsys):
    """Columns become text; the template needs no metric; in a stage on conversations it is refused, as others are here."""
    (tmp_path / "clause.yaml").write_text(TEMPLATE)
    rows = [{"number": i, "text": f"The fan number {i} runs at {i * 7} turns."} for i in range(9)]
    (tmp_path / "clauses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        "data.format=null", f"data.template={tmp_path / 'clause.yaml'}", f"data.train={tmp_path / 'clauses.jsonl'}",
        "data.max_length=100",
    ]  # fmt: skip
    extra = [part for setting in settings for part in ("--set", setting)]
    assert main(["show", str(place / "laws.yaml"), "--rows", "9", *extra]) == 0
    assert "C⟦lause 4: The fan number 4 runs at 28 turns.<|im_end|>⟧" in capsys.readouterr().out
    sft = ["--set", "stage=sft", "--set", "data.too_long=error"]
    assert main(["check", str(place / "laws.yaml"), *extra, *sft]) == 2
    assert (
        "clause.yaml gives plain text (one message with the role text); stage sft trains on conversations"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("metric: {name: exact_match}", "`metric` has no effect on documents (role text)"),
        (
            "messages: [{role: text, content: a}, {role: assistant, content: b}]",
            "a message with the role text stands alone",
        ),
        ("messages: [{role: user, content: a}, {role: assistant, content: b}]", "`metric` is missing"),
    ],
)
def test_templates_of_documents_are_checked(tmp_path, change, said):
    from finetune.data.template import load_template
    from finetune.errors import DataError

    content = yaml.safe_load(TEMPLATE) | yaml.safe_load(change)
    (tmp_path / "clause.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=said.replace("(", r"\(").replace(")", r"\)")):
        load_template(tmp_path / "clause.yaml")


def test_screening_and_splitting_look_at_documents(tmp_path, place, capsys):
    """A copy, a near copy and a telephone number in text files; files are documents, held out whole."""
    texts = {f"{i}.txt": f"{LINES[i]} {LINES[(i * 5 + 1) % 12]}" for i in range(8)}
    texts["copy.txt"] = texts["3.txt"]
    texts["number.md"] = "Call the shift supervisor: 13812345678, at any hour of the day and the night."
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    from finetune.data.prepare import prepare
    from finetune.recipefile import load_recipe

    settings = [f"data.train={tmp_path}", "data.split={eval_rows: 2}", "data.screen.exact_duplicates=drop",
                "data.screen.personal_data=redact"]  # fmt: skip
    data = prepare(load_recipe(place / "laws.yaml", settings).data, 0, "cpt")
    assert data.counts["raw_duplicate"] == 1 and data.counts["phone"] == 1
    assert len(data.train) + len(data.evaluate) == 9
    everything = [sample.answer for sample in (*data.train, *data.evaluate)]
    assert {text.replace("[PHONE]", "13812345678") for text in everything} == set(texts.values())
    assert sum("[PHONE]" in text for text in everything) == 1


@pytest.mark.slow
def test_workers_make_no_difference():
    from finetune.data.cache import encode_uncached
    from finetune.data.encode import EncodeSamples
    from finetune.data.spool import SampleFile

    made = EncodeSamples(byte_tokenizer, stage(24).data, "cpt", CptSection())
    stores = [encode_uncached(SampleFile.of(samples()).blocks(1), made, workers) for workers in (1, 2)]
    assert stores[0].ids.tolist() == stores[1].ids.tolist() and stores[0].counts == stores[1].counts
    assert stores[0].counts["split"] == 3 and stores[0].counts["rows"] == 4


def test_the_cache_knows_the_settings(place, tmp_path):
    """Another end of documents is another entry of the cache, another number of steps is not."""
    from types import SimpleNamespace

    from finetune.data.encode import make_encoder
    from finetune.inputs import encode, load_data
    from finetune.recipefile import load_recipe

    log = SimpleNamespace(say=lambda line: None)
    for settings in ([], ["cpt.eos_token=<|im_start|>"], ["train.max_steps=7"]):
        recipe = load_recipe(place / "laws.yaml", settings)
        encoder = make_encoder(byte_tokenizer(), recipe.data, recipe.settings)
        ends = encode(recipe, load_data(recipe), encoder, tmp_path / "cache", log).stops()  # type: ignore[arg-type]
        assert encoder.control_ids & ends == {encoder.eos}
    assert len([entry for entry in (tmp_path / "cache").iterdir() if not entry.name.startswith(".")]) == 2
