"""Code that comes with a model (`auto_map`): it is never run, and a model that needs it is refused.

Where transformers has a class of its own for the model, it loads with that class. Only folders that
name code import transformers here: describing all others stays light.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...schemas.errors import BackboneError
from ...schemas.plain_text import first_line
from .model_folder import read_settings


def require_native(
    folder: Path, name: str, loader: Literal["AutoModelForCausalLM", "AutoModel"]
) -> None:
    """Make sure that `loader`, and AutoTokenizer, load the model without code from its folder.

    Args:
        name: what errors call the model.

    Raises:
        BackboneError: the model or its tokenizer needs code of its own.
    """
    settings = folder / "config.json"
    if _names_code(settings):
        kind = str(read_settings(settings).get("model_type", ""))
        if not _is_known(kind, loader):
            raise _refusal(name, "the model", f"transformers knows no {loader} of type {kind!r}")
    if _names_code(folder / "tokenizer_config.json"):
        reason = _unloadable_tokenizer(folder)
        if reason:
            raise _refusal(name, "the tokenizer", reason)


def _names_code(settings: Path) -> bool:
    return settings.is_file() and bool(read_settings(settings).get("auto_map"))


def _is_known(model_type: str, loader: str) -> bool:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    known = MODEL_FOR_CAUSAL_LM_MAPPING if loader == "AutoModelForCausalLM" else MODEL_MAPPING
    return model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type] in known


def _unloadable_tokenizer(folder: Path) -> str | None:
    """Why the tokenizer does not load without code of its own; None where it does."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its readers raise whatever a broken file makes them raise
        return first_line(error).partition(". ")[0]
    return None


def _refusal(name: str, part: str, reason: str) -> BackboneError:
    return BackboneError(
        f"{name}: {part} comes with code of its own (auto_map), which coresetdb never runs, and "
        f"does not load without it ({reason}). Give a model that transformers has a class for"
    )
