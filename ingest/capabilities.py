"""What a backbone can do: a few short rows with every feature, before a store is made.

Features need parts of a model that not every architecture has: attention maps, feed-forward
networks, linear layers whose gradients can be told apart by row. What is missing is found here, at
`init`, and not after an hour of ingestion. The rows go through the fits as well, with options that
make as little work as possible, and some gradients are compared with those of autograd: a hook in
the wrong place would give numbers that mean nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any

from ..schemas.errors import BackboneError, UsageError
from ..schemas.instruction import Instruction
from ..schemas.plain_text import count_of, first_line
from ..schemas.progress import Progress, Silence
from ..workers.machine import free_memory
from .conversations.tokenization import Encoded
from .fits.fit import Sample
from .jobs.fitting import MemoryCache, run_fits
from .models.describe import BackboneConfig, BackboneInfo, describe, weights_bytes
from .models.device_map import AUTO_MAP
from .models.model_folder import BUILTIN
from .representations import registry
from .representations.registry import FeatureSpec, columns_of, get, recipe_for
from .representations.representation import Setup

if TYPE_CHECKING:
    import torch

    from .featurizer import Features
    from .models.backbone import Backbone

LARGE_BYTES = 2_000_000_000
"""Weights that take long enough to load for a word about it."""

ROOM = 1.2
"""Memory that must be free for a trial, in sizes of the weights."""

TOLERANCE, BFLOAT16_TOLERANCE = 1e-2, 0.2
"""Relative difference between a gradient of ours and autograd's. One of another weight, or of part
of the tokens, differs by about 1."""

QUESTIONS = (
    ("What is the sum of two and three?", "The sum of two and three is five."),
    ("Name a colour of the sky.", "Blue, and grey when it rains."),
    ("Is water wet?", "Yes."),
    ("Write a line of Python that prints a word.", "print('word')"),
    ("Who wrote Hamlet, and when?", "William Shakespeare, about the year 1600."),
)


def try_backbone(
    config: BackboneConfig, specs: Sequence[FeatureSpec], progress: Progress | None = None
) -> tuple[str, ...]:
    """Load a backbone and make every feature of a few rows with it.

    The built-in proxy is not tried with features of this package, whose tests do so. A model whose
    weights do not fit the free memory is not tried either, which a notice says.

    Args:
        config: with device and dtype resolved.

    Returns:
        Notices for the user: what a feature leaves out.

    Raises:
        BackboneError: the model cannot be loaded or run, is not causal, or cannot give a feature;
            the error names the features to leave out.
    """
    if config.name == BUILTIN and all(spec.representation in registry.BUILTIN for spec in specs):
        return ()
    progress = progress or Silence()
    info = describe(config)
    weights, free = weights_bytes(info, config.dtype), _free_bytes(config.device)
    if free is not None and weights * ROOM > free:
        return (
            f"{config.name}: the weights take {weights / 1e9:,.1f} GB and {free / 1e9:,.1f} GB of "
            f"memory are free, so the model was not tried: whether it can give "
            f"{', '.join(map(str, specs))} will show at the first ingestion",
        )
    if weights > LARGE_BYTES:
        progress.say(
            f"{config.name}: trying {count_of(len(QUESTIONS), 'short row')} with every feature "
            f"({weights / 1e9:,.1f} GB of weights are loaded for it)"
        )
    return _tried(config, tuple(map(str, specs)), tuple(sorted(info.identity.items())))


@cache
def _tried(config: BackboneConfig, features: tuple[str, ...], identity: tuple) -> tuple[str, ...]:
    """See `try_backbone`; a process tries the same model once."""
    from .models.backbone import Backbone

    return features_possible(Backbone.load(config), registry.parse_specs(",".join(features)))


def features_possible(backbone: Backbone, specs: Sequence[FeatureSpec]) -> tuple[str, ...]:
    """Make every feature of a few rows with a loaded backbone; see `try_backbone`."""
    rows = [Instruction.from_turns(("user", q), ("assistant", a)) for q, a in QUESTIONS]
    encoded = backbone.encode_all(rows)
    tried = [spec for spec in specs if _uses_backbone(spec, backbone.info)]
    refused = [row for row in encoded if not isinstance(row, Encoded)]
    if refused:
        return (
            f"{backbone.info.name}: its chat template refuses a plain question with an answer "
            f"({first_line(refused[0])}), so no feature was tried",
        )
    notices: dict[str, None] = {}
    problems: dict[str, str] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _make(backbone, tried, rows)
        except Exception:  # which feature it was is seen when each is made alone
            problems = _problems(backbone, tried, rows)
            if not problems:
                raise
    for warning in caught:
        if warning.category is UserWarning:
            notices[f"{backbone.info.name}: {warning.message}"] = None
    if problems:
        raise BackboneError(_refusal(backbone, specs, problems))
    return tuple(notices)


def _uses_backbone(spec: FeatureSpec, info: BackboneInfo) -> bool:
    """Return whether the store's backbone runs for a feature, not a model of its own or none."""
    return bool(get(spec.representation).passes(Setup(info, spec.options)))


