"""Ray actors: the same roles, deaths and errors, on one cluster of this machine."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from threading import Event
from types import SimpleNamespace

import pyarrow as pa
import pytest
from helpers import toy_stores
from helpers.files import write_jsonl
from helpers.optional import needs
from helpers.roles import ADDER

import coresetdb
from coresetdb.schemas.errors import BackboneError, UsageError, WorkerError
from coresetdb.workers import ray_actors, ray_cluster
from coresetdb.workers.group import WorkerGroup
from coresetdb.workers.opening import open_group
from coresetdb.workers.options import Placement, WorkerOptions
from coresetdb.workers.task import Equipment, Task

pytestmark = needs("ray", "pip install 'coresetdb[ray]'")

OPTIONS = WorkerOptions(2, engine="ray")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests; whoever finds a connection uses it, and leaves it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # of the helpers
        with ray_actors.ray_workers(OPTIONS, Placement(2, 1), ADDER, {}, print):
            yield


@pytest.fixture
def group() -> Iterator[WorkerGroup]:
    with open_group(OPTIONS, Placement(2, 1), ADDER, {}, lambda sentence: None) as workers:
        yield workers


def task(number: int, equipment: Equipment | None = None, **facts) -> Task:
    return Task({"number": number, **facts}, b"body", lambda: f"row {number}", equipment)


def done(group: WorkerGroup, tasks: list[Task]) -> tuple[list[int], int]:
    """The sums, and the tokens that were reported."""
    counted: list[int] = []
    for each in tasks:
        group.submit(each)
    for each in tasks:
        group.wait(each, lambda rows, tokens: counted.append(tokens))
    assert all(each.answer[1] == b"body" for each in tasks)
    return [each.answer[0]["sum"] for each in tasks], sum(counted)


def test_actors_do_what_processes_do(group, tmp_path):
    three = Equipment({"added": 3}, [b"a"])
    fatal = {"die": 1, "file": str(tmp_path / "deaths"), "give": True}
    tasks = [task(0, three, **fatal), task(1, three), task(2, three)]
    assert done(group, tasks) == ([4, 5, 6], 60)
    assert tasks[0].parts()[-1] == ({"part": len(tasks[0].parts()) - 1}, b"part")


def test_a_lack_of_memory_is_a_death(group, tmp_path):
    fatal = {"die": 3, "file": str(tmp_path / "deaths"), "memory": True}
    with pytest.raises(WorkerError, match=r"3 workers died.*row 0"):
        done(group, [task(0, **fatal)])


def test_an_error_of_the_role_is_the_owners(group):
    with pytest.raises(BackboneError, match="of the role"):
        done(group, [task(0, fail="BackboneError")])


def test_an_error_of_making_the_role_names_the_node():
    with (
        pytest.raises(BackboneError, match=f"a worker on {platform.node()}: .*of the role"),
        open_group(OPTIONS, Placement(2, 1), ADDER, {"fail": "BackboneError"}, print) as group,
    ):
        done(group, [task(0)])


def test_a_worker_that_waits_for_room_is_told(monkeypatch):
    monkeypatch.setattr(ray_actors, "ROOM_SECONDS", 0.1)
    said: list[str] = []
    options = WorkerOptions(3, engine="ray")
    with open_group(options, Placement(3, 1), ADDER, {}, said.append) as group:
        assert done(group, [task(number, sleep=0.3) for number in range(4)])[0] == [0, 1, 2, 3]
    assert any("a worker has not begun yet" in sentence and "CPU" in sentence for sentence in said)


def test_closing_ends_what_works(group):
    group.submit(task(0, sleep=60))
    group.close()  # and this test ends


def test_more_than_any_node_has(tmp_path):
    with (
        pytest.raises(UsageError, match="no node of the Ray cluster has 64 CPU"),
        open_group(OPTIONS, Placement(1, 64), ADDER, {}, lambda sentence: None),
    ):
        pass


def test_ingest_by_actors_is_that_of_one_process(tmp_path, tiny_llama):
    records = [{"prompt": f"Name colour {i}.", "response": f"It is {i}."} for i in range(40)]
    file = write_jsonl(tmp_path / "a.jsonl", records)
    tables: list[pa.Table] = []
    for name, options in (("alone", {}), ("shared", {"workers": 1, "engine": "ray"})):
        database = coresetdb.create(tmp_path / name, backbone=tiny_llama, dtype="float32")
        assert database.ingest(file, **options).total("new") == 40
        tables.append(database.store.dataset("pool").to_table())
    alone, shared = tables
    assert shared["id"].equals(alone["id"])
    for column in ("rds_norm", "nll", "ifd"):
        assert shared[column].to_numpy() == pytest.approx(alone[column].to_numpy(), rel=1e-4)


def test_an_exact_scan_by_actors_is_that_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("coresetdb.query.scanning.rows.MAX_BLOCK_ROWS", 16)  # of many parts
    store = toy_stores.toy_store(tmp_path / "store")
    for start in (0, 40):
        questions = [
            toy_stores.question(topic, start + n) for n in range(20) for topic in ("sums", "code")
        ]
        store.insert("pool", toy_stores.pool_rows(questions, ["toy"] * len(questions)))
    toy_stores.add_target(store, "sums", [toy_stores.question("sums", 900 + n) for n in range(3)])
    database = coresetdb.connect(store.uri)
    for method in ("rds:round_robin", "rds:uot"):
        question = {"method": method, "budget": 30, "where": "response_tokens > 2"}
        alone = database.select("sums", **question, dry_run=True)
        shared = database.select("sums", **question, dry_run=True, workers=2, engine="ray")
        assert shared.ids == alone.ids and len(shared) == 30
        assert shared.members["score"].to_numpy() == pytest.approx(
            alone.members["score"].to_numpy(), rel=1e-6
        )


@pytest.fixture
def unconnected(monkeypatch) -> Callable[[BaseException | None], None]:
    """As in a process without a connection; what `ray.init` raises is set by a call."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    def init_raises(error: BaseException | None) -> None:
        def init(**options):
            if error is not None:
                raise error

        monkeypatch.setattr(ray, "init", init)

    init_raises(None)
    return init_raises


