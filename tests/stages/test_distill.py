"""Distillation: divergences by hand, in pieces as in one, what is refused of a teacher, and whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F

from finetune.errors import GateError, RecipeError
from finetune.model.head import TrainedPositions
from finetune.model.teacher import check_vocabulary, load_teacher
from finetune.recipe_stages import DistillSection, TeacherSection
from finetune.recipefile import load_recipe
from finetune.run import run
from finetune.stages.divergence import distilled, generalised_jsd
from tests.conftest import byte_tokenizer, tiny_llama

P, Q = [1 / 2, 1 / 4, 1 / 4], [1 / 8, 1 / 8, 3 / 4]


@pytest.fixture(scope="module")
def other_base(tmp_path_factory) -> Path:
    """A teacher: the tiny base's tokenizer, other weights, a vocabulary padded from 258 to 264."""
    folder = tmp_path_factory.mktemp("teacher")
    tiny_llama(264, seed=5).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def with_teacher(folder: Path, **settings) -> list[str]:
    section = {"teacher": {"name_or_path": str(folder)}} | settings
    return ["stage=distill", f"distill={json.dumps(section)}"]


def metrics(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_three_tokens_by_hand(temperature):
    """Teacher, student: (P, Q), (Q, P) and (P, P), with P = (1/2, 1/4, 1/4), Q = (1/8, 1/8, 3/4), M their mean.

    KL(P || Q) = 1/2 ln 4 + 1/4 ln 2 + 1/4 ln 1/3 = 5/4 ln 2 - 1/4 ln 3
    KL(Q || P) = 1/8 ln 1/4 + 1/8 ln 1/2 + 3/4 ln 3 = 3/4 ln 3 - 3/8 ln 2
    M = (5/16, 3/16, 1/2): KL(P || M) = 1/2 ln 8/5 + 1/4 ln 4/3 + 1/4 ln 1/2,
                           KL(Q || M) = 1/8 ln 2/5 + 1/8 ln 2/3 + 3/4 ln 3/2, and the divergence is their mean.
    Logits are the temperature times log p, so both temperatures give these. The targets 0, 1, 2 have the student's
    probabilities 1/8, 1/4, 1/4 at temperature 1: a cross-entropy of 3 ln 2 + 2 ln 2 + 2 ln 2 = 7 ln 2.
    """
    teacher, student = (temperature * torch.tensor(rows).log() for rows in ([P, Q, P], [Q, P, P]))
    p_q, q_p = 5 / 4 * log(2) - 1 / 4 * log(3), 3 / 4 * log(3) - 3 / 8 * log(2)
    p_m = 1 / 2 * log(8 / 5) + 1 / 4 * log(4 / 3) + 1 / 4 * log(1 / 2)
    q_m = 1 / 8 * log(2 / 5) + 1 / 8 * log(2 / 3) + 3 / 4 * log(3 / 2)
    expected = {0.0: [p_q, q_p, 0], 1.0: [q_p, p_q, 0], 0.5: [(p_m + q_m) / 2, (p_m + q_m) / 2, 0]}
    for beta, values in expected.items():
        assert generalised_jsd(student, teacher, beta, temperature).tolist() == pytest.approx(values, abs=1e-6)
    if temperature == 1:
        result = distilled(student, teacher, torch.tensor([0, 1, 2]), 0.0, 1.0, alpha=0.25)
        assert float(result.cross_entropy) == pytest.approx(7 * log(2), abs=1e-5)
        assert float(result.value) == pytest.approx(0.25 * 7 * log(2) + 0.75 * (p_q + q_p), abs=1e-5)


def test_the_weights_of_a_skewed_divergence():
    """beta 1/4, teacher P, student Q: M = P/4 + 3 Q/4 = (7/32, 5/32, 5/8);
    1/4 (1/2 ln 16/7 + 1/4 ln 8/5 + 1/4 ln 2/5) + 3/4 (1/8 ln 4/7 + 1/8 ln 4/5 + 3/4 ln 6/5)."""
    expected = 1 / 4 * (1 / 2 * log(16 / 7) + 1 / 4 * log(8 / 5) + 1 / 4 * log(2 / 5))
    expected += 3 / 4 * (1 / 8 * log(4 / 7) + 1 / 8 * log(4 / 5) + 3 / 4 * log(6 / 5))
    value = generalised_jsd(torch.tensor([Q]).log(), torch.tensor([P]).log(), 0.25, 1.0)
    assert float(value) == pytest.approx(expected, abs=1e-6)


def tensors(positions: int = 11, width: int = 7, wider: int = 0):
    draw = torch.Generator().manual_seed(1)
    student = torch.randn(positions, width, generator=draw, requires_grad=True)
    teacher = torch.randn(positions, width + wider, generator=draw)
    return student, teacher, torch.randint(0, width, (positions,), generator=draw)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_in_pieces_as_in_one(beta, alpha):
    """Eleven positions, four at a time: values and gradient of one piece."""
    found = []
    for chunk in (1 << 20, 4 * 7):
        student, teacher, targets = tensors()
        result = distilled(student, teacher, targets, beta, 1.3, alpha, chunk)
        result.value.backward()
        found.append((*(float(value.detach()) for value in result), student.grad))
    (*one, one_gradient), (*pieces, gradient) = found
    assert pieces == pytest.approx(one, rel=1e-6)
    assert float((gradient - one_gradient).norm() / one_gradient.norm()) < 1e-6


def test_a_wider_teacher_is_cut():
    """The teacher's padding holds probability of no text: without those columns it is renormalised."""
    student, teacher, targets = tensors(wider=3)
    wide = distilled(student, teacher, targets, 0.0, 1.0, 0.5)
    narrow = distilled(student, teacher[:, :7], targets, 0.0, 1.0, 0.5)
    assert [value.item() for value in wide] == [value.item() for value in narrow]


def test_no_token_gives_nothing():
    student, teacher, targets = tensors(positions=0)
    result = distilled(student, teacher, targets, 0.5, 1.0, 0.5)
    result.value.backward()
    assert result.value.item() == 0 and student.grad.shape == (0, 7)


def test_only_cross_entropy_is_that_of_sft_bit_for_bit():
    student, teacher, targets = tensors()
    F.cross_entropy(student.float(), targets, reduction="sum").backward()
    expected, student.grad = student.grad, None
    distilled(student, teacher, targets, 0.5, 1.0, alpha=1.0, chunk=14).value.backward()
    assert torch.equal(student.grad, expected)


def test_alpha_1_is_sft(tiny_recipe, tmp_path, other_base):
    """Two whole runs: the losses of all steps and the adapters' weights. (sft reads its logits a few rows at a time.)"""
    sft = tiny_recipe("train.max_steps=4")
    distill = tiny_recipe("train.max_steps=4", f"output_dir={tmp_path}/d", *with_teacher(other_base, alpha=1.0))
    run(sft)
    run(distill)
    assert metrics(sft.output_dir, "loss") == pytest.approx(metrics(distill.output_dir, "loss"), rel=1e-5)
    one, other = (load_file(its.output_dir / "adapter/adapter_model.safetensors") for its in (sft, distill))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_model_has_nothing_to_learn_from_itself(tiny_recipe, tiny_base, beta):
    """Divergence 0; the gradient too, but for the rounding of a softmax's sum to 1."""
    recipe = tiny_recipe("train.max_steps=1", *with_teacher(tiny_base, beta=beta))
    stage, model = stage_and_model(recipe)
    loss = stage.loss(TrainedPositions(model), stage.collate(stage.encode(samples_of(recipe))))
    loss.value.backward()
    assert float(loss.sums["divergence"]) == 0
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-5


def samples_of(recipe):
    from finetune.data.source import read_source
    from finetune.data.template import load_template

    return load_template(recipe.data.template).render_all(read_source(recipe.data.train[0]))[:4]


def stage_and_model(recipe, dtype: torch.dtype = torch.float32):
    """The recipe's stage with its teacher, and its base with all parameters trained."""
    from transformers import AutoModelForCausalLM

    from finetune import device
    from finetune.inputs import make_stage
    from finetune.model.load import load_tokenizer

    stage, _encoder = make_stage(recipe, load_tokenizer(recipe.model))
    placement = device.start(recipe)
    model = AutoModelForCausalLM.from_pretrained(
        recipe.model.name_or_path, dtype=dtype, attn_implementation=placement.attention
    )
    stage.prepare(model, {}, placement)
    return stage, model


@pytest.mark.parametrize("groups", [2, 1])
def test_micro_batches(tiny_recipe, other_base, groups):
    """Gradients of four conversations as 4, as 2 + 2 and one by one; and joined without padding."""
    stage, model = stage_and_model(tiny_recipe(*with_teacher(other_base, beta=0.3, alpha=0.2)))
    items = stage.encode(samples_of(tiny_recipe()))
    items[1] = replace(items[1], labels=(-100,) * len(items[1].ids))

    def gradient(parts) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            stage.loss(TrainedPositions(model), stage.collate(part)).value.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    whole = gradient([items])
    split = gradient([items[i : i + groups] for i in range(0, 4, groups)])
    assert float((split - whole).norm() / whole.norm()) < 1e-5
    stage.data = stage.data.model_copy(update={"padding_free": True})
    assert float((gradient([items]) - whole).norm() / whole.norm()) < 1e-5


def test_packed_run_learns_the_teacher(tiny_recipe, other_base):
    """Packed rows, held-out looks: the divergence falls; the manifest says who taught."""
    recipe = tiny_recipe(
        "data.packing=true", "data.max_length=128", "train.eval_steps=8", "train.max_steps=16",
        *with_teacher(other_base, beta=0.0, temperature=2.0),
    )  # fmt: skip
    result = run(recipe)
    assert result is not None
    looks = metrics(recipe.output_dir, "eval_divergence")
    assert len(looks) == 2 and looks[1] < 0.8 * metrics(recipe.output_dir, "divergence")[0]
    teacher = result.manifest["training"]["teacher"]
    assert teacher["name_or_path"] == str(other_base) and teacher["dtype"] == "float32"
    assert list(teacher["sha256"]) == ["model.safetensors"]


def test_another_teacher_is_another_run(tiny_recipe, tiny_base, other_base):
    """A run that stopped at its gate is not gone on with, by another teacher."""
    same = ("train.max_steps=2", "gate.min.all_fields=1")
    with pytest.raises(GateError):
        run(tiny_recipe(*same, *with_teacher(other_base)))
    other = {"name_or_path": str(other_base), "dtype": "bfloat16"}
    with pytest.raises(RecipeError, match=r"distill: teacher: the checkpoint was made with .*'float32'.*'bfloat16'"):
        run(tiny_recipe(*same, "stage=distill", f"distill={json.dumps({'teacher': other})}"), resume="auto")


def placement_of(recipe):
    from finetune import device

    return device.start(recipe)


def test_teacher_with_an_adapter(tiny_recipe, finished_run, tiny_base):
    """Its logits are those of the finished run's merged model; in bfloat16 the weights are."""
    from transformers import AutoModelForCausalLM

    recipe, result = finished_run
    section = TeacherSection(name_or_path=str(tiny_base), adapter_name_or_path=str(recipe.output_dir / "adapter"))
    placement = placement_of(recipe)
    teacher = load_teacher(section, byte_tokenizer(), 258, placement)
    ids = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(3))
    mask, kept = torch.ones_like(ids), torch.arange(ids.numel())
    merged = AutoModelForCausalLM.from_pretrained(result.bundle)
    with torch.no_grad():
        expected = merged(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)
    assert torch.allclose(teacher.logits((ids, mask, kept, None)), expected, atol=1e-5)
    assert set(teacher.identity["adapter"]) == {"name_or_path", "sha256"}
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    half = load_teacher(section.model_copy(update={"dtype": "bfloat16"}), byte_tokenizer(), 258, placement)
    with torch.autocast("cpu", dtype=torch.float16):
        assert half.logits((ids, mask, kept, None)).dtype == torch.bfloat16


