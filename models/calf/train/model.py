"""The Llama decoder of Hugging Face's `LlamaForCausalLM`, same names and same numbers, with tied embeddings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 2048
    rope_theta: float = 100000.0
    rms_norm_eps: float = 1e-5

    @staticmethod
    def read(path: Path) -> "Config":
        have = json.loads(path.read_text())
        return Config(**{k: have[k] for k in asdict(Config()) if k in have})

    def hugging_face(self) -> dict:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(self),
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "attention_bias": False,
            "mlp_bias": False,
            "torch_dtype": "bfloat16",
        }


def linear(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    return F.linear(x, layer.weight.to(x.dtype))


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        x = x.float()
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate-half pairing: dimension i goes with i + head_dim/2. x [batch][heads][time][head_dim]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        batch, time, _ = x.shape
        q = linear(x, self.q_proj).view(batch, time, -1, self.c.head_dim).transpose(1, 2)
        k = linear(x, self.k_proj).view(batch, time, -1, self.c.head_dim).transpose(1, 2)
        v = linear(x, self.v_proj).view(batch, time, -1, self.c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.c.num_attention_heads // self.c.num_key_value_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(y.transpose(1, 2).reshape(batch, time, -1), self.o_proj)


class MLP(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return linear(F.silu(linear(x, self.gate_proj)) * linear(x, self.up_proj), self.down_proj)


class Layer(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, dtype):
        x = x + self.self_attn(self.input_layernorm(x, dtype), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x, dtype))


class Trunk(nn.Module):
    """`model.*` of the Hugging Face folder: everything but the output projection."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        inverse = c.rope_theta ** -(torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim)
        angles = torch.outer(torch.arange(c.max_position_embeddings, dtype=torch.float64), inverse)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, ids: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        cos, sin = self.cos[: ids.shape[1]].to(dtype), self.sin[: ids.shape[1]].to(dtype)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, dtype)
        return self.norm(x, dtype)


class Calf(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.model = Trunk(c)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 if "embed" in name else p.shape[1] ** -0.5 * 0.7)

    def logits(self, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return F.linear(self.model(ids, dtype), self.model.embed_tokens.weight.to(dtype)).float()


def chunk_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor):
    """Loss of each row and the gradient of the weighted sum with respect to the logits."""
    logits = logits.float()
    logsum = torch.logsumexp(logits, 1, keepdim=True)
    loss = (logsum - logits.gather(1, target[:, None])).squeeze(1)
    hot = torch.arange(logits.shape[1], device=logits.device)[None, :] == target[:, None]
    gradient = (torch.exp(logits - logsum) - hot.to(torch.float32)) * weight[:, None]
    return loss, gradient.to(torch.bfloat16)


class OutputLoss(torch.autograd.Function):
    """Cross entropy of tied logits, a slice at a time: the whole [tokens][vocab] array never exists.

    Returns the loss of every token; the backward pass is that of sum(weight * loss), whatever is done with them.
    """

    chunk = staticmethod(chunk_loss)

    @staticmethod
    def forward(ctx, hidden, embedding, target, weight, size=1024):
        table = embedding.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden)
        d_table = torch.zeros_like(embedding)
        losses = torch.empty(hidden.shape[0], device=hidden.device)
        for i in range(0, hidden.shape[0], size):
            part = hidden[i : i + size]
            loss, gradient = OutputLoss.chunk(part @ table.T, target[i : i + size], weight[i : i + size])
            losses[i : i + size] = loss
            d_hidden[i : i + size] = gradient @ table
            d_table += (gradient.T @ part).float()
        ctx.save_for_backward(d_hidden, d_table)
        ctx.mark_non_differentiable(losses)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx, d_total, _):
        d_hidden, d_table = ctx.saved_tensors
        return d_hidden * d_total.to(d_hidden.dtype), d_table * d_total, None, None, None
