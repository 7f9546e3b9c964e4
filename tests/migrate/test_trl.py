"""TRL: command lines of its scripts' docstrings, files of a configuration's fields, and what differs from them."""

from __future__ import annotations

import pytest

from tests.migrate.configs import checked, importing, messages, write_rows

# The settings of trl/scripts/sft.py's docstring (LoRA), on a file of ours, through a launcher.
SFT = r"""# first LoRA try
export CUDA_VISIBLE_DEVICES=0,1,2,3
accelerate launch --num_processes 4 trl/scripts/sft.py \
    --model_name_or_path Qwen/Qwen2-0.5B \
    --dataset_name rows.jsonl \
    --learning_rate 2.0e-4 \
    --num_train_epochs 1 \
    --packing \
    --per_device_train_batch_size 2 \
    --gradient-accumulation-steps=8 \
    --eos_token '<|im_end|>' \
    --eval_strategy steps \
    --eval_steps 100 \
    --use_peft \
    --lora_r 32 \
    --lora_alpha 16 \
    --lora_target_modules q_proj v_proj \
    --no_remove_unused_columns \
    --output_dir Qwen2-0.5B-SFT \
    --push_to_hub
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("rows.jsonl", messages(40))


def test_a_command_line(capsys):
    """The batch is 2 x 8 x the launcher's 4; every token of `messages` is trained by default; a file has no test split."""
    done = importing(capsys, SFT, name="run.sh")
    assert done.code == 0
    assert done.values == {
        "name": "run", "stage": "sft", "seed": 42, "output_dir": "Qwen2-0.5B-SFT",
        "model": {"name_or_path": "Qwen/Qwen2-0.5B", "dtype": "auto"},
        "lora": {"r": 32, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]},
        "data": {
            "format": "messages", "train": [{"path": "rows.jsonl"}], "split": {"eval_rows": 4}, "max_length": 1024,
            "too_long": "truncate_prompt", "train_on": "all", "packing": True,
        },
        "train": {
            "global_batch_size": 64, "micro_batch_size": 2, "num_train_epochs": 1, "optim": "adamw_torch",
            "learning_rate": 2e-4, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0,
            "max_grad_norm": 1.0, "gradient_checkpointing": True, "save_steps": 500, "eval_steps": 100,
        },
    }  # fmt: skip
    assert done.lost == [
        "eos_token: <|im_end|>: the base's tokenizer is taken as it is; nearest: model.tokenizer_name_or_path: a copy of it with "
        "the change",
        "push_to_hub: true: uploading is a step of its own, after the export; nearest: "
        "finetune export RUN --push-to-hub ORG/NAME",
    ]
    assert [line.partition(": ")[0] for line in done.changed] == ["max_length", "dataset_test_split", "test_split_size"]
    assert next(line for line in done.told if "eos_token" in line).startswith("  run.sh:11: ")
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 36 samples to train on, 4 held out"


def test_processes_on_our_command_line_go_before_the_launcher_s(capsys):
    assert importing(capsys, SFT, "--processes", "1", name="run.sh").values["train"]["global_batch_size"] == 16


def test_a_configuration_of_fields_and_its_defaults(capsys):
    """The settings of examples/cli_configs/example_config.yaml with an adapter: rank 16, dropout 0.05, peft's own layers."""
    config = {
        "model_name_or_path": "Qwen/Qwen2.5-0.5B", "dataset_name": "rows.jsonl", "report_to": "none",
        "learning_rate": 0.0001, "lr_scheduler_type": "cosine", "use_peft": True, "assistant_only_loss": True,
    }  # fmt: skip
    done = importing(capsys, config)
    assert done.values["lora"] == {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
    }
    assert (done.values["data"]["train_on"], done.values["data"]["max_length"]) == ("assistant", 1024)
    assert (done.values["train"]["global_batch_size"], done.values["train"]["learning_rate"]) == (8, 1e-4)
    assert (done.lost, done.values["train"]["num_train_epochs"]) == ([], 3.0)
    assert done.changed[0] == (
        "lora_target_modules: names no layers; written down is peft's own choice for Llama, Mistral, Qwen, Gemma: check it"
    )


def test_json_reads_as_yaml(capsys):
    text = '{"model_name_or_path": "org/base", "dataset_name": "rows.jsonl", "use_peft": true, "packing": true,'
    text += ' "learning_rate": 1e-05}'
    done = importing(capsys, text, name="run.json")
    assert (done.code, done.values["train"]["learning_rate"], done.values["data"]["packing"]) == (0, 1e-5, True)