def test_other_vocabularies_are_refused():
    """With both sides named: other ids, other cuts of the same text, fewer logits than tokens."""
    ours, theirs = byte_tokenizer(), byte_tokenizer()
    theirs.add_tokens(["<tool>"])
    with pytest.raises(RecipeError) as refused:
        check_vocabulary(ours, 258, theirs, 259)
    assert refused.value.problems == [
        "distill.teacher: another vocabulary: the student's tokenizer has 258 tokens, the teacher's 259; 1 tokens differ, "
        "as '<tool>': id None of the student, 258 of the teacher"
    ]
    with pytest.raises(
        RecipeError, match=r"^distill.teacher: the teacher gives logits for 250 ids, its tokenizer has ids up to 257$"
    ):
        check_vocabulary(ours, 300, ours, 250)
    check_vocabulary(ours, 258, byte_tokenizer(), 264)


def test_other_cuts_of_the_same_text_are_refused():
    from tokenizers import pre_tokenizers

    ours, theirs = byte_tokenizer(), byte_tokenizer()
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    with pytest.raises(RecipeError, match=r"the same vocabulary, but other ids for the same text: .* from token 0 on"):
        check_vocabulary(ours, 258, theirs, 258)


def test_mistakes(tiny_recipe, tiny_base, tmp_path):
    with pytest.raises(RecipeError, match=r"distill: is missing: distill\.teacher"):
        tiny_recipe("stage=distill")
    with pytest.raises(RecipeError, match="distill: is for stage distill; this recipe's stage is sft"):
        tiny_recipe(*with_teacher(tiny_base)[1:])
    with pytest.raises(RecipeError, match=r"distill\.teacher\.name_or_path: no such folder: /nowhere"):
        run(tiny_recipe(*with_teacher(Path("/nowhere"))))
    section = TeacherSection(name_or_path=str(tiny_base), adapter_name_or_path=str(tmp_path))
    with pytest.raises(RecipeError, match=r"distill\.teacher\.adapter_name_or_path: no adapter_model\.safetensors in"):
        load_teacher(section, byte_tokenizer(), 258, placement_of(tiny_recipe()))


def test_paths_of_the_teacher_are_of_the_recipe_s_folder(tiny_recipe, tmp_path):
    (tmp_path / "teachers/big").mkdir(parents=True)
    tiny_recipe()  # writes the file
    file = tmp_path / "tiny.yaml"
    told = yaml.safe_load(file.read_text()) | {"stage": "distill"}
    told["distill"] = {"teacher": {"name_or_path": "teachers/big", "adapter_name_or_path": "./adapter"}}
    file.write_text(yaml.safe_dump(told))
    section = load_recipe(file).settings
    assert isinstance(section, DistillSection)
    assert section.teacher.name_or_path == str(tmp_path / "teachers/big")
    assert section.teacher.adapter_name_or_path == str(tmp_path / "adapter")
