"""A Ray cluster of two nodes on one machine, whose processes can be found, killed and counted.

Both nodes are on loopback, or each is in a network namespace of its own, joined by a pair of
virtual devices: then they share no port, and the cable can be pulled. Linux only.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

MARK = "CORESETDB_RAY_NODE"
"""Variable that all processes of a node inherit."""

ACTOR = "ray::ActorRole"
"""How the title of a worker of ours begins."""

STORE_MEMORY = 200 << 20
"""Bytes of the object store of a node."""

ADDRESSES = ("10.77.0.1", "10.77.0.2")
"""Of the nodes in namespaces, in a network that nothing else is in."""

PORT = 6379
"""Of the first node in a namespace, which nobody else listens in."""

SECONDS_TO_START = 180.0
STARTS = 5

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process as it was when it was looked at."""

    number: int
    parent: int
    began: int  # ticks since the machine started: tells processes of one number apart
    seconds: float  # of a processor
    title: str

    @property
    def key(self) -> tuple[int, int]:
        """Tells it from every other, earlier and later."""
        return self.number, self.began


def processes() -> dict[int, Process]:
    """All processes of the machine, by number."""
    found: dict[int, Process] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                rest = (folder / "stat").read_text().rpartition(")")[2].split()
                title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (OSError, UnicodeDecodeError):  # it ended meanwhile, or is none of ours
                continue
            if rest[0] == "Z":
                continue
            number = int(folder.name)
            used = (int(rest[11]) + int(rest[12])) / TICKS
            found[number] = Process(number, int(rest[1]), int(rest[19]), used, title)
    return found


@dataclass
class Family:
    """Processes that carry a mark or descend from one that does, and what they used.

    Attributes:
        used: CPU seconds by kind of process, of those that ended as well.
    """

    mark: str
    _known: dict[tuple[int, int], tuple[str, float]] = field(default_factory=dict)
    _strangers: set[tuple[int, int]] = field(default_factory=set)

    def look(self, everyone: dict[int, Process]) -> list[Process]:
        """Return those of the processes that belong here, and note what they used."""
        found = [each for each in everyone.values() if self._has(each, everyone)]
        for each in found:
            kind = "workers" if each.title.startswith(ACTOR) else "others"
            before = self._known.get(each.key, ("", 0.0))[0]
            kept = before if before == "workers" else kind
            self._known[each.key] = (kept, each.seconds)
        return found

    def used(self, kind: str) -> float:
        """CPU seconds of the processes of a kind: `workers` or `others`."""
        return sum(seconds for own, seconds in self._known.values() if own == kind)

    def _has(self, process: Process, everyone: dict[int, Process]) -> bool:
        key = process.key
        parent = everyone.get(process.parent)
        if key in self._known or (parent and parent.key in self._known):
            return True  # a title may have been written over the variables
        if key in self._strangers:
            return False
        try:
            variables = Path(f"/proc/{process.number}/environ").read_bytes()
        except OSError:
            return False
        if f"{MARK}={self.mark}\0".encode() in variables:
            return True
        self._strangers.add(key)
        return False


