"""Channels for synchronous code: an event loop in a thread of its own does the waiting."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from . import channel
from .certificates import Credentials
from .channel import Options

P = ParamSpec("P")
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


def _blocking(
    method: Callable[Concatenate[channel.Channel, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingChannel, P], T]:
    """The same method, which returns once the loop has run it."""

    @functools.wraps(method)
    def call(self: BlockingChannel, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run(method(self._inner, *args, **kwargs))

    return call


class BlockingChannel:
    """The blocking face of a `Channel`; one thread may send while another receives."""

    def __init__(self, inner: channel.Channel) -> None:
        self._inner = inner
        self.party, self.peer = inner.party, inner.peer
        self.record = inner.record

    send = _blocking(channel.Channel.send)
    send_bytes = _blocking(channel.Channel.send_bytes)
    receive = _blocking(channel.Channel.receive)
    receive_bytes = _blocking(channel.Channel.receive_bytes)
    refuse = _blocking(channel.Channel.refuse)
    close = _blocking(channel.Channel.close)

    def __enter__(self) -> BlockingChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockingServer:
    """A party that listens at `port`; each call is handled in a thread. Close it to stop."""

    def __init__(self, inner: channel.ChannelServer, threads: ThreadPoolExecutor) -> None:
        self._inner, self._threads = inner, threads
        self.port = inner.port

    def close(self) -> None:
        """Stop listening and close the channels of calls that are under way."""
        _run(self._inner.close())
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> BlockingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    credentials: Credentials, peer: str, host: str, port: int, **settings: Any
) -> BlockingChannel:
    """As `channel.connect`, with its settings."""
    return BlockingChannel(_run(channel.connect(credentials, peer, host, port, **settings)))


def serve(
    credentials: Credentials,
    handle: Callable[[BlockingChannel], None],
    *,
    at_most: int = 16,
    **settings: Any,
) -> BlockingServer:
    """As `channel.serve`, with its settings and a synchronous `handle`; returns at once."""
    threads = ThreadPoolExecutor(at_most, thread_name_prefix="pet_lab party")

    async def in_thread(inner: channel.Channel) -> None:
        await asyncio.get_running_loop().run_in_executor(threads, handle, BlockingChannel(inner))

    server = channel.serve(credentials, in_thread, at_most=at_most, **settings)
    return BlockingServer(_run(server), threads)


def memory_pair(
    first: str, second: str, *, options: Options | None = None
) -> tuple[BlockingChannel, BlockingChannel]:
    """As `channel.memory_pair`, for two threads of one process."""
    one, other = _run(channel.memory_pair(first, second, options=options))
    return BlockingChannel(one), BlockingChannel(other)
