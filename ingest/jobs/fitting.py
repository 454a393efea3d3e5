"""Fits are run here: what a feature must learn first is learned from one sample and kept.

Every result is kept as soon as it is there, so a killed run goes on where it was, and fits that
read the same model state share one pass over the sample. One process fits a store at a time: two
samples must not mix in one feature, so a second one waits and takes what the first has learned.
Columns come before recipes: a kill between them leaves null columns that the next run takes up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...schemas.errors import StoreBusyError, UsageError
from ...schemas.progress import Progress, Silence
from ...schemas.recipe import Recipe
from ...store.catalog import Artifact, content_of, found_artifact, keep_artifact, load_artifact
from ...store.features import declare
from ...store.store import Store
from ..create import pending, recipes_of
from ..fits.fit import PASS_SHARE, READING, Fit, Fitting, PassFit, Sample, in_order, run_together
from ..fits.sampling import Rows, sample_of_pool, sample_of_sources
from ..models.describe import BackboneConfig, BackboneInfo, describe
from ..readers.options import ReadOptions
from ..representations.registry import FeatureSpec, fields_of, get, recipe_for
from ..sources import SourceList, open_sources

if TYPE_CHECKING:
    from ..models.backbone import Backbone
    from ..sources import SourceData


class ArtifactCache(Protocol):
    """Artifacts by the digest of the fit that was requested, and by that of their content."""

    def find(self, request: str, name: str) -> str | None:
        """The digest of what such a fit found earlier, or None."""
        ...

    def keep(self, request: str, name: str, artifact: Artifact) -> str:
        """Keep a result; the digest of the one that stands from now on."""
        ...

    def load(self, content: str, name: str) -> Artifact:
        """The artifact with that digest."""
        ...


class StoreCache:
    """The table `artifacts` of a store: the first result committed stands."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, request: str, name: str) -> str | None:
        """See ArtifactCache."""
        return found_artifact(self._store, request, name)

    def keep(self, request: str, name: str, artifact: Artifact) -> str:
        """See ArtifactCache."""
        return keep_artifact(self._store, request, name, artifact)

    def load(self, content: str, name: str) -> Artifact:
        """See ArtifactCache; raises DamagedStoreError."""
        return load_artifact(self._store, content, name)


class MemoryCache:
    """For trials: nothing outlives it. Results of the cache `below` are found and left alone."""

    def __init__(self, below: ArtifactCache | None = None) -> None:
        self._below = below
        self._digests: dict[tuple[str, str], str] = {}
        self._kept: dict[str, Artifact] = {}

    def find(self, request: str, name: str) -> str | None:
        """See ArtifactCache."""
        there = self._below.find(request, name) if self._below else None
        return there or self._digests.get((request, name))

    def keep(self, request: str, name: str, artifact: Artifact) -> str:
        """See ArtifactCache."""
        content = self._digests.setdefault((request, name), content_of(artifact.pack()))
        self._kept.setdefault(content, artifact)
        return content

    def load(self, content: str, name: str) -> Artifact:
        """See ArtifactCache."""
        if content in self._kept or self._below is None:
            return self._kept[content]
        return self._below.load(content, name)


WAIT_SECONDS = 7 * 86_400.0
"""A warm-up on a large model may take days; a process that died lets go at once."""

Draw = Callable[[int, Rows], Sample]
"""Draws a sample by its seed and by how many rows are wanted of a total."""


@dataclass(frozen=True)
class Fitted:
    """Everything fitted for one feature, by name: the artifacts and the digests of their bytes."""

    artifacts: Mapping[str, Artifact]
    digests: Mapping[str, str]


def fit_features(
    store: Store,
    specs: Sequence[FeatureSpec],
    draw: Draw,
    backbone: Callable[[], Backbone],
    progress: Progress | None = None,
) -> list[Recipe]:
    """Fit what features need, then give pool and targets their columns and keep their recipes.

    Args:
        specs: the features; what the store has already stays as it is.
        draw: `sample_of_sources` or `sample_of_pool`, bound to where the rows are; called only
            when something is missing.
        backbone: loads the store's backbone; called only when something is missing.
        progress: hears which fits run, and how far they are.

    Returns:
        Their recipes in the store, in order.

    Raises:
        UsageError: there is no row to learn from, or there are too few; nothing was declared.
    """
    if not specs:
        return []
    info = describe(BackboneConfig(**store.config["backbone"]))
    with _alone(store, progress or Silence()):
        found = run_fits(info, specs, draw, backbone, StoreCache(store), progress)
        recipes = [
            _declared(store, spec, info, own) for spec, own in zip(specs, found, strict=True)
        ]
        store.sync()
    return recipes


