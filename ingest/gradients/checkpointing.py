"""Gradient checkpointing: keep each decoder layer's input, run the layer again in the backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..models.anatomy import decoder_layers

ACTIVATION_BYTES = 4 << 30
"""What a backward may keep where the device does not say how much memory it has."""


def worth_checkpointing(model: Any, tokens: int) -> bool:
    """Whether what autograd would keep of a batch of `tokens` is too much for the device.

    Per token and layer that is about twelve times the width (norms, attention) and six times that
    of the feed-forward network: 160 kB a token were measured with the proxy, this says 146.
    """
    config = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    per_token = config.num_hidden_layers * (12 * config.hidden_size + 6 * inner)
    room = ACTIVATION_BYTES
    if model.device.type == "cuda":
        room = _free(model.device) // 2
    return tokens * per_token * model.dtype.itemsize > room


def _free(device: torch.device) -> int:
    """Bytes that can be had: what torch has put by after earlier batches counts as free."""
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


@contextmanager
def checkpointed(model: Any, wanted: bool) -> Iterator[None]:
    """Inside the block every decoder layer is checkpointed, if wanted.

    The first run of a layer has no graph and the second has one: hooks that look at gradients
    tell the two by that, and those that look at values are done after the first.
    """
    layers = decoder_layers(model) if wanted else []
    undo: list[Any] = []
    if wanted:
        # Nothing is kept or run again for a layer none of whose inputs has a gradient.
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_hook(lambda module, args, out: out.requires_grad_())
        undo.append(hook.remove)
    for layer in layers:
        vars(layer)["forward"] = partial(_run, layer.forward)
        undo.append(partial(vars(layer).pop, "forward"))
    try:
        yield
    finally:
        for each in undo:
            each()


def _run(forward: Any, *args: Any, **kwargs: Any) -> Any:
    # The reentrant form: its second run is complete before the backward enters the layer, so
    # that inputs are there when the gradients of outputs arrive. Nothing random runs in a model
    # that is evaluated, so no generator has to be put back.
    return checkpoint(
        partial(forward, **kwargs), *args, use_reentrant=True, preserve_rng_state=False
    )
