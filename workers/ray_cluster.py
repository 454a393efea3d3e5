"""The Ray cluster that workers run in: it is reached, watched, and asked for room."""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..schemas.environment import home_folder
from ..schemas.errors import UsageError
from ..schemas.plain_text import first_line
from .options import Placement, WorkerOptions

REACH_SECONDS = 10.0
"""In which whoever listens at an address has to answer; Ray itself would try for a minute."""

HEAD_SECONDS = 30.0
"""Without the head until a run ends. A minute after it is gone Ray ends the whole process."""

WATCH_SECONDS = 2.0
"""Between two looks for it."""

SHUTDOWN_SECONDS = 10.0
"""That taking leave of a cluster without a head may take."""

AUTH_VARIABLE = "RAY_AUTH_MODE"


def connect(ray: Any, options: WorkerOptions, placed: Placement) -> None:
    """Connect this process to a cluster, or start one of this machine where none is named.

    Raises:
        UsageError: it cannot be reached.
    """
    where = options.address or "of this machine"
    advice = "Start one with `ray start --head`, and name its address"
    if options.address:
        if "://" in options.address:
            raise UsageError(
                f"{options.address} is no address of a cluster's node: write HOST:PORT, as "
                "`ray start --head` prints it, and run this on a machine that reaches the nodes"
            )
        _require_listener(options.address, advice)
    refusals = (OSError, ValueError, RuntimeError, ray.exceptions.RayError)
    try:
        try:
            _init(ray, options.address, placed)
        except refusals as error:
            if not (_wants_token(error) and options.address and shows_token_to(options.address)):
                raise
            _init(ray, options.address, placed)
    except refusals as error:
        if _wants_token(error):
            advice = (
                f"It wants a token: set {AUTH_VARIABLE}=token, and RAY_AUTH_TOKEN to what "
                "`ray get-auth-token` prints on its first node"
            )
            raise UsageError(f"the Ray cluster {where} cannot be reached. {advice}") from error
        reasons = dict.fromkeys(_sentence(cause) for cause in _causes(error))
        raise UsageError(
            f"the Ray cluster {where} cannot be reached: {': '.join(reasons)}. {advice}"
        ) from error


def _init(ray: Any, address: str | None, placed: Placement) -> None:
    own = {} if address else {"num_cpus": placed.workers * placed.threads}
    with warnings.catch_warnings():
        # Ray forks and runs another program at once, so that Lance's locks do not matter.
        warnings.filterwarnings("ignore", "lance is not fork-safe")
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            logging_level="ERROR",
            log_to_driver=False,
            **own,
        )


def _wants_token(error: BaseException) -> bool:
    said = " ".join(map(str, _causes(error)))
    return "InvalidAuthToken" in said or "AuthenticationError" in said


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _sentence(error: BaseException) -> str:
    """An error's lines as one, such as the versions that do not fit; no more than 300 letters."""
    said, _, trace = str(error).partition("Traceback (most recent call last)")
    said += "".join(trace.strip().splitlines()[-1:])  # of a traceback its last line
    return " ".join(said.split()).rstrip(".:")[:300] or type(error).__name__


def _require_listener(address: str, advice: str) -> None:
    """Find out at once whether anybody listens: Ray would try for a minute, and print about it."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray says what it makes of it
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # no name of a machine is so written
        raise UsageError(
            f"the Ray cluster {address} cannot be reached: {first_line(error)}. {advice}"
        ) from error


def shows_token_to(address: str) -> bool:
    """Have Ray show this user's token, if the address is of this machine and there is a token.

    Ray makes one for the first cluster that a program starts by itself, and from then on
    `ray start` asks for it, but a program that names the address does not show it. To a cluster
    that asks for none it must not be shown: its nodes could no longer talk to this process.
    """
    host = address.rpartition(":")[0].strip("[]")
    if not host or AUTH_VARIABLE in os.environ:
        return False
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or home_folder() / ".ray" / "auth_token")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as own:
            own.bind((host, 0))  # only on an address of this machine
    except OSError:
        return False
    if "RAY_AUTH_TOKEN" not in os.environ and not file.exists():
        return False
    os.environ[AUTH_VARIABLE] = "token"
    compiled: Any = importlib.import_module("ray._raylet")
    compiled.Config.initialize("")  # which reads the variable again
    return True


def room(ray: Any, needs: dict[str, int]) -> int:
    """How many workers the cluster has room for, each on one node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = (int(min(node.get(name, 0) / need for name, need in needs.items())) for node in nodes)
    return max(1, sum(fits))


def require_room(ray: Any, needs: dict[str, int]) -> None:
    """An actor that fits no node would be waited for without end."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, need in needs.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if most < need:
            raise UsageError(
                f"no node of the Ray cluster has {need} {name}; the largest has {most:g}. "
                "Give it more with `ray start --num-cpus`, or set OMP_NUM_THREADS lower"
            )


class Head:
    """The head of the cluster, which is looked for now and then.

    Args:
        address: of it, HOST:PORT.

    Attributes:
        lost: set when it could not be reached for `HEAD_SECONDS`.
    """

    def __init__(self, address: str) -> None:
        self.address, self.lost = address, threading.Event()
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Head:
        self._watcher.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._closed.set()

    def _watch(self) -> None:
        seen = time.monotonic()
        while not self._closed.wait(WATCH_SECONDS):
            if _answers(self.address):
                seen = time.monotonic()
            elif time.monotonic() - seen >= HEAD_SECONDS:
                self.lost.set()
                return


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except OSError:
        return False
    return True


def leave(ray: Any, head: Head) -> None:
    """Take leave of the cluster; without its head Ray may not come back from that."""
    if not head.lost.is_set():
        ray.shutdown()
        return
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(SHUTDOWN_SECONDS)
