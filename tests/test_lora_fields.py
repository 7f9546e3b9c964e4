"""`lora:` is checked against peft's own types without peft: every field has an answer, and every wrong value a line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import peft
import pytest

from finetune.errors import RecipeError
from finetune.lora_fields import LORA_ROWS
from finetune.peft_fields import COMMON, Row, problems_of
from finetune.peft_source import fields_of
from finetune.recipe_peft import LoraSection
from finetune.recipefile import load_recipe
from tests.conftest import ROOT, write_tiny_recipe
from tests.reward_runs import reward_recipe

FILE = "tuners/lora/config.py"
REFUSED = [key for key in fields_of(FILE, "LoraConfig") if LORA_ROWS.get(key, Row()).refused]


@pytest.fixture
def refused(tiny_base, tiny_data, tmp_path):
    """A function: the problems of the tiny recipe with these overrides, without the lead; none where it loads."""

    def problems(*overrides: str) -> list[str]:
        file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
        try:
            load_recipe(file, overrides)
        except RecipeError as error:
            return [problem.removeprefix("--set: ").removeprefix(f"{file}:") for problem in error.problems]
        return []

    return problems


def test_every_field_has_an_answer():
    """A field that a newer peft brings has no row, and stops here; a row that no peft in range has is a leftover."""
    theirs = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert set(fields_of(FILE, "LoraConfig")) == theirs
    assert theirs - LORA_ROWS.keys() - LoraSection.model_fields.keys() == set()
    assert LORA_ROWS.keys() - theirs <= {"kasa_config"}  # peft 0.21 brought it


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("tuners/ia3/config.py", "IA3Config"),
        ("tuners/oft/config.py", "OFTConfig"),
        ("tuners/vera/config.py", "VeraConfig"),
        ("tuners/prompt_tuning/config.py", "PromptTuningConfig"),
        ("tuners/prefix_tuning/config.py", "PrefixTuningConfig"),
    ],
)
def test_other_methods_fields_are_read_with_those_they_inherit(file, name):
    assert list(fields_of(file, name)) == [field.name for field in dataclasses.fields(getattr(peft, name))]


TYPES = [
    ("lora.use_dora=yes please", "lora.use_dora: should be true or false; got 'yes please'"),
    ("lora.use_rslora=1", "lora.use_rslora: should be true or false; got 1"),
    ("lora.bias=some", "lora.bias: should be one of 'none', 'all', 'lora_only'; got 'some'"),
    ("lora.bias=lora_onli", "lora.bias: should be one of 'none', 'all', 'lora_only'; got 'lora_onli'; did you mean 'lora_only'?"),
    ("lora.rank_pattern=8", "lora.rank_pattern: should be a mapping of patterns to whole numbers from 1; got 8"),
    ("lora.rank_pattern={q_proj: 0}",
     "lora.rank_pattern: should be a mapping of patterns to whole numbers from 1; got {'q_proj': 0}"),
    ("lora.alpha_pattern={q_proj: a}",
     "lora.alpha_pattern: should be a mapping of patterns to numbers above 0; got {'q_proj': 'a'}"),
    ("lora.layers_to_transform='3'", "lora.layers_to_transform: should be layer numbers from 0; got '3'"),
    ("lora.layers_to_transform=true", "lora.layers_to_transform: should be layer numbers from 0; got True"),
    ("lora.modules_to_save=lm_head", "lora.modules_to_save: should be a list of module names; got 'lm_head'"),
    ("lora.exclude_modules=3", "lora.exclude_modules: should be a list of names or text; got 3"),
    ("lora.target_parameters=experts", "lora.target_parameters: should be a list of parameter names; got 'experts'"),
    ("lora.trainable_token_indices=[-1]",
     "lora.trainable_token_indices: should be a list of token ids, or a mapping of layer names to such lists; got [-1]"),
    ("lora.init_lora_weights=pizza",
     "lora.init_lora_weights: should be one of true, gaussian, orthogonal, mica, pissa, pissa_niter_N, olora, loftq; got "
     "'pizza'"),
    ("lora.init_lora_weights=eva",
     "lora.init_lora_weights: 'eva' draws A from the data and gives each layer its own rank; "
     "set rank_pattern yourself, or use pissa"),
    ("lora.init_lora_weights=false",
     "lora.init_lora_weights: False leaves the untrained adapter random, which is for peft's own tests; leave it out"),
    ("lora.use_dor=true", "lora.use_dor: not a field of peft.LoraConfig; did you mean 'use_dora'?"),
    ("lora.megatron_core=megatron.core",
     "lora.megatron_core: is for models built of Megatron's layers, which transformers does not load; leave it out; "
     "got 'megatron.core'"),
    ("lora.inference_mode=true", "lora.inference_mode: would train nothing; leave it out; got True"),
    ("lora.task_type=CAUSAL_LM", "lora.task_type: follows from the stage; leave it out; got 'CAUSAL_LM'"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "line"), TYPES, ids=[override for override, _ in TYPES])
def test_wrong_value(refused, override, line):
    assert refused(override) == [line]


@pytest.mark.parametrize("row", REFUSED)
def test_refused_fields_say_what_to_do(refused, row):
    """Each of them with a value that peft itself would take; `false` and `null` are no setting."""
    (line,) = refused(f"lora.{row}=3")
    assert line == f"lora.{row}: {LORA_ROWS[row].refused}; got 3" and len(LORA_ROWS[row].refused.split()) > 4
    assert refused(f"lora.{row}=null") == []


def test_all_at_once_with_lines(tiny_base, tiny_data, tmp_path):
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    text = file.read_text().replace("  r: 4\n", "  r: four\n  use_dora: 7\n  bias: some\n")
    file.write_text(text)
    line = text[: text.index("r: four")].count("\n") + 1
    with pytest.raises(RecipeError) as error:
        load_recipe(file)
    assert error.value.problems == [
        f"{file}:{line + 1}: lora.use_dora: should be true or false; got 7",
        f"{file}:{line + 2}: lora.bias: should be one of 'none', 'all', 'lora_only'; got 'some'",
        f"{file}:{line}: lora.r: input should be a valid integer; got 'four'",
    ]


def test_nested_configurations_by_their_own_fields():
    """`{rhoo: 2}` under eva_config, and a value of the wrong type; what the class fills itself can't be given."""
    known = fields_of(FILE, "LoraConfig")
    given = {
        "eva_config": {"rhoo": 2, "tau": "x"},
        "arrow_config": {"task_adapter_names": ["a"], "top_k": 2},
        "use_bdlora": 3,
    }
    assert problems_of(given, known, {}, "LoraConfig") == [
        (("eva_config", "rhoo"), "not a field of peft.EvaConfig; did you mean 'rho'?"),
        (("eva_config", "tau"), "should be a number; got 'x'"),
        (("arrow_config", "task_adapter_names"), "is set by the run itself; leave it out; got ['a']"),
        (("use_bdlora",), "should be a section with keys of target_modules_bd_a, target_modules_bd_b, nblocks, "
         "match_strict; got 3"),
    ]  # fmt: skip