def connect(address: str) -> None:
    options = WorkerOptions(1, engine="ray", address=address)
    with ray_actors.ray_workers(options, Placement(1, 1), ADDER, {}, print):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "a..b:1"])
def test_an_address_where_nobody_listens_is_told_at_once(unconnected, address):
    with pytest.raises(UsageError, match=f"{address} cannot be reached.*ray start --head"):
        connect(address)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_only_addresses_of_a_node_are_taken(unconnected):
    with pytest.raises(UsageError, match=r"ray://127.0.0.1:10001 is no address.*HOST:PORT"):
        connect("ray://127.0.0.1:10001")


def test_what_ray_says_of_an_address_is_told_with_its_cause(unconnected):
    import ray

    error = ConnectionError("Failed to connect to Ray cluster")
    error.__cause__ = RuntimeError("Version mismatch: the cluster has:\n  Ray: 1.0\n  Python: 3.9")
    unconnected(error)
    with pytest.raises(UsageError, match=r"Failed.*Version mismatch.*Ray: 1.0 Python: 3.9.*head"):
        connect("auto")
    trace = "No GCS: Traceback (most recent call last):\n  File x\nTimedOut: no answer\n"
    error.__cause__ = RuntimeError(trace)
    with pytest.raises(UsageError, match=r"Failed.*: No GCS: TimedOut: no answer. Start"):
        connect("auto")
    error.__cause__ = ray.exceptions.AuthenticationError("RPC error: InvalidAuthToken")
    with pytest.raises(UsageError, match="wants a token: set RAY_AUTH_MODE=token"):
        connect("auto")


@pytest.mark.parametrize(
    ("address", "shown"), [("127.0.0.1:6379", True), ("192.0.2.1:6379", False), ("auto", False)]
)
def test_the_users_token_is_shown_to_clusters_of_this_machine_alone(
    tmp_path, monkeypatch, address, shown
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr("ray._raylet.Config", SimpleNamespace(initialize=lambda text: None))
    assert not ray_cluster.shows_token_to(address)  # there is no token
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert ray_cluster.shows_token_to(address) is shown
    assert (os.environ.get("RAY_AUTH_MODE") == "token") is shown


def test_results_on_stdout_are_free_of_what_ray_prints(unconnected, monkeypatch, capsys):
    unconnected(None)
    monkeypatch.setattr(ray_actors, "require_room", lambda *needs: print("(raylet) news"))
    connect("auto")
    assert capsys.readouterr().out.count("raylet") == 0


def test_a_head_that_is_gone_ends_the_run_in_time(monkeypatch):
    import ray

    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(ray_cluster, "WATCH_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with ray_cluster.Head(address) as head:
            assert not head.lost.wait(0.5)
            listener.close()
            assert head.lost.wait(10)

    def no_answer(*references, timeout):
        return [], references

    busy = SimpleNamespace(wait=no_answer, exceptions=ray.exceptions, is_initialized=lambda: True)
    worker = ray_actors.RayWorker(
        busy, SimpleNamespace(equip=SimpleNamespace(remote=print)), head, Event()
    )
    with pytest.raises(WorkerError, match=f"head of the Ray cluster, {address}.*Start it"):
        worker.equip(Equipment({}))
    worker.end()  # without a head nobody kills an actor


def test_how_an_actor_ended_is_a_sentence():
    import ray

    said = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: ActorRole\n"
        "\tpid: 7\n\tip: 10.0.0.2\nThe actor is dead because its node has died. Node Id: 5f"
    )
    error = ray.exceptions.RayActorError(error_msg=said)
    assert ray_actors.obituary(error) == "its node has died, on 10.0.0.2"
    away = ray.exceptions.ActorUnavailableError("RPC error: reset by peer", None)
    assert ray_actors.obituary(away) == "it can no longer be reached"
    raised = ray.exceptions.RayError(
        'ray::do()\n  File "x.py", line 6, in do\nValueError: too long\n'
    )
    assert ray_actors.obituary(raised) == "ValueError: too long"
    assert ray_actors.obituary(ray.exceptions.RayError("")) == "RayError"
    said = "The actor died because of an error\nTraceback\nModuleNotFoundError: No module x\n"
    error = ray.exceptions.RayActorError(error_msg=said, actor_init_failed=True)
    assert ray_actors.obituary(error) == "it could not be made: ModuleNotFoundError: No module x"
