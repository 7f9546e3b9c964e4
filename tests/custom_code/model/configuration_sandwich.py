"""Configuration of a model that comes with its own code."""

from transformers import PretrainedConfig


class SandwichConfig(PretrainedConfig):
    model_type = "sandwich"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=153376,
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=26,
        num_attention_heads=12,
        num_key_value_heads=6,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_theta=64000.0,
        tie_word_embeddings=True,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
