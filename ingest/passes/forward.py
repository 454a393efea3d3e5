"""Run a model once over one batch, or over many rows, for all reducers that need it.

States and logits live no longer than the batch, and a layer's states no longer than its hook:
reducers compute columns from them. Logits are made for response tokens only, a slice at a time.
Where a reducer needs gradients, the same forward is followed by one backward, from the derivative
of each row's mean response loss by the final states. That derivative is computed by hand (softmax
minus one-hot), so that the logits of a slice are freed before the next slice. Where the activations
would not fit the device, each decoder layer keeps its input alone and runs again in the backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from ...schemas.errors import BackboneError
from ...store.catalog import Artifact
from ..conversations.tokenization import Encoded
from ..models.anatomy import decoder_layers, forward_replaced
from ..models.attention import AttentionInBlocks, in_blocks
from ..models.backbone import Backbone, States
from ..models.batches import Batch, batches_of, tokens_per_batch
from ..models.device_map import require_backward, require_one_device
from .adapters import adapter_applied
from .feed_forward import neuron_hooks
from .gradients import gradient_hooks
from .reducer import Collector, PassInputs, Reducer
from .token_skipping import final_states_only_at

ACTIVATION_BYTES = 4 << 30
"""Activations that a backward may keep where the free memory of the device is unknown."""

ReducersWithInputs = Sequence[tuple[PassInputs, Reducer]]


def run_pass(
    backbone: Backbone,
    batch: Batch,
    reducers: ReducersWithInputs,
    adapter: Artifact | None = None,
    checkpointing: bool | None = None,
) -> None:
    """Run the model once over a batch and pass each reducer what it needs.

    Args:
        adapter: applied to the model.
        checkpointing: run every layer a second time instead of keeping its activations; by default
            where these would not fit the device.

    Raises:
        BackboneError: the model is spread over devices, and cannot give gradients or take an
            adapter so.
    """
    model = backbone.model
    if adapter is not None:
        require_one_device(model)
    if any(needs.gradients for needs, _ in reducers):
        require_backward(model)
    of_logits = [reducer for needs, reducer in reducers if needs.logits]
    of_gradients = [reducer for needs, reducer in reducers if needs.gradients]
    if checkpointing is None:
        checkpointing = bool(of_gradients) and worth_checkpointing(model, batch.ids.shape)
    with (
        torch.enable_grad() if of_gradients else torch.inference_mode(),
        _only_predicting_tokens(backbone, batch, reducers, adapter),
        adapter_applied(model, adapter) as adapted,
        layer_hooks(
            model,
            [reducer for needs, reducer in reducers if needs.layers],
            batch.ids,
        ),
        neuron_hooks(model, [reducer for needs, reducer in reducers if needs.neurons], batch.ids),
        checkpointed(model, checkpointing and bool(of_gradients)),
        gradient_hooks(model, batch, adapted, of_gradients),
    ):
        states = backbone.states(batch.ids, batch.mask, logits=bool(of_logits or of_gradients))
        for needs, reducer in reducers:
            if needs.hidden:
                reducer.hidden(states.hidden.detach())
        if of_logits or of_gradients:
            _reduce_logits(backbone, batch, states, of_logits, bool(of_gradients))


def pass_over(
    backbone: Backbone,
    rows: Sequence[Encoded | None],
    collectors: Sequence[Collector],
    adapter: Artifact | None = None,
    report: Callable[[float], None] = lambda done: None,
) -> None:
    """Run the model once over every row that a collector reads.

    Args:
        rows: None for those that no collector reads.
        adapter: applied to the model.
        report: called with the share of the tokens that is done.
    """
    places = np.unique(np.concatenate([collector.places for collector in collectors]))
    chosen = [row for place in places if (row := rows[place]) is not None]
    tokens, done = sum(map(len, chosen)), 0
    for members, batch in batches_of(backbone, chosen, tokens_per_batch(backbone.device)):
        batch_places = places[members].tolist()
        collecting = [
            (collector, collector.reducer(batch, batch_places))
            for collector in collectors
            if np.isin(batch_places, collector.places).any()
        ]
        reducers = [(collector.inputs, reducer) for collector, reducer in collecting]
        run_pass(backbone, batch, reducers, adapter)
        for collector, reducer in collecting:
            collector.add(batch_places, reducer.columns())
        done += sum(map(len, batch.rows))
        report(done / tokens)


@contextmanager
def layer_hooks(model: Any, reducers: Sequence[Reducer], ids: torch.Tensor) -> Iterator[None]:
    """Pass every decoder layer's output to the reducers inside the block.

    Args:
        ids: (B, T) of the batch that will be run; outputs are passed on its device.

    Raises:
        BackboneError: a layer gives no states of that shape.
    """
    shape = ids.shape

    def hook_of(index: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple, output: Any) -> None:
            states = output[0] if isinstance(output, tuple | list) else output
            if states.ndim != 3 or states.shape[:2] != shape:
                raise BackboneError(
                    f"{model.config.model_type}: decoder layer {index} gives "
                    f"{tuple(states.shape)} for a batch of {shape[0]} rows of {shape[1]} tokens, "
                    "no state of every token. Use features that look at no layers (all but "
                    "nait:neuron=layer), or another backbone"
                )
            for reducer in reducers:
                reducer.layer(index, states.detach().to(ids.device))

        return hook

    with ExitStack() as hooks:
        for index, layer in enumerate(decoder_layers(model) if reducers else ()):
            hooks.enter_context(layer.register_forward_hook(hook_of(index)))
        yield


def _only_predicting_tokens(
    backbone: Backbone, batch: Batch, reducers: ReducersWithInputs, adapter: Artifact | None
) -> AbstractContextManager[None]:
    """Compute final states only where they predict responses, if no reducer needs others."""
    if any(
        needs.hidden or needs.layers or needs.neurons or (needs.gradients and adapter is None)
        for needs, _ in reducers
    ):
        return nullcontext()
    return final_states_only_at(backbone, batch.ids.shape, *batch.predicted())


def _reduce_logits(
    backbone: Backbone, batch: Batch, states: States, reducers: Sequence[Reducer], backward: bool
) -> None:
    rows, before = batch.predicted()
    targets = batch.ids[rows, before + 1]
    derivative = LossDerivative(backbone, batch, states, rows) if backward else None
    for part in backbone.logit_slices(len(rows)):
        with torch.no_grad():
            logits = backbone.head(states, rows[part], before[part])
        for reducer in reducers:
            reducer.logits(logits, targets[part], rows[part])
        if derivative:
            derivative.add(logits, targets[part], rows[part], before[part])
    if derivative:
        derivative.backward()


class LossDerivative:
    """Collects the derivative over slices of response tokens, then runs the backward."""

    def __init__(self, backbone: Backbone, batch: Batch, states: States, rows: torch.Tensor):
        """`rows` (n,) are the rows of all response tokens."""
        self._head = backbone.model.get_output_embeddings()
        self._from = states.hidden if states.logits is None else states.logits
        self._derivative = torch.zeros_like(self._from)
        self._plain = states.logits is None
        self._tokens = torch.bincount(rows, minlength=len(batch.rows))

    @torch.no_grad()
    def add(
        self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, places: torch.Tensor
    ) -> None:
        """Add response tokens: logits (n, V) float32, ids, rows, and positions of the logits."""
        slope = logits.softmax(-1)
        slope[torch.arange(len(targets), device=targets.device), targets] -= 1
        slope = slope.to(self._derivative.dtype)
        if self._plain:
            weight = self._head.weight
            summed = (slope.to(weight.device) @ weight).to(self._derivative.device)
        else:
            summed = slope
        mean = summed.float() / self._tokens[rows, None]  # counts are not exact in bfloat16
        self._derivative[rows, places] = mean.to(summed.dtype)

    def backward(self) -> None:
        """Run the backward of the sum of the rows' mean losses."""
        torch.autograd.backward([self._from], [self._derivative])


