"""Stages beside sft: two answers to a pair, the passes of a reference and of a teacher; what goes into a step."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import RecipeError
from finetune.plan.activations import DOCUMENTS, Keeping
from finetune.plan.estimate import Shapes, estimate, refuse, work
from finetune.plan.hardware import HARDWARE, Hardware
from finetune.plan.pace import Work, forward_only, training
from finetune.plan.rows import Rows
from tests.stages.made import load_tiny

H100 = HARDWARE["h100-80g"]


def eight(parts: int) -> Rows:
    lengths = np.full((8, parts), 20)
    return Rows(lengths, lengths // 2, (lengths**2).sum(1), 8, True, "by hand")


def test_a_pair_is_two_rows_and_a_pass_of_the_reference(tmp_path, tiny_base):
    """4 pairs of 20 and 20 tokens, half of each the prompt: 4 x 30, or 8 x 20 with each answer's own; 80 of them trained;
    the reference sees them too, unless it did before."""
    recipe = load_tiny(tmp_path, tiny_base, "dpo", "device=cuda", "model.dtype=auto")
    apart = load_tiny(tmp_path, tiny_base, "dpo", "device=cuda", "model.dtype=auto", "dpo.prefix_sharing=false")
    found, alone = estimate(recipe, eight(2), H100), estimate(apart, eight(2), H100)
    assert (found.largest.rows, found.largest.width, found.largest.trained) == (1, 120, 80)
    assert (alone.largest.rows, alone.largest.width, alone.largest.trained) == (8, 20, 80)
    assert found.memory.activations < 0.8 * alone.memory.activations
    once = training(found.shape, found.largest, Keeping())
    reference = forward_only(found.shape, found.largest)
    assert work(recipe, found.shape, None, found.largest, Keeping()) == once + reference
    before = load_tiny(
        tmp_path, tiny_base, "dpo", "device=cuda", "dpo.precompute_ref_log_probs=true", "model.dtype=auto"
    )
    computed = estimate(before, eight(2), H100)
    assert work(before, found.shape, None, found.largest, Keeping()) == once
    assert computed.before == pytest.approx(2 * reference.seconds(H100, "bfloat16"))  # an epoch is two steps
    assert computed.seconds < found.seconds  # nine steps


def test_orpo_has_no_reference(tmp_path, tiny_base):
    recipe = load_tiny(tmp_path, tiny_base, "orpo", "device=cuda", "model.dtype=auto")
    found = estimate(recipe, eight(2), H100)
    assert work(recipe, found.shape, None, found.largest, Keeping()) == training(found.shape, found.largest, Keeping())


def test_kto_reads_mismatched_answers_too(tmp_path, tiny_base):
    recipe = load_tiny(tmp_path, tiny_base, "kto", "device=cuda", "model.dtype=auto")
    found = estimate(recipe, eight(1), H100)
    more = sum((forward_only(found.shape, found.largest, adapted) for adapted in (True, False, False)), Work())
    assert work(recipe, found.shape, None, found.largest, Keeping()).products == pytest.approx(
        (training(found.shape, found.largest, Keeping()) + more).products
    )


def test_a_reward_model_has_no_vocabulary(tmp_path, tiny_base):
    found = estimate(load_tiny(tmp_path, tiny_base, "reward", "device=cuda", "model.dtype=auto"), eight(2), H100)
    assert found.shape.vocabulary == 0 and found.memory.logits == 0


def test_a_teacher_is_held_and_asked(tiny_recipe, tiny_base):
    plain = tiny_recipe("device=cuda", "model.dtype=bfloat16")
    recipe = tiny_recipe(
        "device=cuda", "model.dtype=bfloat16", "stage=distill", f"distill.teacher={{name_or_path: {tiny_base}}}"
    )
    found, without = estimate(recipe, eight(1), H100), estimate(plain, eight(1), H100)
    assert found.memory.teacher == without.memory.base
    assert found.step > without.step


def test_virtual_tokens_stand_before_every_row(tiny_recipe):
    recipe = tiny_recipe("device=cuda", "peft_type=prompt_tuning", "lora=null", "prompt_tuning.num_virtual_tokens=5")
    found = estimate(recipe, eight(1), H100)
    assert found.shape.trained == 5 * 64 and found.shape.prefix == 5


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        # vectors on keys and values (32 wide), and on the input of down (128 wide), in two layers
        ("ia3", 2 * (32 + 32 + 128)),
        # a vector of r and one of the output's width, for each of 7 layers
        ("vera", 2 * (7 * 256 + 64 + 32 + 32 + 64 + 128 + 128 + 64)),
    ],
)
def test_other_methods_are_counted_by_peft(tiny_recipe, method, trained):
    found = estimate(tiny_recipe("device=cuda", f"peft_type={method}", "lora=null"), eight(1), H100)
    assert found.shape.trained == trained


def test_skeletons_are_built_once(tiny_recipe):
    shapes = Shapes()
    first = estimate(tiny_recipe("device=cuda"), eight(1), H100, shapes=shapes)
    again = estimate(tiny_recipe("device=cuda", "train.micro_batch_size=1"), eight(1), H100, shapes=shapes)
    assert first.shape is again.shape and again.memory.activations * 4 == pytest.approx(
        first.memory.activations, rel=0.2
    )


def test_what_is_not_covered_is_refused(tiny_recipe):
    with pytest.raises(RecipeError, match="plan: a mixture's steps are not covered yet"):
        refuse(tiny_recipe().model_copy(update={"mixture": (tiny_recipe(),)}))


@pytest.mark.parametrize(
    ("setting", "fused"),
    [
        ("seed=1", True), ("model.fused_ops=false", False), ("train.torch_compile=true", False),
        ("lora.lora_dropout=0.1", False), ("model.attn_implementation=sdpa", False), ("lora.use_dora=true", False),
    ],
)  # fmt: skip
def test_a_cpu_computes_with_its_fused_ops(tiny_recipe, setting, fused):
    """Then rows of different lengths are not filled up, and documents are apart: 8 rows of 20, or of 20 and 5."""
    lengths = np.array([[20], [5]] * 4)
    rows = Rows(lengths, lengths // 2, (lengths**2).sum(1), 8, True, "by hand")
    cpu = Hardware("cpu", "cpu", 2**34, {"float32": 1e11, "bfloat16": 1e11}, 1e10, 0, "by hand")
    found = estimate(tiny_recipe("device=cpu", "train.micro_batch_size=2", setting), rows, cpu)
    assert (found.shape.attention == DOCUMENTS) is fused
    batch = found.largest
    assert (batch.tokens == batch.real) is fused or batch.real == 40