CONFLICTS = [
    (("lora.layers_to_transform=1",), "lora.layers_to_transform: needs target_modules as a list of names; it is 'all-linear'"),
    (("lora.layers_pattern=layers", "lora.target_modules=[q_proj]"),
     "lora.layers_pattern: has no effect without layers_to_transform: which of these layers"),
    (("lora.lora_bias=true", "lora.use_dora=true"),
     "lora.lora_bias: does not go together with use_dora; set one of them to false"),
    (("lora.lora_bias=true", "lora.init_lora_weights=mica"), "lora.lora_bias: goes with init_lora_weights: true only"),
    (("lora.init_lora_weights=pissa", "lora.use_dora=true"),
     "lora.use_dora: not with init_lora_weights: pissa, whose base can't be told apart then; leave one of them out"),
    (("lora.init_lora_weights=orthogonal", "lora.r=5"), "lora.r: init_lora_weights: orthogonal needs an even rank; got 5"),
    (("lora.target_parameters=[experts.down_proj]", "lora.lora_dropout=0.1"),
     "lora.lora_dropout: does not work on parameters (target_parameters); leave one of the two out"),
    (("lora.target_modules=[]",), "lora.target_modules: is empty; name layers, or parameters in target_parameters"),
    (("lora.trainable_token_indices=[3, 3]",), "lora.trainable_token_indices: an id is there twice; got [3, 3]"),
    (("lora.rank_pattern={'q(': 3}",),
     "lora.rank_pattern: 'q(' is not a regular expression: missing ), unterminated subpattern at position 1"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "line"), CONFLICTS, ids=[line for _, line in CONFLICTS])
def test_what_does_not_go_together(refused, overrides, line):
    (problem,) = refused(*overrides)
    assert problem.endswith(line)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("lora.use_dora=true",),
         "not with lora.use_dora: DoRA divides by the norm of W + s B A, so that B's gradient is another"),
        (("lora.target_parameters=[experts.x]",),
         "not with lora.target_parameters: experts have their halves stacked in one matrix"),
        (("lora.init_lora_weights=mica",), "not with lora.init_lora_weights: mica, which freezes lora_B: nothing is left"),
    ],
)  # fmt: skip
def test_lora_fa_is_for_plain_pairs(refused, overrides, line):
    (problem,) = refused("train.optim=lora_fa", *overrides)
    assert problem.endswith(f"train.optim: lora_fa: {line}")
    (problem,) = refused("train.optim=lora_fa", "train.loraplus_lr_ratio=4.0")
    assert problem.endswith("`loraplus_lr_ratio` has no effect with `optim: lora_fa`, where lora_A does not learn")


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_no_residual_start_under_a_score_head(start, tiny_base, tmp_path):
    """Its export would fail after the training: the head is a whole module, and the base another."""
    with pytest.raises(RecipeError) as error:
        reward_recipe(tmp_path, tiny_base, f"lora.init_lora_weights={start}")
    (line,) = error.value.problems
    assert line.endswith(
        f"lora.init_lora_weights: {start}: not under a score head: the base can't be told apart then; use true, gaussian, "
        "orthogonal or mica"
    )
    reward_recipe(tmp_path, tiny_base, "lora.init_lora_weights=mica")


def test_values_that_peft_takes_pass(refused):
    told = (
        "lora.use_dora=true", "lora.rank_pattern={q_proj: 8}", "lora.alpha_pattern={q_proj: 1.5}", "lora.target_modules=[q_proj]",
        "lora.layers_to_transform=[0, 1]", "lora.layers_pattern=layers", "lora.exclude_modules='.*k_proj'", "lora.bias=all",
        "lora.modules_to_save=[lm_head]", "lora.init_lora_weights=true", "lora.use_qalora=false", "lora.eva_config=null",
    )  # fmt: skip
    assert refused(*told) == []


def test_checking_needs_neither_torch_nor_peft():
    code = (
        "import sys; from finetune.peft_source import fields_of; from finetune.recipe_peft import LoraSection, section_problems;"
        "section_problems(LoraSection, {'use_dora': 1}); print([m for m in ('torch', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_common_fields_are_those_of_every_configuration():
    assert set(COMMON) == {field.name for field in dataclasses.fields(peft.PeftConfig)}
