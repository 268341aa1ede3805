"""A server on loopback that answers, or misbehaves, as a test tells it to; it counts what it was asked."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """body: JSON, or bytes as they are. truncate: bytes that are promised and not sent. drip_s: pause after each byte.

    reset: the connection is cut instead."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    truncate: int = 0
    drip_s: float = 0.0
    wait_s: float = 0.0
    reset: bool = False


@dataclass
class Loopback:
    """answer(method, path, body): what to reply. asked: every body that came; replied: how often each status went."""

    answer: Callable[[str, str, Any], Reply]
    url: str = ""
    asked: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    replied: Counter[int] = field(default_factory=Counter)
    connections: set[Any] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    sockets: list[socket.socket] = field(default_factory=list)

    def close_idle(self) -> None:
        """As a server does with connections that have been idle for some seconds."""
        for connection in self.sockets:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(answer: Callable[[str, str, Any], Reply]) -> Iterator[Loopback]:
    here = Loopback(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(here.answer("GET", self.path, None))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with here.lock:
                here.asked.append(body)
                here.headers.append(dict(self.headers))
                here.connections.add(self.client_address)
                here.sockets.append(self.connection)
            self._reply(here.answer("POST", self.path, body))

        def _reply(self, reply: Reply) -> None:
            stopped.wait(reply.wait_s)
            if reply.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                self.close_connection = True
                self.connection.close()
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) + reply.truncate))
            self.end_headers()
            self._send(data, reply.drip_s)
            self.close_connection = self.close_connection or reply.truncate > 0
            with here.lock:
                here.replied[reply.status] += 1

        def _send(self, data: bytes, drip_s: float) -> None:
            if not drip_s:
                self.wfile.write(data)
                return
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if stopped.wait(drip_s):
                    return

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that went away is part of the tests

    stopped = threading.Event()
    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    here.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield here
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


# --- a language model that knows the three classes by their own word


def text_of(body: Any) -> str:
    """What is asked: the last message of the user that is no reminder."""
    users = [
        m["content"] for m in body["messages"] if m["role"] == "user" and "none of the classes" not in m["content"]
    ]
    return str(users[-1])


def completion(content: str, tokens: Sequence[dict[str, float]] | None = None, usage: Any = None) -> dict[str, Any]:
    """A chat completion. tokens: at each position the probability of each token, the chosen one first."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    if tokens is not None:
        positions = []
        for alternatives in tokens:
            told = [{"token": t, "logprob": math.log(p)} for t, p in alternatives.items()]
            positions.append({**told[0], "top_logprobs": told})
        choice["logprobs"] = {"content": positions}
    document: dict[str, Any] = {"choices": [choice]}
    if usage is not None:
        document["usage"] = usage
    return document


def letter_of(text: str, classes: Sequence[str]) -> str:
    """The letter of the class whose word stands most often in a text."""
    return "ABC"[max(range(len(classes)), key=lambda i: text.split().count(classes[i]))]
