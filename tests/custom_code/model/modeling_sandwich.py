"""A decoder with queries, keys and values in one layer, and norms before and after each block (a sandwich)."""

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_sandwich import SandwichConfig


class SandwichNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rotate(x, position_ids, theta):
    """Rotary embedding of (B, H, T, D) at (B, T)."""
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = position_ids[:, None, :, None].float() * rates  # (B, 1, T, D / 2)
    left, right = x.float().chunk(2, -1)
    turned = (left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin())
    return torch.cat(turned, -1).to(x.dtype)


class SandwichAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        self.theta = config.rope_theta
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width = config.hidden_size // self.heads
        self.qkv_proj = nn.Linear(config.hidden_size, (self.heads + 2 * self.groups) * self.width, bias=True)
        self.o_proj = nn.Linear(self.heads * self.width, config.hidden_size, bias=False)

    def forward(self, x, mask, position_ids, cache):
        batch, length, _ = x.shape
        sizes = [self.heads * self.width, self.groups * self.width, self.groups * self.width]
        q, k, v = (
            part.view(batch, length, -1, self.width).transpose(1, 2) for part in self.qkv_proj(x).split(sizes, -1)
        )
        q, k = rotate(q, position_ids, self.theta), rotate(k, position_ids, self.theta)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        k, v = (part.repeat_interleave(self.heads // self.groups, 1) for part in (k, v))
        scores = q @ k.transpose(-1, -2) * self.width**-0.5
        if mask is not None:
            scores = scores + mask
        out = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class SandwichMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class SandwichLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.self_attn = SandwichAttention(config, layer)
        self.mlp = SandwichMLP(config)
        for name in ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"):
            setattr(self, name, SandwichNorm(config.hidden_size, config.rms_norm_eps))

    def forward(self, x, mask, position_ids, cache):
        attended = self.self_attn(self.input_layernorm(x), mask, position_ids, cache)
        x = x + self.post_attention_layernorm(attended)
        return x + self.post_mlp_layernorm(self.mlp(self.pre_mlp_layernorm(x)))


class SandwichPreTrainedModel(PreTrainedModel):
    config_class = SandwichConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SandwichLayer"]

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(0.0, 0.02)


class SandwichModel(SandwichPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([SandwichLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = SandwichNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        use_cache=None, **kwargs,
    ):  # fmt: skip
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(seen, seen + x.shape[1], device=x.device)[None]
        mask = create_causal_mask(
            config=self.config, inputs_embeds=x, attention_mask=attention_mask, past_key_values=past_key_values,
            position_ids=position_ids,
        )  # fmt: skip
        for layer in self.layers:
            x = layer(x, mask, position_ids, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)


class SandwichForCausalLM(SandwichPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = SandwichModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, logits_to_keep=0, **kwargs):
        out = self.model(input_ids=input_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        logits = self.lm_head(out.last_hidden_state[:, kept])
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)
