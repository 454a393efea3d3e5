"""A compact Llama for training, and its exact export to `LlamaForCausalLM`.

Not a script. Why not train the transformers module itself: here every linear layer sees one flat
(tokens, width) matrix, what lies between the products is compiled once for all layers and sizes,
and the vocabulary's logits exist for a slice of tokens only. Same arithmetic otherwise;
`export.py` checks that both give the same logits.

Shapes: T = tokens of a micro-batch (rows x length, padding counted in), D = width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig

INITIAL_STD = 0.02
LOGIT_SLICE_TOKENS = {"cpu": 1024, "cuda": 16384}
# Up to this length two batched products beat the flash kernel on CPU (measured: 15 against 30 ms
# at 200 tokens, 38 against 47 at 400, 111 against 52 at 900; forward and backward).
PLAIN_ATTENTION_TOKENS = 448


@dataclass(frozen=True)
class Shape:
    """The numbers that define the model; `vocabulary` counts special tokens in."""

    vocabulary: int = 6144
    width: int = 256
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 64
    feed_forward: int = 704
    context: int = 2048
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5

    def config(self, bos: int, eos: int, pad: int) -> LlamaConfig:
        """The same model as a transformers config."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_width,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            rms_norm_eps=self.norm_epsilon,
            hidden_act="silu",
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=True,
            initializer_range=INITIAL_STD,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Llama's norm over the last axis, computed in fp32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (T, heads, head width); cos, sin: (T, 1, head width / 2)."""
    left, right = x.float().chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x.dtype)


def before_attention(
    x: Tensor, norm: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, shape: Shape
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm, projections and rotary: (T, D) -> q, k, v as (T, heads, head width)."""
    flat = F.linear(rms_norm(x, norm, shape.norm_epsilon).to(qkv.dtype), qkv)
    q, k, v = flat.view(len(x), -1, shape.head_width).split(
        [shape.heads, shape.kv_heads, shape.kv_heads], 1
    )
    repeats = shape.heads // shape.kv_heads
    k = rotate(k, cos, sin).repeat_interleave(repeats, 1)
    return rotate(q, cos, sin), k, v.repeat_interleave(repeats, 1)


def after_attention(
    x: Tensor, mixed: Tensor, o: Tensor, norm: Tensor, gate_up: Tensor, down: Tensor, shape: Shape
) -> Tensor:
    """Output projection and feed-forward, both added to the residual stream x (T, D)."""
    x = x + F.linear(mixed, o)
    hidden = F.linear(rms_norm(x, norm, shape.norm_epsilon).to(o.dtype), gate_up)
    gate, up = hidden.chunk(2, -1)
    return x + F.linear((F.silu(gate.float()) * up.float()).to(o.dtype), down)


def causal_softmax(scores: Tensor, future: Tensor, scale: float) -> Tensor:
    """Attention weights of (N, L, L) scores; `future` is (L, L), -inf above the diagonal."""
    return torch.softmax(scores.float() * scale + future, -1).to(scores.dtype)


def slice_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss in nats of a slice and its gradient by the logits; target -1 is ignored."""
    logits = logits.float()
    kept = (targets >= 0).float().unsqueeze(1)
    shifted = logits - logits.amax(1, keepdim=True)
    exponent = shifted.exp()
    total = exponent.sum(1, keepdim=True)
    index = targets.clamp(min=0).unsqueeze(1)
    loss = ((total.log() - shifted.gather(1, index)) * kept).sum()
    hit = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0) == index
    gradient = (exponent / total - hit.float()) * kept
    return loss, gradient.to(torch.bfloat16)