def _problems(
    backbone: Backbone, specs: Sequence[FeatureSpec], rows: Sequence[Instruction]
) -> dict[str, str]:
    """Return feature -> why the backbone cannot give it."""
    problems: dict[str, str] = {}
    for spec in specs:
        try:
            _make(backbone, [spec], rows)
        except UsageError:
            raise  # an option, which the message names
        except Exception as error:  # models raise whatever their code meets
            problems[str(spec)] = _cause(error, backbone)
    return problems


def _cause(error: Exception, backbone: Backbone) -> str:
    """Return the first sentence of an error, without the name of the model before it."""
    sentence = re.split(r"\. (?=[A-Z])", first_line(error))[0]
    for name in (str(backbone.model.config.model_type), backbone.info.name):
        sentence = sentence.removeprefix(f"{name}: ")
    return sentence if isinstance(error, BackboneError) else f"{type(error).__name__}: {sentence}"


def _refusal(backbone: Backbone, specs: Sequence[FeatureSpec], problems: dict[str, str]) -> str:
    names = {feature: feature for feature in problems}
    left = [str(spec) for spec in specs if str(spec) not in problems]
    if left and (preset := registry.preset_of(specs)):
        names = {str(spec): spec.representation for spec in specs if str(spec) in problems}
        left = [preset, *(f"-{name}" for name in names.values())]
    of_reason: dict[str, list[str]] = {}
    for feature, reason in problems.items():
        of_reason.setdefault(reason, []).append(names[feature])
    reasons = "; ".join(f"{' and '.join(own)}: {why}" for why, own in of_reason.items())
    what = (
        f"leave {' and '.join(names.values())} out: --features {','.join(left)}"
        if left
        else "choose other features, or another backbone"
    )
    return (
        f"{backbone.info.name}: {type(backbone.model).__name__} cannot give every feature "
        f"({reasons}). Give another backbone, or {what}"
    )


def _make(backbone: Backbone, specs: Sequence[FeatureSpec], rows: Sequence[Instruction]) -> None:
    """Fit and make features of rows, as candidates and as a target's examples.

    Raises:
        Exception: whatever the model or a representation raises.
    """
    if not specs:
        return
    from .featurizer import Featurizer

    lightest = [_lightest(spec) for spec in specs]
    sample = Sample([row.id for row in rows], rows, len(rows))
    fits = run_fits(
        backbone.info, lightest, lambda seed, size: sample, lambda: backbone, MemoryCache()
    )
    recipes = [
        recipe_for(spec, backbone.info, fit.artifacts, fit.digests)
        for spec, fit in zip(lightest, fits, strict=True)
    ]
    artifacts = {fit.digests[name]: fit.artifacts[name] for fit in fits for name in fit.digests}
    featurizer = Featurizer(backbone, recipes, artifacts=artifacts)
    features = featurizer.compute(rows)
    featurizer.table(features)
    for recipe in recipes:
        _require_values(recipe.representation, recipe.reason, features)
    examples = featurizer.compute(rows[:2], of="target")
    encoded = [row for row in examples.encoded if isinstance(row, Encoded)]
    for recipe in recipes:
        example_columns = {
            name: examples.columns[stored] for name, stored in columns_of(recipe).items()
        }
        get(recipe.representation).target_artifact(
            backbone, encoded, example_columns, featurizer.setup(recipe, of="target")
        )
    needs = [
        (adapter, inputs)
        for (_, adapter), users in featurizer.passes().items()
        for _, inputs in users
    ]
    if any(inputs.gradients for adapter, inputs in needs if not adapter):
        require_right_gradients(backbone, encoded[0])
    if any(inputs.neurons for _, inputs in needs):
        _warn_of_layers_without_neurons(backbone)


