"""Tiny random causal LMs of several architectures, saved with a small tokenizer, for tests.

Weights are seeded and larger than usual (std 0.3): with the usual 0.02 the states of a random
model hardly depend on its input, and wrong masks or positions would go unnoticed.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...schemas.instruction import Instruction
from .backbone import Backbone, BackboneConfig

VOCABULARY = 320
POSITIONS = 256
BOS, END, PAD = "<|endoftext|>", "<|end|>", "<|pad|>"

TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|' ~ message.role ~ '|>' ~ message.content -}}"
    "{%- if message.tool_calls -%}{{- message.tool_calls | tojson -}}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "mixtral", "qwen3_moe", "cohere")


def save_tiny_tokenizer(
    folder: Path, template: str | None = TEMPLATE, bos: bool = True, pad: bool = True
) -> None:
    """A byte-level BPE tokenizer trained on a few words, with or without the usual extras."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool")]
    specials = [BOS, *roles, END, PAD]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [
        "what is the sum of two and three? the sum is five.",
        "name a colour: the sky is blue",
    ]
    tokenizer.train_from_iterator(corpus * 20, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "additional_special_tokens": roles,
        "clean_up_tokenization_spaces": False,
    }
    if bos:
        config["bos_token"] = BOS
    if pad:
        config["pad_token"] = PAD
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def tiny_config(architecture: str) -> Any:
    """A transformers config: 2 or 3 layers, width 32, `POSITIONS` positions."""
    from transformers import AutoConfig

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 0,
        "eos_token_id": 5,
        "pad_token_id": 6,
        "tie_word_embeddings": False,
    }
    own: dict[str, dict[str, Any]] = {
        "llama": {"num_key_value_heads": 2},
        "qwen2": {"num_key_value_heads": 2},
        "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
        "gpt2": {"tie_word_embeddings": True, "intermediate_size": None},
        "gpt_neox": {},
        "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
        "qwen3_moe": {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
        # Scales its logits: the head cannot be applied to chosen states.
        "cohere": {"num_key_value_heads": 2, "logit_scale": 0.5, "tie_word_embeddings": True},
    }
    settings = {**common, **own[architecture]}
    if architecture == "gpt2":  # its own names
        settings = {
            "n_embd": settings.pop("hidden_size"),
            "n_layer": settings.pop("num_hidden_layers"),
            "n_head": settings.pop("num_attention_heads"),
            "n_positions": settings.pop("max_position_embeddings"),
            **{k: v for k, v in settings.items() if k != "intermediate_size"},
        }
    return AutoConfig.for_model(architecture, **settings)


def save_tiny_model(
    folder: Path, architecture: str = "llama", seed: int = 0, **tokenizer: Any
) -> Path:
    """Model and tokenizer in `folder`; `tokenizer` goes to `save_tiny_tokenizer`."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    save_tiny_tokenizer(folder, **tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(architecture))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.3)
            elif "norm" in name or "ln_" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    return folder


_FOLDERS: list[TemporaryDirectory[str]] = []  # removed when the process ends


@cache
def tiny_folder(architecture: str = "llama") -> Path:
    """A saved tiny model, made once per test process."""
    _FOLDERS.append(TemporaryDirectory(prefix=f"tiny-{architecture}-"))
    return save_tiny_model(Path(_FOLDERS[-1].name), architecture)


@cache
def tiny_backbone(architecture: str = "llama", dtype: str = "float32") -> Backbone:
    """A loaded tiny model on the CPU; shared by the tests, so do not change it."""
    import torch

    torch.set_num_threads(1)
    return Backbone.load(BackboneConfig(str(tiny_folder(architecture)), "cpu", dtype))


def tiny_conversations() -> list[Instruction]:
    """Conversations of unequal length: one turn, several turns, a system turn, awkward text."""
    one = Instruction.from_turns
    rows = [
        one(("user", f"what is the sum of {i} and {7 * i}?"), ("assistant", f"the sum is {8 * i}."))
        for i in range(6)
    ]
    rows += [
        one(("user", "sky " * 40), ("assistant", "blue")),
        one(("user", "?"), ("assistant", "the sky is blue and " * 12)),
        one(("system", "be brief"), ("user", "name a colour"), ("assistant", " blue \n")),
        one(
            ("user", "two and three?"),
            ("assistant", "five"),
            ("user", "and <|end|> as text?"),
            ("assistant", "<|endoftext|> stays text; 你好"),
        ),
        one(("assistant", "an answer that nobody asked for")),
    ]
    return rows