class SlicedLoss(torch.autograd.Function):
    """Cross entropy of tied logits, a slice of tokens at a time; the gradient is made at once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, embedding: Tensor, targets: Tensor, kernel: Any
    ) -> Tensor:
        d_hidden = torch.empty_like(hidden)
        d_embedding = torch.zeros_like(embedding, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        step = LOGIT_SLICE_TOKENS[hidden.device.type]
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            part_loss, d_logits = kernel(hidden[part] @ embedding.T, targets[part])
            loss += part_loss
            d_hidden[part] = d_logits.to(hidden.dtype) @ embedding
            d_embedding += d_logits.to(hidden.dtype).T @ hidden[part]
        ctx.save_for_backward(d_hidden, d_embedding)
        ctx.embedding_dtype = embedding.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore
        d_hidden, d_embedding = ctx.saved_tensors
        return d_hidden * scale, (d_embedding * scale).to(ctx.embedding_dtype), None, None


def inside_rows(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """Causal attention inside each of the rows laid end to end: (T, heads, head width) -> (T, D).

    Row i is the tokens bounds[i] to bounds[i + 1]. Off the GPU every pair of tokens is looked at
    and masked: slow, and there for the tests.
    """
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        mixed = varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=(-1, 0))
        return cast(Tensor, mixed).flatten(1)
    row = torch.bucketize(torch.arange(len(q)), bounds.long(), right=True)
    same = (row.unsqueeze(0) == row.unsqueeze(1)).tril()
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=same).transpose(0, 1).flatten(1)


class Llama(nn.Module):
    """The model with fp32 weights, multiplied in `compute_dtype`; `compiled` fuses the rest.

    With `one_size` what is compiled serves one number of tokens, and serves it better.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        shape: Shape,
        compute_dtype: torch.dtype = torch.bfloat16,
        compiled: bool = True,
        one_size: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.compute_dtype = shape, compute_dtype
        width, kv = shape.width, shape.kv_heads * shape.head_width
        sizes = {
            "self_attn.q_proj": (shape.heads * shape.head_width, width),
            "self_attn.k_proj": (kv, width),
            "self_attn.v_proj": (kv, width),
            "self_attn.o_proj": (width, shape.heads * shape.head_width),
            "mlp.gate_proj": (shape.feed_forward, width),
            "mlp.up_proj": (shape.feed_forward, width),
            "mlp.down_proj": (width, shape.feed_forward),
        }
        into_residual = INITIAL_STD / (2 * shape.layers) ** 0.5
        weights = {"model.embed_tokens": torch.randn(shape.vocabulary, width) * INITIAL_STD}
        for layer in range(shape.layers):
            for name, size in sizes.items():
                std = into_residual if name.endswith(("o_proj", "down_proj")) else INITIAL_STD
                weights[f"model.layers.{layer}.{name}"] = torch.randn(size) * std
            for name in ("input_layernorm", "post_attention_layernorm"):
                weights[f"model.layers.{layer}.{name}"] = torch.ones(width)
        weights["model.norm"] = torch.ones(width)
        # Dots are not allowed in parameter names; transformers' names are restored on export.
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(value) for name, value in weights.items()}
        )
        frequency = shape.rope_theta ** (
            -torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
        )
        angle = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        make: Any = (
            partial(torch.compile, dynamic=not one_size) if compiled else (lambda kernel: kernel)
        )
        self.before, self.after = make(before_attention), make(after_attention)
        self.softmax, self.loss_kernel = make(causal_softmax), make(slice_loss)

    def transformers_state(self) -> dict[str, Tensor]:
        """The weights under the names of `LlamaForCausalLM`."""
        return {
            f"{name.replace('/', '.')}.weight": value.detach()
            for name, value in self.weights.items()
        }

    def matrix_parameters(self) -> list[nn.Parameter]:
        """The two-dimensional weights inside the layers: those that Muon steps."""
        return [p for name, p in self.weights.items() if p.ndim == 2 and "embed" not in name]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, rows: int, length: int) -> Tensor:
        """Causal attention inside each row: three (rows x length, heads, head width) -> (., D)."""
        q, k, v = (t.view(rows, length, *t.shape[1:]).transpose(1, 2) for t in (q, k, v))
        if length > PLAIN_ATTENTION_TOKENS:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            q, k, v = (t.reshape(-1, length, self.shape.head_width) for t in (q, k, v))
            future = torch.full((length, length), float("-inf")).triu(1)
            scale = self.shape.head_width**-0.5
            weights = self.softmax(torch.bmm(q, k.transpose(1, 2)), future, scale)
            mixed = torch.bmm(weights, v).view(rows, -1, length, self.shape.head_width)
        return mixed.transpose(1, 2).reshape(rows * length, -1)

    def hidden(self, tokens: Tensor, rows: int, length: int) -> Tensor:
        """Final normed states (T, D) of (T,) tokens, the first rows x length of them in use.

        The states of unused entries mean nothing; no loss may be taken there.
        """
        used, flat = rows * length, len(tokens)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mixed = self.attention(q[:used], k[:used], v[:used], rows, length)
            return F.pad(mixed, (0, 0, 0, flat - used)) if used < flat else mixed

        return self.states(tokens, torch.arange(flat) % length, attend)

    def states(
        self, tokens: Tensor, positions: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Final normed states (T, D); `attend` turns q, k, v (T, heads, head width) into (T, D)."""
        shape, w, dtype = self.shape, self.weights, self.compute_dtype
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        x = F.embedding(tokens, w["model/embed_tokens"])
        for layer in range(shape.layers):
            at = f"model/layers/{layer}/"
            qkv = torch.cat([w[f"{at}self_attn/{n}_proj"] for n in "qkv"]).to(dtype)
            q, k, v = self.before(x, w[at + "input_layernorm"], qkv, cos, sin, shape)
            mixed = attend(q, k, v)
            gate_up = torch.cat([w[at + "mlp/gate_proj"], w[at + "mlp/up_proj"]]).to(dtype)
            x = self.after(
                x,
                mixed,
                w[at + "self_attn/o_proj"].to(dtype),
                w[at + "post_attention_layernorm"],
                gate_up,
                w[at + "mlp/down_proj"].to(dtype),
                shape,
            )
        return rms_norm(x, w["model/norm"], shape.norm_epsilon)

    def loss(self, tokens: Tensor, targets: Tensor, rows: int, length: int) -> Tensor:
        """Summed loss in nats over the targets that are not -1; both (flat,)."""
        return self.loss_of_states(self.hidden(tokens, rows, length), targets)

    def packed_loss(
        self, tokens: Tensor, targets: Tensor, positions: Tensor, bounds: Tensor, longest: int
    ) -> Tensor:
        """Summed loss in nats of rows laid end to end, as `accelerator.Pack` describes them."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return inside_rows(q, k, v, bounds, longest)

        return self.loss_of_states(self.states(tokens, positions, attend), targets)

    def loss_of_states(self, states: Tensor, targets: Tensor) -> Tensor:
        """Summed loss in nats of the tied logits of (T, D) states; target -1 is ignored."""
        embedding = self.weights["model/embed_tokens"].to(self.compute_dtype)
        hidden = states.to(self.compute_dtype)
        return SlicedLoss.apply(hidden, embedding, targets, self.loss_kernel)
