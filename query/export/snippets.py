"""Ready pieces of configuration for axolotl and LLaMA-Factory, beside the exported file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from .shape import Format

_PLAIN = re.compile(r"[A-Za-z/.][A-Za-z0-9_/.-]*")


def axolotl_yaml(format: Format, traits: Collection[str], out: str) -> tuple[str | None, str]:
    """The `datasets` entry as YAML and "", or None and why there is none."""
    entry = format.axolotl(traits)
    if isinstance(entry, str):
        return None, entry
    kind = "parquet" if out.endswith(".parquet") else "json"
    lines = ["datasets:", *_yaml({"path": out, "ds_type": kind, **entry}, "    ")]
    lines[1] = f"  - {lines[1].lstrip()}"
    return "\n".join(lines) + "\n", ""


def dataset_info(
    format: Format, traits: Collection[str], out: str, name: str
) -> tuple[str | None, str]:
    """The entry of LLaMA-Factory's dataset_info.json and "", or None and why there is none."""
    entry = format.llama_factory(traits)
    if isinstance(entry, str):
        return None, entry
    described = {name: {"file_name": os.path.basename(out), **entry}}
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n", ""


def skipped_by_llama_factory(format: Format, fields: Mapping[str, Any]) -> bool:
    """Whether LLaMA-Factory would skip the row: its turns must alternate and end in an answer."""
    if format.turns is None:
        return False
    roles = format.turns(fields)
    plain = roles[1:] if roles[:1] == ["system"] else roles
    return plain != ["user", "assistant"] * (len(plain) // 2) or not plain


def _yaml(entry: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in entry.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_yaml(value, indent + "  ")]
        else:  # a JSON string is a YAML string
            plain = _PLAIN.fullmatch(value)
            text = value if plain else json.dumps(value, ensure_ascii=False)
            lines.append(f"{indent}{key}: {text}")
    return lines
