"""TRL's keys: fields of its configurations (SFTConfig, DPOConfig, ...), of ModelConfig and ScriptArguments."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.migrate.keys import Key, each, idle, lost, read, same
from finetune.migrate.trainer import LAUNCH, TRAINER

TOKENS = lost("the base's tokenizer is taken as it is", "model.tokenizer_name_or_path: a copy of it with the change")

TRL: Mapping[str, Key] = {
    **TRAINER,
    # ModelConfig
    "model_name_or_path": read("text"),
    "model_revision": read("text"),
    "trust_remote_code": same("model.trust_remote_code", "flag"),
    "dtype": read("text"),
    "torch_dtype": read("text"),
    "attn_implementation": read("text"),
    "use_peft": read("flag"),
    "lora_r": read("whole"),
    "lora_alpha": read("number"),
    "lora_dropout": read("number"),
    "lora_target_modules": read("names"),
    "lora_target_parameters": read("names"),
    "lora_modules_to_save": read("names"),
    "lora_task_type": idle("follows from the stage"),
    "use_rslora": same("lora.use_rslora", "flag"),
    "use_dora": same("lora.use_dora", "flag"),
    "load_in_8bit": read("flag"),
    "load_in_4bit": read("flag"),
    "bnb_4bit_quant_type": read("text"),
    "use_bnb_nested_quant": read("flag"),
    "bnb_4bit_quant_storage": idle("is how it is kept, not what it is"),
    # ScriptArguments, DatasetMixtureConfig
    "dataset_name": read("text"),
    "dataset_config": read("text"),
    "dataset_train_split": read("text"),
    "dataset_test_split": read("text"),
    "datasets": read("any"),
    "test_split_size": read("number"),
    "dataset_streaming": idle("rows are streamed to disk always"),
    "streaming": idle("rows are streamed to disk always"),
    "ignore_bias_buffers": idle("is how processes share a model"),
    # of the command line itself
    "do_train": idle("its commands train always"),
    "num_processes": read("whole"),
    "accelerate_config": lost("a launch, not a recipe, says how processes share a model", f"{LAUNCH}ddp.yaml and its neighbours"),
    **each("env num_machines machine_rank main_process_ip main_process_port", idle("is of the launch, not of the run")),
    **each("reward_funcs reward_weights num_generations scale_rewards", idle("is of a loss that draws answers")),
    # common to its configurations
    "gradient_checkpointing": read("flag"),
    "activation_checkpointing": read("flag"),
    "activation_offloading": same("train.activation_offloading", "flag"),
    "model_init_kwargs": lost("the base is loaded by the keys of section model", "model"),
    "router_aux_loss_coef": lost("no loss of a router is added", "LoRA on other layers than the router"),
    "chat_template_path": TOKENS,
    "eos_token": TOKENS,
    "pad_token": idle("padding is masked"),
    "disable_dropout": read("flag"),
    "dataset_num_proc": idle("data.workers says how many processes; the result is the same"),
    "max_length": read("whole"),
    "max_seq_length": read("whole"),
    "max_prompt_length": lost("data.max_length is of the whole conversation", "data.max_length"),
    "max_completion_length": lost("data.max_length is of the whole conversation", "data.max_length"),
    "truncation_mode": read("text"),
    "pad_to_multiple_of": idle("how rows are padded, not what is trained"),
    "padding_value": idle("padding is masked"),
    "label_pad_token_id": idle("padding is masked"),
    "is_encoder_decoder": lost("decoders only are trained"),
    "generate_during_eval": idle("held-out rows are answered after every training (evaluate)"),
    # SFT
    "dataset_text_field": read("text"),
    "dataset_kwargs": lost("the data path has its own keys", "section data"),
    "shuffle_dataset": idle("rows come in a shuffled order always"),
    "packing": read("flag"),
    "packing_strategy": read("text"),
    "padding_free": read("flag"),
    "eval_packing": idle("held-out rows are looked at the way that is quickest"),
    "completion_only_loss": read("flag"),
    "assistant_only_loss": read("flag"),
    # losses
    "loss_type": read("any"),
    "loss_weights": read("any"),
    "beta": read("number"),
    "label_smoothing": read("number"),
    "precompute_ref_log_probs": read("flag"),
    "precompute_ref_batch_size": idle("is the size of a micro-batch"),
    "ld_alpha": lost("LD-DPO's weights are not here", "dpo.loss_type: sigmoid_norm, which divides by the length"),
    "f_divergence_type": lost("other divergences than the reverse KL are not here", "dpo.beta", off=("reverse_kl",)),
    "f_alpha_divergence_coef": idle("is of a divergence that is not here"),
    "use_weighting": lost("WPO's weights are not here", "dpo.loss_type: sigmoid"),
    "discopop_tau": idle("is of a loss that is not here"),
    "reference_free": lost("the reference is the policy before training", "stage simpo, which has none"),
    **each("sync_ref_model ref_model_mixup_alpha ref_model_sync_steps", lost(
        "the reference is the policy before training, and stays", "a chain of stages: each begins with the last one's adapter")),
    "desirable_weight": read("number"),
    "undesirable_weight": read("number"),
    "center_rewards_coefficient": read("number"),
    "cpo_alpha": read("number"),
    "simpo_gamma": read("number"),
    "alpha": lost("AlphaPO is not here", "stage simpo"),
}  # fmt: skip
