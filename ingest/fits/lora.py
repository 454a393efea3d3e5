"""LoRA adapters trained on a sample of the pool, one artifact per epoch.

The warm-up is such a fit: LESS takes its gradients at the checkpoint of every epoch, with that
checkpoint's optimiser, and TRIM reads its states at the last one. GradFiltering's ensemble is
another.

peft's layers stand around the attention projections of the backbone's own model during the
training and are removed afterwards; the model's weights stay frozen. An epoch depends on the seed,
the rows and the artifact of the epoch before, and on nothing else, so a training that was killed
continues to the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...schemas.errors import BackboneError, UsageError
from ...schemas.plain_text import count_of
from ...store.catalog import Artifact
from ..conversations.tokenization import Encoded
from .fit import Fit, Fitting, Sample, Work

if TYPE_CHECKING:
    import torch

    from ..models.backbone import Backbone
    from ..models.batches import Batch

TOKENS_PER_BACKWARD_CPU = 2048

TOKENS_PER_BACKWARD_ACCELERATOR = 8192
"""Padded tokens of a micro-batch: a backward keeps the activations of every layer."""

FULL_LOGIT_ELEMENTS = 1 << 27
"""Logits of a micro-batch where the head cannot be applied to slices (512 MB in float32)."""

BETAS, EPSILON, LARGEST_NORM = (0.9, 0.999), 1e-8, 1.0
"""AdamW without weight decay; gradients are clipped to this norm, as LESS's trainer does."""

VERSION = 1
"""Rises when the same rows would give another adapter, by more than rounding."""


@dataclass(frozen=True)
class LoraTraining:
    """How an adapter is trained.

    Attributes:
        rank, alpha, dropout: of LoRA; the adapter adds alpha / rank * B (A x).
        epochs: passes over the rows.
        learning_rate: the highest; it rises over the share `warmup` of all steps, then falls, both
            linearly.
        batch: rows of a step, at most.
        seed: of the adapter's initial weights, the order of the rows, and the dropout.
    """

    rank: int
    alpha: int
    dropout: float
    epochs: int
    learning_rate: float
    warmup: float
    batch: int
    seed: int

    def steps_per_epoch(self, rows: int) -> int:
        return math.ceil(rows / self.batch)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of `steps`; never 0.

        Transformers' linear schedule begins with a step of rate 0. In a short warm-up that would
        be a good part of an epoch, whose weight in LESS is its mean rate.
        """
        rising = math.ceil(self.warmup * steps)
        share = (step + 1) / rising if step < rising else (steps - step) / (steps - rising)
        return self.learning_rate * share


@dataclass(frozen=True)
class AdapterFit(Fit):
    """A fit that trains LoRA adapters on a sample of the pool.

    Attributes:
        epochs, rank, alpha, learning_rate, batch, warmup: as in `LoraTraining`.
        share: of the pool's rows that are drawn, but at least `at_least` and at most `at_most`.
        seed: draws the sample; the adapters' own seeds follow from it.
    """

    epochs: int
    rank: int
    alpha: int
    learning_rate: float
    batch: int
    share: float
    at_least: int
    at_most: int = 10_000
    warmup: float = 0.03
    seed: int = 0

    def sample_rows(self, total: int) -> int:
        return min(total, self.at_most, max(self.at_least, round(self.share * total)))

    def training(self, seed: int, dropout: float = 0.0) -> LoraTraining:
        """Return how an adapter is trained from its own `seed`."""
        return LoraTraining(
            self.rank,
            self.alpha,
            dropout,
            self.epochs,
            self.learning_rate,
            self.warmup,
            self.batch,
            seed,
        )


@dataclass(frozen=True)
class WarmUp(AdapterFit):
    """The warm-up; leaves `warm-up/1` ... `warm-up/<epochs>`, adapters and moments as `train`.

    The defaults are LESS's. With fewer than ten steps an epoch (`at_least`) the second moments,
    by which LESS divides, would be those of a few batches.
    """

    name: ClassVar[str] = "warm-up"

    epochs: int = 4
    rank: int = 128
    alpha: int = 512
    learning_rate: float = 2e-5
    batch: int = 128
    share: float = 0.05
    at_least: int = 1280
    dropout: float = 0.1

    def spec(self) -> dict[str, Any]:
        return {**asdict(self), "version": VERSION}

    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name}/{epoch}" for epoch in range(1, self.epochs + 1))

    def work(self, rows: int) -> Work:
        return Work(steps=self.epochs * rows)

    def run(self, fitting: Fitting) -> None:
        names = self.outputs()
        done = 0
        while done < self.epochs and names[done] in fitting.artifacts:
            done += 1
        if done == self.epochs:
            return
        count = self.sample_rows(fitting.sample.total)
        train(
            fitting.backbone,
            training_rows(fitting.backbone, fitting.sample, count),
            self.training(self.seed, self.dropout),
            fitting.artifacts[names[done - 1]] if done else None,
            lambda epoch, artifact: fitting.keep(names[epoch - 1], artifact),
            fitting.report,
        )


OPTIONS: Mapping[str, Any] = {
    name: getattr(WarmUp, name)
    for name in (
        "epochs",
        "alpha",
        "dropout",
        "learning_rate",
        "batch",
        "share",
        "at_least",
        "at_most",
    )
}
"""Options of representations with a warm-up, beside `warmup` and the adapter's rank."""


