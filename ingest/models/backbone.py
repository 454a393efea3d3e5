"""A backbone at work: a causal language model with its tokenizer and chat template.

Any causal LM of transformers, in a folder or by its Hugging Face name; `builtin` is the small
proxy that comes with the package. Code that comes with a model is never run.

Memory that the libraries under a model keep after use: bounded, and given back now and then.

On a CPU, ingestion would grow by it without end, though nothing of ours does: see
docs/planning.md, "Memory".
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.errors import BackboneError, UsageError
from ...schemas.instruction import Instruction
from ..conversations.chat_template import ChatTemplate, RowRefusedError
from ..conversations.tokenization import Encoded, Encoder
from .describe import BackboneConfig, BackboneInfo, describe
from .model_folder import read_templates, settled_name

if TYPE_CHECKING:
    import torch


PARTS = 16


def padded_width(longest: int, multiple: int) -> int:
    """The width of a batch whose longest row has so many tokens.

    With a multiple above 1 it is one of few: a multiple of that, and in wide batches of a sixteenth
    of the next power of two.
    """
    if multiple > 1:
        power = 1 << max(0, longest - 1).bit_length()
        multiple = max(multiple, power // PARTS)
    return -(-longest // multiple) * multiple


KERNELS_KEPT = 512
"""Those of about 30 shapes of batches of the built-in proxy, at most 0.8 MB each."""


def bound_kernel_caches() -> None:
    """Keep few of the kernels made for shapes of batches; call before a model first runs.

    In bfloat16 every product of matrices of a new shape has its kernel made, and there are more
    shapes of batches than are worth keeping. oneDNN and torch's layer above it each keep 1,024 of
    them; both read their capacity from the environment when they are first used. What a user set
    there stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS_KEPT))


def give_back_freed() -> None:
    """Give pages that hold nothing back to the system, where the C library is glibc.

    Tensors of ever-new sizes leave holes between the kernels that live longer, and glibc gives
    back only what is free at its heap's end.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


__all__ = ["Backbone", "BackboneConfig", "BackboneInfo", "States", "describe", "resolve"]

LOGIT_ELEMENTS = 1 << 24
"""Logits made at once: 64 MB in float32."""
LOGIT_ELEMENTS_CPU = 1 << 20
LOGIT_POSITIONS_CPU = 128
"""On a CPU 4 MB, which stay in its caches, but not of so few positions that reading the head over
and over costs more."""

WIDTH_MULTIPLE = 16
"""Of batches where kernels are made for shapes, and more where they are wide: rows get a few per
cent longer, and most batches meet kernels that are kept."""

PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-3
"""Relative; what is looked for misses it by orders of magnitude (a head that caps its logits)."""


@dataclass(frozen=True)
class States:
    """What a forward leaves: `hidden` (B, T, D) after the final norm, in the compute dtype.

    `logits` (B, T, V) is there only when asked for and the head is not a plain linear layer.
    """

    hidden: torch.Tensor
    logits: torch.Tensor | None = None


class Backbone:
    """A loaded model; `encode` makes tokens, `states` and `head` run it."""

    def __init__(
        self,
        config: BackboneConfig,
        info: BackboneInfo,
        model: Any,
        encoder: Encoder,
        padding_token: int,
    ) -> None:
        self.config, self.info, self.model, self.encoder = config, info, model, encoder
        self.padding_token = padding_token
        self.device: torch.device = model.device
        self._takes_positions = (
            "position_ids" in inspect.signature(model.base_model.forward).parameters
        )
        self.width_multiple = self._width_multiple()
        self.plain_head = self._probe_head()
        self.causal = self._probe_causal()

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Read model and tokenizer; `auto` device and dtype are resolved first.

        What a user should know about the model (no chat template...) stands in `info.notices`.

        Raises:
            BackboneError: no such model, not a causal LM, weights or tokenizer missing or broken.
            UsageError: `max_length` above the model's positions, or a device that is not there.
        """
        info = describe(config)
        config = resolve(config)
        encoder, padding_token = _load_encoder(info)
        bound_kernel_caches()
        model = _load_model(info.folder, config, info.name)
        return cls(config, info, model, encoder, padding_token)

    def encode(self, instruction: Instruction) -> Encoded:
        """Tokens and masks of one conversation (see Encoder.encode for what it raises)."""
        return self.encoder.encode(instruction)

    def encode_all(self, instructions: Sequence[Instruction]) -> list[Encoded | RowRefusedError]:
        """Tokens and masks of many conversations; a refused one gives its error."""
        return self.encoder.encode_all(instructions)

    def states(self, ids: torch.Tensor, mask: torch.Tensor, logits: bool = False) -> States:
        """One forward over a padded batch.

        Args:
            ids: (B, T) int64; padding on either side.
            mask: (B, T) bool, true at tokens. States at padding mean nothing.
            logits: whether `head` will be asked for logits of this batch.
        """
        import torch

        if self.causal and bool(mask[:, 0].all()):
            # Padding at the end is seen by no token, so nothing has to be masked, and attention
            # without a mask skips the half above the diagonal.
            mask = torch.ones_like(mask)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
        if self._takes_positions:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        if not logits or self.plain_head:
            return States(self.model.base_model(**inputs, use_cache=False).last_hidden_state)
        return self._full_forward(inputs)

    def head(self, states: States, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) in float32 at n positions, given by their rows and columns."""
        if states.logits is not None:
            return states.logits[rows, columns].float()
        return self.model.get_output_embeddings()(states.hidden[rows, columns]).float()

    def logit_slices(self, positions: int) -> Iterator[slice]:
        """Slices of so many positions whose logits can be held at once."""
        step = max(1, LOGIT_ELEMENTS // self.info.vocabulary)
        if self.device.type == "cpu" and self.plain_head:  # others have all logits already
            cached = LOGIT_ELEMENTS_CPU // self.info.vocabulary
            step = min(step, max(LOGIT_POSITIONS_CPU, cached))
        for start in range(0, positions, step):
            yield slice(start, start + step)

    def _width_multiple(self) -> int:
        """What widths of batches are multiples of (see `padded_width`); 1: of nothing.

        On a CPU oneDNN makes a kernel for every new shape of a product in less than float32: 4 ms,
        six times what the product takes.
        """
        made = self.device.type == "cpu" and self.model.dtype.itemsize < 4
        longest = self.info.max_length  # no batch may be wider than that
        return WIDTH_MULTIPLE if made and padded_width(longest, WIDTH_MULTIPLE) == longest else 1

    def _full_forward(self, inputs: dict[str, Any]) -> States:
        """States and all logits from the model's own forward (its head does more than multiply)."""
        kept: list[torch.Tensor] = []
        hook = self.model.base_model.register_forward_hook(
            lambda module, args, output: kept.append(output.last_hidden_state)
        )
        try:
            logits = self.model(**inputs, use_cache=False).logits
        finally:
            hook.remove()
        return States(kept[0], logits)

    def _probe_head(self) -> bool:
        """Whether the logits are the output layer times the final states, and nothing else.

        Tried rather than looked up: Cohere scales its logits, Gemma caps them, Granite divides.
        """
        import torch

        head = self.model.get_output_embeddings()
        if head is None:
            return False
        count = min(PROBE_TOKENS, self.info.max_length)
        ids = torch.arange(count, device=self.device)[None] % self.info.vocabulary
        with torch.inference_mode():
            full = self._full_forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            assert full.logits is not None
            expected, got = full.logits.float(), head(full.hidden).float()
        return _close(got, expected)

    def _probe_causal(self) -> bool:
        """Whether a token changes nothing before it; tried as well."""
        import torch

        count = min(PROBE_TOKENS, self.info.max_length)
        ids = torch.arange(count, device=self.device).repeat(2, 1) % self.info.vocabulary
        ids[1, -1] = ids[1, 0]
        with torch.inference_mode():
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            one, other = self.model.base_model(**inputs, use_cache=False).last_hidden_state.float()
        return _close(one[:-1], other[:-1])