def worth_checkpointing(model: Any, shape: torch.Size) -> bool:
    """Return whether the activations that autograd keeps of (B, T) tokens would not fit the device.

    Per token and layer they are about twelve times the width (norms, attention) and six times that
    of the feed-forward network: measured with the proxy 160 kB a token, by this estimate 146. Where
    attention is computed in blocks, its weights come on top, about half of every head's (T, T).
    """
    config = model.config.get_text_config()
    inner = _largest(config, "intermediate_size") or 4 * config.hidden_size
    per_token = 12 * config.hidden_size + 6 * inner
    if in_blocks(model.device, model.dtype):
        per_token += _largest(config, "num_attention_heads") * shape[1] // 2
    room = ACTIVATION_BYTES
    if model.device.type == "cuda":
        room = _free_bytes(model.device) // 2
    return shape.numel() * config.num_hidden_layers * per_token * model.dtype.itemsize > room


def _largest(config: Any, name: str) -> int:
    """Return a size of a model, the largest where every layer has its own (Gemma 3n); 0 if none."""
    size = getattr(config, name, None) or 0
    return max(size) if isinstance(size, list | tuple) else size


def _free_bytes(device: torch.device) -> int:
    """Return the free bytes, including those that torch's allocator has cached."""
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


@contextmanager
def checkpointed(model: Any, active: bool) -> Iterator[None]:
    """Checkpoint every decoder layer inside the block, if active.

    Only the second run of a layer has a graph, by which hooks that read gradients know it; hooks
    that read values are done after the first.
    """
    with ExitStack() as stack:
        if active:
            # torch checkpoints no layer whose inputs all lack a gradient.
            embeddings = model.get_input_embeddings()
            stack.enter_context(
                embeddings.register_forward_hook(lambda module, args, out: out.requires_grad_())
            )
        for layer in decoder_layers(model) if active else ():
            stack.enter_context(forward_replaced(layer, partial(_run_checkpointed, layer.forward)))
        yield


def _run_checkpointed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    # In the reentrant form the second run is complete before the backward enters the layer, so the
    # inputs are known when the gradients of outputs arrive. A model in evaluation mode draws no
    # random numbers, so no generator has to be restored.
    def run(*args: Any) -> Any:
        with AttentionInBlocks():  # the backward is not inside that of `Backbone.states`
            return forward(*args, **kwargs)

    return checkpoint(run, *args, use_reentrant=True, preserve_rng_state=False)