def warm_up_of(name: str, options: Mapping[str, Any], rank: str = "rank") -> WarmUp:
    """Return the warm-up that the options of a representation describe.

    Args:
        name: of the representation, for errors.
        rank: the name of its option for the adapter's rank.

    Raises:
        UsageError: an option is out of range.
    """
    require_trainable(name, options, rank)
    return WarmUp(rank=options[rank], **{option: options[option] for option in OPTIONS})


def require_trainable(name: str, options: Mapping[str, Any], rank: str = "rank") -> None:
    """Refuse options that no adapter can be trained with, before a sample is drawn.

    Raises:
        UsageError: an option is out of range.
    """
    for option in ("epochs", rank, "alpha", "batch", "at_least", "at_most"):
        if options.get(option, 1) < 1:
            raise UsageError(f"{name}: {option} {options[option]}: give at least 1")
    if options.get("seed", 0) < 0:
        raise UsageError(f"{name}: seed {options['seed']}: give at least 0")
    if not 0 <= options["share"] <= 1:
        raise UsageError(f"{name}: share {options['share']}: give a number from 0 to 1")
    if not 0 < options["learning_rate"] <= 1:
        raise UsageError(
            f"{name}: learning_rate {options['learning_rate']}: give a number above 0, at most 1"
        )
    if not 0 <= options.get("dropout", 0) < 1:
        raise UsageError(f"{name}: dropout {options['dropout']}: give a number from 0, below 1")


def refuse_unused_options(name: str, options: Mapping[str, Any], rank: str = "rank") -> None:
    """Refuse options of the warm-up where `warmup` is "none" and they have no effect.

    Raises:
        UsageError: one differs from its default.
    """
    defaults = {**OPTIONS, rank: WarmUp.rank}
    for option, default in defaults.items() if options["warmup"] == "none" else ():
        if options[option] != default:
            setting = f"{option}={options[option]}"
            raise UsageError(
                f"{name}: {setting} has no effect without a warm-up; write "
                f"{name}:warmup=lora:{setting} (colons join the options of one feature)"
            )


def training_rows(backbone: Backbone, sample: Sample, count: int) -> list[Encoded]:
    """Return the first `count` rows of a sample that have a response token to learn, in order.

    Raises:
        UsageError: there is none.
    """
    drawn = sample.instructions[:count]
    encoded = [row for row in backbone.encode_all(drawn) if isinstance(row, Encoded)]
    usable = [row for row in encoded if row.response[1:].any()]
    if not usable:
        raise UsageError(
            f"no row of the sample ({count_of(len(drawn), 'row')}) has an answer to train an "
            "adapter on. Fit on a corpus with answers, or leave out the features that need an "
            "adapter"
        )
    return usable


def in_sample(rows: Sequence[Encoded], adapter: Artifact) -> np.ndarray:
    """Return (N,) bool objects: whether the adapter was trained on the row."""
    sample = set(adapter.facts["sample"])
    return np.array([row.id in sample for row in rows], dtype=object)