def _close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    error = (expected - got).norm() / expected.norm().clamp(min=1e-12)
    return bool(error < PROBE_TOLERANCE)


def resolve(config: BackboneConfig) -> BackboneConfig:
    """The same configuration with `auto` device and dtype replaced, and a folder made absolute.

    dtype auto: bfloat16 on CUDA cards that have it, float32 elsewhere: in float32 a row's features
    do not depend on the rows it was batched with, so an ingestion that was killed and called
    again ends as if it had not been.

    Raises:
        UsageError: the device is not there.
    """
    import torch

    device = config.device
    if device == "auto":
        device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    kind = device.split(":")[0]
    if kind in there and not there[kind]():
        raise UsageError(f"device {device!r} is not available here: use cpu or auto")
    dtype = config.dtype
    if dtype == "auto":
        fast = kind == "cuda" and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if fast else "float32"
    return replace(config, name=settled_name(config.name), device=device, dtype=dtype)


def _load_encoder(info: BackboneInfo) -> tuple[Encoder, int]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            info.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # its readers raise whatever a broken file makes them raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{info.name}: the tokenizer cannot be loaded ({reason}). Save tokenizer and model "
            "into the same folder"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BackboneError(
            f"{info.name}: the tokenizer has no tokenizer.json form. Convert it with transformers "
            "and save it again"
        )
    ids = backend.get_vocab(with_added_tokens=True)
    strangers = [t for t, id in ids.items() if id >= info.vocabulary and t != tokenizer.pad_token]
    if strangers:
        raise BackboneError(
            f"{info.name}: the tokenizer knows tokens the model has no embedding for "
            f"({strangers[0]!r}, ...; the model has {info.vocabulary}). Give the model's own "
            "tokenizer, or resize its embeddings and save it again"
        )
    special = {name: str(text) for name, text in tokenizer.special_tokens_map.items()}
    template = ChatTemplate(read_templates(info.folder), special)
    encoder = Encoder(backend, template, info.max_length, tokenizer.bos_token_id)
    # Padding is masked wherever it stands, so without a pad token any id of the vocabulary does.
    padding = tokenizer.pad_token_id
    return encoder, padding if padding is not None and padding < info.vocabulary else 0


def _load_model(folder: Path, config: BackboneConfig, name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, config.dtype),
                local_files_only=True,
                # Left out, transformers asks on the terminal, and a "y" runs the folder's code.
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # a damaged checkpoint raises whatever its reader raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{name}: the model cannot be loaded ({reason}). It must be a causal language model "
            "of transformers whose code needs no download (trust_remote_code stays off)"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BackboneError(
            f"{name}: the checkpoint lacks {len(missing)} weights ({missing[0]}, ...), so they "
            "would be random. Give a complete causal LM checkpoint"
        )
    if config.device.split(":")[0] == "cuda":
        # cuDNN plans its attention anew for every shape of batch, and ingestion rarely sees one
        # twice: on an H200 a shard took three times as long. The other kernels need no plan.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return model.to(config.device).eval().requires_grad_(False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for reading weights: stderr is for what a user needs to know."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
