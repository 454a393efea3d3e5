"""The explorer's server: the page at an address of this machine alone, behind a token.

marimo shows the notebook as an app; uvicorn serves it. Whatever the page shows, a policy lets the
browser load nothing and send nothing but to this server.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..query.export import check_folder, write_text
from ..query.maps import open_map
from ..schemas.environment import STORE_VARIABLE
from ..schemas.errors import UsageError

if TYPE_CHECKING:
    from ..store.store import Store

HOST = "127.0.0.1"
NOTEBOOK = Path(__file__).with_name("notebook.py")

MAP_VARIABLE = "CORESETDB_MAP"
"""Names the feature of the map for the notebook."""

RUNS_CELLS = "_MARIMO_CONFIG_OVERLOAD_RUNTIME_AUTO_INSTANTIATE"
"""Setting of marimo's editor: whether the cells of a notebook run when it is opened."""

NEEDED = {"marimo": "marimo", "jscatter": "jupyter-scatter", "sklearn": "scikit-learn"}
"""Modules, and the packages that have them."""

_PARTS = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob: data:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
POLICY = "; ".join(f"{what} {whence}" for what, whence in _PARTS.items())

FOLLOWS_READER: Any = {"display": {"theme": "system"}}
"""Setting of marimo: the page is light or dark as its reader's browser is."""

App = Callable[[Any, Any, Any], Awaitable[None]]


def require_packages() -> None:
    """Make sure that the extra `explore` is installed.

    Raises:
        UsageError: a package of it is missing.
    """
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"the explorer needs {', '.join(missing)}: pip install 'coresetdb[explore]'"
        )


def explore(
    store: Store,
    *,
    feature: str | None = None,
    port: int = 0,
    browser: bool = True,
    notebook: str | None = None,
    edit: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Show the page of a store until Ctrl-C; the map is made first where there is none.

    Args:
        store: an open store.
        feature: by whose vectors the map is drawn; `rds` or the first with vectors by default.
        port: of the page's address; a free one by default.
        browser: open the page in a browser.
        notebook: a copy of the page's notebook to show; where there is no such file it is written.
        edit: edit that copy in marimo.
        say: receives a sentence on each step, and the address.

    Raises:
        UsageError: a package is not installed, the port is taken, or `edit` without a notebook.
        MissingFeatureError: the pool has no such feature, or no vectors at all.
        OutputError: the notebook cannot be written.
    """
    require_packages()
    if edit and notebook is None:
        raise UsageError("--edit changes a copy of the page: name its file with --notebook FILE.py")
    if notebook is not None:
        _copy_notebook(notebook, say)
    made = open_map(store, feature, say)
    with _environment(store.uri, made.feature):
        if edit:
            _edit(str(notebook), port, browser)
        else:
            _serve(notebook or str(NOTEBOOK), port, browser, say)


def _copy_notebook(file: str, say: Callable[[str], None]) -> None:
    """Write the page's notebook to a file that is not there yet."""
    if not file.endswith(".py"):
        raise UsageError(f"{file}: a notebook of marimo is a Python file; name it .py")
    check_folder(file)
    if not os.path.exists(file):
        write_text(file, NOTEBOOK.read_text(encoding="utf-8"))
        say(f"{file}: a copy of the explorer's notebook")


def _serve(notebook: str, port: int, browser: bool, say: Callable[[str], None]) -> None:
    import uvicorn
    from marimo import create_asgi_app

    listening = _listen(port)
    token = secrets.token_urlsafe(24)
    address = f"http://{HOST}:{listening.getsockname()[1]}/?access_token={token}"
    pages: list[Any] = []

    def noted(app: Any) -> Any:
        pages.append(app)
        app.state.config_manager = app.state.config_manager.with_overrides(FOLLOWS_READER)
        return app

    apps = create_asgi_app(quiet=True, token=token)
    app = apps.with_app(path="/", root=notebook, middleware=[noted]).build()

    async def end_pages() -> None:  # else their threads keep the interpreter from ending
        for each in pages:
            await each.state.session_manager.shutdown()

    served = _confined(app, end_pages)
    config = uvicorn.Config(served, lifespan="on", log_level="error", timeout_graceful_shutdown=1)
    say(f"Explorer: {address}")
    say("Ctrl-C ends it")
    if browser:
        opener = threading.Timer(1.0, webbrowser.open, [address])
        opener.daemon = True
        opener.start()
    with listening, suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _edit(notebook: str, port: int, browser: bool) -> None:
    """Edit a notebook in marimo; it has its own address and token, and prints them.

    Its cells run as it opens: by default marimo's editor would show no output until they are run.
    """
    command = [sys.executable, "-m", "marimo", "-y", "edit", notebook, "--host", HOST, "--token"]
    command += ["--skip-update-check"]
    command += ["--port", str(port)] if port else []
    command += [] if browser else ["--headless"]
    with suppress(KeyboardInterrupt):
        subprocess.run(command, env={RUNS_CELLS: "true", **os.environ})


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # whoever opens the address before the page is served waits for it
    except OSError as error:
        listening.close()
        raise UsageError(
            f"port {port} of {HOST} cannot be used ({error.strerror}): choose another --port"
        ) from error
    return listening


@contextmanager
def _environment(store: str, feature: str) -> Iterator[None]:
    """Name store and feature to the notebook, as a user who edits it does."""
    named = {STORE_VARIABLE: store, MAP_VARIABLE: feature}
    before = {name: os.environ.get(name) for name in named}
    os.environ.update(named)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _confined(app: App, before_end: Callable[[], Awaitable[None]]) -> App:
    """An app whose pages may load from, and talk to, nothing but itself, and nobody else to it.

    A page of another origin, and a name of somebody's that leads to this machine, get 403.
    """

    async def confined(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        async def received() -> Any:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await before_end()
            return message

        if scope["type"] == "lifespan":
            await app(scope, received, send)
        elif _from_here(dict(scope["headers"])):
            await app(scope, receive, sent)
        elif scope["type"] == "http":
            await sent({"type": "http.response.start", "status": 403, "headers": []})
            await sent({"type": "http.response.body", "body": b"from another origin"})
        else:
            await send({"type": "websocket.close", "code": 1008})

    return confined


def _from_here(headers: dict[bytes, bytes]) -> bool:
    """Whether a request names this machine, and comes from a page of ours or from no page."""
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin", b"").decode("latin-1")
    own = host.partition(":")[0] in (HOST, "localhost")
    return own and origin in ("", f"http://{host}")
