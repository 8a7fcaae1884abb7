"""Messages as a hostile peer would send them: raw on a real channel, canned, and mutated."""

import random
import time

import msgspec

from pet_lab import psi
from pet_lab.parties import blocking, channel
from pet_lab.parties.errors import PartyError, Refused

SEED = 20240607


class Line:
    """A memory channel from "a" to "b" on which "a" puts whatever it likes."""

    def __init__(self):
        self.a, self.b = blocking.memory_pair("a", "b", options=channel.Options(timeout_s=2))

    def put(self, raw, form=channel.JSON):
        blocking._run(self.a._inner._send(form, (raw,), "hostile"))

    def close(self):
        for end in (self.a, self.b):
            end.close()

    def decode(self, message_type, raw):
        """What "b" makes of one typed message with these bytes."""
        self.put(raw)
        return self.b.receive(message_type)


class Canned:
    """A channel whose incoming frames are given: (form, payload) pairs; what is sent is kept."""

    party, peer = "b", "a"

    def __init__(self, frames):
        self._frames, self.record, self.sent = list(frames), [], []

    def _next(self, form):
        if not self._frames:
            raise psi.PeerLost("a", "a sent nothing for 2 s.")
        got, payload = self._frames.pop(0)
        if got != form:
            raise Refused("a sent another form of message than was expected.")
        return payload

    def receive(self, message_type, *, within=None):
        try:
            return msgspec.json.decode(self._next(channel.JSON), type=message_type)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Refused("a sent something else.") from None

    def receive_bytes(self, *, within=None):
        return self._next(channel.BYTES)

    def send(self, message, *, kind=""):
        self._keep(channel.JSON, msgspec.json.encode(message), kind)

    def send_bytes(self, *parts, kind="bytes"):
        self._keep(channel.BYTES, b"".join(parts), kind)

    def _keep(self, form, payload, kind):
        self.sent.append((form, payload))
        self.record.append(channel.Sent("b", "a", kind, len(payload) + channel.HEADER.size))


def mutate(rng, raw):
    """One hostile variant of a message: flipped, cut, stretched, spliced or made up."""
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        how = rng.randrange(7)
        at = rng.randrange(len(raw) + 1)
        if how == 0 and raw:
            raw[min(at, len(raw) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del raw[at:]
        elif how == 2:
            raw[at:at] = rng.randbytes(rng.randint(1, 40))
        elif how == 3:
            raw[at : at + rng.randint(1, 8)] = rng.choice(
                [b"\xff" * 4, bytes(4), b"\x80\0\0\0", b'"', b"null", b"1e999", b"[[[[", b"\xff"]
            )
        elif how == 4:
            raw = bytearray(rng.randbytes(rng.randint(0, 80)))
        elif how == 5:
            del raw[at : at + rng.randint(1, 20)]
        else:
            raw[at:at] = raw[: rng.randint(0, 60)]
    return bytes(raw)


def check_hostile(decode, originals, count, seed=SEED):
    """Every mutant is read as a proper message or refused in one sentence, quickly."""
    rng = random.Random(seed)
    refused, slowest = 0, 0.0
    for _ in range(count):
        raw = mutate(rng, rng.choice(originals))
        before = time.perf_counter()
        try:
            decode(raw)
        except PartyError as error:
            refused += 1
            sentence = str(error)
            assert "\n" not in sentence, raw
            assert len(sentence) < 600, raw
            assert sentence.endswith("."), sentence
        slowest = max(slowest, time.perf_counter() - before)
    print(f"seed {seed}: {refused} of {count} hostile messages refused, slowest {slowest:.4f} s")
    assert slowest < 2
    return refused


# What a peer does with one frame of its own, or with all from there on.
DEVIATIONS = [
    "drops it",
    "falls silent",
    "swaps it with the next",
    "sends it twice",
    "flips a bit",
    "cuts it",
    "adds a byte",
    "empties it",
    "sends it in another form",
    "sends its first frame again",
    "refuses in rubbish",
    "leaves",
]
WAITED_FOR = DEVIATIONS[:3]


def deviate(line, at, how):
    """Make a blocking channel deviate at its frame number `at`; returns the frames it was given."""
    inner, given, held = line._inner, [], []
    send = inner._send

    async def deviating(form, parts, kind):
        payload, place = b"".join(map(bytes, parts)), len(given)
        given.append((form, payload))
        inner.record.append(channel.Sent(line.party, line.peer, kind, len(payload)))
        if place < at or (place > at and how != "falls silent"):
            await send(form, (payload,), kind)
            for late in held:
                await send(*late)
            held.clear()
        elif how == "leaves":
            inner._writer.transport.abort()
        elif how == "swaps it with the next":
            held.append((form, (payload,), kind))
        elif place == at:
            middle = len(payload) // 2
            flipped = bytearray(payload or b"\0")
            flipped[middle] ^= 1
            for frame in {
                "drops it": [],
                "falls silent": [],
                "sends it twice": [(form, payload)] * 2,
                "flips a bit": [(form, bytes(flipped))],
                "cuts it": [(form, payload[:middle])],
                "adds a byte": [(form, payload + b"\0")],
                "empties it": [(form, b"")],
                "sends it in another form": [(channel.JSON + channel.BYTES - form, payload)],
                "sends its first frame again": [given[0]] * (1 if at else 2),
                "refuses in rubbish": [(channel.REFUSAL, b"\xff" * 50)],
            }[how]:
                await send(frame[0], (frame[1],), kind)

    inner._send = deviating
    return given
