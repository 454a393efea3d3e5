"""What workers do with a store's backbone (`workers.task.Role`): features of rows, and fits.

A worker opens no store: recipes, and everything fitted that they depend on, come with the tasks. So
on another machine it needs the model alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...schemas.conversations import conversations_in
from ...schemas.errors import UsageError
from ...schemas.recipe import Recipe
from ...store.catalog import Artifact
from ...store.store import Store
from ...workers.group import WorkerGroup
from ...workers.machine import threads_of_user, usable_processors
from ...workers.opening import open_group
from ...workers.options import Placement, WorkerOptions, place
from ...workers.task import Answer, Given, Owner, to_bytes, to_table
from ..create import backbone_config, check_backbone, describe_backbone, recipes_of
from ..models.describe import BackboneConfig, weights_bytes
from ..models.device_map import AUTO_MAP
from .fitting import fit_for_owner
from .worker_tasks import FIT, recipe_of

if TYPE_CHECKING:
    from ..featurizer import Featurizer

ROLE = f"{__name__}.ModelWorker"


class ModelWorker:
    """A loaded backbone, and featurizers of the recipes that tasks name.

    Args:
        settings: `backbone`, the fields of a `BackboneConfig`; `device`, which counts in place of
            its own; and `threads` of the CPU.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch

        from ..models.backbone import Backbone

        torch.set_num_threads(settings["threads"])
        config = BackboneConfig(**{**settings["backbone"], "device": settings["device"]})
        self.backbone = Backbone.load(config)
        self._recipes: dict[str, Recipe] = {}
        self._artifacts: dict[str, Artifact] = {}
        self._featurizers: dict[tuple[str, ...], Featurizer] = {}

    def equip(self, facts: dict[str, Any], blobs: Sequence[bytes]) -> None:
        """Take recipes and their artifacts, in place of those before."""
        recipes = [recipe_of(own) for own in facts["recipes"]]
        self._recipes = {recipe.fingerprint: recipe for recipe in recipes}
        self._artifacts = {
            digest: Artifact.unpack(blob)
            for digest, blob in zip(facts["artifacts"], blobs, strict=True)
        }
        self._featurizers = {}

    def do(
        self, facts: dict[str, Any], body: bytes, parts: Sequence[Given], owner: Owner
    ) -> Answer:
        """Featurize the rows of a task, or fit to them."""
        rows = to_table(body)
        if facts["kind"] == FIT:
            fit_for_owner(facts, rows, parts, self.backbone, self._artifacts, owner)
            return {}, b""
        featurizer = self._featurizer(tuple(facts["recipes"]))
        instructions = conversations_in(rows)
        began = time.monotonic()
        features = featurizer.featurize(instructions, owner.seen)
        return {"seconds": time.monotonic() - began}, to_bytes(features)

    def _featurizer(self, fingerprints: tuple[str, ...]) -> Featurizer:
        from ..featurizer import Featurizer

        if fingerprints not in self._featurizers:
            recipes = [self._recipes[each] for each in fingerprints]
            self._featurizers[fingerprints] = Featurizer(
                self.backbone, recipes, artifacts=self._artifacts
            )
        return self._featurizers[fingerprints]


@contextmanager
def open_workers(
    store: Store, options: WorkerOptions, say: Callable[[str], None]
) -> Iterator[WorkerGroup | None]:
    """Hold workers with a store's backbone inside the block; None where none are wanted.

    Raises:
        BackboneError, FingerprintError: as `create.load_backbone`; nothing was started.
        UsageError: a GPU or a cluster is not there, or one model is spread over all devices.
    """
    if not options.given:
        yield None
        return
    config = backbone_config(store)
    if config.device == AUTO_MAP:
        raise UsageError(
            f"{store.uri}: --device {AUTO_MAP} spreads one model over all devices, and every "
            "worker needs a model of its own: leave --workers, --gpus and --engine out"
        )
    check_backbone(store.uri, config, recipes_of(store))
    settings = {"backbone": config.as_dict()}
    with open_group(options, placement(store, options), ROLE, settings, say) as group:
        yield group


def placement(store: Store, options: WorkerOptions) -> Placement:
    """Where workers with a store's backbone run."""
    config = backbone_config(store)
    if config.device == AUTO_MAP:
        why = "a model that is spread over all devices has room for no other"
        return Placement(1, threads_of_user() or usable_processors(), (), why, config.device)
    info = describe_backbone(store.uri, config)
    return place(options, config.device, weights_bytes(info, config.dtype))
