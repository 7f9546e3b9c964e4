"""Axolotl's keys (src/axolotl/utils/schemas), each with what it is here."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.migrate.keys import Key, each, idle, lost, read, same

BY_HAND = "is how it is computed, not what; the run sees to it itself"
KERNELS = "fused kernels are the device's own here (model.fused_ops), compared with the plain ones"
LAUNCH = "accelerate launch --config_file scripts/accelerate/"
SHARING = lost("a launch, not a recipe, says how processes share a model", f"{LAUNCH}fsdp2.yaml")
TRACKER = idle("a tracker's own settings are the tracker's")
OTHER_LOSS = lost("this loss is not here", "stage sft's own")
TOKENS = lost("the base's tokenizer is taken as it is", "model.tokenizer_name_or_path: a copy of it with the change")
SHORT = "data.packing"

AXOLOTL: Mapping[str, Key] = {
    # model
    "base_model": read("text"),
    "revision_of_model": same("model.revision", "text"),
    "trust_remote_code": same("model.trust_remote_code", "flag"),
    "tokenizer_config": same("model.tokenizer_name_or_path", "text"),
    **each("base_model_config cls_model_config model_type tokenizer_type processor_type is_falcon_derived_model "
           "is_llama_derived_model is_mistral_derived_model is_qwen_derived_model type_of_model tokenizer_use_fast "
           "tokenizer_legacy tokenizer_save_jinja_files processor_kwargs", idle("follows from the base's own files here")),
    "tokenizer_use_mistral_common": TOKENS,
    **each("overrides_of_model_config overrides_of_model_kwargs rope_scaling model_config", lost(
        "the base's configuration is taken as it is", "a copy of the base with another config.json")),
    **each("model_quantization_config model_quantization_config_kwargs use_onebitllms bnb_config_kwargs qat quantization "
           "llmcompressor gptq", lost("this quantisation is not here", "model.quantization, see docs/quantised.md")),
    "load_in_8bit": read("flag"),
    "load_in_4bit": read("flag"),
    "special_tokens": read("any"),
    "tokens": read("any"),
    "added_tokens_overrides": TOKENS,
    "resize_token_embeddings_to_32x": idle("embeddings get the rows that new tokens need"),
    **each("mean_resizing_embeddings shrink_embeddings embeddings_skip_upcast reinit_weights fix_untrained_tokens", lost(
        "embeddings are the base's, new rows their mean", "model.add_tokens")),
    "chat_template": read("text"),
    "chat_template_jinja": TOKENS,
    "chat_template_kwargs": lost("the chat template gets the messages and tools alone", "a copy of the tokenizer with that set"),
    "eot_tokens": lost("a turn ends as the tokenizer's chat template ends it", "no key is needed"),
    "default_system_message": lost("the chat template's own is kept", "a data template with a system message"),
    # adapter
    "adapter": read("text"),
    "lora_model_dir": read("text"),
    "lora_r": read("whole"),
    "lora_alpha": read("number"),
    "lora_dropout": read("number"),
    "lora_target_modules": read("any"),
    "lora_target_linear": read("flag"),
    "lora_target_parameters": read("names"),
    "lora_modules_to_save": read("names"),
    "lora_rank_pattern": read("any"),
    "lora_alpha_pattern": read("any"),
    "peft_layers_to_transform": read("any"),
    "peft_layers_pattern": read("names"),
    "peft_use_dora": same("lora.use_dora", "flag"),
    "peft_use_rslora": same("lora.use_rslora", "flag"),
    "peft_init_lora_weights": read("any"),
    "peft_trainable_token_indices": read("any"),
    "peft_ensure_weight_tying": same("lora.ensure_weight_tying", "flag"),
    "peft_layer_replication": lost("repeats layers: the merged model has another depth than its base", "such a base first"),
    "peft": lost("LoftQ is told by its name", "lora.init_lora_weights: loftq with model.quantization: nf4"),
    "lora_fan_in_fan_out": idle("is set from the layers themselves"),
    "loraplus_lr_ratio": same("train.loraplus_lr_ratio", "number"),
    "loraplus_lr_embedding": lost("a rate of its own for trained embeddings", "train.lr_groups", off=(1e-6,)),
    **each("peft_autocast_adapter_dtype lora_on_cpu qlora_sharded_model_loading merge_lora merge_method", idle(BY_HAND)),
    **each("relora relora_prune_ratio relora_prune_method relora_cpu_offload", lost(
        "ReLoRA is not here", "a chain of stages with continue_from: merged")),
    **each("lisa_n_layers lisa_step_interval lisa_layers_attribute unfrozen_parameters freeze_mm_modules", lost(
        "weights of the base are not trained", "LoRA, lora.layers_to_transform")),
    # batch and length
    "micro_batch_size": read("whole"),
    "gradient_accumulation_steps": read("whole"),
    "batch_size": read("whole"),
    "num_epochs": read("number"),
    "max_steps": read("whole"),
    "auto_find_batch_size": same("train.auto_find_batch_size", "flag"),
    "eval_batch_size": idle("looks at the held-out loss take the size of a micro-batch"),
    "sequence_len": read("whole"),
    "excess_length_strategy": read("text"),
    "eval_sequence_len": lost("held-out rows have the same limit", "data.max_length"),
    "min_sample_len": lost("short rows are kept", "a file without them"),
    "max_prompt_len": lost("data.max_length is of the whole conversation", "data.max_length"),
    "sample_packing": read("flag"),
    "batch_flattening": read("any"),
    **each("eval_sample_packing sample_packing_group_size sample_packing_bin_size sample_packing_sequentially "
           "sample_packing_mp_start_method sample_packing_eff_est sample_packing_seq_len_multiplier multipack_real_batches "
           "pad_to_sequence_len pad_to_multiple_of", idle("how rows are put together or padded, not what is trained")),
    **each("curriculum_sampling group_by_length", lost("rows come in a shuffled order", SHORT)),
    **each("use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks", lost("PoSE is not here", "data.max_length")),
    # optimizer
    "learning_rate": read("number"),
    "embedding_lr": lost("a rate of its own for trained embeddings", "train.lr_groups"),
    "embedding_lr_scale": lost("a rate of its own for trained embeddings", "train.lr_groups"),
    "lr_groups": read("any"),
    "weight_decay": read("number"),
    "optimizer": read("text"),
    "optim_args": lost("settings of an optimizer have other names here", "train.optim_args"),
    "optim_target_modules": lost("is of GaLore, which is not here", "LoRA"),
    "adam_beta1": read("number"),
    "adam_beta2": read("number"),
    "adam_epsilon": read("number"),
    **each("adam_beta3 adam_epsilon2 torchdistx_path dion_lr dion_momentum dion_rank_fraction dion_rank_multiple_of "
           "qgalore_rank qgalore_update_proj_gap qgalore_scale qgalore_proj_type qgalore_proj_quant qgalore_proj_bits "
           "qgalore_proj_group_size qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size",
           idle("is of an optimizer that is not here")),
    "max_grad_norm": read("number"),
    "lr_scheduler": read("text"),
    "lr_scheduler_kwargs": read("any"),
    "cosine_min_lr_ratio": read("number"),
    "cosine_constant_lr_ratio": lost("a cosine that ends early", "train.lr_scheduler_type: warmup_stable_decay"),
    "lr_quadratic_warmup": lost("the warm-up is linear", "train.warmup_steps"),
    **each("lr_div_factor jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps", lost(
        "no schedule here has this form", "train.lr_scheduler_type: cosine")),
    "warmup_steps": read("number"),
    "warmup_ratio": read("number"),
    "neftune_noise_alpha": read("number"),
    "noisy_embedding_alpha": read("number"),
    "seed": read("whole"),
    # precision and memory
    "bf16": read("any"),
    "bfloat16": read("flag"),
    "fp16": read("any"),
    "float16": read("flag"),
    "float32": read("flag"),
    **each("fp8 fp8_enable_fsdp_float8_all_gather", lost("products in 8 bits are not here", "model.dtype: bfloat16")),
    "attn_implementation": read("text"),
    **each("flash_attention sdp_attention eager_attention xformers_attention flex_attention sage_attention", read("flag")),
    "s2_attention": lost("shifted sparse attention is not here", "a shorter data.max_length"),
    **each("scaling_softmax scaling_softmax_factor scaling_softmax_bias", lost(
        "another attention than the base's", "the base as it is")),
    "gradient_checkpointing": read("any"),
    "activation_offloading": read("any"),
    **each("gradient_checkpointing_kwargs selective_checkpointing layer_offloading", idle(
        "is how memory is spared, not what is trained")),
    "torch_compile": read("any"),
    **each("torch_compile_backend torch_compile_mode torch_compile_options tf32 flex_attn_compile_kwargs gc_steps "
           "gc_collect_steps torch_empty_cache_steps low_cpu_mem_usage max_memory gpu_memory_limit device device_map "
           "world_size local_rank ddp ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters "
           "dataloader_pin_memory dataloader_num_workers dataloader_prefetch_factor remove_unused_columns "
           "experimental_skip_move_to_device accelerator_config fp32_norms fp32_norm_classes strict", idle(BY_HAND)),
    "dataloader_drop_last": lost("the last rows of an epoch go into the next one's first batch", "no key is needed"),
    **each("use_kernels lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel liger_rope liger_rms_norm "
           "liger_rms_norm_gated liger_layer_norm liger_glu_activation liger_swiglu liger_cross_entropy "
           "liger_fused_linear_cross_entropy cut_cross_entropy chunked_cross_entropy chunked_cross_entropy_num_chunks "
           "flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_mlp flash_optimum fused_attn_kernel tiled_mlp "
           "tiled_mlp_num_shards tiled_mlp_use_original_mlp experts_implementation use_scattermoe use_sonicmoe "
           "gemma4_hybrid_attn_impl large_head_attention flash_attn_d512 sdpa_varlen quantize_moe_experts "
           "llama4_linearized_experts unsloth_cross_entropy_loss unsloth_lora_mlp unsloth_lora_qkv unsloth_lora_o",
           idle(KERNELS)),
    "plugins": lost("plugins are not loaded", "model.fused_ops (kernels); stage distill (kd)"),
    **each("deepspeed", lost("a launch, not a recipe, says how processes share a model", f"{LAUNCH}zero2.yaml, or zero3.yaml")),
    **each("deepcompile fsdp fsdp_config fsdp_version fsdp_final_state_dict_type dp_shard_size dp_replicate_size", SHARING),
    **each("sequence_parallel_degree context_parallel_size tensor_parallel_size expert_parallel_size heads_k_stride "
           "ring_attn_func", lost("a sequence or a layer is not cut over devices here", f"{LAUNCH}fsdp2.yaml", off=(1,))),
    **each("use_ray ray_run_name ray_num_workers resources_per_worker", lost("Ray is not here", f"{LAUNCH}ddp.yaml", off=(1,))),
    # losses
    "rl": read("text"),
    "rl_beta": read("number"),
    "dpo_beta": read("number"),
    "trl": read("any"),
    "dpo_loss_type": read("any"),
    "dpo_loss_weights": read("any"),
    "dpo_label_smoothing": read("number"),
    "rpo_alpha": read("number"),
    "dpo_use_weighting": lost("WPO's weights are not here", "dpo.loss_type: sigmoid"),
    "dpo_norm_loss": lost("the loss by length is a loss type", "dpo.loss_type: sigmoid_norm"),
    "dpo_padding_free": idle("pairs are computed without padding where the model allows it (dpo.prefix_sharing)"),
    **each("dpo_use_liger_kernel dpo_use_logits_to_keep dpo_generate_during_eval", idle(BY_HAND)),
    "precompute_ref_log_probs": read("flag"),
    "orpo_alpha": read("number"),
    "simpo_gamma": read("number"),
    "cpo_alpha": read("number"),
    "kto_desirable_weight": read("number"),
    "kto_undesirable_weight": read("number"),
    "reward_model": read("flag"),
    "center_rewards_coefficient": read("number"),
    "num_labels": lost("a reward model has one number, or one an aspect", "reward.aspects", off=(1,)),
    "process_reward_model": read("flag"),
    **each("use_eaft eaft_alpha eaft_k diffusion", OTHER_LOSS),
    **each("vllm ebft", idle("is of a loss that draws answers")),
    "trainer_cls": lost("another trainer is code", "the stages of docs/stages.md"),
    # data
    "datasets": read("any"),
    "test_datasets": read("any"),
    "pretraining_dataset": read("any"),
    "val_set_size": read("number"),
    "train_on_inputs": read("flag"),
    "dataset_exact_deduplication": read("flag"),
    "shuffle_merged_datasets": lost("rows come in a shuffled order", "no key is needed", off=(True,)),
    **each("shuffle_before_merging_datasets dataset_prepared_path skip_prepare_dataset dataset_processes dataset_num_proc "
           "dataset_keep_in_memory dataset_shard_num dataset_shard_idx num_dataset_shards_to_save push_dataset_to_hub "
           "hf_use_auth_token streaming streaming_multipack_buffer_size pretrain_multipack_buffer_size "
           "pretrain_multipack_attn pretraining_sample_concatenation is_preprocess preprocess_iterable total_num_tokens "
           "total_supervised_tokens", idle(
               "encoded rows are kept by a hash of all they depend on; data.workers says how many processes")),
    # what is kept and told
    "output_dir": read("text"),
    "logging_steps": read("whole"),
    "save_steps": read("number"),
    "saves_per_epoch": read("whole"),
    "save_strategy": read("text"),
    "save_total_limit": same("train.save_total_limit", "whole"),
    "eval_steps": read("number"),
    "evals_per_epoch": read("whole"),
    "eval_strategy": read("text"),
    "evaluation_strategy": read("text"),
    "load_best_model_at_end": read("flag"),
    "early_stopping_patience": read("whole"),
    "metric_for_best_model": lost(
        "the best is that of the held-out loss", "train.load_best_model_at_end", off=("loss", "eval_loss")),
    "greater_is_better": lost("the best is that of the held-out loss", "train.load_best_model_at_end"),
    **each("save_only_model save_safetensors save_first_step dynamic_checkpoint", idle(
        "a checkpoint always holds all that a run needs to go on")),
    **each("resume_from_checkpoint auto_resume_from_checkpoints", idle("is said on the command line here: --resume auto")),
    **each("loss_watchdog_threshold loss_watchdog_patience", lost(
        "a high loss stops nothing", "train.on_nonfinite: stop, for one that is no number")),
    **each("do_causal_lm_eval eval_causal_lm_metrics do_bench_eval bench_dataset bench_split eval_table_size "
           "eval_max_new_tokens generate_samples num_generation_samples generation_max_new_tokens generation_temperature "
           "generation_top_p generation_top_k generation_prompt_ratio generation_do_sample",
           idle("held-out rows are answered and scored after every training (evaluate)")),
    **each("hub_model_id hub_strategy hub_revision", lost(
        "uploading is a step of its own, after the export", "finetune export RUN --push-to-hub ORG/NAME")),
    **each("use_wandb use_tensorboard use_trackio use_swanlab use_mlflow use_comet", read("flag")),
    "wandb_project": read("text"),
    **each("wandb_entity wandb_watch wandb_name wandb_run_id wandb_mode wandb_log_model mlflow_tracking_uri "
           "mlflow_experiment_name mlflow_run_name hf_mlflow_log_artifacts comet_api_key comet_workspace "
           "comet_project_name comet_experiment_key comet_mode comet_online comet_experiment_config trackio_project_name "
           "trackio_run_name trackio_space_id swanlab_project swanlab_experiment_name swanlab_description swanlab_mode "
           "swanlab_workspace swanlab_api_key swanlab_log_model use_otel_metrics otel_metrics_host otel_metrics_port", TRACKER),
    **each("gradio_title gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature "
           "profiler_steps profiler_steps_start include_tokens_per_second include_tkps axolotl_config_path debug",
           idle("changes what is printed and kept only")),
}  # fmt: skip
