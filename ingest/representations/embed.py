"""EMBED: a sentence encoder's vector of the text.

Source: "targeted instruction selection" (arXiv 2602.14696): gtr-t5-base, queries after an
instruction, candidates without one. Any model of sentence-transformers works, static ones too; its
width and identity are read from its files, without loading it.

Query side: the same vector of each target example, after the instruction, compared by cosine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.canonical import digest_of
from ...schemas.environment import expanded
from ...schemas.errors import BackboneError
from ...schemas.plain_text import first_line
from ..models.custom_code import require_native
from ..models.describe import BackboneInfo
from ..models.model_folder import (
    SMALL_FILES,
    hash_file,
    hash_weights,
    hub_snapshot,
    read_settings,
    settled_name,
)
from .representation import Representation, Setup
from .stored import STORED, check_stored, vector_type

if TYPE_CHECKING:
    from ...schemas.instruction import Instruction, Message

DEFAULT_MODEL = "sentence-transformers/gtr-t5-base"
QUERY = (
    "Instruct: Given a sample, find the passages closest to that sample.\nQuery: {prompt} {label}"
)

BATCH_CPU, BATCH_ACCELERATOR, BATCH_STATIC = 32, 256, 1024
"""Texts of a forward, sorted by length; vectors do not depend on it but for rounding."""

NO_TEXT = "no text to embed"
MODULES = "modules.json"
# Settings that change no number: where a file came from, who wrote it, prompts (never used here).
_NOISE = (
    *("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype"),
    *("use_cache", "is_local", "local_files_only", "tokenizer_file", "special_tokens_map_file"),
)
_UNUSED_FILES = (MODULES, "config_sentence_transformers.json")
_SAME_WIDTH = ("normalize", "layernorm", "dropout")
_STATIC = "staticembedding"
_MATRICES = ("embedding.weight", "embeddings")  # the second is model2vec's name
_POOLING_MODES = "pooling_mode_"


class Embed(Representation):
    """Columns: `embed` unit vector (type: `stored`), `embed_reason`."""

    name = "embed"
    version = 1
    paper = "arXiv 2602.14696"
    sees = "text vectors"
    similarity = "embed"
    query_defaults: ClassVar[Mapping[str, Any]] = {"centre": "none"}
    query_choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"centre": ("none", "pool")}
    defaults: ClassVar[Mapping[str, Any]] = {"model": DEFAULT_MODEL, **STORED}
    implied: ClassVar[Mapping[str, Any]] = STORED

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        check_stored(self.name, options)
        return {**options, "model": settled_name(options["model"])}

    def fields(self, setup: Setup) -> list[pa.Field]:
        width = encoder_width(encoder_folder(setup.options["model"]))
        return [
            pa.field("embed", vector_type(setup.options, width)),
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
        parts = [prompt_and_label(instruction) for instruction in instructions]
        usable = [index for index, part in enumerate(parts) if any(part)]
        static = is_static(folder)
        # A mean of token vectors cannot follow an instruction; its words would only be mixed in.
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
    """Return everything before the last answer, one turn a line, and the last answer."""
    texts = [_text(message) for message in instruction.messages]
    answered = bool(texts) and instruction.messages[-1].role == "assistant"
    label = texts.pop() if answered else ""
    return "\n".join(filter(None, texts)), label


def _text(message: Message) -> str:
    return " ".join(filter(None, (message.text.strip(), message.tool_calls)))


def _batch(device: str, static: bool) -> int:
    if static:
        return BATCH_STATIC
    return BATCH_CPU if device == "cpu" else BATCH_ACCELERATOR


@lru_cache(maxsize=2)
def _encoder(folder: str, device: str) -> Any:
    """Load the model in float32, once a process."""
    from sentence_transformers import SentenceTransformer

    from ..models.backbone import without_progress_bars

    try:
        with without_progress_bars():
            loaded = SentenceTransformer(
                folder, device=device, local_files_only=True, trust_remote_code=False
            )
            model = loaded.float().eval()
    except Exception as error:  # a damaged model raises whatever its reader raises
        raise BackboneError(
            f"embed: {folder} cannot be loaded ({first_line(error)}). It must be a model of "
            "sentence-transformers whose code needs no download (trust_remote_code stays off)"
        ) from error
    _require_vectors(model, folder)
    return model


def _require_vectors(model: Any, folder: str) -> None:
    import torch

    for module in model:
        if isinstance(getattr(module, "embedding", None), torch.nn.EmbeddingBag):
            rows = module.embedding.num_embeddings
            vocabulary = module.tokenizer.get_vocab()
            without = [token for token, id in vocabulary.items() if id >= rows]
            if without:
                raise BackboneError(
                    f"embed: {folder} has {rows:,} token vectors, but its tokenizer has tokens "
                    f"beyond them (such as {without[0]!r}). Use the matrix and the tokenizer of "
                    "one model"
                )


def encoder_folder(name: str) -> Path:
    """Return the local folder of a model named by a path or a Hugging Face name.

    Raises:
        BackboneError: there is none, or it is no sentence-transformers model.
    """
    folder = expanded(name)
    if not folder.is_dir():
        try:
            folder = hub_snapshot(name, [*SMALL_FILES, "*.safetensors", "*/pytorch_model.bin"])
            if not any(folder.rglob("*.safetensors")):
                folder = hub_snapshot(name, [*SMALL_FILES, "*.bin"])
        except BackboneError as error:
            raise type(error)(
                f"embed: {error}. With network access, `hf download {name}` puts it into the "
                "cache; a copy of its folder also works: embed:model=FOLDER. "
                "To leave it out: --features paper,-embed"
            ) from error
    if not (folder / MODULES).is_file():
        raise BackboneError(
            f"embed: {name} has no {MODULES}, so it is not a sentence-transformers model. Give a "
            "folder that its `save` wrote, or a name such as sentence-transformers/gtr-t5-base"
        )
    return folder


def encoder_width(folder: Path) -> int:
    """Return the numbers of an embedding.

    Raises:
        BackboneError: the files do not say, or name an unknown kind of module.
    """
    width = None
    for kind, place in _modules(folder):
        if kind == "pooling":
            settings = read_settings(place / "config.json")
            tokens = settings.get("embedding_dimension") or settings.get("word_embedding_dimension")
            width = tokens and tokens * _modes(settings)
        elif kind == "dense":
            width = read_settings(place / "config.json").get("out_features")
        elif kind == _STATIC:
            width = _matrix_width(place / "model.safetensors")
        elif kind != "transformer" and kind not in _SAME_WIDTH:
            raise BackboneError(
                f"embed: {folder} has a module of a kind that is not known here ({kind}). Choose a "
                "model of transformer, pooling, dense and normalisation, or of static embeddings"
            )
    if not width:
        raise BackboneError(
            f"embed: the files of {folder} do not tell how wide its embeddings are. Save it again "
            "with sentence-transformers"
        )
    return int(width)


def is_static(folder: Path) -> bool:
    """Return whether it is a mean of token vectors: no layer mixes tokens, no text is too long."""
    return any(kind == _STATIC for kind, _ in _modules(folder))


def encoder_identity(folder: Path) -> dict[str, Any]:
    """Return hashes of everything its embeddings depend on (those of weights are cached).

    Raises:
        BackboneError: it has no weights, or needs code of its own.
    """
    modules = _modules(folder)
    for kind, place in modules:
        if kind == "transformer":
            require_native(place, f"embed: {folder}", "AutoModel")
    parts: dict[str, Any] = {"modules": [kind for kind, _ in modules]}
    weights = 0
    for place in dict.fromkeys(place for _, place in modules):
        name = str(place.relative_to(folder))
        files = sorted(place.glob("*.safetensors")) or sorted(place.glob("pytorch_model*.bin"))
        parts[f"{name} weights"] = hash_weights(files)
        weights += len(files)
        for file in sorted(path for pattern in SMALL_FILES for path in place.glob(pattern)):
            if file.name not in _UNUSED_FILES and place in file.parents:
                parts[f"{name} {file.name}"] = _hash(file)
    if not weights:
        raise BackboneError(f"embed: no weights (*.safetensors or pytorch_model*.bin) in {folder}")
    return {"encoder": digest_of(parts)}


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return kind and folder of each module, in order.

    Raises:
        BackboneError: the list is damaged, or names a class from outside sentence-transformers:
            versions before 6 import such a class from the folder without being allowed to.
    """
    try:
        listed = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        modules = [(str(module["type"]), folder / module["path"]) for module in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise BackboneError(
            f"embed: {folder / MODULES} lists no modules ({error}). Copy the model again"
        ) from error
    for type_, _ in modules:
        if not type_.startswith("sentence_transformers."):
            raise BackboneError(
                f"embed: {folder} has a module with custom code ({type_}), which coresetdb never "
                "runs. Choose a model whose modules all come from sentence-transformers"
            )
    return [(type_.rpartition(".")[2].lower(), place) for type_, place in modules]


def _matrix_width(file: Path) -> int | None:
    """Return the columns of a matrix of token vectors, from the file's header; None if unknown."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as tensors:
            names = set(tensors.keys())
            shapes = [tensors.get_slice(name).get_shape() for name in _MATRICES if name in names]
    except SafetensorError as error:
        raise BackboneError(f"embed: {file} is damaged ({error}). Copy the model again") from error
    # Versions of sentence-transformers differ in whether they combine such parts at all.
    if shapes and names & {"mapping", "weights"}:
        raise BackboneError(
            f"embed: {file} keeps its token vectors in parts (a quantised vocabulary). Load "
            "and `save` it with a current sentence-transformers, which makes one matrix of them"
        )
    return shapes[0][1] if shapes and len(shapes[0]) == 2 else None


def _modes(settings: dict[str, Any]) -> int:
    """Return how many poolings are concatenated (older files have a flag for each)."""
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [key for key, on in settings.items() if key.startswith(_POOLING_MODES) and on]
    return 1 if isinstance(modes, str) else len(modes)


def _hash(file: Path) -> str:
    if file.suffix != ".json" or file.name in ("tokenizer.json", "vocab.json"):
        return hash_file(file)
    settings = read_settings(file)
    return digest_of({key: value for key, value in settings.items() if key not in _NOISE})


representation = Embed()
