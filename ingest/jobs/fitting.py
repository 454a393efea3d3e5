"""Run the fits that features need, on one sample of the pool, and keep their results.

Workers, where there are any, run fits that do not need one another at the same time, and parts of a
fit that can be made apart, such as the members of an ensemble.

Every result is kept as soon as it is computed, so a killed run continues where it was, and fits of
the same model share one pass over the sample. One process fits a store at a time: two samples must
not mix in one feature, so a second process waits and uses the results of the first. Columns are
added before recipes: a kill between the two leaves null columns that the next run uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from ...schemas.conversations import conversations_in
from ...schemas.errors import StoreBusyError, UsageError
from ...schemas.plain_text import count_of
from ...schemas.progress import JoinedProgress, Progress, Silence
from ...schemas.recipe import Recipe
from ...schemas.scratch import ScratchFolder
from ...store.catalog import Artifact, content_of, find_artifact, keep_artifact, load_artifact
from ...store.features import declare
from ...store.removal import removed_ids
from ...store.store import Store
from ...workers.group import WorkerGroup
from ...workers.task import Equipment, Given, Owner, Task
from ..create import backbone_config, describe_backbone, pending, recipes_of
from ..fits.fit import PASS_SHARE, READING, Fit, Fitting, PassFit, Sample, in_order, run_together
from ..fits.sampling import Rows, sample_of_pool, sample_of_sources
from ..models.describe import BackboneInfo
from ..readers.options import ReadOptions
from ..representations.registry import (
    FeatureSpec,
    configured_specs,
    fields_of,
    get,
    recipe_for,
)
from ..sources import SourceList, open_sources
from .worker_tasks import FIT, conversations

if TYPE_CHECKING:
    from ..models.backbone import Backbone
    from ..sources import SourceData


class ArtifactCache(Protocol):
    """Artifacts by the digest of their fit and their name, and by the digest of their content."""

    def find(self, request: str, name: str) -> str | None:
        """Return the digest of the artifact that such a fit left earlier, or None."""
        ...

    def keep(self, request: str, name: str, artifact: Artifact) -> str:
        """Keep an artifact; return the digest of the one that is valid from now on."""
        ...

    def load(self, content: str, name: str) -> Artifact:
        """Return the artifact with that digest."""
        ...


class StoreCache:
    """The table `artifacts` of a store: the first artifact committed stays."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, request: str, name: str) -> str | None:
        """See ArtifactCache."""
        return find_artifact(self._store, request, name)

    def keep(self, request: str, name: str, artifact: Artifact) -> str:
        """See ArtifactCache."""
        return keep_artifact(self._store, request, name, artifact)

    def load(self, content: str, name: str) -> Artifact:
        """See ArtifactCache; raises DamagedStoreError."""
        return load_artifact(self._store, content, name)


class MemoryCache:
    """In memory, for trials; artifacts of the cache `below` are found and never changed."""

    def __init__(self, below: ArtifactCache | None = None) -> None:
        self._below = below
        self._digests: dict[tuple[str, str], str] = {}
        self._artifacts: dict[str, Artifact] = {}

    def find(self, request: str, name: str) -> str | None:
        """See ArtifactCache."""
        below = self._below.find(request, name) if self._below else None
        return below or self._digests.get((request, name))

    def keep(self, request: str, name: str, artifact: Artifact) -> str:
        """See ArtifactCache."""
        content = self._digests.setdefault((request, name), content_of(artifact.pack()))
        self._artifacts.setdefault(content, artifact)
        return content

    def load(self, content: str, name: str) -> Artifact:
        """See ArtifactCache."""
        if content in self._artifacts or self._below is None:
            return self._artifacts[content]
        return self._below.load(content, name)


WAIT_SECONDS = 7 * 86_400.0
"""A warm-up on a large model may take days; a process that dies frees the lock at once."""

Draw = Callable[[int, Rows], Sample]
"""Draws a sample, from its seed and a function from the size of the pool to its rows."""


@dataclass(frozen=True)
class Fitted:
    """Everything fitted for one feature, by name: artifacts, and the digests of their bytes."""

    artifacts: Mapping[str, Artifact]
    digests: Mapping[str, str]


