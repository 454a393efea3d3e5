"""A model's sizes, and whether it is a causal language model, from its config.json.

Families name their sizes differently and leave out those that equal their class's defaults, so they
are read through transformers' configuration class. Importing transformers takes seconds; a flat
file of a ...ForCausalLM that has every size under its usual name is therefore read as it is. A test
holds that both ways agree for every family of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...schemas.errors import BackboneError
from ...schemas.plain_text import first_line

CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
"""Of transformers' class names of models that predict the next token."""

_USUAL_NAMES = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")

_OTHER_POSITIONS = ("n_positions", "n_ctx", "max_seq_len", "seq_length")
"""Names of positions in classes that map none of their own to the usual name (MPT, Bloom)."""

_STATE_WIDTH = "word_embed_proj_dim"
"""Of OPT, where a last projection leaves states narrower than the layers (350M)."""

_NESTED = ("text_config", "decoder", "generator", "text_encoder")
"""Parts of a composite configuration that may hold the sizes of the text model."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the text part of a model.

    Attributes:
        hidden_size: width of the final states.
        layer_width: width of what every decoder layer gives; the same but for a few models.
        positions: the most tokens its positions allow, None where there is no limit.
    """

    hidden_size: int
    layer_width: int
    layers: int
    vocabulary: int
    positions: int | None


def sizes_of(folder: Path, settings: Mapping[str, Any], name: str) -> Sizes:
    """Return the sizes of the causal language model in `folder`.

    Args:
        settings: content of its config.json.
        name: what errors call the model.

    Raises:
        BackboneError: it is no causal language model, transformers does not know it, or its
            configuration gives no size.
    """
    if _is_plain(settings):
        return _sizes(settings, name)
    return _sizes_by_class(folder, settings, name)


def _is_plain(settings: Mapping[str, Any]) -> bool:
    architectures = settings.get("architectures") or []
    return (
        any(str(architecture).endswith(CAUSAL_SUFFIXES) for architecture in architectures)
        and not settings.get("is_encoder_decoder")
        and not any(part in settings for part in _NESTED)
        and all(isinstance(settings.get(size), int) for size in _USUAL_NAMES)
    )


def _sizes_by_class(folder: Path, settings: Mapping[str, Any], name: str) -> Sizes:
    from transformers import AutoConfig

    refuse_other_models(settings, name)
    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).get_text_config()
    except Exception as error:  # configuration classes raise whatever a value makes them raise
        raise BackboneError(
            f"{name}: transformers cannot read its config.json ({first_line(error)}). Save the "
            "model again with the installed transformers, or give another model"
        ) from error
    names = (*_USUAL_NAMES, *_OTHER_POSITIONS, _STATE_WIDTH)
    return _sizes({size: getattr(config, size, None) for size in names}, name)


def _sizes(settings: Mapping[str, Any], name: str) -> Sizes:
    missing = [size for size in _USUAL_NAMES[:3] if not settings.get(size)]
    if missing:
        raise BackboneError(
            f"{name}: its configuration gives no {missing[0]}, so it cannot be a backbone. Save "
            "the model again with save_pretrained, or give another model"
        )
    width = settings["hidden_size"]
    positions = next(
        (settings[size] for size in (_USUAL_NAMES[3], *_OTHER_POSITIONS) if settings.get(size)), 0
    )
    return Sizes(
        hidden_size=int(settings.get(_STATE_WIDTH) or width),
        layer_width=int(width),
        layers=int(settings["num_hidden_layers"]),
        vocabulary=int(settings["vocab_size"]),
        # Some classes write -1 for positions without a limit.
        positions=int(positions) if positions > 0 else None,
    )


def refuse_other_models(settings: Mapping[str, Any], name: str) -> None:
    """Refuse what is no causal language model of transformers by its type and architecture.

    Models that read images as well are accepted where AutoModelForCausalLM loads them.

    Raises:
        BackboneError: with what it is instead.
    """
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = str(settings.get("model_type", ""))
    architectures = [str(architecture) for architecture in settings.get("architectures") or []]
    what = ", ".join(architectures) or f"a model of type {kind!r}"
    if kind not in CONFIG_MAPPING:
        raise BackboneError(
            f"{name}: transformers {__version__} knows no models of type {kind!r}. Install a "
            "transformers that does, or give another model"
        )
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    by_default = getattr(CONFIG_MAPPING[kind], "is_encoder_decoder", False)
    if settings.get("is_encoder_decoder", by_default) is True:
        raise BackboneError(
            f"{name}: {what} is not a causal language model but an encoder with a decoder. Give a "
            "model whose config.json names a ...ForCausalLM architecture"
        )
    if architectures and not any(
        architecture.endswith(CAUSAL_SUFFIXES) or architecture == causal
        for architecture in architectures
    ):
        raise BackboneError(
            f"{name}: {what} is not a causal language model. Give a model whose config.json names "
            "a ...ForCausalLM architecture"
        )
    if not causal:
        raise BackboneError(
            f"{name}: transformers {__version__} has no causal language model for the type "
            f"{kind!r}. Give a model that AutoModelForCausalLM loads"
        )
