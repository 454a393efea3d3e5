"""Tiny random sentence-transformers models, saved as theirs are, for tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.tiny_models import VOCABULARY, save_tiny_tokenizer

STATIC_WIDTH = 12
_FOLDERS: list[TemporaryDirectory[str]] = []  # removed when the process ends


@cache
def tiny_encoder(kind: str = "bert", dense: bool = True) -> Path:
    """A saved encoder of width 32, or 24 behind a dense layer; bert or t5."""
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, T5Config, T5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    _FOLDERS.append(TemporaryDirectory(prefix=f"tiny-{kind}-"))
    folder = Path(_FOLDERS[-1].name)
    save_tiny_tokenizer(folder / "inner", template=None)
    torch.manual_seed(0)
    if kind == "bert":
        inner = BertModel(
            BertConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=48,
                max_position_embeddings=64,
                pad_token_id=6,
            )
        )
    else:
        inner = T5EncoderModel(
            T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2)
        )
    with torch.no_grad():
        for weight in inner.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.3)
    inner.save_pretrained(folder / "inner")
    modules = [
        models.Transformer(str(folder / "inner"), max_seq_length=64),
        models.Pooling(32, pooling_mode="mean"),
    ]
    if dense:
        modules += [models.Dense(32, 24), models.Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


@cache
def tiny_static(half: bool = False) -> Path:
    """A saved table of random token vectors (float16 if `half`), without a transformer."""
    import numpy as np
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import Tokenizer

    _FOLDERS.append(TemporaryDirectory(prefix="tiny-static-"))
    folder = Path(_FOLDERS[-1].name)
    save_tiny_tokenizer(folder / "inner", template=None)
    tokenizer = Tokenizer.from_file(str(folder / "inner" / "tokenizer.json"))
    matrix = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), STATIC_WIDTH))
    matrix = matrix.astype(np.float16 if half else np.float32)
    table = models.StaticEmbedding(tokenizer, embedding_weights=matrix)
    SentenceTransformer(modules=[table], device="cpu").save(str(folder / "model"))
    return folder / "model"
