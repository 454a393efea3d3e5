"""Where a backbone's files lie: the built-in proxy, a folder, or a snapshot from the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...schemas.errors import BackboneError, NoSuchModelError

BUILTIN = "builtin"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]


def model_folder(name: str) -> Path:
    """The local folder of a backbone named `builtin`, by a path, or by a Hugging Face name.

    A folder of that path wins over a hub name. Files from the hub land in Hugging Face's own
    cache; what is already there is used without the network.

    Raises:
        NoSuchModelError: there is no such folder or model.
        BackboneError: the hub cannot be reached.
    """
    if name == BUILTIN:
        folder = Path(__file__).resolve().parents[2] / "proxies" / BUILTIN
        if not (folder / "config.json").is_file():
            raise BackboneError(
                f"the built-in proxy is missing at {folder}: install coresetdb again, or name "
                "another backbone"
            )
        return folder
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise NoSuchModelError(
                f"{name}: the folder holds no config.json. Give the folder that "
                "`save_pretrained` of a causal LM and of its tokenizer wrote"
            )
        return folder.resolve()
    if not _HUB_NAME.fullmatch(name):
        raise NoSuchModelError(
            f"{name}: no such folder. Give `builtin`, a model's folder, or a Hugging Face name "
            "such as Qwen/Qwen3-0.6B"
        )
    return _from_hub(name)


def settled_name(name: str) -> str:
    """The same model named so that it is found from any folder: a folder's path made absolute."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name != BUILTIN and folder.is_dir() else name


def read_settings(path: Path) -> dict[str, Any]:
    """What a JSON file of a model says.

    Raises:
        BackboneError: it is damaged, or no JSON object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BackboneError(f"{path} is not JSON ({error}). Copy the model again") from error
    if not isinstance(settings, dict):
        raise BackboneError(f"{path} holds no JSON object. Copy the model again")
    return settings


def _from_hub(name: str) -> Path:
    folder = hub_snapshot(name, [*SMALL_FILES, "*.safetensors"])
    if not any(folder.glob("*.safetensors")):
        folder = hub_snapshot(name, [*SMALL_FILES, "*.bin"])
    return folder


def hub_snapshot(name: str, patterns: Sequence[str]) -> Path:
    """The local folder of those files of a model on the Hugging Face hub.

    Raises:
        NoSuchModelError: there is no such model.
        BackboneError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise BackboneError(
            f"{name}: the model is gated. Accept its terms on the hub and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise NoSuchModelError(
            f"{name}: no folder here and no such model on the Hugging Face hub. Check the name; "
            "for a private model set HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise NoSuchModelError(
            f"{name}: no folder here, and no name the Hugging Face hub allows. Give `builtin`, a "
            "model's folder, or a Hugging Face name such as Qwen/Qwen3-0.6B"
        ) from error
    # Offline mode, a dead network and a refusing server are all OSErrors there.
    except OSError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{name}: no folder here, the Hugging Face hub cannot be reached and the model is not "
            f"in its cache ({reason}). Check the name and the network, or give a model's folder"
        ) from error
