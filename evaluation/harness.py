"""Measure a trained model on tasks of lm-evaluation-harness, in memory and offline."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..schemas.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ingest.models.backbone import Backbone

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def require_harness() -> None:
    """Refuse where lm-evaluation-harness is not installed.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            "--tasks needs lm-evaluation-harness, which is not installed: "
            "pip install 'coresetdb[evaluate]'"
        )


def measure_tasks(
    backbone: Backbone, tasks: Sequence[str], folder: str | None = None, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Return `task:metric` -> number of the document -> value.

    Args:
        tasks: names that the harness knows, or of definitions in `folder`.
        folder: of task definitions (YAML); their data may be local files.
        limit: documents of each task.

    Raises:
        UsageError: an unknown task, or its data cannot be had offline.
    """
    import lm_eval
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        backbone.info.folder, local_files_only=True, trust_remote_code=False
    )
    manager = TaskManager(include_path=folder, include_defaults=folder is None)
    if not set(tasks) <= set(manager.all_tasks):  # indexing the harness's own takes seconds
        manager = TaskManager(include_path=folder, include_defaults=True)
    for task in tasks:
        if task not in manager.all_tasks:
            raise UsageError(
                f"task {task!r}: lm-evaluation-harness does not know it. Name one of its tasks, or "
                "give the folder of its definition with --task-folder"
            )
    harness: Any = lm_eval  # its decorators hide what its functions take
    models: Any = huggingface
    with _offline():
        try:
            found = harness.simple_evaluate(
                model=models.HFLM(pretrained=backbone.model, tokenizer=tokenizer, batch_size=8),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                log_samples=True,
                bootstrap_iters=0,
                verbosity="ERROR",
            )
        except Exception as error:  # the harness and its data raise whatever they meet
            raise UsageError(
                f"the tasks {', '.join(tasks)} cannot be measured ({error}). Their data must be on "
                "this machine: run them once with network, or define them over local files"
            ) from error
    values: dict[str, dict[str, float]] = {}
    for task, samples in found["samples"].items():
        for sample in samples:
            for metric in sample["metrics"]:
                value = sample[metric]
                if isinstance(value, int | float):
                    values.setdefault(f"{task}:{metric}", {})[str(sample["doc_id"])] = float(value)
    return values


@contextmanager
def _offline() -> Iterator[None]:
    """Keep libraries from reaching for a hub inside the block, where the user did not allow it."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    os.environ.update({name: os.environ.get(name, "1") for name in OFFLINE})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