def _lightest(spec: FeatureSpec) -> FeatureSpec:
    lighter = get(spec.representation).trial_options(spec.options)
    return FeatureSpec(spec.representation, {**spec.options, **lighter})


def _require_values(name: str, reason: str, features: Features) -> None:
    reasons = features.columns[reason].tolist()
    if all(reasons):
        raise BackboneError(f"none of the trial rows got a value ({reasons[0]})")


def _warn_of_layers_without_neurons(backbone: Backbone) -> None:
    from .passes.feed_forward import feed_forwards

    seen = {part.layer for part in feed_forwards(backbone.model)}
    without = [layer for layer in range(backbone.info.layers) if layer not in seen]
    if without:
        warnings.warn(
            f"layers without a feed-forward network to read neurons from: {len(without)} of "
            f"{backbone.info.layers} (such as layer {without[0]})",
            stacklevel=2,
        )


def require_right_gradients(backbone: Backbone, row: Encoded) -> None:
    """Compare the gradients of a pass with autograd's, of the last weight of every kind.

    In bfloat16 those of experts and routers are not compared: rounding may send a token to another
    expert.

    Raises:
        BackboneError: they differ.
    """
    from .models.batches import make_batch
    from .passes.forward import run_pass
    from .passes.gradient_reducers import OneOfEachKind
    from .passes.reducer import PassInputs

    model = backbone.model
    kept = OneOfEachKind()
    batch = make_batch([row], backbone.padding_token, backbone.device)
    run_pass(backbone, batch, [(PassInputs(gradients=True), kept)])
    tolerance = TOLERANCE if model.dtype.itemsize >= 4 else BFLOAT16_TOLERANCE
    expected = _autograd(backbone, row, kept.values)
    for name, gradient in kept.values.items():
        if tolerance == BFLOAT16_TOLERANCE and not _is_linear(model, name):
            continue
        difference = float((gradient - expected[name]).norm() / expected[name].norm().clamp(1e-6))
        if not difference <= tolerance:
            raise BackboneError(
                f"the gradient computed for {name} differs from that of autograd by "
                f"{difference:.0%}"
            )


def _is_linear(model: Any, name: str) -> bool:
    from .passes.gradients import linear_layers

    return name in linear_layers(model)


def _autograd(backbone: Backbone, row: Encoded, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return weight -> gradient (out, in) float32 of a row's mean response loss, by autograd."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from .passes.gradients import expert_modules

    model = backbone.model
    experts = expert_modules(model)
    parameters = {
        name: model.get_parameter(
            name.rpartition(".")[0] if _holder(name) in experts else f"{name}.weight"
        )
        for name in names
    }
    ids = torch.from_numpy(row.ids).long().to(backbone.device)
    response = torch.from_numpy(row.response[1:]).to(ids.device)
    with torch.enable_grad(), ExitStack() as frozen_again:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
            frozen_again.callback(parameter.requires_grad_, False)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits[response], ids[1:][response])
        computed = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    gradients: dict[str, torch.Tensor] = {}
    for name, gradient in zip(names, computed, strict=True):
        if _holder(name) in experts:
            transposed = getattr(experts[_holder(name)], "is_transposed", False)
            gradient = gradient[int(name.rpartition(".")[2])]
        else:
            transposed = isinstance(model.get_submodule(name), Conv1D)
        gradients[name] = (gradient.T if transposed else gradient).float()
    return gradients


def _holder(name: str) -> str:
    """Return the module in the name of an expert's weight, `<module>.<weight>.<expert>`."""
    return name.rsplit(".", 2)[0]


def _free_bytes(device: str) -> float | None:
    """Return the free memory of a device, None where it is not known."""
    import torch

    if device == AUTO_MAP:
        return None  # disk is part of it
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()
