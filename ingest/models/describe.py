"""Describe a backbone from its files alone: its sizes, and the identity features depend on.

This module imports no torch, so opening a store, planning and comparing fingerprints stay light.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...schemas.canonical import digest, digest_of
from ...schemas.errors import BackboneError, UsageError
from ..conversations.chat_template import PLAIN_TEMPLATE, ChatTemplate
from ..conversations.limits import shows_all_reasoning, template_notices
from ..conversations.template_environment import TEMPLATE_DATE
from ..conversations.tokenization import REASONING_MODES, ReasoningMode
from .custom_code import require_native
from .model_folder import (
    hash_file,
    hash_weights,
    model_folder,
    read_settings,
    read_special_tokens,
    read_templates,
)
from .sizes import sizes_of

DEFAULT_MAX_LENGTH = 2048
"""Tokens of a row by default, as LESS and RDS+ use."""

ENCODING_VERSION = 1
"""Rises when the same text would become other tokens or masks."""

DEVICES = ("auto", "auto-map", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
_TOKENIZER_KEYS = (
    "tokenizer_class",
    "bos_token",
    "eos_token",
    "unk_token",
    "add_prefix_space",
    "legacy",
    "additional_special_tokens",
    "extra_special_tokens",
    "added_tokens_decoder",
)
# Entries of config.json that change no number a model gives.
_CONFIG_NOISE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


@dataclass(frozen=True)
class BackboneConfig:
    """Which model, where it runs, and how it reads rows.

    Attributes:
        max_length: tokens a row may have.
        reasoning: what becomes of the reasoning of answers.
    """

    name: str = "builtin"
    device: str = "auto"
    dtype: str = "auto"
    max_length: int | None = None
    reasoning: ReasoningMode = "template"

    def __post_init__(self) -> None:
        if self.device.split(":")[0] not in DEVICES:
            raise UsageError(f"device {self.device!r}: choose one of {', '.join(DEVICES)}")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        if self.max_length is not None and self.max_length < 2:
            raise UsageError(f"max length {self.max_length}: a row needs at least 2 tokens")
        if self.reasoning not in REASONING_MODES:
            raise UsageError(
                f"reasoning {self.reasoning!r}: choose one of {', '.join(REASONING_MODES)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; `BackboneConfig(**config.as_dict())` equals this."""
        values = asdict(self)
        if self.reasoning == "template":  # versions that know no other one read the rest
            del values["reasoning"]
        return values


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone's sizes and identity.

    Attributes:
        name: as the user gave it.
        folder: of its files.
        hidden_size: width of the final hidden states.
        layer_width: width of what every decoder layer gives.
        positions: the most tokens the model's positions allow, None where there is no limit.
        max_length: tokens a row is truncated to.
        reasoning: what becomes of the reasoning of answers.
        identity: JSON values that enter `Recipe.backbone`: hashes of weights, configuration,
            tokenizer and template, and the truncation. Neither device nor compute dtype.
        notices: sentences for the user, to be shown once.
    """

    name: str
    folder: Path
    model_type: str
    hidden_size: int
    layer_width: int
    layers: int
    vocabulary: int
    positions: int | None
    max_length: int
    identity: dict[str, Any]
    reasoning: ReasoningMode = "template"
    notices: tuple[str, ...] = ()


def describe(config: BackboneConfig) -> BackboneInfo:
    """Return sizes and identity of a backbone, from its files (hashes of weights are cached).

    Raises:
        BackboneError: no such model, not a causal LM, one that needs code of its own, weights or
            tokenizer missing, a chat template that does not compile.
        UsageError: `max_length` is above the model's positions.
    """
    folder = model_folder(config.name)
    model = read_settings(folder / "config.json")
    require_native(folder, config.name, "AutoModelForCausalLM")
    sizes = sizes_of(folder, model, config.name)
    notices: list[str] = []
    templates = read_templates(folder)
    if not templates:
        notices.append(
            f"{config.name}: the tokenizer has no chat template; rows are rendered with "
            "coresetdb's plain one (### User: / ### Assistant:)"
        )
    template = ChatTemplate(templates, read_special_tokens(folder))
    if templates:
        sentences = template_notices(template, config.reasoning == "template")
        notices += [f"{config.name}: {sentence}" for sentence in sentences]
    max_length = _max_length(config, sizes.positions)
    return BackboneInfo(
        name=config.name,
        folder=folder,
        model_type=str(model.get("model_type", "")),
        hidden_size=sizes.hidden_size,
        layer_width=sizes.layer_width,
        layers=sizes.layers,
        vocabulary=sizes.vocabulary,
        positions=sizes.positions,
        max_length=max_length,
        identity={
            "weights": digest_of(hash_weights(weight_files(folder, config.name))),
            "config": digest_of({k: v for k, v in model.items() if k not in _CONFIG_NOISE}),
            "tokenizer": _tokenizer_hash(folder, config.name),
            "template": digest_of(templates) if templates else "plain " + digest(PLAIN_TEMPLATE),
            "template_date": TEMPLATE_DATE.isoformat(),
            "max_length": max_length,
            "truncation": "left of the prompt",
            "encoding": ENCODING_VERSION,
            **_reasoning_identity(config.reasoning, template),
        },
        reasoning=config.reasoning,
        notices=tuple(notices),
    )


def _reasoning_identity(mode: ReasoningMode, template: ChatTemplate) -> dict[str, Any]:
    """The mode, where it makes other features than the template itself would."""
    if mode == "template" or (mode == "as-response" and shows_all_reasoning(template)):
        return {}
    return {"reasoning": mode}


def _max_length(config: BackboneConfig, positions: int | None) -> int:
    if config.max_length is None:
        return min(DEFAULT_MAX_LENGTH, positions or DEFAULT_MAX_LENGTH)
    if positions is not None and config.max_length > positions:
        raise UsageError(
            f"max length {config.max_length} is above the {positions} positions of {config.name}: "
            f"give at most {positions}"
        )
    return config.max_length


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a model's weights.

    Raises:
        BackboneError: there are none.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise BackboneError(f"{name}: no weights (*.safetensors or pytorch_model*.bin) in {folder}")
    return files


def weights_bytes(info: BackboneInfo, dtype: str) -> float:
    """Return the bytes of a model's weights in a compute dtype, from the sizes of its files."""
    settings = read_settings(info.folder / "config.json")
    stored = str(settings.get("dtype") or settings.get("torch_dtype") or "float32")
    size = sum(file.stat().st_size for file in weight_files(info.folder, info.name))
    return size * (2 if dtype == "bfloat16" else 4) / (2 if stored.endswith("16") else 4)


def _tokenizer_hash(folder: Path, name: str) -> str:
    files = [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
    if not any(file.name in ("tokenizer.json", "tokenizer.model", "vocab.json") for file in files):
        raise BackboneError(
            f"{name}: the tokenizer is missing in {folder}. Save it there as well "
            "(tokenizer.save_pretrained)"
        )
    parts: dict[str, Any] = {file.name: hash_file(file) for file in files}
    config = folder / "tokenizer_config.json"
    if config.is_file():
        settings = read_settings(config)
        parts[config.name] = {key: settings[key] for key in _TOKENIZER_KEYS if key in settings}
    return digest_of(parts)
