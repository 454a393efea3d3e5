"""A loaded backbone: a causal language model with its tokenizer and chat template.

Any causal LM of transformers, from a folder or by its Hugging Face name; `builtin` is the small
proxy that comes with the package. Code that comes with a model is never run. The memory that the
libraries under a model keep after use would grow without end on a CPU; it is bounded, and freed
now and then (docs/planning.md, "Memory").
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.errors import BackboneError, UsageError
from ...schemas.instruction import Instruction
from ...schemas.plain_text import count_of, first_line
from ...workers.machine import threads_of_user, usable_processors
from ..conversations.chat_template import ChatTemplate, RowRefusedError
from ..conversations.tokenization import Encoded, Encoder
from .describe import BackboneConfig, BackboneInfo, describe
from .device_map import AUTO_MAP, main_device, offload_folder, spreading
from .model_folder import read_templates, settled_name

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "BackboneConfig", "BackboneInfo", "States", "describe", "resolve"]

WIDTH_MULTIPLE = 16
"""Of batches where kernels are compiled per shape: rows get a few per cent longer, and most batches
find their kernel in the cache."""

PARTS = 16
"""Wide batches have a multiple of the next power of two over this as width."""

LOGIT_ELEMENTS = 1 << 24
"""Logits made at once: 64 MB in float32."""

LOGIT_ELEMENTS_CPU = 1 << 20

LOGIT_POSITIONS_CPU = 128
"""On a CPU 4 MB, which stay in its caches, but at least so many positions, as every slice reads the
whole head."""

PROBE_TOKENS = 8

PROBE_TOLERANCE = 1e-3
"""Relative; a head that scales or caps its logits misses it by orders of magnitude."""

CAUSAL_TOLERANCE, BFLOAT16_TOLERANCE = 1e-4, 2e-2
"""Relative change of a state when half of the row, all after it, changes. Rounding is a few 1e-7
in float32 and 4e-3 in bfloat16, where different batches may meet different kernels. The change is
about 1e-1 in a trained encoder; 5e-3 in a BERT of two layers with untrained weights."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 1 << 30
"""Freed bytes at the end of the heap, and of one block, from which glibc returns memory."""


