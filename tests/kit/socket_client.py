"""Requests byte by byte, as no client library would send them, and their answers."""

import socket
import time
from http.client import HTTPResponse
from typing import Any, NamedTuple, Self

import msgspec


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Its body; it has to say that it is JSON."""
        assert self.headers["content-type"] == "application/json", self
        return msgspec.json.decode(self.body)


class SocketClient:
    """One connection to a server on this machine."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *packets: bytes, pause_s: float = 0.02) -> None:
        """Send packets that arrive one by one."""
        for number, packet in enumerate(packets):
            if number:
                time.sleep(pause_s)
            self.socket.sendall(packet)

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer, to a request of this method."""
        response = HTTPResponse(self.socket, method=method)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def ask(self, *packets: bytes, pause_s: float = 0.02) -> Answer:
        """Send a request in packets, and read its answer."""
        self.send(*packets, pause_s=pause_s)
        return self.answer(packets[0].split(b" ")[0].decode("latin-1"))

    def is_closed(self) -> bool:
        """Whether the server closes the connection; waits for that as long as the timeout is."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def ask(port: int, *packets: bytes) -> Answer:
    """Ask on a connection of its own."""
    with SocketClient(port) as client:
        return client.ask(*packets)