def test_the_layers_that_peft_would_take_depend_on_the_model(capsys, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    config = {"model_name_or_path": "base", "dataset_name": "rows.jsonl", "use_peft": True, "packing": True}
    done = importing(capsys, config)
    assert (done.values["lora"]["target_modules"], done.values["model"]["name_or_path"]) == (["c_attn"], "base")
    assert "lora_target_modules: names no layers; peft's own choice for gpt2 is written down" in done.changed


def pairs(**other: object) -> dict:
    """The settings of trl/scripts/dpo.py's docstring (LoRA)."""
    write_rows("pairs.jsonl", [{"prompt": f"Double {i}.", "chosen": str(2 * i), "rejected": "many"} for i in range(40)])
    return {
        "model_name_or_path": "Qwen/Qwen2-0.5B-Instruct", "dataset_name": "pairs.jsonl", "learning_rate": 5e-6,
        "per_device_train_batch_size": 2, "max_steps": 1000, "gradient_accumulation_steps": 8, "eval_strategy": "steps",
        "eval_steps": 50, "use_peft": True, "lora_r": 32, "lora_alpha": 16, "lora_target_modules": "all-linear",
    } | other  # fmt: skip


def test_dpo(capsys):
    """All dropout is off in DPO there, LoRA's own default of 0.05 too."""
    done = importing(capsys, pairs(beta=0.05, loss_type="ipo"), "--stage", "dpo")
    assert (done.values["dpo"], done.values["train"]["max_steps"]) == ({"loss_type": "ipo", "beta": 0.05}, 1000)
    assert (done.values["lora"]["lora_dropout"], done.values["data"]["too_long"]) == (0.0, "drop")
    assert (done.values["train"]["global_batch_size"], done.values["train"]["eval_steps"]) == (16, 50)
    assert done.lost == []
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 36 samples to train on, 4 held out"


@pytest.mark.parametrize(
    ("given", "section", "lost"),
    [
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}, {"loss_type": "sigmoid", "rpo_alpha": 0.3}, []),
        ({"loss_type": "sigmoid", "label_smoothing": 0.1}, {"loss_type": "sigmoid", "label_smoothing": 0.1}, []),
        ({"loss_type": "sigmoid_norm"}, {"loss_type": "sigmoid_norm"}, []),
        ({"loss_type": "exo_pair"}, {"loss_type": "sigmoid"},
         ["loss_type: exo_pair: this loss, or this sum of losses, is not here; nearest: dpo.loss_type: sigmoid"]),
        ({"loss_type": ["hinge", "ipo"]}, {"loss_type": "hinge"},
         ["loss_type: this loss, or this sum of losses, is not here; nearest: dpo.loss_type: hinge"]),
        ({"loss_type": "sigmoid", "f_divergence_type": "js_divergence"}, {"loss_type": "sigmoid"},
         ["f_divergence_type: js_divergence: other divergences than the reverse KL are not here; nearest: dpo.beta"]),
        ({"loss_type": "sigmoid", "precompute_ref_log_probs": True},
         {"loss_type": "sigmoid", "precompute_ref_log_probs": True}, []),
    ],
)  # fmt: skip
def test_losses_of_dpo(capsys, given, section, lost):
    done = importing(capsys, pairs(**given))
    assert done.values["dpo"] == section | {"beta": 0.1}
    assert (done.lost, done.recipe.stage) == (lost, "dpo")


@pytest.mark.parametrize(
    ("command", "rate", "stage"),
    [("sft", 2e-5, "sft"), ("dpo", 1e-6, "dpo"), ("reward", 1e-4, "reward"), ("orpo", 1e-6, "orpo")],
)
def test_the_rate_is_the_default_of_each_configuration(capsys, command, rate, stage):
    text = f"trl {command} --model_name_or_path org/base --dataset_name org/rows --use_peft\n"
    done = importing(capsys, text, name="run.txt")
    assert (done.values["train"]["learning_rate"], done.values["stage"]) == (rate, stage)