def fit_features(
    store: Store,
    specs: Sequence[FeatureSpec],
    draw: Draw,
    backbone: Callable[[], Backbone],
    progress: Progress | None = None,
    workers: WorkerGroup | None = None,
) -> list[Recipe]:
    """Run the fits of features, then add their columns and recipes to the store.

    Args:
        specs: the features; one that the store has already is left as it is.
        draw: `sample_of_sources` or `sample_of_pool`, bound to where the rows are; called only
            when an artifact is missing.
        backbone: loads the store's backbone; called only when an artifact is missing, and not
            where there are workers.
        workers: run the fits in place of this process.

    Returns:
        Their recipes in the store, in order.

    Raises:
        UsageError: there are no rows to learn from, or too few; no feature was added.
    """
    if not specs:
        return []
    info = describe_backbone(store.uri, backbone_config(store))
    with _fit_lock(store, progress or Silence()):
        fits = run_fits(info, specs, draw, backbone, StoreCache(store), progress, workers)
        recipes = [_declare(store, spec, info, fit) for spec, fit in zip(specs, fits, strict=True)]
        store.sync()
    return recipes


@contextmanager
def _fit_lock(store: Store, progress: Progress) -> Iterator[None]:
    """Hold the lock of the process that fits this store."""
    with ExitStack() as stack:
        try:
            stack.enter_context(store.named_lock("fit", wait=0.0))
        except StoreBusyError:
            progress.say("another process is fitting this store; waiting for its results")
            stack.enter_context(store.named_lock("fit", wait=WAIT_SECONDS))
        yield


def run_fits(
    info: BackboneInfo,
    specs: Sequence[FeatureSpec],
    draw: Draw,
    backbone: Callable[[], Backbone],
    cache: ArtifactCache,
    progress: Progress | None = None,
    workers: WorkerGroup | None = None,
) -> list[Fitted]:
    """Run the fits of features whose artifacts `cache` lacks; see `fit_features`."""
    progress = progress or Silence()
    jobs_of_specs = [jobs_for(info, spec) for spec in specs]
    jobs = {job.digest: job for jobs_of_spec in jobs_of_specs for job in jobs_of_spec}
    missing = [job for job in jobs.values() if not job.done(cache)]
    samples = _samples([job.fit for job in missing], draw)
    joined = JoinedProgress(progress, len(missing), "fit")
    while missing:
        groups = _ready_groups(missing, jobs, cache)
        if workers is None:
            groups = groups[:1]
        joined.begin({_names(group): len(group) for group in groups})
        if workers is None:
            (group,) = groups
            run(group, jobs, samples[group[0].fit.sample_seed], backbone(), cache, joined)
        else:
            _run_by_workers(workers, specs, groups, jobs, samples, cache, joined)
        missing = [job for job in missing if not job.done(cache)]
    return [fitted(jobs_of_spec, cache) for jobs_of_spec in jobs_of_specs]


def _names(group: Sequence[Job]) -> str:
    """The names of fits that share a pass."""
    return " and ".join(job.fit.name for job in group)


def _ready_groups(
    missing: Sequence[Job], jobs: Mapping[str, Job], cache: ArtifactCache
) -> list[list[Job]]:
    """Return missing jobs whose needs are done, together where they share a pass."""
    groups: list[list[Job]] = []
    for job in missing:
        if all(jobs[need].done(cache) for need in job.needs):
            sharing = next((group for group in groups if job.shares(group[0])), None)
            if sharing is None:
                groups.append([job])
            else:
                sharing.append(job)
    return groups


@dataclass(frozen=True)
class Job:
    """A fit on a backbone.

    Attributes:
        digest: of the fit and the backbone.
        needs: digests of the jobs whose outputs it needs.
        checkpoint: digest of the job, and name of its output, that is the model's adapter.
    """

    fit: Fit
    digest: str
    needs: tuple[str, ...]
    checkpoint: tuple[str, str] | None = None

    def outputs(self, cache: ArtifactCache) -> dict[str, str]:
        """Return name -> content digest of the outputs that the cache has."""
        contents = {name: cache.find(self.digest, name) for name in self.fit.outputs()}
        return {name: content for name, content in contents.items() if content}

    def done(self, cache: ArtifactCache) -> bool:
        """Return whether the cache has all outputs."""
        return len(self.outputs(cache)) == len(self.fit.outputs())

    def shares(self, other: Job) -> bool:
        """Return whether one pass over one sample serves both."""
        return (
            isinstance(self.fit, PassFit)
            and isinstance(other.fit, PassFit)
            and self.fit.sample_seed == other.fit.sample_seed
            and self.checkpoint == other.checkpoint
        )


def jobs_for(info: BackboneInfo, spec: FeatureSpec) -> list[Job]:
    """Return the fits of a feature, needs first."""
    representation = get(spec.representation)
    identity = representation.identity(info, spec.options)
    jobs: list[Job] = []
    for fit in in_order(representation.fits(info, spec.options)):
        needs = {need.digest(identity): need for need in fit.needs()}
        adapter = fit.checkpoint() if isinstance(fit, PassFit) else ""
        made_by = (digest for digest, need in needs.items() if adapter in need.outputs())
        checkpoint = (next(made_by), adapter) if adapter else None
        jobs.append(Job(fit, fit.digest(identity), tuple(needs), checkpoint))
    return jobs


