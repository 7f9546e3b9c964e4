"""LLaMA-Factory's keys (src/llamafactory/hparams), each with what it is here."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.migrate.keys import Key, each, idle, lost, read, same
from finetune.migrate.trainer import TRAINER

NO_IMAGES = "images, video and sound are not trained on here"
OTHER_FULL = "is a way to train all weights, which are not trained here"
ANSWERS = "held-out rows are answered greedily here (evaluate.max_new_tokens); serving has its own settings"

LLAMAFACTORY: Mapping[str, Key] = {
    **TRAINER,
    # model
    "model_name_or_path": read("text"),
    "adapter_name_or_path": read("names"),
    "create_new_adapter": read("flag"),
    "model_revision": read("text"),
    "trust_remote_code": same("model.trust_remote_code", "flag"),
    "add_tokens": same("model.add_tokens", "names"),
    "add_special_tokens": read("names"),
    "flash_attn": read("text"),
    "quantization_bit": read("whole"),
    "quantization_method": read("text"),
    "quantization_type": read("text"),
    "double_quantization": read("flag"),
    "disable_gradient_checkpointing": read("flag"),
    **each("gradient_checkpointing activation_checkpointing", idle("disable_gradient_checkpointing decides there")),
    "rope_scaling": lost("a longer context is the model's own configuration here", "a base whose config.json says so"),
    "shift_attn": lost("shifted sparse attention is not here", "model.attn_implementation, with a shorter data.max_length"),
    "mixture_of_depths": lost("is another architecture", "the base as it is"),
    "moe_aux_loss_coef": lost("no loss of a router is added", "LoRA on other layers than the router"),
    "upcast_layernorm": idle("norms are computed in float32 where the model does"),
    "upcast_lmhead_output": idle("the loss is computed in float32"),
    "train_from_scratch": lost("only adapters on given weights are trained"),
    "split_special_tokens": lost("control tokens in the text of rows", "data.special_tokens_in_data: escape (the default)"),
    "new_special_tokens_config": lost("new tokens start from the mean of the others", "model.add_tokens"),
    "init_special_tokens": lost("new tokens start from the mean of the others", "model.add_tokens", off=("noise_init",)),
    "resize_vocab": idle("model.add_tokens sees to it"),
    **each("cache_dir adapter_folder use_fast_tokenizer low_cpu_mem_usage use_unsloth use_unsloth_gc enable_liger_kernel "
           "use_reentrant_gc use_v1_kernels use_kv_cache offload_folder print_param_status hf_hub_token ms_hub_token "
           "om_hub_token quantization_device_map", idle("is how it is loaded or computed, not what is trained")),
    **each("infer_backend infer_dtype vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config "
           "sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend do_sample temperature top_p "
           "top_k num_beams max_new_tokens generation_max_length generation_num_beams max_length repetition_penalty "
           "length_penalty skip_special_tokens predict_with_generate eval_num_beams", idle(ANSWERS)),
    **each("image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels "
           "video_fps video_maxlen use_audio_in_video audio_sampling_rate media_dir", lost(NO_IMAGES, "a base and rows of text")),
    **each("freeze_vision_tower freeze_multi_modal_projector", idle("only the adapter trains, on layers of the text model")),
    "freeze_language_model": lost(NO_IMAGES),
    **each("export_dir export_size export_device export_quantization_bit export_quantization_dataset "
           "export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id",
           idle("the export comes after training here: see the recipe's section export")),
    **each("use_kt kt_cpu_activation kt_weight_path kt_non_expert_weight_path kt_expert_checkpoint_path kt_config "
           "kt_use_lora_experts kt_lora_expert_num kt_lora_expert_intermediate_size", lost("KTransformers is not here")),
    # method
    "stage": read("text"),
    "finetuning_type": read("text"),
    "do_train": read("flag"),
    "lora_rank": read("whole"),
    "lora_alpha": read("number"),
    "lora_dropout": read("number"),
    "lora_target": read("names"),
    "additional_target": read("names"),
    "loraplus_lr_ratio": same("train.loraplus_lr_ratio", "number"),
    "loraplus_lr_embedding": lost("a rate of its own for trained embeddings", "train.lr_groups", off=(1e-6,)),
    "use_rslora": same("lora.use_rslora", "flag"),
    "use_dora": same("lora.use_dora", "flag"),
    "pissa_init": read("flag"),
    "pissa_iter": read("whole"),
    "pissa_convert": idle("the bundle's adapter fits the unchanged base always"),
    "oft_rank": read("whole"),
    "oft_block_size": read("whole"),
    "oft_target": read("names"),
    "module_dropout": lost("peft has it for OFT and never applies it"),
    **each("freeze_trainable_layers freeze_trainable_modules freeze_extra_modules use_llama_pro", lost(
        OTHER_FULL, "lora.layers_to_transform: LoRA on those layers")),
    "pref_beta": read("number"),
    "pref_ftx": read("number"),
    "pref_loss": read("text"),
    "dpo_label_smoothing": read("number"),
    "simpo_gamma": read("number"),
    "kto_chosen_weight": read("number"),
    "kto_rejected_weight": read("number"),
    "pref_bco_weight": lost("BCO's term is not here", "dpo.loss_type: sigmoid"),
    "ld_alpha": lost("LD-DPO's weights are not here", "dpo.loss_type: sigmoid_norm, which divides by the length"),
    **each("ref_model ref_model_adapters ref_model_quantization_bit", lost(
        "the reference is the policy before training", "model.adapter_name_or_path: a reference that is an adapter of it")),
    **each("ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards reward_model reward_model_adapters "
           "reward_model_quantization_bit reward_model_type", lost("PPO is not here", "stage grpo")),
    **each("use_galore galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise "
           "use_apollo apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type "
           "apollo_scale_type apollo_layerwise apollo_scale_front use_badam badam_mode badam_start_block "
           "badam_switch_mode badam_switch_interval badam_update_ratio badam_mask_mode badam_verbose", lost(
               OTHER_FULL, "LoRA, whose optimizer state is small")),
    "use_adam_mini": lost("Adam-mini is not here", "train.optim: adamw_8bit"),
    "use_muon": read("flag"),
    **each("use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha", lost("this loss is not here", "stage sft's own")),
    "pure_bf16": read("flag"),
    **each("fp8 fp8_backend fp8_enable_fsdp_float8_all_gather", lost("products in 8 bits are not here", "model.dtype: bfloat16")),
    **each("use_mca use_megatron_bridge use_hyper_parallel hyper_parallel_args hyper_parallel_cp_size", lost(
        "this backend is not here", "accelerate launch --config_file scripts/accelerate/fsdp2.yaml", off=(1,))),
    "compute_accuracy": idle("the scores come from the metric of the data here"),
    "disable_shuffling": lost("rows come in a shuffled order", "no key is needed"),
    "early_stopping_steps": read("whole"),
    "plot_loss": idle("the losses are in metrics.jsonl"),
    "include_effective_tokens_per_second": idle("tokens a second are logged always"),
    "use_swanlab": read("flag"),
    **each("swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir "
           "swanlab_lark_webhook_url swanlab_lark_secret", idle("a tracker's own settings are the tracker's")),
    **each("ray_num_workers ray_init_kwargs master_addr master_port", lost(
        "Ray is not here", "accelerate launch --num_processes N, and finetune import --processes N", off=(1,))),
    **each("enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps profiler_active_steps "
           "profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack profile_modules",
           idle("is for profiling")),
    # data
    "dataset": read("names"),
    "eval_dataset": read("names"),
    "dataset_dir": read("text"),
    "template": read("text"),
    "cutoff_len": read("whole"),
    "train_on_prompt": read("flag"),
    "mask_history": read("flag"),
    "val_size": read("number"),
    "packing": read("flag"),
    "neat_packing": read("flag"),
    "mix_strategy": read("text"),
    "interleave_probs": read("any"),
    "max_samples": read("whole"),
    "default_system": read("text"),
    "tool_format": lost("tools and calls are written by the tokenizer's own chat template", "no key is needed"),
    "enable_thinking": lost("thoughts are what the rows have (reasoning_content)", "see docs/data_template.md", off=(True,)),
    "preserve_thinking": lost("earlier thoughts are what the chat template keeps", "see docs/data_template.md"),
    "tokenized_path": idle("encoded rows are kept in .encoded, under a hash of all they depend on"),
    "eval_on_each_dataset": lost("held-out rows are looked at together", "evaluate.suites"),
    "ignore_pad_token_for_loss": Key("flag", lost="padding is never trained", off=(True,)),
    **each("streaming buffer_size overwrite_cache preprocessing_batch_size preprocessing_num_workers "
           "data_shared_file_system", idle("rows are streamed to disk and kept by hash; data.workers says how many processes")),
}  # fmt: skip