@dataclass(frozen=True)
class States:
    """The result of a forward: `hidden` (B, T, D) after the final norm, in the compute dtype.

    `logits` (B, T, V) is given only when logits were requested and the head is no plain linear
    layer.
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
        from .anatomy import text_model

        self.config, self.info, self.model, self.encoder = config, info, model, encoder
        self.padding_token = padding_token
        self.device: torch.device = main_device(model)
        self._text_model = text_model(model)
        self.width_multiple = self._width_multiple()
        self._takes_positions, self.plain_head = self._probe()

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Load model and tokenizer; `auto` device and dtype are resolved first.

        Notices for the user (such as a missing chat template) are in `info.notices`.

        Raises:
            BackboneError: no such model, not a causal LM, weights or tokenizer missing or broken.
            UsageError: `max_length` above the model's positions, or an unavailable device.
        """
        info = describe(config)
        config = resolve(config)
        encoder, padding_token = _load_encoder(info)
        bound_threads()
        if config.device == "cpu":
            keep_freed_memory()
        model = _load_model(info.folder, config, info.name)
        return cls(config, info, model, encoder, padding_token)

    def encode(self, instruction: Instruction) -> Encoded:
        """Return tokens and masks of one conversation; raises as `Encoder.encode`."""
        return self.encoder.encode(instruction)

    def encode_all(self, instructions: Sequence[Instruction]) -> list[Encoded | RowRefusedError]:
        """Return tokens and masks of many conversations; the error for a refused one."""
        return self.encoder.encode_all(instructions)

    def states(self, ids: torch.Tensor, mask: torch.Tensor, logits: bool = False) -> States:
        """Run one forward over a padded batch.

        Args:
            ids: (B, T) int64; padding on either side.
            mask: (B, T) bool, true at tokens. States at padding are undefined.
            logits: whether `head` will be called for this batch.
        """
        import torch

        from .attention import AttentionInBlocks

        if bool(mask[:, 0].all()):
            # No token sees padding at the end, so nothing has to be masked, and attention without a
            # mask skips the half above the diagonal.
            mask = torch.ones_like(mask)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
        if self._takes_positions:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        with AttentionInBlocks():
            if logits and not self.plain_head:
                return self._full_forward(inputs)
            hidden = self._text_model(**inputs, use_cache=False).last_hidden_state
        return States(hidden.to(self.device))  # a spread model ends on its last device

    def head(self, states: States, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return logits (n, V) float32 at n positions, given by their rows and columns."""
        if states.logits is not None:
            return states.logits[rows, columns].float()
        logits = self.model.get_output_embeddings()(states.hidden[rows, columns])
        return logits.float().to(self.device)

    def logit_slices(self, positions: int) -> Iterator[slice]:
        """Yield slices of `positions` whose logits fit in memory at once."""
        step = max(1, LOGIT_ELEMENTS // self.info.vocabulary)
        if self.device.type == "cpu" and self.plain_head:  # other heads gave all logits already
            cached = LOGIT_ELEMENTS_CPU // self.info.vocabulary
            step = min(step, max(LOGIT_POSITIONS_CPU, cached))
        for start in range(0, positions, step):
            yield slice(start, start + step)

    def _width_multiple(self) -> int:
        """Return what the widths of batches are multiples of (see `padded_width`), 1 for any width.

        On a CPU oneDNN compiles a kernel for every new shape of a product below float32: 4 ms, six
        times what the product takes.
        """
        compiled = self.device.type == "cpu" and self.model.dtype.itemsize < 4
        longest = self.info.max_length  # no batch may be wider than that
        return (
            WIDTH_MULTIPLE if compiled and padded_width(longest, WIDTH_MULTIPLE) == longest else 1
        )

    def _full_forward(self, inputs: dict[str, Any]) -> States:
        """Return states and all logits from the model's own forward, for any head."""
        hidden: list[torch.Tensor] = []
        hook = self._text_model.register_forward_hook(
            lambda module, args, output: hidden.append(output.last_hidden_state.to(self.device))
        )
        try:
            logits = self.model(**inputs, use_cache=False).logits
        finally:
            hook.remove()
        return States(hidden[0], logits.to(self.device))

    def _probe(self) -> tuple[bool, bool]:
        """Run a few tokens; return whether positions are given, and whether the head is plain.

        Positions are not given where the model takes none, or counts them otherwise (RoBERTa
        begins after its padding token). The head is plain where the logits are the output layer
        times the final states, and nothing else: Cohere scales its logits, Gemma 2 caps them,
        Granite divides.

        Raises:
            BackboneError: the model cannot be run, or states depend on later tokens.
        """
        import torch

        count = min(PROBE_TOKENS, self.info.max_length)
        ids = torch.arange(count, device=self.device).repeat(2, 1) % self.info.vocabulary
        ids[1, count // 2 :] = ids[0, : count - count // 2]
        try:
            with torch.inference_mode():
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                full = self._full_forward(inputs)
                assert full.logits is not None
                plain = self._is_plain(full.hidden, full.logits)
                positions = self._counts_positions(inputs, full.hidden)
        except BackboneError:
            raise
        except Exception as error:  # the model's own code raises whatever it meets
            raise BackboneError(
                f"{self.info.name}: {self._architecture} cannot be run ({first_line(error)}). "
                "Give another model"
            ) from error
        if full.hidden.shape != (2, count, self.info.hidden_size):
            raise BackboneError(
                f"{self.info.name}: {self._architecture} gives states of the shape "
                f"{tuple(full.hidden.shape)} for 2 rows of {count} tokens, where config.json says "
                f"{self.info.hidden_size} numbers a token. Give another model"
            )
        self._require_causal(full.hidden[:, : count // 2])
        return positions, plain

    def _is_plain(self, hidden: torch.Tensor, logits: torch.Tensor) -> bool:
        head = self.model.get_output_embeddings()
        if head is None:
            return False
        return _close(head(hidden).float().to(self.device), logits.float())

    def _counts_positions(self, inputs: dict[str, Any], hidden: torch.Tensor) -> bool:
        """Return whether the model takes positions, and counts them from 0 by itself."""
        import torch

        if "position_ids" not in inspect.signature(self._text_model.forward).parameters:
            return False
        ids = inputs["input_ids"]
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        given = self._text_model(**inputs, position_ids=positions, use_cache=False)
        return _close(given.last_hidden_state.float().to(self.device), hidden.float())

    def _require_causal(self, first_states: torch.Tensor) -> None:
        """Refuse a model whose states before the first token that differs are not the same.

        The median over tokens is taken: in a mixture of experts rounding may send one of them to
        another expert.

        Args:
            first_states: (2, t, D), of two rows that begin alike.
        """
        one, other = first_states.float()
        change = (one - other).norm(dim=1) / one.norm(dim=1).clamp(min=1e-12)
        tolerance = CAUSAL_TOLERANCE if first_states.dtype.itemsize >= 4 else BFLOAT16_TOLERANCE
        if bool(change.median() > tolerance):
            raise BackboneError(
                f"{self.info.name}: {self._architecture} is not a causal language model: what it "
                "makes of a token changes with later tokens, so answers would be seen before they "
                "are predicted. Give a model that was trained to predict the next token"
            )

    @property
    def _architecture(self) -> str:
        return type(self.model).__name__


def _close(computed: torch.Tensor, expected: torch.Tensor) -> bool:
    if computed.shape != expected.shape:
        return False
    error = (expected - computed).norm() / expected.norm().clamp(min=1e-12)
    return bool(error < PROBE_TOLERANCE)


def padded_width(longest: int, multiple: int) -> int:
    """Return the width of a batch whose longest row has `longest` tokens.

    With a `multiple` above 1 it is one of few: a multiple of that, and in wide batches of a
    sixteenth (`PARTS`) of the next power of two.
    """
    if multiple > 1:
        power = 1 << max(0, longest - 1).bit_length()
        multiple = max(multiple, power // PARTS)
    return -(-longest // multiple) * multiple


def resolve(config: BackboneConfig) -> BackboneConfig:
    """Return the configuration with `auto` device and dtype replaced, and a folder made absolute.

    dtype `auto` is bfloat16 on CUDA devices that support it and float32 elsewhere. In float32 a
    row's features do not depend on the rows it was batched with, so an ingestion that was killed
    and resumed gives the same result as one that was not.

    Raises:
        UsageError: the device is not available.
    """
    import torch

    device = config.device
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device == "auto":
        device = next((name for name, test in available.items() if test()), "cpu")
    kind = device.split(":")[0]
    if kind in available and not available[kind]():
        raise UsageError(f"device {device!r} is not available here: use cpu or auto")
    dtype = config.dtype
    if dtype == "auto":
        on_cuda = kind == "cuda" or (device == AUTO_MAP and torch.cuda.is_available())
        fast = on_cuda and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if fast else "float32"
    return replace(config, name=settled_name(config.name), device=device, dtype=dtype)


def _load_encoder(info: BackboneInfo) -> tuple[Encoder, int]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            info.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # its readers raise whatever a broken file makes them raise
        raise BackboneError(
            f"{info.name}: the tokenizer cannot be loaded ({first_line(error)}). Save tokenizer "
            "and model into the same folder"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BackboneError(
            f"{info.name}: the tokenizer has no tokenizer.json form. Convert it with transformers "
            "and save it again"
        )
    ids = backend.get_vocab(with_added_tokens=True)
    without = [t for t, id in ids.items() if id >= info.vocabulary and t != tokenizer.pad_token]
    if without:
        raise BackboneError(
            f"{info.name}: the tokenizer knows tokens the model has no embedding for "
            f"({without[0]!r}, ...; the model has {info.vocabulary}). Give the model's own "
            "tokenizer, or resize its embeddings and save it again"
        )
    special = {name: str(text) for name, text in tokenizer.special_tokens_map.items()}
    template = ChatTemplate(read_templates(info.folder), special)
    encoder = Encoder(backend, template, info.max_length, tokenizer.bos_token_id, info.reasoning)
    # Padding is masked, so without a pad token any id of the vocabulary will do.
    padding = tokenizer.pad_token_id
    return encoder, padding if padding is not None and padding < info.vocabulary else 0


def _load_model(folder: Path, config: BackboneConfig, name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    on_disk = offload_folder() if config.device == AUTO_MAP else None
    try:
        with without_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, config.dtype),
                local_files_only=True,
                # Left out, transformers asks on the terminal, and a "y" runs the folder's code.
                trust_remote_code=False,
                output_loading_info=True,
                **(spreading(Path(on_disk.name)) if on_disk else {}),
            )
    except Exception as error:  # a damaged checkpoint raises whatever its reader raises
        raise BackboneError(
            f"{name}: the model cannot be loaded ({first_line(error)}). It must be a causal "
            "language model of transformers whose code needs no download (trust_remote_code stays "
            "off)"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BackboneError(
            f"{name}: the checkpoint lacks {count_of(len(missing), 'weight')} (such as "
            f"{missing[0]}), which would be random. Give a complete causal LM checkpoint"
        )
    if main_device(model).type == "cuda" or config.device.split(":")[0] == "cuda":
        # cuDNN plans its attention anew for every batch shape, and ingestion rarely repeats one:
        # on an H200 a shard took three times as long. The other kernels need no plan.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if on_disk:
        model.coresetdb_weights = on_disk  # as long as there is the model
    else:
        model = model.to(config.device)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars and remarks inside the block."""
    from transformers.utils import logging

    spreading_log = getLogger("accelerate.big_modeling")
    enabled, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    before = spreading_log.level
    spreading_log.setLevel("ERROR")
    try:
        yield
    finally:
        spreading_log.setLevel(before)
        logging.set_verbosity(verbosity)
        if enabled:
            logging.enable_progress_bar()


def bound_threads() -> None:
    """Have torch use no more threads than there are processors to use; a user's number stays.

    torch counts those of the machine: in a container that may use 2 of 64, threads wait for one
    another most of the time.
    """
    import torch

    processors = usable_processors()
    if threads_of_user() is None and torch.get_num_threads() > processors:
        torch.set_num_threads(processors)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensors, until `release_freed_memory`.

    By itself it returns a large tensor's memory at once, and the next one meets new pages, which
    are zeroed one by one: a tenth of the time of a pass. Limits set by the user are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, variable in (
            (M_MMAP_THRESHOLD, "MALLOC_MMAP_THRESHOLD_"),
            (M_TRIM_THRESHOLD, "MALLOC_TRIM_THRESHOLD_"),
        ):
            if variable not in os.environ:
                mallopt(option, KEPT_BYTES)


def release_freed_memory() -> None:
    """Return freed memory to the system, where the C library is glibc.

    Tensors of changing sizes leave holes between kernels that live longer, and glibc by itself
    returns only what is free at the end of its heap.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
