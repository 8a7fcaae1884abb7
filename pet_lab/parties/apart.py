"""Native parsers of strangers' bytes in a child process: a crash there is one refused message.

The child holds one object of ours and calls its methods on byte strings; back come byte strings or
a sentence, as JSON. It has a deadline for each call, and limits on memory and CPU where the system
has them. This contains crashes, hangs and hunger, not a takeover: code that runs in the child has
the object's secrets and this user's rights.

Not `multiprocessing`: its children run the parent's script once more, and answer in pickles.
"""

import base64
import importlib
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from .errors import PartyError, PeerLost
from .launch import Process

DEADLINE_S = 60.0
START_S = 120.0  # for imports, on a machine that is busy with other things
MEMORY = 2**30
"""Bytes that a child may take beyond what it holds when it is ready."""


class Answer(msgspec.Struct, omit_defaults=True):
    """What a call gave, or the sentence of its refusal, and the CPU seconds it took."""

    values: list[bytes] = []
    refused: str | None = None
    cpu_s: float = 0.0


_spent = [0.0]


def spent() -> float:
    """CPU seconds of all calls of this process so far; a child's start is not in it."""
    return _spent[0]


class Apart:
    """An object in a child process of its own, started at the first call and after each loss.

    maker    "module:function", which makes the object from `given`
    refusal  what a call raises for a message that the object refuses or the child does not survive
    """

    def __init__(
        self,
        maker: str,
        *given: Sequence[bytes],
        refusal: type[Exception],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.maker, self.refusal, self.deadline_s = maker, refusal, deadline_s
        self._given, self._lock = given, threading.Lock()
        self._stop: weakref.finalize | None = None
        self._process: Process | None = None

    def __call__(self, method: str, *given: Sequence[bytes]) -> list[bytes]:
        """Call a method of the object; PartyError if there is no child to be had."""
        with self._lock:
            process = self._process or self._start()
            try:
                answer = _exchange(process, method, given, self.deadline_s)
            except (PeerLost, msgspec.ValidationError):
                self.close()
                raise self.refusal(
                    f"What parses it ended, or took longer than {self.deadline_s:g} s; it ran in a "
                    "process of its own, and only this message is lost."
                ) from None
        _spent[0] += answer.cpu_s
        if answer.refused is not None:
            raise self.refusal(answer.refused)
        return answer.values

    def _start(self) -> Process:
        process = Process("the parser", __name__, [self.maker, str(self.deadline_s)])
        self._process = process
        self._stop = weakref.finalize(self, process.stop, 0)
        try:
            _exchange(process, "", self._given, START_S)
        except PeerLost as error:
            self.close()
            raise PartyError(f"No process to parse messages in. {error}") from None
        return process

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self._stop is not None:
            self._stop()
        self._process = None


def _exchange(
    process: Process, method: str, given: Sequence[Sequence[bytes]], within: float
) -> Answer:
    lists = [[base64.b64encode(part).decode() for part in parts] for parts in given]
    process.write({"method": method, "given": lists})
    answer = msgspec.convert(process.read(within), Answer)
    process.events.clear()
    return answer


class _Call(msgspec.Struct):
    method: str
    given: list[list[bytes]]


def main(maker: str, deadline: str) -> None:
    """The child: makes its object from the first line, then answers line by line."""
    module, _, function = maker.partition(":")
    thing = getattr(importlib.import_module(module), function)
    for number, line in enumerate(sys.stdin.buffer):
        start, call, answer = time.process_time(), msgspec.json.decode(line, type=_Call), Answer()
        if not number:
            thing = thing(*call.given)
            _limit("AS", _held() + MEMORY)
            _limit("CORE", 0)  # a core may hold a key
        else:
            _limit("CPU", int(start + float(deadline)) + 1)
            try:
                answer.values = getattr(thing, call.method)(*call.given)
            except Exception as error:  # whatever a library raises, this message is refused
                answer.refused = str(error)[:500] or type(error).__name__
        answer.cpu_s = time.process_time() - start
        print(msgspec.json.encode(answer).decode(), flush=True)


def _held() -> int:
    import psutil

    return psutil.Process().memory_info().vms


def _limit(what: str, soft: int) -> None:
    """A limit of this process; nothing on systems that have none."""
    with suppress(ImportError, ValueError, OSError, AttributeError):
        import resource

        which = getattr(resource, f"RLIMIT_{what}")
        resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
