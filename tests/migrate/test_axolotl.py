"""Axolotl YAMLs: the settings of its examples for Llama 3, and what differs from them."""

from __future__ import annotations

import pytest

from tests.migrate.configs import alpaca, checked, importing, messages, write_rows

SEVEN = ["gate_proj", "down_proj", "up_proj", "q_proj", "v_proj", "k_proj", "o_proj"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("rows.jsonl", alpaca(40))


def qlora(**other: object) -> dict:
    """The settings of examples/llama-3/qlora-1b.yml, with rows of our own."""
    return {
        "base_model": "NousResearch/Llama-3.2-1B", "load_in_8bit": False, "load_in_4bit": True,
        "datasets": [{"path": "rows.jsonl", "type": "alpaca"}], "dataset_prepared_path": "last_run_prepared",
        "val_set_size": 0.1, "output_dir": "./outputs/qlora-out", "adapter": "qlora", "lora_model_dir": None,
        "sequence_len": 2048, "sample_packing": True, "eval_sample_packing": True, "lora_r": 32, "lora_alpha": 16,
        "lora_dropout": 0.05, "lora_target_modules": SEVEN, "wandb_project": None, "wandb_entity": None,
        "gradient_accumulation_steps": 4, "micro_batch_size": 2, "num_epochs": 1, "optimizer": "adamw_bnb_8bit",
        "lr_scheduler": "cosine", "learning_rate": 0.0002, "bf16": "auto", "tf32": False,
        "gradient_checkpointing": True, "logging_steps": 1, "attn_implementation": "flash_attention_2",
        "loss_watchdog_threshold": 5.0, "loss_watchdog_patience": 3, "warmup_ratio": 0.1, "evals_per_epoch": 4,
        "saves_per_epoch": 1, "weight_decay": 0.0, "special_tokens": {"pad_token": "<|end_of_text|>"},
    } | other  # fmt: skip


def test_the_settings_of_the_qlora_example(capsys):
    """The batch is 2 x 4 x 2 processes; 40 rows x 0.1 = 4 held out."""
    done = importing(capsys, qlora(), "--processes", "2")
    assert done.code == 0
    assert done.values == {
        "name": "run", "stage": "sft", "seed": 42, "output_dir": "./outputs/qlora-out",
        "model": {
            "name_or_path": "NousResearch/Llama-3.2-1B", "dtype": "auto", "attn_implementation": "flash_attention_2",
            "quantization": "nf4",
        },
        "lora": {"r": 32, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": SEVEN},
        "data": {
            "format": "alpaca", "train": [{"path": "rows.jsonl"}], "split": {"eval_rows": 4}, "max_length": 2048,
            "too_long": "drop", "packing": True,
        },
        "train": {
            "global_batch_size": 16, "micro_batch_size": 2, "num_train_epochs": 1, "optim": "adamw_8bit",
            "learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.0,
            "max_grad_norm": 1.0, "gradient_checkpointing": True, "logging_steps": 1,
        },
    }  # fmt: skip
    assert [line.partition(": nearest")[0].partition(": ")[0] for line in done.lost] == [
        "loss_watchdog_threshold", "loss_watchdog_patience", "saves_per_epoch", "evals_per_epoch",
    ]  # fmt: skip
    assert done.changed == [
        "datasets: rows.jsonl: type alpaca: the wording around the fields is Alpaca's own there (### Instruction: ...); here "
        "they are turns of the chat template"
    ]
    assert done.idle == ["dataset_prepared_path", "eval_sample_packing", "special_tokens"]
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 36 samples to train on, 4 held out"


def test_looks_and_checkpoints_an_epoch_become_steps_where_rows_are_counted(capsys):
    """36 rows / 8 a step = 5 steps an epoch: 4 looks an epoch are one every ceil(5 / 4) = 2 steps."""
    done = importing(capsys, qlora(sample_packing=False, eval_sample_packing=None))
    train = done.values["train"]
    assert (train["eval_steps"], train["save_steps"]) == (2, 5)
    assert [line.partition(": ")[0] for line in done.lost] == ["loss_watchdog_threshold", "loss_watchdog_patience"]


def test_defaults_are_those_of_the_peer(capsys):
    """Batch 1, 1 epoch, 512 tokens, cosine, no gradient checkpointing, warm-up 3 % (at most 100 steps, told)."""
    config = {
        "base_model": "org/base", "adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True,
        "learning_rate": 1e-4, "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
    }  # fmt: skip
    done = importing(capsys, config)
    train = done.values["train"]
    assert (train["global_batch_size"], train["num_train_epochs"], train["lr_scheduler_type"]) == (1, 1.0, "cosine")
    assert (train["warmup_ratio"], train["gradient_checkpointing"], train["optim"]) == (0.03, False, "adamw_torch")
    assert (done.values["data"]["max_length"], done.values["output_dir"]) == (512, "./model-out")
    assert done.values["lora"] == {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
    assert "warmup_ratio: unset, it is 3 % of the steps there, but at most 100; here 3 %" in done.changed
    assert done.lost == []


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"load_in_4bit": False, "load_in_8bit": True, "adapter": "lora"}, "model.quantization", "int8"),
        ({"lora_target_linear": True, "lora_target_modules": None}, "lora.target_modules", "all-linear"),
        ({"lora_target_modules": r".*\.layers\.[0-9]+\.mlp\..*"}, "lora.target_modules", r".*\.layers\.[0-9]+\.mlp\..*"),
        ({"lora_target_modules": None}, "lora.target_modules", ["q_proj", "v_proj"]),
        ({"lora_modules_to_save": ["embed_tokens", "lm_head"]}, "lora.modules_to_save", ["embed_tokens", "lm_head"]),
        ({"peft_use_dora": True}, "lora.use_dora", True),
        ({"peft_use_rslora": True}, "lora.use_rslora", True),
        ({"lora_model_dir": "org/adapter"}, "model.adapter_name_or_path", "org/adapter"),
        ({"batch_size": 8, "gradient_accumulation_steps": None}, "train.global_batch_size", 8),
        ({"max_steps": 40}, "train.max_steps", 40),
        ({"cosine_min_lr_ratio": 0.1}, "train.min_lr_ratio", 0.1),
        ({"warmup_steps": 7, "warmup_ratio": None}, "train.warmup_steps", 7),
        ({"lr_groups": [{"name": "head", "modules": ["lm_head", "embed"], "lr": 1e-5}]}, "train.lr_groups",
         {"lm_head|embed": 1e-5}),
        ({"gradient_checkpointing": "offload"}, "train.activation_offloading", True),
        ({"flash_attention": True, "attn_implementation": None}, "model.attn_implementation", "flash_attention_2"),
        ({"bf16": True}, "model.dtype", "bfloat16"),
        ({"bf16": False}, "model.dtype", "float32"),
        ({"bf16": None, "bfloat16": True}, "model.dtype", "bfloat16"),
        ({"train_on_inputs": True}, "data.train_on", "all"),
        ({"excess_length_strategy": "truncate"}, "data.too_long", "truncate_prompt"),
        ({"excess_length_strategy": "raise"}, "data.too_long", "error"),
        ({"dataset_exact_deduplication": True}, "data.screen.exact_duplicates", "drop"),
        ({"tokens": ["<a>", "<b>"]}, "model.add_tokens", ["<a>", "<b>"]),
        ({"val_set_size": 5}, "data.split.eval_rows", 5),
        ({"seed": 7}, "seed", 7),
        ({"revision_of_model": "v1"}, "model.revision", "v1"),
    ],
)  # fmt: skip
def test_single_keys(capsys, given, key, value):
    done = importing(capsys, qlora(**given))
    assert done.code == 0
    at = done.values
    for part in key.split("."):
        at = at[part]
    assert at == value
    assert done.recipe.name == "run"


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"adapter": None}, "adapter: all weights are trained there; here an adapter is; nearest: LoRA on all linear layers "
         "(r 16, alpha 32), which takes a rate some ten times higher"),
        ({"attn_implementation": "flex_attention"}, "attn_implementation: flex_attention: this attention is not here; nearest: "
         "model.attn_implementation: auto"),
        ({"context_parallel_size": 4}, "context_parallel_size: 4: a sequence or a layer is not cut over devices here; nearest: "
         "accelerate launch --config_file scripts/accelerate/fsdp2.yaml"),
        ({"special_tokens": {"eos_token": "<|eot|>"}}, "special_tokens: eos_token <|eot|>: the base's tokenizer is taken as it "
         "is; nearest: model.tokenizer_name_or_path: a copy of it with the change"),
        ({"plugins": ["axolotl.integrations.liger.LigerPlugin"]}, "plugins: plugins are not loaded; nearest: model.fused_ops "
         "(kernels); stage distill (kd)"),
        ({"relora": True}, "relora: true: ReLoRA is not here; nearest: a chain of stages with continue_from: merged"),
        ({"datasets": [{"path": "rows.jsonl", "type": "alpaca", "shards": 10}]}, "datasets: rows.jsonl: shards: 10: has no key "
         "here; nearest: a file with the rows wanted"),
        ({"datasets": [{"path": "rows.jsonl", "type": "jeopardy"}]}, "datasets: rows.jsonl: type jeopardy: is not read here; "
         "nearest: data.format: auto, or finetune new template"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_told_and_nothing_else(capsys, given, note):
    quiet = {"loss_watchdog_threshold": None, "loss_watchdog_patience": None, "saves_per_epoch": None, "evals_per_epoch": None,
             "save_strategy": "no"}  # fmt: skip
    done = importing(capsys, qlora(**quiet, **given))
    assert (done.code, done.lost) == (0, [note])


def test_turns_of_a_chat_template(capsys):
    """type chat_template: `messages` as they are; other names of columns and roles by a template."""
    write_rows("m.jsonl", messages(20))
    done = importing(capsys, qlora(datasets=[{"path": "m.jsonl", "type": "chat_template"}]))
    assert done.values["data"]["format"] == "messages"
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"
    rows = [{"talk": [{"who": "客户", "what": f"{i}的两倍?"}, {"who": "客服", "what": str(2 * i)}]} for i in range(20)]
    write_rows("own.jsonl", rows)
    own = {
        "path": "own.jsonl", "type": "chat_template", "field_messages": "talk",
        "message_property_mappings": {"role": "who", "content": "what"},
        "roles": {"user": ["客户"], "assistant": ["客服"], "system": ["系统"]},
    }  # fmt: skip
    done = importing(capsys, qlora(datasets=[own]), "--overwrite")
    assert done.values["data"]["template"] == "run.recipe.template.yaml"
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_the_settings_of_the_dpo_example(capsys):
    """examples/llama-3/instruct-dpo-lora-8b.yml: a conversation with two turns that may end it."""
    rows = [
        {"conversation": [{"role": "system", "content": "Count."}, {"role": "user", "content": f"Double {i}."}],
         "chosen": {"role": "assistant", "content": str(2 * i)}, "rejected": {"role": "assistant", "content": "many"}}
        for i in range(20)
    ]  # fmt: skip
    write_rows("pairs.jsonl", rows)
    sets = [{
        "path": "pairs.jsonl", "type": "chat_template.default", "field_messages": "conversation", "field_chosen": "chosen",
        "field_rejected": "rejected", "message_property_mappings": {"role": "role", "content": "content"},
        "roles": {"system": ["system"], "user": ["user"], "assistant": ["assistant"]},
    }]  # fmt: skip
    done = importing(capsys, qlora(rl="dpo", datasets=sets, sample_packing=False, rl_beta=0.3, chat_template="llama3"))
    assert (done.values["stage"], done.values["dpo"]) == ("dpo", {"loss_type": "sigmoid", "beta": 0.3})
    assert (done.values["lora"]["lora_dropout"], done.values["data"]["too_long"]) == (0.0, "drop")
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_the_settings_of_the_kto_example(capsys):
    """examples/llama-3/qlora-1b-kto.yaml: type llama3.ultra is prompt, completion and label, with `system` where it is there."""
    write_rows("judged.jsonl", [{"system": "Count." if i % 3 else None, "prompt": f"Double {i}.", "completion": str(2 * i),
                                 "label": i % 2 == 0}
                                for i in range(100)])  # fmt: skip
    sets = [{"path": "judged.jsonl", "type": "llama3.ultra", "split": "train"}]
    done = importing(
        capsys, qlora(rl="kto", rl_beta=0.5, kto_desirable_weight=0.2, datasets=sets, sample_packing=False)
    )
    assert done.values["kto"] == {"beta": 0.5, "desirable_weight": 0.2, "undesirable_weight": 1.0}
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 90 samples to train on, 10 held out"


@pytest.mark.parametrize(
    ("given", "section"),
    [
        ({"rl": "ipo", "rl_beta": 0.2}, {"dpo": {"loss_type": "ipo", "beta": 0.2}}),
        ({"rl": "orpo", "orpo_alpha": 0.2}, {"orpo": {"beta": 0.2}}),
        ({"rl": "simpo", "rl_beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 1.0}, {"simpo": {"beta": 2.0, "gamma": 1.0}}),
        ({"rl": "dpo", "dpo_loss_type": ["sigmoid", "sft"], "dpo_loss_weights": [2.0, 1.0]},
         {"dpo": {"loss_type": "sigmoid", "beta": 0.1, "rpo_alpha": 0.5}}),
    ],
)  # fmt: skip
def test_losses_on_whole_conversations(capsys, given, section):
    """chosen and rejected begin with the same turns: rows of format preference."""
    question = {"role": "user", "content": "Double 2."}
    row = {
        side: [question, {"role": "assistant", "content": text}] for side, text in (("chosen", "4"), ("rejected", "5"))
    }
    write_rows("p.jsonl", [row | {"id": i} for i in range(20)])
    done = importing(
        capsys, qlora(datasets=[{"path": "p.jsonl", "type": "chat_template.argilla"}], sample_packing=False, **given)
    )
    assert {key: done.values[key] for key in section} == section
    assert done.values["data"]["format"] == "preference"
    assert done.recipe.stage == next(iter(section))


def test_documents_make_a_stage_cpt(capsys):
    """`completion` with another field, and pretraining_dataset."""
    write_rows("laws.jsonl", [{"content": f"Section {i}. Ropes are greased monthly."} for i in range(20)])
    done = importing(capsys, qlora(datasets=[{"path": "laws.jsonl", "type": "completion", "field": "content"}]))
    assert (done.values["stage"], done.values["data"]["too_long"]) == ("cpt", "split")
    assert checked(capsys, done.file).startswith("run.recipe.yaml: right; 18 ")
    given = {
        "datasets": None,
        "pretraining_dataset": [{"path": "org/corpus", "name": "en", "split": "train"}],
        "max_steps": 100,
    }
    done = importing(capsys, qlora(**given), "--overwrite")
    assert done.values["data"]["train"] == [{"hub": "org/corpus", "subset": "en", "split": "train"}]
    assert (done.values["data"]["format"], done.values["data"]["packing"]) == ("text", True)


def test_wordings_of_the_users_own_become_the_users_turn(capsys):
    """A `type` with formats: line breaks in it are kept."""
    from finetune.data.rows import Row
    from finetune.data.template import load_template

    write_rows(
        "own.jsonl", [{"q": f"Double {i}.", "hint": "twice" if i % 2 else "", "a": str(2 * i)} for i in range(20)]
    )
    kind = {
        "system_prompt": "Count.", "field_instruction": "q", "field_input": "hint", "field_output": "a",
        "format": "Q: {instruction}\nHint: {input}\nA:", "no_input_format": "Q: {instruction}\nA:",
    }  # fmt: skip
    done = importing(capsys, qlora(datasets=[{"path": "own.jsonl", "type": kind}]))
    template = load_template(done.file.with_name("run.recipe.template.yaml"))
    asked = [
        template.render(Row({"q": "Double 1.", "hint": hint, "a": "2"}, "f", 1)).messages[1]["content"]
        for hint in ("twice", "")
    ]
    assert asked == ["Q: Double 1.\nHint: twice\nA:", "Q: Double 1.\nA:"]
    assert checked(capsys, done.file) == "run.recipe.yaml: right; 18 samples to train on, 2 held out"


def test_mistakes_are_all_told_at_once(capsys):
    config = qlora(lora_r=None, learning_rate=None, rl="grpo", lr_schedular="cosine", micro_batch_size="two")
    done = importing(capsys, config)
    assert done.code == 2
    assert sorted(line.partition(": ")[2] for line in done.told[1:]) == [
        "learning_rate: is missing; Axolotl has no default",
        "lora_r: is missing; Axolotl has no default",
        "lr_schedular: not a key of Axolotl; did you mean 'lr_scheduler'?",
        "micro_batch_size: a whole number is needed, got 'two'",
        "rl: grpo: its rewards are Python code; write a recipe of stage grpo, whose rewards are scores of the metric",
    ]
