"""Fits are run here: what is missing is learned from one sample and kept, then columns declared.

Every result is kept as soon as it is there, so a killed run goes on where it was. One process
learns for a store at a time: two samples must not mix in one feature, so a second one waits and
takes what the first has learned. Columns come before recipes: a kill between them leaves null
columns that the next run takes up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...schemas.errors import StoreBusyError
from ...schemas.recipe import Recipe
from ...store.features import declare
from ...store.locks import StoreLock
from ...store.store import Store
from ..create import recipes_of
from ..jobs.progress import FitProgress, Silence
from ..models.describe import BackboneConfig, BackboneInfo, describe
from ..representations.registry import Wanted, fields_of, get, recipe_for
from .artifacts import Artifact
from .fit import Fit, Fitting, Sample, in_order
from .sampling import Rows
from .shelf import Shelf, StoreShelf

if TYPE_CHECKING:
    from ..models.backbone import Backbone

FOLDER = "_fit"
"""In the store: where the lock of whoever learns lies."""

WAIT_SECONDS = 7 * 86_400.0
"""A warm-up on a large model may take days; a process that died lets go at once."""

Draw = Callable[[int, Rows], Sample]
"""Draws a sample by its seed and by how many rows are wanted of a total."""


@dataclass(frozen=True)
class Learned:
    """Everything fitted for one feature, by name: the artifacts and the digests of their bytes."""

    artifacts: Mapping[str, Artifact]
    digests: Mapping[str, str]


def settle(
    store: Store,
    wanted: Sequence[Wanted],
    draw: Draw,
    backbone: Callable[[], Backbone],
    progress: FitProgress | None = None,
) -> list[Recipe]:
    """Fit what features need, then give pool and targets their columns and keep their recipes.

    Args:
        wanted: the features; what the store has already stays as it is.
        draw: `sample_of_sources` or `sample_of_pool`, bound to where the rows are; called only
            when something is missing.
        backbone: loads the store's backbone; called only when something is missing.
        progress: is told what is learned, and how it goes.

    Returns:
        Their recipes in the store, in order.

    Raises:
        UsageError: there is no row to learn from, or there are too few; nothing was declared.
    """
    if not wanted:
        return []
    info = describe(BackboneConfig(**store.config["backbone"]))
    with _alone(store, progress or Silence()):
        found = learn(info, wanted, draw, backbone, StoreShelf(store), progress)
        recipes = [
            _declared(store, asked, info, each) for asked, each in zip(wanted, found, strict=True)
        ]
        store.sync()
    return recipes


@contextmanager
def _alone(store: Store, progress: FitProgress) -> Iterator[None]:
    if store.place.local:
        os.makedirs(store.place.absolute(FOLDER), exist_ok=True)
    lock = StoreLock(store.place, f"{FOLDER}/")
    with ExitStack() as held:
        try:
            held.enter_context(lock.held(shared=False, wait=0.0))
        except StoreBusyError:
            progress.say("another process is fitting this store; waiting for what it learns")
            held.enter_context(lock.held(shared=False, wait=WAIT_SECONDS))
        yield


def learn(
    info: BackboneInfo,
    wanted: Sequence[Wanted],
    draw: Draw,
    backbone: Callable[[], Backbone],
    shelf: Shelf,
    progress: FitProgress | None = None,
) -> list[Learned]:
    """Run the fits of features whose results `shelf` does not have; see `settle`."""
    progress = progress or Silence()
    own = [jobs_for(info, each) for each in wanted]
    jobs = {job.asked: job for each in own for job in each}
    missing = [job for job in jobs.values() if not job.done(shelf)]
    samples = _samples([job.fit for job in missing], draw)
    for job in missing:
        run(job, jobs, samples[job.fit.sample_seed], backbone(), shelf, progress)
    return [learned(each, shelf) for each in own]


@dataclass(frozen=True)
class Job:
    """A fit on a backbone: the digest of what is asked for, and those of what it needs."""

    fit: Fit
    asked: str
    needs: tuple[str, ...]

    def outputs(self, shelf: Shelf) -> dict[str, str]:
        """Name -> digest of those that are there."""
        found = {name: shelf.find(self.asked, name) for name in self.fit.outputs()}
        return {name: content for name, content in found.items() if content}

    def done(self, shelf: Shelf) -> bool:
        """Whether all of them are."""
        return len(self.outputs(shelf)) == len(self.fit.outputs())


def jobs_for(info: BackboneInfo, wanted: Wanted) -> list[Job]:
    """Everything that must be learned for a feature, needs first."""
    representation = get(wanted.representation)
    identity = representation.identity(info, wanted.options)
    return [
        Job(fit, fit.asked(identity), tuple(each.asked(identity) for each in fit.needs()))
        for fit in in_order(representation.fits(info, wanted.options))
    ]


def _samples(fits: Sequence[Fit], draw: Draw) -> dict[int, Sample]:
    """One sample for each seed, big enough for all that learn from it."""
    samples: dict[int, Sample] = {}
    for seed in dict.fromkeys(fit.sample_seed for fit in fits):
        sharing = [fit for fit in fits if fit.sample_seed == seed]
        samples[seed] = draw(seed, lambda total: max(each.sample_rows(total) for each in sharing))  # noqa: B023 (called at once)
    return samples


def run(
    job: Job,
    jobs: Mapping[str, Job],
    sample: Sample,
    backbone: Backbone,
    shelf: Shelf,
    progress: FitProgress,
) -> float:
    """Run one fit on its part of a sample; the seconds it took.

    Args:
        jobs: those it needs, by what they ask for; done already.
        sample: at least the rows it wants, or all there are.

    Raises:
        UsageError: the sample is too small.
    """
    fit = job.fit
    there = [each.outputs(shelf) for each in (*(jobs[need] for need in job.needs), job)]
    kept = {name: shelf.load(content, name) for each in there for name, content in each.items()}

    def keep(name: str, artifact: Artifact) -> Artifact:
        return shelf.load(shelf.keep(job.asked, name, artifact), name)

    def tell(share: float, said: str) -> None:
        progress.learn(name=fit.name, share=share, said=said)

    own = sample.first(fit.sample_rows(sample.total))
    progress.say(
        f"{fit.name}: learning from {len(own):,} of {sample.total:,} rows"
        + (f"; {', '.join(there[-1])} is there already" if there[-1] else "")
    )
    begun = time.monotonic()
    fit.run(Fitting(backbone, own, kept, keep, tell))
    if not job.done(shelf):
        raise RuntimeError(f"the fit {fit.name} did not leave all of {', '.join(fit.outputs())}")
    seconds = time.monotonic() - begun
    progress.say(f"{fit.name}: learned in {seconds:,.1f} s")
    return seconds


def learned(jobs: Sequence[Job], shelf: Shelf) -> Learned:
    """What the jobs of a feature left."""
    digests = {name: content for job in jobs for name, content in job.outputs(shelf).items()}
    return Learned({name: shelf.load(digest, name) for name, digest in digests.items()}, digests)


def _declared(store: Store, asked: Wanted, info: BackboneInfo, found: Learned) -> Recipe:
    present = recipes_of(store)
    made = recipe_for(asked, info, found.artifacts, found.digests, present)
    for each in present:
        if each.fingerprint == made.fingerprint:
            return each
    declare(store, made, fields_of(made, info, found.artifacts))
    return made
