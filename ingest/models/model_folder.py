"""A model's files: the built-in proxy, a folder, or a snapshot from the hub; settings and hashes.

Hashes of weights are cached, so that a large checkpoint is read only once. The cache is one JSON
file in the user's cache folder: path -> [bytes, mtime in ns, hash]. A changed file is hashed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from ...schemas.environment import expanded, home_folder
from ...schemas.errors import BackboneError, NoSuchModelError
from ...schemas.plain_text import first_line
from ..conversations.chat_template import DEFAULT

BUILTIN = "builtin"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]
READ_BYTES = 8 << 20


def model_folder(name: str) -> Path:
    """Return the local folder of a backbone named `builtin`, by a path or by a Hugging Face name.

    An existing folder wins over a hub name. Files from the hub go into Hugging Face's own cache;
    those already in it are used without the network.

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
    folder = expanded(name)
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
    """Return a name that holds in any working directory: a folder's path made absolute."""
    folder = expanded(name)
    return str(folder.resolve()) if name != BUILTIN and folder.is_dir() else name


def _from_hub(name: str) -> Path:
    folder = hub_snapshot(name, [*SMALL_FILES, "*.safetensors"])
    if not any(folder.glob("*.safetensors")):
        folder = hub_snapshot(name, [*SMALL_FILES, "*.bin"])
    return folder


def hub_snapshot(name: str, patterns: Sequence[str]) -> Path:
    """Return the local folder of the files of a model on the hub that match `patterns`.

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
        raise BackboneError(
            f"{name}: no folder here, the Hugging Face hub cannot be reached and the model is not "
            f"in its cache ({first_line(error)}). Check the name and the network, or give a "
            "model's folder"
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a model.

    Raises:
        BackboneError: it is not a JSON object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BackboneError(f"{path} is not JSON ({error}). Copy the model again") from error
    if not isinstance(settings, dict):
        raise BackboneError(f"{path} holds no JSON object. Copy the model again")
    return settings


def read_templates(folder: Path) -> dict[str, str]:
    """Return name -> Jinja text of the chat templates in a model folder; it may have none.

    Raises:
        BackboneError: tokenizer_config.json cannot be read.
    """
    templates: dict[str, str] = {}
    config = folder / "tokenizer_config.json"
    if config.is_file():
        entry = read_settings(config).get("chat_template")
        if isinstance(entry, str):
            templates[DEFAULT] = entry
        elif isinstance(entry, list):
            templates |= {template["name"]: template["template"] for template in entry}
    # Separate files win over the entry, as in transformers.
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    if (folder / "chat_template.jinja").is_file():
        templates[DEFAULT] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return templates


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Return bos_token, eos_token... of a model folder, for its templates.

    Raises:
        BackboneError: a file cannot be read.
    """
    tokens: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = read_settings(folder / file) if (folder / file).is_file() else {}
        for name, token in settings.items():
            text = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(text, str):
                tokens[name] = text
    return tokens


def hash_weights(paths: Sequence[Path]) -> dict[str, str]:
    """Return file name -> xxh3-128, from the cache where size and mtime still agree."""
    cache = _read_cache()
    hashes: dict[str, str] = {}
    fresh: dict[str, list[int | str]] = {}
    for path in paths:
        real = str(path.resolve())
        stat = path.stat()
        known = cache.get(real)
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            hashes[path.name] = str(known[2])
        else:
            hashes[path.name] = hash_file(path)
            fresh[real] = [stat.st_size, stat.st_mtime_ns, hashes[path.name]]
    if fresh:
        there = {path: known for path, known in _read_cache().items() if os.path.exists(path)}
        _write_cache(there | fresh)
    return hashes


def hash_file(path: Path) -> str:
    """Return xxh3-128 of a file's bytes, as 32 hexadecimal digits."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            state.update(block)
    return state.hexdigest()


def cache_file() -> Path:
    """Return the file of cached hashes, below $XDG_CACHE_HOME, or ~/.cache where that is unset."""
    root = os.environ.get("XDG_CACHE_HOME") or str(home_folder() / ".cache")
    return Path(root) / "coresetdb" / "weight_hashes.json"


def _read_cache() -> dict[str, list[int | str]]:
    try:
        cache = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # missing, or cut off by a crash: the hashes are computed again
    return cache if isinstance(cache, dict) else {}


def _write_cache(cache: dict[str, list[int | str]]) -> None:
    target = cache_file()
    # With a read-only home the files are hashed again each time.
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".weight_hashes")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(cache, file, indent=0)
        os.replace(name, target)
