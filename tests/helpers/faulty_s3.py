"""An S3 server between whose answers and its client stands somebody who delays, breaks and lies.

    with FaultyS3(endpoint) as s3:
        s3.set_faults(("503", "reset"), share=0.2)
        ...                                     # AWS_ENDPOINT_URL=s3.endpoint
        s3.set_faults(())

    python tests/helpers/faulty_s3.py           # with a moto server behind it; prints addresses

Which request meets which fault is drawn from a seed.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

KINDS = {
    "delay": "the answer comes up to a second late",
    "reset": "the connection is reset, and the request never arrives",
    "reset after": "the request is carried out, and the connection reset before its answer",
    "half a body": "the connection is reset in the middle of the body",
    "truncated": "half of the body, with a length that says so and the status of all of it",
    "500": "an internal error",
    "503": "the service is unavailable",
    "SlowDown": "too many requests",
    "stale listing": "a listing as it was the first time it was asked for",
    "412": "a conditional put is refused, though nothing is there",
    "409": "a conditional put meets another one that nobody made",
    "wrong ETag": "an object has another ETag than it has",
}
"""What can be wrong with an answer."""

CONTROL = "/-faults"

_CODES = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "SlowDown": (503, "SlowDown"),
    "412": (412, "PreconditionFailed"),
    "409": (409, "ConditionalRequestConflict"),
}
_OF_A_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


class FaultyS3:
    """A proxy on loopback before an S3 server.

    Args:
        upstream: address of the server, such as `http://127.0.0.1:5000`.

    Attributes:
        endpoint: address of the proxy.
        made: kind -> how many faults were made since they were set.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlparse(upstream).netloc
        self.made: Counter[str] = Counter()
        self._kinds: tuple[str, ...] = ()
        self._share, self._draw = 0.0, random.Random(0)
        self._listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        self._changing = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        host, port = self._server.server_address[:2]
        self.endpoint = f"http://{host!s}:{port}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def set_faults(self, kinds: tuple[str, ...], share: float = 0.1, seed: int = 0) -> None:
        """Make faults of these kinds from now on, in that share of the requests they suit."""
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"no such kinds of faults: {unknown}")
        with self._changing:
            self._kinds, self._share, self._draw = tuple(kinds), share, random.Random(seed)
            self.made.clear()
            self._listings.clear()

    def fault_for(self, method: str, path: str, conditional: bool) -> str:
        """The fault that meets a request; "" for none."""
        listing = method == "GET" and "list-type" in path
        with self._changing:
            suited = [
                kind
                for kind in self._kinds
                if (kind not in ("412", "409") or conditional)
                and (kind != "stale listing" or listing)
                and (kind not in ("half a body", "truncated") or method == "GET")
                and (kind != "wrong ETag" or method in ("GET", "HEAD", "PUT"))
            ]
            if not suited or self._draw.random() >= self._share:
                return ""
            kind = self._draw.choice(suited)
            self.made[kind] += 1
            return kind

    def listing(
        self, path: str, answer: tuple[int, list[tuple[str, str]], bytes]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """The first answer to a listing, which is this one the first time."""
        with self._changing:
            return self._listings.setdefault(path, answer)


def _handler_of(proxy: FaultyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            return

        def answer(self) -> None:
            body = self._body()
            if self.path == CONTROL:
                self._control(body)
                return
            conditional = "if-none-match" in self.headers or "if-match" in self.headers
            fault = proxy.fault_for(
                self.command, self.path, conditional and self.command in ("PUT", "POST")
            )
            if fault == "reset":
                self._reset()
                return
            if fault in _CODES:
                status, code = _CODES[fault]
                text = (
                    f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
                )
                self._send(status, [("Content-Type", "application/xml")], text.encode())
                return
            status, headers, content = self._forward(body)
            if self.command == "GET" and "list-type" in self.path:
                first = proxy.listing(self.path, (status, headers, content))
                if fault == "stale listing":
                    status, headers, content = first
            if fault == "delay":
                time.sleep(random.Random(len(content)).uniform(0.1, 1.0))
            elif fault == "reset after":
                self._reset()
                return
            elif fault == "wrong ETag":
                headers = [(k, '"0123"' if k.lower() == "etag" else v) for k, v in headers]
            elif fault == "truncated":
                content = content[: len(content) // 2]
            elif fault == "half a body":
                self._send(status, headers, content[: len(content) // 2], len(content))
                self._reset()
                return
            self._send(status, headers, content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def _control(self, body: bytes) -> None:
            if self.command == "POST":
                asked = json.loads(body)
                proxy.set_faults(tuple(asked["kinds"]), asked["share"], asked["seed"])
            self._send(200, [], json.dumps(proxy.made).encode())

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("content-length") or 0))

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
            try:
                headers = {
                    key: value
                    for key, value in self.headers.items()
                    if key.lower() not in ("connection", "transfer-encoding", "expect")
                }
                headers["Content-Length"] = str(len(body))
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def _send(
            self,
            status: int,
            headers: list[tuple[str, str]],
            content: bytes,
            length: int | None = None,
        ) -> None:
            try:
                self.send_response(status)
                lengths = [v for k, v in headers if k.lower() == "content-length"]
                for key, value in headers:
                    if key.lower() not in _OF_A_HOP:
                        self.send_header(key, value)
                whole = len(content) if length is None else length
                said = lengths[0] if self.command == "HEAD" and lengths else str(whole)
                if status not in (204, 304):
                    self.send_header("Content-Length", said)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
                self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):  # the client gave up waiting
                self.close_connection = True

        def _reset(self) -> None:
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    return Handler


def main() -> None:
    """Serve until standard input ends."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with FaultyS3(f"http://{host}:{port}") as proxy:
        print(json.dumps([f"http://{host}:{port}", proxy.endpoint]), flush=True)
        sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
