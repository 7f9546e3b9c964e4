"""LLaMA-Factory YAMLs: the settings of its examples/train_lora and train_qlora, and what differs from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.migrate.configs import alpaca, checked, importing, write_rows


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def info(**sets: dict) -> None:
    Path("data").mkdir(exist_ok=True)
    Path("data/dataset_info.json").write_text(json.dumps(sets), encoding="utf-8")


def lora_sft(**other: object) -> dict:
    """The settings of examples/train_lora/qwen3_lora_sft.yaml, with sets of our own."""
    return {
        "model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "trust_remote_code": True, "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "lora_rank": 8, "lora_target": "all", "dataset": "first,second",
        "template": "qwen3_nothink", "cutoff_len": 2048, "max_samples": 20, "preprocessing_num_workers": 16,
        "dataloader_num_workers": 4, "output_dir": "saves/qwen3-4b/lora/sft", "logging_steps": 10, "save_steps": 500,
        "plot_loss": True, "overwrite_output_dir": True, "save_only_model": False, "report_to": "none",
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 1.0e-4,
        "num_train_epochs": 3.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": True,
        "ddp_timeout": 180000000, "resume_from_checkpoint": None,
    } | other  # fmt: skip


def two_sets() -> None:
    info(first={"file_name": "first.json"}, second={"file_name": "second.jsonl"})
    write_rows("data/first.json", alpaca(30))
    write_rows("data/second.jsonl", alpaca(30, first=30))


def test_the_settings_of_the_lora_sft_example(capsys):
    """Alpha is twice the rank, dropout 0, the batch 1 x 8 x 4 processes; what it does not say is its default, written down."""
    two_sets()
    done = importing(capsys, lora_sft(), "--processes", "4")
    assert (done.code, done.written) == (0, ["run.recipe.yaml"])
    assert done.values == {
        "name": "run", "stage": "sft", "seed": 42, "output_dir": "saves/qwen3-4b/lora/sft",
        "model": {"name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "dtype": "bfloat16", "trust_remote_code": True},
        "lora": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"},
        "data": {
            "format": "alpaca", "train": [{"path": "data/first.json"}, {"path": "data/second.jsonl"}],
            "split": {"eval_rows": 6}, "max_length": 2048, "too_long": "truncate_prompt",
        },
        "train": {
            "global_batch_size": 32, "micro_batch_size": 1, "num_train_epochs": 3.0, "optim": "adamw_torch",
            "learning_rate": 1e-4, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.0,
            "max_grad_norm": 1.0, "gradient_checkpointing": True, "logging_steps": 10, "save_steps": 500,
        },
    }  # fmt: skip
    assert done.lost == [
        "max_samples: 20: no key takes the first rows of a set; nearest: a file of 20 rows under data.train (head -n 20)"
    ]
    assert [line.partition(": ")[0] for line in done.changed] == ["cutoff_len", "template", "val_size"]
    assert done.idle == [
        "preprocessing_num_workers", "dataloader_num_workers", "plot_loss", "overwrite_output_dir", "ddp_timeout",
    ]  # fmt: skip
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 54 samples to train on, 6 held out"


def test_comments_in_the_recipe_say_the_same_and_where_values_come_from(capsys):
    two_sets()
    done = importing(capsys, lora_sft())
    text = done.file.read_text(encoding="utf-8")
    assert text.startswith(
        "# LLaMA-Factory's run.yaml as a recipe, by finetune import.\n#\n# Without an equivalent:\n# - max_samples: 20: "
    )
    assert "  lora_alpha: 16  # default of LLaMA-Factory: twice the rank\n" in text
    assert "  global_batch_size: 8  # 1 a device x 8 accumulated x 1 process\n" in text
    assert "  dtype: bfloat16  # bf16\n" in text
    comments = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    for note in done.lost + done.changed:
        assert note in comments


def test_defaults_are_those_of_the_peer(capsys):
    """TrainingArguments: batch 8, rate 5e-5, linear, no warm-up, 3 epochs, seed 42; LLaMA-Factory: rank 8, 2048 tokens."""
    two_sets()
    config = {"model_name_or_path": "org/base", "dataset": "first", "do_train": True, "lora_target": "all"}
    done = importing(capsys, config, "--from", "llamafactory")
    train, lora = done.values["train"], done.values["lora"]
    assert (train["global_batch_size"], train["learning_rate"], train["lr_scheduler_type"]) == (8, 5e-5, "linear")
    assert (train["warmup_ratio"], train["num_train_epochs"], train["save_steps"]) == (0.0, 3.0, 500)
    assert (lora["r"], lora["lora_alpha"]) == (8, 16)
    assert (done.values["seed"], done.values["data"]["max_length"], done.values["model"]["dtype"]) == (42, 2048, "auto")
    assert done.lost == []


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"lora_target": "q_proj, v_proj"}, "lora.target_modules", ["q_proj", "v_proj"]),
        ({"lora_alpha": 5}, "lora.lora_alpha", 5),
        ({"use_dora": True}, "lora.use_dora", True),
        ({"use_rslora": True}, "lora.use_rslora", True),
        ({"pissa_init": True}, "lora.init_lora_weights", "pissa_niter_16"),
        ({"pissa_init": True, "pissa_iter": -1}, "lora.init_lora_weights", "pissa"),
        ({"additional_target": "lm_head,embed_tokens"}, "lora.modules_to_save", ["lm_head", "embed_tokens"]),
        ({"loraplus_lr_ratio": 16.0}, "train.loraplus_lr_ratio", 16.0),
        ({"disable_gradient_checkpointing": True}, "train.gradient_checkpointing", False),
        ({"quantization_bit": 4}, "model.quantization", "nf4"),
        ({"quantization_bit": 8}, "model.quantization", "int8"),
        ({"flash_attn": "fa2"}, "model.attn_implementation", "flash_attention_2"),
        ({"train_on_prompt": True}, "data.train_on", "all"),
        ({"mask_history": True}, "data.train_on", "last_assistant"),
        ({"neat_packing": True}, "data.packing", True),
        ({"max_steps": 20}, "train.max_steps", 20),
        ({"warmup_steps": 20}, "train.warmup_steps", 20),
        ({"warmup_steps": 0.05}, "train.warmup_ratio", 0.05),
        ({"lr_scheduler_type": "constant"}, "train.warmup_ratio", 0.0),
        ({"lr_scheduler_type": "constant_with_warmup"}, "train.lr_scheduler_type", "constant"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}},
            "train.min_lr_ratio",
            0.1,
        ),
        ({"max_grad_norm": 0.0}, "train.max_grad_norm", 1e9),
        ({"neftune_noise_alpha": 5}, "train.neftune_noise_alpha", 5),
        ({"val_size": 0.1}, "data.split.eval_rows", 6),
        ({"val_size": 12}, "data.split.eval_rows", 12),
        ({"val_size": 12, "eval_strategy": "steps", "eval_steps": 500}, "train.eval_steps", 500),
        ({"val_size": 12, "eval_strategy": "epoch"}, "train.eval_steps", 6),
        ({"optim": "adamw_torch_fused"}, "train.optim", "adamw_torch_fused"),
        ({"optim": "paged_adamw_32bit"}, "train.optim", "adamw_torch"),
        ({"adam_beta2": 0.95}, "train.adam_beta2", 0.95),
        ({"label_smoothing_factor": 0.1}, "sft.label_smoothing_factor", 0.1),
        ({"mix_strategy": "interleave_under", "interleave_probs": "0.7,0.3"}, "data.train.0.weight", 0.7),
        ({"finetuning_type": "oft", "oft_block_size": 16}, "oft.oft_block_size", 16),
    ],
)
def test_single_keys(capsys, given, key, value):
    """`eval_strategy: epoch`: 60 rows - 12 held out = 48, / 8 a step = 6."""
    two_sets()
    done = importing(capsys, lora_sft(**given))
    assert done.code == 0
    at = done.values
    for part in key.split("."):
        at = at[int(part)] if isinstance(at, list) else at[part]
    assert at == value
    assert done.recipe.name == "run"


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"fp16": True, "bf16": False},
         "fp16: true: half precision needs a scaled loss, which is not here; nearest: model.dtype: auto (bfloat16 or "
         "float32)"),
        ({"finetuning_type": "full"},
         "finetuning_type: full: all weights are trained there; here an adapter is; nearest: LoRA on all linear layers (r "
         "16, alpha 32), which takes a rate some ten times higher"),
        ({"use_galore": True},
         "use_galore: true: is a way to train all weights, which are not trained here; nearest: LoRA, whose optimizer "
         "state is small"),
        ({"quantization_bit": 4, "double_quantization": False},
         "double_quantization: false: the scales of NF4 are quantised too, always; nearest: model.quantization: nf4"),
        ({"lr_scheduler_type": "polynomial"},
         "lr_scheduler_type: polynomial: no schedule here has this form; nearest: train.lr_scheduler_type: linear"),
        ({"optim": "galore_adamw"}, "optim: galore_adamw: is no optimizer of ours; nearest: train.optim: adamw_torch"),
        ({"deepspeed": "ds_z3.json"},
         "deepspeed: ds_z3.json: a launch, not a recipe, says how processes share a model; nearest: accelerate launch "
         "--config_file scripts/accelerate/zero2.yaml, or zero3.yaml"),
        ({"zzz_quux": 3}, "zzz_quux: 3: is no key of LLaMA-Factory that is known here"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_told_and_nothing_else(capsys, given, note):
    two_sets()
    done = importing(capsys, lora_sft(max_samples=None, **given))
    assert (done.code, done.lost) == (0, [note])


def test_packing_that_lets_texts_see_each_other_is_told(capsys):
    two_sets()
    done = importing(capsys, lora_sft(packing=True))
    assert "packing: true: packed texts see each other there; here never (as with neat_packing)" in done.changed


def test_the_settings_of_the_dpo_example(capsys):
    """examples/train_lora/qwen3_lora_dpo.yaml, on conversations beside chosen and rejected, as its dpo_en_demo has them."""
    tags = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    info(pairs={"file_name": "pairs.jsonl", "ranking": True, "formatting": "sharegpt", "columns": tags})
    rows = [
        {"conversations": [{"from": "human", "value": f"Double {i}."}],
         "chosen": {"from": "gpt", "value": str(2 * i)}, "rejected": {"from": "gpt", "value": "many"}}
        for i in range(20)
    ]  # fmt: skip
    write_rows("data/pairs.jsonl", rows)
    done = importing(capsys, lora_sft(
        stage="dpo", dataset="pairs", pref_beta=0.2, pref_loss="sigmoid", pref_ftx=0.5, learning_rate=5e-6, max_samples=None,
        lora_dropout=0.1,
    ))  # fmt: skip
    assert done.written == ["run.recipe.yaml", "run.recipe.template.yaml"]
    assert done.values["dpo"] == {"beta": 0.2, "loss_type": "sigmoid", "rpo_alpha": 0.5}
    assert (done.values["data"]["template"], done.values["data"]["too_long"]) == ("run.recipe.template.yaml", "drop")
    assert done.values["lora"]["lora_dropout"] == 0.0
    assert "lora_dropout: 0.1: LLaMA-Factory switches all dropout off in stage dpo: 0" in done.changed
    assert done.lost == []
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


@pytest.mark.parametrize(("loss", "section"), [("orpo", {"beta": 0.1}), ("simpo", {"beta": 0.1, "gamma": 0.4})])
def test_losses_that_are_stages_here(capsys, loss, section):
    info(
        pairs={"file_name": "p.jsonl", "ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}
    )
    write_rows("data/p.jsonl", [{"q": f"Double {i}.", "good": str(2 * i), "bad": "many"} for i in range(20)])
    done = importing(capsys, lora_sft(stage="dpo", dataset="pairs", pref_loss=loss, simpo_gamma=0.4))
    assert (done.values["stage"], done.values[loss]) == (loss, section)
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_the_settings_of_the_kto_example(capsys):
    """examples/train_lora/qwen3_lora_kto.yaml, on OpenAI's messages beside a label, as its kto_en_demo has them."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "kto_tag": "label"}
    info(judged={"file_name": "k.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags})
    turns = [{"role": "user", "content": "Double 2."}, {"role": "assistant", "content": "4"}]
    write_rows("data/k.jsonl", [{"messages": [*turns, {"role": "user", "content": f"And {i}?"},
                                              {"role": "assistant", "content": str(2 * i)}],
                                 "label": i % 2 == 0} for i in range(100)])  # fmt: skip
    done = importing(capsys, lora_sft(stage="kto", dataset="judged", kto_rejected_weight=0.5))
    assert done.values["kto"] == {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 0.5}
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 90 samples to train on, 10 held out"


def test_the_settings_of_the_pretrain_example(capsys):
    """examples/train_lora/qwen3_lora_pretrain.yaml: packing is on by itself there, and longer texts are cut into pieces."""
    info(laws={"file_name": "laws.jsonl", "columns": {"prompt": "content"}})
    write_rows("data/laws.jsonl", [{"content": f"Section {i}. Ropes are greased monthly."} for i in range(20)])
    done = importing(capsys, lora_sft(stage="pt", dataset="laws", template=None))
    data = done.values["data"]
    assert (done.values["stage"], data["packing"], data["too_long"]) == ("cpt", True, "split")
    assert checked(capsys, done.file).startswith("run.recipe.yaml: right; 18 ")


def test_the_settings_of_the_reward_example(capsys):
    """examples/train_lora/qwen3_lora_reward.yaml, on two answers in columns of their own."""
    info(
        pairs={"file_name": "p.jsonl", "ranking": True, "columns": {"prompt": "问题", "chosen": "好", "rejected": "差"}}
    )
    write_rows("data/p.jsonl", [{"问题": f"{i}的两倍?", "好": str(2 * i), "差": "很多"} for i in range(20)])
    done = importing(capsys, lora_sft(stage="rm", dataset="pairs", lora_dropout=0.1))
    assert (done.values["stage"], done.values["lora"]["lora_dropout"]) == ("reward", 0.1)  # it stays on there
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_sharegpt_with_the_usual_tags_needs_no_template(capsys):
    info(talk={"file_name": "t.jsonl", "formatting": "sharegpt"})
    write_rows(
        "data/t.jsonl",
        [
            {"conversations": [{"from": "human", "value": f"Double {i}."}, {"from": "gpt", "value": str(2 * i)}]}
            for i in range(20)
        ],
    )
    done = importing(capsys, lora_sft(dataset="talk"))
    assert done.values["data"]["format"] == "sharegpt"
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_columns_of_other_names_and_a_system_message_for_all(capsys):
    info(own={"file_name": "o.jsonl", "columns": {"prompt": "问题", "query": "more", "response": "answer"}})
    write_rows(
        "data/o.jsonl",
        [{"问题": f"Double {i}.", "more": None if i % 2 else "Quickly.", "answer": str(2 * i)} for i in range(20)],
    )
    done = importing(capsys, lora_sft(dataset="own", default_system="Count {well}."))
    from finetune.data.rows import Row
    from finetune.data.template import load_template

    template = load_template(Path("run.recipe.template.yaml"))
    sample = template.render(Row({"问题": "Double 4.", "more": "Quickly.", "answer": "8"}, "f", 1))
    assert [message["content"] for message in sample.messages] == ["Count {well}.", "Double 4.\nQuickly.", "8"]
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_sets_of_the_hub_and_names_that_nothing_says_more_about(capsys):
    info(hub={"hf_hub_url": "org/rows", "subset": "en", "split": "validation"})
    done = importing(capsys, lora_sft(dataset="hub", val_size=0.1))
    assert done.values["data"]["train"] == [{"hub": "org/rows", "subset": "en", "split": "validation"}]
    assert "val_size: 0.1: a share of rows that can't be counted now; nearest: data.split.eval_rows: 100" in done.lost
    Path("data/dataset_info.json").unlink()
    done = importing(capsys, lora_sft(dataset="first", max_samples=None), "--overwrite")
    assert done.lost == [
        "dataset: first: first: there is no dataset_info.json beside the file or in data, which says what it is; nearest: put "
        "its path under data.train (written is data/first.json)"
    ]
    assert done.told[-2] == "To be mended before it runs:"


def test_mistakes_are_all_told_at_once_and_nothing_is_written(capsys):
    two_sets()
    done = importing(
        capsys, lora_sft(lora_rnak=8, learning_rate="fast", stage="sfft", optim="adamw", dataset="first,sceond")
    )
    assert done.code == 2
    assert sorted(done.told) == sorted([
        "several things are wrong:",
        "run.yaml:23: learning_rate: a number is needed, got 'fast'",
        "run.yaml:30: lora_rnak: not a key of LLaMA-Factory; did you mean 'lora_rank'?",
        "run.yaml:3: stage: 'sfft' is no stage of LLaMA-Factory; did you mean 'sft'?",
        "run.yaml:31: optim: 'adamw' is no optimizer; did you mean 'adamw_hf'?",
        "run.yaml:8: dataset: sceond: is not in data/dataset_info.json; did you mean 'second'?",
    ])  # fmt: skip
    assert not done.file.exists()


def test_ppo_is_no_recipe(capsys):
    two_sets()
    done = importing(capsys, lora_sft(stage="ppo"))
    assert (done.code, done.told) == (
        2, ["run.yaml:3: stage: ppo has no equivalent; nearest: stage grpo, whose rewards are scores of the data's metric"]
    )  # fmt: skip


def test_columns_that_are_not_told_are_not_read(capsys):
    """LLaMA-Factory reads `system` where dataset_info.json names it; our alpaca format always would."""
    rows = [row | {"system": "Never read."} for row in alpaca(20)]
    write_rows("data/s.jsonl", rows)
    info(
        told={
            "file_name": "s.jsonl",
            "columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"},
        }
    )
    assert importing(capsys, lora_sft(dataset="told")).values["data"]["format"] == "alpaca"
    info(quiet={"file_name": "s.jsonl"})
    done = importing(capsys, lora_sft(dataset="quiet"), "--overwrite")
    assert "Never read" not in Path("run.recipe.template.yaml").read_text(encoding="utf-8")
    assert "format" not in done.values["data"]
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_mistakes_in_dataset_info_are_all_told(capsys):
    info(one={"file_nam": "a.json", "columns": {"promt": "q", "query": 3}, "tags": "x"})
    done = importing(capsys, lora_sft(dataset="one"))
    assert (done.code, [line.partition("dataset: ")[2] for line in done.told[1:]]) == (2, [
        "one: dataset_info.json: file_nam: is no key of a set; did you mean 'file_name'?",
        "one: dataset_info.json: columns.promt: there is none; did you mean 'prompt'?",
        "one: dataset_info.json: columns.query: text is needed, got 3",
        "one: dataset_info.json: tags: a mapping is needed, got 'x'",
    ])  # fmt: skip