@contextmanager
def _alone(store: Store, progress: Progress) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(store.named_lock("fit", wait=0.0))
        except StoreBusyError:
            progress.say("another process is fitting this store; waiting for its results")
            held.enter_context(store.named_lock("fit", wait=WAIT_SECONDS))
        yield


def run_fits(
    info: BackboneInfo,
    specs: Sequence[FeatureSpec],
    draw: Draw,
    backbone: Callable[[], Backbone],
    cache: ArtifactCache,
    progress: Progress | None = None,
) -> list[Fitted]:
    """Run the fits of features whose results `cache` does not have; see `fit_features`."""
    progress = progress or Silence()
    own = [jobs_for(info, spec) for spec in specs]
    jobs = {job.asked: job for each in own for job in each}
    missing = [job for job in jobs.values() if not job.done(cache)]
    samples = _samples([job.fit for job in missing], draw)
    while missing:
        group = [job for job in missing if job is missing[0] or job.shares(missing[0])]
        group = [job for job in group if all(jobs[need].done(cache) for need in job.needs)]
        run(group, jobs, samples[group[0].fit.sample_seed], backbone(), cache, progress)
        missing = [job for job in missing if job not in group]
    return [fitted(each, cache) for each in own]


@dataclass(frozen=True)
class Job:
    """A fit on a backbone: the digest of what is asked for, and those of what it needs.

    `checkpoint` is the digest and the output of the fit whose adapter the model wears.
    """

    fit: Fit
    asked: str
    needs: tuple[str, ...]
    checkpoint: tuple[str, str] | None = None

    def outputs(self, cache: ArtifactCache) -> dict[str, str]:
        """Name -> digest of those that are there."""
        found = {name: cache.find(self.asked, name) for name in self.fit.outputs()}
        return {name: content for name, content in found.items() if content}

    def done(self, cache: ArtifactCache) -> bool:
        """Whether all of them are."""
        return len(self.outputs(cache)) == len(self.fit.outputs())

    def shares(self, other: Job) -> bool:
        """Whether one pass over one sample serves both."""
        return (
            isinstance(self.fit, PassFit)
            and isinstance(other.fit, PassFit)
            and self.fit.sample_seed == other.fit.sample_seed
            and self.checkpoint == other.checkpoint
        )


def jobs_for(info: BackboneInfo, spec: FeatureSpec) -> list[Job]:
    """Everything that must be learned for a feature, needs first."""
    representation = get(spec.representation)
    identity = representation.identity(info, spec.options)
    jobs: list[Job] = []
    for fit in in_order(representation.fits(info, spec.options)):
        needs = {need.asked(identity): need for need in fit.needs()}
        worn = fit.checkpoint() if isinstance(fit, PassFit) else ""
        made_by = (digest for digest, need in needs.items() if worn in need.outputs())
        checkpoint = (next(made_by), worn) if worn else None
        jobs.append(Job(fit, fit.asked(identity), tuple(needs), checkpoint))
    return jobs


def _samples(fits: Sequence[Fit], draw: Draw) -> dict[int, Sample]:
    """One sample for each seed, big enough for all that learn from it."""
    samples: dict[int, Sample] = {}
    for seed in dict.fromkeys(fit.sample_seed for fit in fits):
        sharing = [fit for fit in fits if fit.sample_seed == seed]
        samples[seed] = draw(seed, lambda total: max(each.sample_rows(total) for each in sharing))  # noqa: B023 (called at once)
    return samples


