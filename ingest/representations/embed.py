"""EMBED: a sentence encoder's vector of the text (METHODS 3.1).

Source: "targeted instruction selection" (arXiv 2602.14696): gtr-t5-base, the query behind an
instruction, candidates plain. Any model of sentence-transformers will do, static ones too.

Query side: the same vector of each target example, behind the instruction, compared by cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import BackboneError
from ..models.describe import BackboneInfo
from ..models.encoder_folder import encoder_folder, encoder_identity, encoder_width, is_static
from ..models.model_folder import settled_name
from .representation import Representation, Setup

if TYPE_CHECKING:
    from ...schemas.instruction import Instruction, Message

DEFAULT_MODEL = "sentence-transformers/gtr-t5-base"
QUERY = (
    "Instruct: Given a sample, find the passages closest to that sample.\nQuery: {prompt} {label}"
)
BATCH_CPU, BATCH_ACCELERATOR, BATCH_STATIC = 32, 256, 1024
"""Texts of a forward; they are sorted by length. It changes no vector beyond rounding."""
NO_TEXT = "no text to embed"


class Embed(Representation):
    """Columns: `embed` unit vector (float16 on disk), `embed_reason`."""

    name = "embed"
    version = 1
    paper = "arXiv 2602.14696"
    similarity = "embed"
    defaults: ClassVar[Mapping[str, Any]] = {"model": DEFAULT_MODEL}

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**options, "model": settled_name(options["model"])}

    def fields(self, setup: Setup) -> list[pa.Field]:
        width = encoder_width(encoder_folder(setup.options["model"]))
        return [
            pa.field("embed", pa.list_(pa.float16(), width)),
            pa.field("embed_reason", pa.string()),
        ]

    def identity(self, info: BackboneInfo, options: Mapping[str, Any]) -> dict[str, Any]:
        if find_spec("sentence_transformers") is None:
            raise BackboneError(
                "embed needs the package sentence-transformers: pip install 'coresetdb[embed]'"
            )
        return encoder_identity(encoder_folder(options["model"]))

    def compute(self, instructions: Sequence[Instruction], setup: Setup) -> dict[str, np.ndarray]:
        folder = encoder_folder(setup.options["model"])
        parts = [prompt_and_label(each) for each in instructions]
        usable = [index for index, part in enumerate(parts) if any(part)]
        static = is_static(folder)
        # A mean of token vectors follows no instruction: its words would only be mixed in.
        form = QUERY if setup.side == "target" and not static else "{prompt} {label}"
        texts = [form.format(prompt=parts[i][0], label=parts[i][1]).strip() for i in usable]
        vectors = np.full((len(parts), encoder_width(folder)), np.nan, dtype=np.float32)
        if texts:
            vectors[usable] = _encoder(str(folder), setup.device).encode(
                texts,
                prompt="",
                batch_size=_batch(setup.device, static),
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        norm = np.linalg.norm(vectors.astype(np.float64), axis=1)
        reason = np.full(len(parts), None, dtype=object)
        reason[~np.isfinite(norm)] = "the vector is not finite"
        reason[norm == 0] = "the vector is zero"
        reason[[index for index, part in enumerate(parts) if not any(part)]] = NO_TEXT
        missing = reason != None  # noqa: E711 (elementwise)
        norm[missing] = np.nan
        return {"embed": (vectors / norm[:, None]).astype(np.float32), "embed_reason": reason}


def prompt_and_label(instruction: Instruction) -> tuple[str, str]:
    """The last answer is the label; everything said before it, a turn a line, is the prompt."""
    texts = [_text(message) for message in instruction.messages]
    answered = bool(texts) and instruction.messages[-1].role == "assistant"
    label = texts.pop() if answered else ""
    return "\n".join(filter(None, texts)), label


def _batch(device: str, static: bool) -> int:
    if static:
        return BATCH_STATIC
    return BATCH_CPU if device == "cpu" else BATCH_ACCELERATOR


def _text(message: Message) -> str:
    return " ".join(filter(None, (message.content.strip(), message.tool_calls)))


@lru_cache(maxsize=2)
def _encoder(folder: str, device: str) -> Any:
    """The model in float32, loaded once a process."""
    from sentence_transformers import SentenceTransformer

    from ..models.backbone import quiet

    try:
        with quiet():
            loaded = SentenceTransformer(
                folder, device=device, local_files_only=True, trust_remote_code=False
            )
            model = loaded.float().eval()
    except Exception as error:  # a damaged model raises whatever its reader raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"embed: {folder} cannot be loaded ({reason}). It must be a model of "
            "sentence-transformers whose code needs no download (trust_remote_code stays off)"
        ) from error
    _require_vectors(model, folder)
    return model


def _require_vectors(model: Any, folder: str) -> None:
    import torch

    for module in model:
        if isinstance(getattr(module, "embedding", None), torch.nn.EmbeddingBag):
            rows = module.embedding.num_embeddings
            without = [each for each, id in module.tokenizer.get_vocab().items() if id >= rows]
            if without:
                raise BackboneError(
                    f"embed: {folder} has {rows:,} token vectors, and its tokenizer knows tokens "
                    f"beyond them ({without[0]!r}, ...). Copy matrix and tokenizer of one model"
                )


representation = Embed()