def test_simpo_and_kto(capsys):
    done = importing(capsys, pairs(loss_type="simpo", simpo_gamma=1.0, cpo_alpha=0.0, beta=2.0))
    assert (done.values["stage"], done.values["simpo"], done.lost) == ("simpo", {"beta": 2.0, "gamma": 1.0}, [])
    write_rows(
        "judged.jsonl", [{"prompt": f"Double {i}.", "completion": str(2 * i), "label": i % 2 == 0} for i in range(100)]
    )
    done = importing(capsys, pairs(dataset_name="judged.jsonl", desirable_weight=2.0), "--overwrite")
    assert done.values["kto"] == {"beta": 0.1, "desirable_weight": 2.0, "undesirable_weight": 1.0}
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 90 samples to train on, 10 held out"


def test_prompt_and_completion_train_the_completion(capsys):
    write_rows("pc.jsonl", [{"prompt": f"Double {i}.", "completion": str(2 * i)} for i in range(20)])
    done = importing(capsys, pairs(dataset_name="pc.jsonl", packing=False), "--stage", "sft")
    assert done.values["data"]["format"] == "prompt_completion"
    assert "train_on" not in done.values["data"]
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_a_text_column_is_continued_pre_training(capsys):
    write_rows("laws.jsonl", [{"content": f"Section {i}. Ropes are greased monthly."} for i in range(20)])
    done = importing(capsys, pairs(dataset_name="laws.jsonl", dataset_text_field="content", label_smoothing_factor=0.1))
    assert done.lost == ["label_smoothing_factor: 0.1: is of stage sft here"]
    assert (done.values["stage"], done.values["data"]["too_long"]) == ("cpt", "split")
    assert checked(capsys, done.file).startswith("run.recipe.yaml: right; 18 ")


def test_sets_of_the_hub_and_mixtures(capsys):
    config = pairs(packing=True, dataset_name="org/chat", dataset_config="en", dataset_test_split="validation")
    done = importing(capsys, config)
    assert done.values["data"]["train"] == [{"hub": "org/chat", "subset": "en", "split": "train"}]
    assert done.values["data"]["eval"] == [{"hub": "org/chat", "subset": "en", "split": "validation"}]
    mixture = [{"path": "json", "data_files": "rows.jsonl"}, {"path": "org/more", "split": "train", "fraction": 0.5}]
    done = importing(
        capsys, pairs(packing=True, dataset_name=None, datasets=mixture, eval_strategy="no"), "--overwrite"
    )
    assert done.values["data"]["train"] == [
        {"path": "rows.jsonl"}, {"hub": "org/more", "split": "train", "format": "auto"},
    ]  # fmt: skip
    assert done.lost == ["datasets: org/more: fraction: 0.5: has no key here; nearest: `weight` of a source"]


def test_which_command_a_configuration_is_for(capsys):
    config = {"model_name_or_path": "org/base", "dataset_name": "org/rows", "use_peft": True}
    done = importing(capsys, config)
    assert (done.code, done.told) == (2, [
        "run.yaml: SFTConfig, DPOConfig and the others share all keys that are in it: say which with --stage "
        "sft|dpo|kto|reward|orpo|cpo"
    ])  # fmt: skip


def test_losses_that_draw_answers_are_no_recipe(capsys):
    done = importing(
        capsys,
        "trl grpo --model_name_or_path org/base --dataset_name org/rows --reward_funcs accuracy_reward",
        name="run.txt",
    )
    assert (done.code, done.told) == (2, [
        "run.txt: grpo draws its answers and is given code to judge them; write a recipe of stage grpo or "
        "distill (docs/stages.md)"
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trl sft --model_name_or_path $MODEL --packing",
         "run.txt:1: --model_name_or_path: $MODEL: holds a shell variable; write its value into the file"),
        ("trl sft --eos_token 'x",
         "run.txt:1: can't be read as a command: No closing quotation"),
        ("python train.py --lr 3",
         "run.txt:1: no training command of TRL in it: `trl sft ...`, or a script called sft, dpo, kto, reward, orpo, cpo.py"),
        ("trl sft --packing true false",
         "run.txt:1: false: is no option, nor the value of one"),
    ],
)  # fmt: skip
def test_commands_that_can_not_be_read(capsys, text, told):
    done = importing(capsys, text, name="run.txt")
    assert (done.code, done.told) == (2, [told])


def test_options_go_before_the_file_they_name(capsys):
    importing(capsys, {"learning_rate": 1e-3, "seed": 5, "use_peft": True}, name="base.yaml")
    text = "trl sft --config base.yaml --learning_rate 2e-3 --model_name_or_path org/base --dataset_name rows.jsonl"
    done = importing(capsys, text, name="run.txt")
    assert (done.values["train"]["learning_rate"], done.values["seed"]) == (2e-3, 5)