class Node:
    """One node: it is started, killed and started again.

    Args:
        folder: where it keeps its session.
        enter: words before every command, which enter its namespace.
        words: of `ray start`.
        variables: added to its environment.
    """

    def __init__(
        self,
        folder: Path,
        enter: Sequence[str],
        words: Sequence[str],
        variables: Mapping[str, str],
    ) -> None:
        self.family = Family(uuid.uuid4().hex)
        self._folder, self._enter, self._words = folder, list(enter), list(words)
        self._log = folder / "start.log"
        self._variables = variables
        self._agents_before: set[Path] = set()

    def start(self) -> None:
        """Start it; returns when it has joined. On a busy machine Ray takes several attempts."""
        for _ in range(STARTS):
            if self._type_start() and self._has_joined():
                return
            self.kill()
        said = self._log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"a node of Ray did not start, {STARTS} times:\n{said}")

    def _type_start(self) -> bool:
        command = [*self._enter, sys.executable, "-m", "ray.scripts.scripts", "start"]
        common = {
            "--num-cpus": "1",
            "--num-gpus": "0",
            "--object-store-memory": str(STORE_MEMORY),
            "--min-worker-port": "0",
            "--max-worker-port": "0",
            "--dashboard-agent-listen-port": "0",
        }
        command += [*self._words, *(word for pair in common.items() for word in pair)]
        variables = {
            **os.environ,
            **self._variables,
            MARK: self.family.mark,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self._agents_before = self._agents()
        with self._log.open("w") as file:
            ran = subprocess.run(
                command, env=variables, stdout=file, stderr=file, timeout=SECONDS_TO_START
            )
        return ran.returncode == 0

    def _has_joined(self) -> bool:
        """Whether its agent reports; where that takes Ray too long, the node ends by itself."""
        while self._agents() <= self._agents_before:
            found = self.family.look(processes())
            if not any(each.title.partition(" ")[0].endswith("/raylet") for each in found):
                return False
            time.sleep(0.2)
        return True

    def _agents(self) -> set[Path]:
        return set(self._folder.glob("session_2*/dashboard_agent_listen_port_*"))

    def actors(self, everyone: dict[int, Process]) -> list[Process]:
        """Workers of ours that run here."""
        return [each for each in self.family.look(everyone) if each.title.startswith(ACTOR)]

    def kill(self) -> int:
        """Kill all its processes at once; returns how many of them were workers of ours."""
        everyone = processes()
        workers = len(self.actors(everyone))
        while found := self.family.look(processes()):
            for each in found:
                kill(each.number)
            time.sleep(0.05)
        return workers


def kill(number: int) -> None:
    """Kill a process, unless it has ended."""
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Cluster:
    """Two nodes of a processor each, on loopback or in namespaces.

    Attributes:
        address: that `--address` takes.
        enter: words before a command that is to run where the first node is.
        variables: that whoever connects needs, the cluster's token.
        first, second: the nodes; drivers run beside the first, the second may be killed.
    """

    def __init__(self, namespaces: bool) -> None:
        self._folder = Path(mkdtemp(prefix="crdb-ray-", dir="/tmp"))  # names of sockets are short
        self._holders: list[subprocess.Popen[bytes]] = []
        enters: list[list[str]] = [[], []]
        ips: Sequence[str] = ("127.0.0.1", "127.0.0.1")
        port = PORT
        if namespaces:
            try:
                enters, ips = self._namespaces(), ADDRESSES
            except BaseException:
                for holder in self._holders:
                    holder.kill()
                shutil.rmtree(self._folder)
                raise
        else:
            port = free_port()
        self._enters = enters
        self.address, self.enter = f"{ips[0]}:{port}", enters[0]
        head = ["--head", "--port", str(port), "--include-dashboard", "false"]
        head += ["--node-ip-address", ips[0], "--temp-dir", str(self._folder)]
        join = ["--address", self.address, "--node-ip-address", ips[1]]
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
        self.first = Node(self._folder, enters[0], head, self.variables)
        self.second = Node(self._folder, enters[1], join, self.variables)

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both."""
        return self.first, self.second

    def actors(self, everyone: dict[int, Process]) -> list[Process]:
        """Workers of ours on both nodes."""
        return [actor for node in self.nodes for actor in node.actors(everyone)]

    def start(self) -> None:
        """Start both nodes."""
        for node in self.nodes:
            node.start()

    def end(self) -> None:
        """Kill whatever is left of it, and remove its files."""
        for node in reversed(self.nodes):
            node.kill()
        for holder in self._holders:
            holder.kill()
            holder.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def pull_cable(self, out: bool) -> None:
        """Lose every packet between the namespaces, or none any more.

        A device that is taken down would take the node's own address with it.
        """
        for enter, other in zip(self._enters, reversed(ADDRESSES), strict=True):
            route = ["ip", "route", "add" if out else "del", "blackhole", f"{other}/32"]
            subprocess.run([*enter, *route], check=True)

    def _namespaces(self) -> list[list[str]]:
        """Make two namespaces, held by a process each, and join them; returns how to enter each."""
        for name in ("unshare", "nsenter", "ip"):
            if shutil.which(name) is None:
                raise SystemExit(f"--namespaces needs the command {name} (util-linux, iproute2)")
        here = os.readlink("/proc/self/ns/net")
        for _ in ADDRESSES:
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
            self._holders.append(holder)
            while os.readlink(f"/proc/{holder.pid}/ns/net") == here:
                if holder.poll() is not None:
                    raise SystemExit("this machine lets nobody make a network namespace")
                time.sleep(0.01)
        numbers = [str(holder.pid) for holder in self._holders]
        enters = [["nsenter", "--target", number, "--net"] for number in numbers]
        pair = "ip link add first type veth peer name second netns".split()
        steps = [[*enters[0], *pair, numbers[1]]]
        for enter, name, ip in zip(enters, ("first", "second"), ADDRESSES, strict=True):
            steps.append([*enter, "ip", "addr", "add", f"{ip}/24", "dev", name])
            steps += [[*enter, "ip", "link", "set", device, "up"] for device in ("lo", name)]
        for step in steps:
            ran = subprocess.run(step, capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(f"`{' '.join(step)}` failed: {ran.stderr.strip()}")
        return enters


@contextmanager
def cluster_of_two(namespaces: bool) -> Iterator[Cluster]:
    """Hold a cluster inside the block; none of its processes is left afterwards."""
    cluster = Cluster(namespaces)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