def _samples(fits: Sequence[Fit], draw: Draw) -> dict[int, Sample]:
    """Return one sample for each seed, large enough for all fits with that seed."""
    samples: dict[int, Sample] = {}
    for seed in dict.fromkeys(fit.sample_seed for fit in fits):
        sharing = [fit for fit in fits if fit.sample_seed == seed]
        samples[seed] = draw(seed, lambda total: max(fit.sample_rows(total) for fit in sharing))  # noqa: B023 (called at once)
    return samples


def run(
    group: Sequence[Job],
    jobs: Mapping[str, Job],
    sample: Sample,
    backbone: Backbone,
    cache: ArtifactCache,
    progress: Progress,
) -> None:
    """Run one fit on its part of a sample, or several that share a pass over it.

    Args:
        jobs: by digest; those that the group needs are done.
        sample: at least as many rows as they need, or the whole pool.

    Raises:
        UsageError: the sample is too small.
    """
    names = _names(group)
    fittings = [_fitting(job, jobs, sample, backbone, cache, progress) for job in group]
    rows = max(len(fitting.sample) for fitting in fittings)
    existing = [name for job in group for name in job.outputs(cache)]
    progress.say(
        f"{names}: fitting on {rows:,} of {sample.total:,} rows"
        + (f"; {', '.join(existing)} already fitted" if existing else "")
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


def _run_by_workers(
    workers: WorkerGroup,
    specs: Sequence[FeatureSpec],
    groups: Sequence[Sequence[Job]],
    jobs: Mapping[str, Job],
    samples: Mapping[int, Sample],
    cache: ArtifactCache,
    progress: Progress,
) -> None:
    """Have groups of jobs that do not need one another run at once, and parts of a single one.

    What belongs to all parts of a job is run in the next round.
    """
    waiting: list[tuple[Task, str]] = []
    for group in groups:
        sample = samples[group[0].fit.sample_seed]
        rows = max(job.fit.sample_rows(sample.total) for job in group)
        sample = sample.first(rows)
        names = _names(group)
        existing = {
            (digest, name): content
            for job in group
            for digest in (*job.needs, job.digest)
            for name, content in jobs[digest].outputs(cache).items()
        }
        artifacts = {content: name for (_, name), content in existing.items()}
        equipped = Equipment(
            {"recipes": [], "artifacts": list(artifacts)},
            [cache.load(content, name).pack() for content, name in artifacts.items()],
        )
        outputs = group[0].outputs(cache)
        parts = group[0].fit.parts(outputs) if len(group) == 1 else []
        for part in parts if len(parts) > 1 else [None]:
            facts = {
                "kind": FIT,
                "specs": [spec.configured for spec in specs],
                "jobs": [job.digest for job in group],
                "part": part,
                "existing": [[*key, content] for key, content in existing.items()],
                "total": sample.total,
            }
            body = conversations(sample.instructions, sample.ids)
            what = f"the fit {names}" + (f" ({', '.join(part)})" if part else "")
            task = Task(facts, body, lambda what=what: what, equipped)
            workers.submit(task)
            waiting.append((task, names))
        if len(parts) > 1:
            progress.say(
                f"{names}: fitting {count_of(len(parts), 'part')} on {len(sample):,} of "
                f"{sample.total:,} rows"
            )
    taken = dict.fromkeys((task for task, _ in waiting), 0)

    def take() -> None:
        """Keep what was given since the last time."""
        for task, names in waiting:
            given = list(task.given)
            for facts, blob in given[taken[task] :]:
                if blob:
                    cache.keep(facts["job"], facts["name"], Artifact.unpack(blob))
                elif "said" in facts:
                    progress.say(facts["said"])
                else:
                    progress.learn(name=names, share=facts["share"], said=facts["learned"])
            taken[task] = len(given)

    try:
        for task, _ in waiting:
            workers.wait(task, lambda rows, tokens: None, take)
    finally:
        take()


def fit_for_owner(
    facts: dict[str, Any],
    rows: pa.Table,
    parts: Sequence[Given],
    backbone: Backbone,
    artifacts: Mapping[str, Artifact],
    owner: Owner,
) -> None:
    """Run what `_run_by_workers` describes, giving every artifact as soon as it is there.

    Args:
        rows: of the sample.
        parts: what a worker that died had given.
        artifacts: those of the fits needed, by the digests of their content.
    """
    jobs = {
        job.digest: job
        for spec in configured_specs(",".join(facts["specs"]))
        for job in jobs_for(backbone.info, spec)
    }
    group = [jobs[digest] for digest in facts["jobs"]]
    cache = _GivingCache(owner)
    for digest, name, content in facts["existing"]:
        cache.keep_silently(digest, name, artifacts[content])
    for given, blob in parts:
        cache.keep_silently(given["job"], given["name"], Artifact.unpack(blob))
    sample = Sample(rows["id"].to_pylist(), conversations_in(rows), facts["total"])
    progress = _GivingProgress(owner)
    if facts["part"] is None:
        run(group, jobs, sample, backbone, cache, progress)
    else:
        fitting = _fitting(group[0], jobs, sample, backbone, cache, progress)
        group[0].fit.run_part(fitting, facts["part"])


class _GivingCache(MemoryCache):
    """Gives what is kept to the owner of a worker."""

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self._owner = owner

    def keep(self, request: str, name: str, artifact: Artifact) -> str:
        """See ArtifactCache."""
        self._owner.give({"job": request, "name": name}, artifact.pack())
        return super().keep(request, name, artifact)

    def keep_silently(self, request: str, name: str, artifact: Artifact) -> None:
        """Keep what the owner has already."""
        super().keep(request, name, artifact)


class _GivingProgress(Silence):
    """Gives news of a fit to the owner of a worker."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def say(self, sentence: str) -> None:
        """See Progress."""
        self._owner.give({"said": sentence})

    def learn(self, *, name: str, share: float, said: str) -> None:
        """See Progress."""
        self._owner.give({"share": share, "learned": said})


def _fitting(
    job: Job,
    jobs: Mapping[str, Job],
    sample: Sample,
    backbone: Backbone,
    cache: ArtifactCache,
    progress: Progress,
) -> Fitting:
    needed = [*(jobs[need] for need in job.needs), job]
    outputs = {name: content for other in needed for name, content in other.outputs(cache).items()}

    def keep(name: str, artifact: Artifact) -> Artifact:
        return cache.load(cache.keep(job.digest, name, artifact), name)

    def report(share: float, sentence: str) -> None:
        progress.learn(name=job.fit.name, share=share, said=sentence)

    artifacts = {name: cache.load(content, name) for name, content in outputs.items()}
    rows = job.fit.sample_rows(sample.total)
    return Fitting(backbone, sample.first(rows), artifacts, keep, report, progress.say)


def fitted(jobs: Sequence[Job], cache: ArtifactCache) -> Fitted:
    """Return the outputs of a feature's jobs."""
    digests = {name: content for job in jobs for name, content in job.outputs(cache).items()}
    return Fitted({name: cache.load(digest, name) for name, digest in digests.items()}, digests)


def _declare(store: Store, spec: FeatureSpec, info: BackboneInfo, fits: Fitted) -> Recipe:
    """Add a feature to the store, unless it has it; return the recipe that the store has."""
    present = recipes_of(store)
    recipe = recipe_for(spec, info, fits.artifacts, fits.digests, present)
    for known in present:
        if known.fingerprint == recipe.fingerprint:
            return known
    declare(store, recipe, fields_of(recipe, info, fits.artifacts))
    return recipe


@contextmanager
def rereadable_sources(
    store: Store,
    data: SourceData,
    options: ReadOptions,
    progress: Progress | None = None,
) -> Iterator[SourceList]:
    """Open sources; if a feature is still to be fitted, they can be read twice inside the block.

    Raises:
        InputError, AmbiguousFormatError, UsageError: as `open_sources`.
    """
    if not pending(store):
        yield open_sources(data, options, progress=progress)
        return
    with ScratchFolder() as folder:
        yield open_sources(data, options, folder, progress)


def fit_from(
    store: Store,
    sources: SourceList,
    backbone: Callable[[], Backbone],
    limit: int | None = None,
    progress: Progress | None = None,
    workers: WorkerGroup | None = None,
) -> list[Recipe]:
    """Fit the features that are pending, on a sample of the pool or, if it is empty, of `sources`.

    Returns:
        Their recipes; none if no feature was pending.

    Raises:
        UsageError: there are too few rows to learn from.
    """
    specs = pending(store)
    if not specs:
        return []
    progress = progress or Silence()

    def draw(seed: int, rows: Rows) -> Sample:
        if store.dataset("pool").count_rows():
            progress.say("the sample is drawn from the pool")
            return sample_of_pool(store, seed, rows)
        progress.say("the files are read once for the sample, and again when they are ingested")
        without = removed_ids(store)
        return sample_of_sources(
            sources.sources(), seed, rows, limit, sources.bytes, progress, without
        )

    try:
        return fit_features(store, specs, draw, backbone, progress, workers)
    except UsageError as error:
        names = ", ".join(map(str, specs))
        raise UsageError(f"{error} (needed for {names}; nothing was ingested)") from error