def run(
    group: Sequence[Job],
    jobs: Mapping[str, Job],
    sample: Sample,
    backbone: Backbone,
    cache: ArtifactCache,
    progress: Progress,
) -> None:
    """Run one fit on its part of a sample, or some that share a pass over it.

    Args:
        jobs: those they need, by what they ask for; done already.
        sample: at least the rows they want, or all there are.

    Raises:
        UsageError: the sample is too small.
    """
    names = " and ".join(job.fit.name for job in group)
    fittings = [_fitting(job, jobs, sample, backbone, cache, progress) for job in group]
    rows = max(len(fitting.sample) for fitting in fittings)
    kept = [name for job in group for name in job.outputs(cache)]
    progress.say(
        f"{names}: fitting on {rows:,} of {sample.total:,} rows"
        + (f"; {', '.join(kept)} {'is' if len(kept) == 1 else 'are'} there already" if kept else "")
    )
    begun = time.monotonic()
    pairs = [
        (job.fit, fitting)
        for job, fitting in zip(group, fittings, strict=True)
        if isinstance(job.fit, PassFit)
    ]
    if len(group) > 1:
        run_together(
            pairs,
            lambda done: progress.learn(name=names, share=PASS_SHARE * done, said=READING),
        )
    else:
        group[0].fit.run(fittings[0])
    for job in group:
        if not job.done(cache):
            outputs = ", ".join(job.fit.outputs())
            raise RuntimeError(f"the fit {job.fit.name} did not leave all of {outputs}")
    progress.say(f"{names}: fitted in {time.monotonic() - begun:,.1f} s")


def _fitting(
    job: Job,
    jobs: Mapping[str, Job],
    sample: Sample,
    backbone: Backbone,
    cache: ArtifactCache,
    progress: Progress,
) -> Fitting:
    outputs = [each.outputs(cache) for each in (*(jobs[need] for need in job.needs), job)]

    def keep(name: str, artifact: Artifact) -> Artifact:
        return cache.load(cache.keep(job.asked, name, artifact), name)

    def tell(share: float, said: str) -> None:
        progress.learn(name=job.fit.name, share=share, said=said)

    kept = {name: cache.load(content, name) for own in outputs for name, content in own.items()}
    return Fitting(backbone, sample.first(job.fit.sample_rows(sample.total)), kept, keep, tell)


def fitted(jobs: Sequence[Job], cache: ArtifactCache) -> Fitted:
    """What the jobs of a feature left."""
    digests = {name: content for job in jobs for name, content in job.outputs(cache).items()}
    return Fitted({name: cache.load(digest, name) for name, digest in digests.items()}, digests)


def _declared(store: Store, spec: FeatureSpec, info: BackboneInfo, found: Fitted) -> Recipe:
    present = recipes_of(store)
    made = recipe_for(spec, info, found.artifacts, found.digests, present)
    for each in present:
        if each.fingerprint == made.fingerprint:
            return each
    declare(store, made, fields_of(made, info, found.artifacts))
    return made


@contextmanager
def rereadable_sources(
    store: Store,
    data: SourceData,
    options: ReadOptions,
    progress: Progress | None = None,
) -> Iterator[SourceList]:
    """The sources named, which can be read twice inside the block if something is to be fitted.

    Raises:
        InputError, AmbiguousFormatError, UsageError: as `open_sources`.
    """
    if not pending(store):
        yield open_sources(data, options)
        return
    with tempfile.TemporaryDirectory(prefix="coresetdb-") as folder:
        yield open_sources(data, options, folder, progress)


def fit_from(
    store: Store,
    looked: SourceList,
    backbone: Callable[[], Backbone],
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[Recipe]:
    """Settle the features that wait for it: the sample comes from the pool, if it has rows.

    Returns:
        Their recipes; empty when nothing was waiting.

    Raises:
        UsageError: there are too few rows to learn from.
    """
    wanted = pending(store)
    if not wanted:
        return []
    said = progress or Silence()

    def draw(seed: int, rows: Rows) -> Sample:
        if store.dataset("pool").count_rows():
            said.say("the sample is drawn from the pool")
            return sample_of_pool(store, seed, rows)
        said.say("the files are read once for the sample, and again to be ingested")
        return sample_of_sources(looked.sources(), seed, rows, limit, looked.bytes, said)

    try:
        return fit_features(store, wanted, draw, backbone, progress)
    except UsageError as error:
        names = ", ".join(map(str, wanted))
        raise UsageError(f"{error} (needed for {names}; nothing was ingested)") from error
