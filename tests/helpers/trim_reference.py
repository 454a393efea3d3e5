"""TRIM one token at a time, written out from docs/methods.md: slow, and obviously right."""

from __future__ import annotations

from functools import cache
from math import log, sqrt

import numpy as np
import torch

from coresetdb.ingest.conversations.tokenization import Encoded


def run(model, row: Encoded) -> tuple[np.ndarray, list[np.ndarray]]:
    """Final states (T, d) and each layer's attention (H, T, T) of a model that attends eagerly."""
    return _run(model, tuple(row.ids.tolist()))


@cache
def _run(model, ids: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    with torch.no_grad():
        output = model(torch.tensor(ids)[None], output_hidden_states=True, output_attentions=True)
    return (
        output.hidden_states[-1][0].double().numpy(),
        [attention[0].double().numpy() for attention in output.attentions],
    )


def scaled(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    if high - low < 1e-5:
        return [1.0 for _ in values]
    return [(value - low) / (high - low) for value in values]


def alphas(attention: list[np.ndarray], kept: list[int], layers: int = 4) -> list[float]:
    """alpha of the kept tokens of one example."""
    maps = [head for layer in attention[-layers:] for head in layer]
    rows, columns = [0.0] * len(kept), [0.0] * len(kept)
    for weights in maps:
        a = [[0.0] * len(kept) for _ in kept]
        for i in range(len(kept)):
            total = sum(weights[kept[i], kept[j]] for j in range(i + 1))
            for j in range(i + 1):
                a[i][j] = weights[kept[i], kept[j]] / total
        for i in range(len(kept)):
            n = i + 1
            entropy = -sum(p * log(p) for p in a[i] if p > 0)
            rows[i] += (1 - entropy / log(n) if n >= 2 else 0) / len(maps)
        for j in range(len(kept)):
            later = range(j, len(kept))
            columns[j] += sum((i + 1) * a[i][j] for i in later) / len(later) / len(maps)
    return [(q + k) / 2 for q, k in zip(scaled(rows), scaled(columns), strict=True)]


def fingerprints(model, rows: list[Encoded], layers: int = 4) -> dict[int, np.ndarray]:
    """Class -> unit vector."""
    sums: dict[int, np.ndarray] = {}
    for row in rows:
        states, attention = run(model, row)
        kept = [place for place in range(len(row)) if row.content[place]]
        for place, alpha in zip(kept, alphas(attention, kept, layers), strict=True):
            state = states[place] / np.linalg.norm(states[place])
            token = int(row.ids[place])
            sums[token] = sums.get(token, np.zeros_like(state)) + alpha * state
    return {
        token: total / np.linalg.norm(total)
        for token, total in sums.items()
        if np.linalg.norm(total) > 1e-6
    }


@cache
def embeddings(model) -> np.ndarray:
    """Input embeddings (V, d) of unit length."""
    weights = model.get_input_embeddings().weight.detach().double().numpy()
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def nearest(model, token: int, classes: list[int]) -> int:
    """The class whose input embedding has the greatest cosine with the token's."""
    unit = embeddings(model)
    return max(classes, key=lambda each: unit[each] @ unit[token])


def similarity(p: np.ndarray, q: np.ndarray, rest: str) -> float:
    """Cosine of two unit vectors of which p and q are the parts inside the basis."""
    if rest == "none":
        return float(p @ q)
    inside = float(p @ q) / (np.linalg.norm(p) * np.linalg.norm(q))
    outside = sqrt(max(0.0, 1 - p @ p)) * sqrt(max(0.0, 1 - q @ q))
    return inside * (np.linalg.norm(p) * np.linalg.norm(q) + outside)


def token_score(model, token: int, state, classes, penalty: float = 0.5, rest="alike") -> float:
    """s_j of a token with that state; `classes` are fingerprints in the same space."""
    if token in classes:
        return similarity(state, classes[token], rest)
    c = similarity(state, classes[nearest(model, token, sorted(classes))], rest)
    return c - (1 - penalty) * abs(c)


def score(
    model,
    row: Encoded,
    classes,
    basis: np.ndarray | None = None,
    scope: str = "content",
    rest: str = "alike",
) -> float:
    """S of a row; with a basis from projected states and fingerprints."""
    states, _ = run(model, row)
    basis = np.eye(states.shape[1]) if basis is None else basis
    projected = {token: vector @ basis for token, vector in classes.items()}
    counted = {
        "content": row.content,
        "prompt": row.content & ~row.response,
        "response": row.content & row.response,
        "all": np.ones(len(row), dtype=bool),
    }[scope]
    scores = [
        token_score(model, int(row.ids[place]), unit @ basis, projected, rest=rest)
        for place, unit in enumerate(states / np.linalg.norm(states, axis=1, keepdims=True))
        if counted[place]
    ]
    return (sum(scores) / len(scores) + max(scores)) / 2 if scores else float("nan")