def train(
    backbone: Backbone,
    rows: Sequence[Encoded],
    training: LoraTraining,
    start: Artifact | None,
    keep: Callable[[int, Artifact], Artifact],
    report: Callable[[float, str], None],
) -> None:
    """Train an adapter on the mean response-token loss of each row, averaged over a step's rows.

    Args:
        rows: each with a response token that has a token before it.
        start: the artifact of the last finished epoch; None to begin.
        keep: called with each epoch (from 1) and its artifact; training continues from what it
            returns.
        report: called with the share that is done and a sentence with the loss.

    The artifacts hold, in float32, `<module>.A` (r, in) and `<module>.B` (out, r) of every
    attention projection, and AdamW's first and second moments of each as `<module>.A.m` and
    `.A.v` and so on. Facts: `scaling`, `rank`, `alpha`, `modules`, `epoch`, `epochs`, `step`
    (steps so far), `steps` (in all), `learning_rate` and `loss` (means over the epoch), `sample`
    (ids of the rows trained on so far).

    Raises:
        BackboneError: the loss is not finite, or the architecture has no attention projections.
    """
    import torch

    from ..passes.token_skipping import last_feed_forward

    last_feed_forward(backbone)  # tested before dropout makes every run differ
    per_epoch = training.steps_per_epoch(len(rows))
    steps = training.epochs * per_epoch
    done = 0 if start is None else int(start.facts["epoch"])
    sample = [] if start is None else list(start.facts["sample"])
    sample = list(dict.fromkeys([*sample, *(row.id for row in rows)]))
    with _trainable(backbone.model, training) as pairs:
        parameters = [part for pair in pairs.values() for part in pair.parts().values()]
        optimizer = torch.optim.AdamW(parameters, betas=BETAS, eps=EPSILON, weight_decay=0.0)
        if start is not None:
            _restore(pairs, optimizer, start)
        for epoch in range(done + 1, training.epochs + 1):
            order = np.random.default_rng([training.seed, epoch]).permutation(len(rows))
            rates: list[float] = []
            losses: list[float] = []
            with _seeded(backbone.device, _seed(training.seed, f"epoch {epoch}")):
                # Equal parts: a last batch of two rows would weigh as much as the others.
                for place, members in enumerate(np.array_split(order, per_epoch)):
                    step = (epoch - 1) * per_epoch + place
                    rates.append(training.rate(step, steps))
                    for group in optimizer.param_groups:
                        group["lr"] = rates[-1]
                    losses += _step(backbone, [rows[i] for i in members], optimizer, parameters)
                    loss = float(np.mean(losses[-len(members) :]))
                    if not math.isfinite(loss):
                        raise BackboneError(
                            f"{backbone.info.name}: training an adapter failed: the loss of step "
                            f"{step + 1} is not finite. Use dtype float32 or another backbone"
                        )
                    report(
                        (step + 1) / steps,
                        f"epoch {epoch} of {training.epochs}, step {step + 1} of {steps}: "
                        f"loss {loss:.3f}",
                    )
            facts = {
                "scaling": training.alpha / training.rank,
                "rank": training.rank,
                "alpha": training.alpha,
                "modules": list(pairs),
                "epoch": epoch,
                "epochs": training.epochs,
                "step": epoch * per_epoch,
                "steps": steps,
                "learning_rate": float(np.mean(rates)),
                "loss": float(np.mean(losses)),
                "sample": sample,
            }
            artifact = keep(epoch, Artifact(_arrays(pairs, optimizer), facts))
            if epoch < training.epochs:
                _restore(pairs, optimizer, artifact)


def _step(
    backbone: Backbone,
    rows: Sequence[Encoded],
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[torch.nn.Parameter],
) -> list[float]:
    """Take one step of the optimiser; return the loss of each row before it."""
    import torch

    from ..models.batches import batches_of

    optimizer.zero_grad()
    losses: list[float] = []
    for _, batch in batches_of(backbone, rows, _tokens_per_backward(backbone)):
        losses += _backward(backbone, batch, 1 / len(rows)).tolist()
    torch.nn.utils.clip_grad_norm_(parameters, LARGEST_NORM)
    optimizer.step()
    return losses


def _backward(backbone: Backbone, batch: Batch, weight: float) -> torch.Tensor:
    """Run the backward of `weight` times the sum of the rows' mean response losses.

    The backward from the logits to the states runs slice by slice, that from the states to the
    parameters once at the end.

    Returns:
        (B,) float32, the mean response loss of each row.
    """
    import torch

    from ..passes.token_skipping import final_states_only_at

    rows, before = batch.predicted()
    with final_states_only_at(backbone, batch.ids.shape, rows, before):
        states = backbone.states(batch.ids, batch.mask, logits=True)
    source = states.hidden if states.logits is None else states.logits
    leaf = source.detach().requires_grad_()
    split = replace(states, **{"hidden" if states.logits is None else "logits": leaf})
    targets = batch.ids[rows, before + 1]
    share = 1 / torch.bincount(rows, minlength=len(batch.rows))
    losses = torch.zeros(len(batch.rows), device=leaf.device)
    for part in backbone.logit_slices(len(rows)):
        logits = backbone.head(split, rows[part], before[part])
        nll = torch.nn.functional.cross_entropy(logits, targets[part], reduction="none")
        shares = nll * share[rows[part]]
        (weight * shares.sum()).backward()
        losses.index_add_(0, rows[part], shares.detach())
    source.backward(leaf.grad)
    return losses


