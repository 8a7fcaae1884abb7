"""Channels for synchronous code: an event loop in a thread of its own does the waiting."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from . import channel as _channel
from .certificates import Credentials
from .channel import Buffer, Options, Sent
from .errors import PartyError

T = TypeVar("T")


@functools.lru_cache(maxsize=2)
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The loop of this process; a forked child has none of its parent's threads."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="pet_lab parties", daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, T]) -> T:
    future = asyncio.run_coroutine_threadsafe(work, _loop(os.getpid()))
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class Channel:
    """The blocking face of `channel.Channel`; sending and receiving may be in different threads."""

    def __init__(self, inner: _channel.Channel) -> None:
        self._inner = inner
        self.party, self.peer = inner.party, inner.peer

    @property
    def record(self) -> list[Sent]:
        """Messages sent from here, without their content."""
        return self._inner.record

    def send(self, message: msgspec.Struct, *, kind: str = "") -> None:
        """Send a typed message; returns once the peer's window has room for it."""
        _run(self._inner.send(message, kind=kind))

    def send_bytes(self, *parts: Buffer, kind: str = "bytes") -> None:
        """Send buffers as one frame, without joining them."""
        _run(self._inner.send_bytes(*parts, kind=kind))

    def receive(self, message_type: type[T], *, within: float | None = None) -> T:
        """The next message as a `message_type`, or PeerLost, Refused or the peer's own error."""
        return _run(self._inner.receive(message_type, within=within))

    def receive_bytes(self, *, within: float | None = None) -> bytes:
        """The next frame of raw bytes."""
        return _run(self._inner.receive_bytes(within=within))

    def refuse(self, error: PartyError) -> None:
        """Tell the peer why nothing more will come."""
        _run(self._inner.refuse(error))

    def close(self) -> None:
        """Send what is still buffered, then close."""
        _run(self._inner.close())

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    credentials: Credentials,
    peer: str,
    host: str,
    port: int,
    *,
    wait_s: float = 0.0,
    options: Options | None = None,
    record: list[Sent] | None = None,
) -> Channel:
    """As `channel.connect`."""
    return Channel(
        _run(
            _channel.connect(
                credentials, peer, host, port, wait_s=wait_s, options=options, record=record
            )
        )
    )


class Server:
    """A party that listens at `port`; each call is handled in a thread. Close it to stop."""

    def __init__(self, inner: _channel.Server, threads: ThreadPoolExecutor) -> None:
        self._inner, self._threads = inner, threads
        self.port = inner.port

    def close(self) -> None:
        """Stop listening and close the channels of calls that are under way."""
        _run(self._inner.close())
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    credentials: Credentials,
    handle: Callable[[Channel], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    options: Options | None = None,
    record: list[Sent] | None = None,
    turned_away: Callable[[str], None] = lambda sentence: None,
    at_most: int = 16,
) -> Server:
    """As `channel.serve`, with a synchronous `handle`; returns at once."""
    threads = ThreadPoolExecutor(at_most, thread_name_prefix="pet_lab party")

    async def in_thread(inner: _channel.Channel) -> None:
        await asyncio.get_running_loop().run_in_executor(threads, handle, Channel(inner))

    return Server(
        _run(
            _channel.serve(
                credentials,
                in_thread,
                host=host,
                port=port,
                options=options,
                record=record,
                turned_away=turned_away,
                at_most=at_most,
            )
        ),
        threads,
    )


def memory_pair(
    first: str, second: str, *, options: Options | None = None
) -> tuple[Channel, Channel]:
    """As `channel.memory_pair`, for two threads of one process."""
    one, other = _run(_channel.memory_pair(first, second, options=options))
    return Channel(one), Channel(other)
