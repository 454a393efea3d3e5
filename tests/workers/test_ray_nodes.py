"""A Ray cluster of two nodes, one of which is killed in the middle: every task is done once."""

from __future__ import annotations

import os
import sys

from helpers.optional import needs
from helpers.roles import ADDER

from coresetdb.workers.opening import open_group
from coresetdb.workers.options import Placement, WorkerOptions
from coresetdb.workers.task import Task

pytestmark = needs("ray", "pip install 'coresetdb[ray]'")


def test_a_node_that_is_killed_loses_no_task(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # of the helpers
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(num_cpus=1)
    said: list[str] = []
    tokens: list[int] = []
    tasks: list[Task] = []

    def report(rows: int, some: int) -> None:
        tokens.append(some)

    def submit() -> None:
        number = len(tasks)
        facts = {"number": number, "sleep": 0.5}
        tasks.append(Task(facts, b"", lambda: f"row {number}"))
        group.submit(tasks[-1])

    try:
        options = WorkerOptions(engine="ray", address=cluster.address)
        with open_group(options, Placement(1, 1), ADDER, {}, said.append) as group:
            assert group.count == 2 and said == ["2 Ray actors of 1 CPU each"]
            for _ in range(4):
                submit()
            while len({task.answer[0]["pid"] for task in tasks if task.answer}) < 2:
                submit()
                group.wait(tasks[-4], report)
            cluster.remove_node(second, allow_graceful=False)
            for _ in range(6):
                submit()
            for task in tasks:
                group.wait(task, report)
    finally:
        cluster.shutdown()
    assert [task.answer[0]["sum"] for task in tasks] == list(range(len(tasks)))
    assert sum(tokens) == len(tasks) * 20
    assert sum(task.deaths for task in tasks) <= 1
