"""Every unit's value at every token, written from its definition: one row, one layer at a time."""

from __future__ import annotations

import numpy as np
import torch

from coresetdb.ingest.models.anatomy import decoder_layers


def naive_layers(model, ids) -> list[np.ndarray]:
    """What each decoder layer gives, (T, d) each, in float64."""
    kept = []
    hooks = [
        layer.register_forward_hook(
            lambda module, args, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in decoder_layers(model)
    ]
    with torch.no_grad():
        model(torch.tensor(ids.tolist())[None])
    for hook in hooks:
        hook.remove()
    return [states[0].double().numpy() for states in kept]


def naive_neurons(model, ids) -> list[np.ndarray]:
    """Per layer (T, units) float64; NaN where a token was not routed to the unit's expert."""
    inputs = []
    networks = [layer.mlp for layer in decoder_layers(model)]
    hooks = [
        network.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0]))
        for network in networks
    ]
    with torch.no_grad():
        model(torch.tensor(ids.tolist())[None])
        for hook in hooks:
            hook.remove()
        return [_units(each, states) for each, states in zip(networks, inputs, strict=True)]


def _units(mlp, states) -> np.ndarray:
    if hasattr(mlp, "c_fc"):  # gpt2
        return mlp.act(states @ mlp.c_fc.weight + mlp.c_fc.bias).double().numpy()
    if hasattr(mlp, "dense_h_to_4h"):  # gpt_neox
        up = mlp.dense_h_to_4h
        return mlp.act(states @ up.weight.T + up.bias).double().numpy()
    if hasattr(mlp, "gate_proj"):
        gate, up = states @ mlp.gate_proj.weight.T, states @ mlp.up_proj.weight.T
        return (mlp.act_fn(gate) * up).double().numpy()
    experts, router = mlp.experts, mlp.gate
    count, units = experts.down_proj.shape[0], experts.down_proj.shape[2]
    values = np.full((len(states), count * units), np.nan)
    for token, state in enumerate(states):
        odds = torch.softmax(router.weight @ state, 0)
        for expert in odds.topk(router.top_k).indices.tolist():
            gate = experts.gate_up_proj[expert, :units] @ state
            up = experts.gate_up_proj[expert, units:] @ state
            inner = torch.nn.functional.silu(gate) * up
            values[token, expert * units : (expert + 1) * units] = inner.double().numpy()
    return values