def _tokens_per_backward(backbone: Backbone) -> int:
    cpu = backbone.device.type == "cpu"
    tokens = TOKENS_PER_BACKWARD_CPU if cpu else TOKENS_PER_BACKWARD_ACCELERATOR
    if backbone.plain_head:
        return tokens
    return max(1, min(tokens, FULL_LOGIT_ELEMENTS // backbone.info.vocabulary))


@dataclass(frozen=True)
class _Pair:
    """The trainable parameters of one module, float32: `a` (r, in) and `b` (out, r)."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter

    def parts(self) -> dict[str, torch.nn.Parameter]:
        return {"A": self.a, "B": self.b}


@contextmanager
def _trainable(model: Any, training: LoraTraining) -> Iterator[dict[str, _Pair]]:
    """Give `model` peft's layers inside the block; yield their parameters by module name."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from transformers.pytorch_utils import Conv1D

    from ..models.anatomy import attention_projections
    from ..models.device_map import require_one_device
    from ..passes.adapters import peft_in_model_dtype

    require_one_device(model)
    names = attention_projections(model)
    config = LoraConfig(
        r=training.rank,
        lora_alpha=training.alpha,
        lora_dropout=training.dropout,
        target_modules=names,
        fan_in_fan_out=isinstance(model.get_submodule(names[0]), Conv1D),
    )
    adapter = "coresetdb"
    # peft uses a deprecated name of transformers; its random start is replaced below.
    with warnings.catch_warnings(), _seeded(model.device, training.seed):
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        tuner = LoraModel(model, config, adapter)
    try:
        pairs: dict[str, _Pair] = {}
        for name in names:
            layer: Any = model.get_submodule(name)
            # In bfloat16 most of AdamW's small steps would be rounded away.
            a, b = (part[adapter].float() for part in (layer.lora_A, layer.lora_B))
            pairs[name] = _Pair(a.weight, b.weight)
            layer.lora_dropout[adapter].train()
            _initialise(pairs[name], _seed(training.seed, name))
        lower = model.dtype.itemsize < 4
        with peft_in_model_dtype(model, trained=False) if lower else nullcontext():
            yield pairs
    finally:
        tuner.unload()


def _initialise(pair: _Pair, seed: int) -> None:
    """Initialise a pair as peft does (A uniform in +-1/sqrt(in), B zero), seeded by `seed`."""
    import torch

    bound = 1 / math.sqrt(pair.a.shape[1])
    draw = torch.rand(pair.a.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        pair.a.copy_((2 * draw - 1) * bound)
        pair.b.zero_()


def _arrays(pairs: dict[str, _Pair], optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, pair in pairs.items():
        for part, parameter in pair.parts().items():
            state = optimizer.state[parameter]
            tensors = {"": parameter, ".m": state["exp_avg"], ".v": state["exp_avg_sq"]}
            for suffix, tensor in tensors.items():
                array = tensor.detach().float().cpu().numpy().copy()
                arrays[f"{name}.{part}{suffix}"] = array
    return arrays


def _restore(pairs: dict[str, _Pair], optimizer: torch.optim.Optimizer, start: Artifact) -> None:
    """Set parameters and moments to those of an artifact, matched by name."""
    import torch

    for name, pair in pairs.items():
        for part, parameter in pair.parts().items():
            value, m, v = (
                torch.tensor(start.arrays[f"{name}.{part}{suffix}"], device=parameter.device)
                for suffix in ("", ".m", ".v")
            )
            with torch.no_grad():
                parameter.copy_(value)
            step = torch.tensor(float(start.facts["step"]))
            optimizer.state[parameter] = {"step": step, "exp_avg": m, "exp_avg_sq": v}


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch inside the block; its generators are as before afterwards."""
    import torch

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _seed(seed: int, what: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {what}".encode(), digest_size=7).digest())
