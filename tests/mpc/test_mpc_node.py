"""A party's console answers whatever is typed."""

import asyncio

import msgspec
import pytest

from pet_lab.mpc import node
from pet_lab.parties.certificates import TestAuthority, save
from pet_lab.parties.log import Signer


@pytest.fixture
def console(tmp_path):
    home = save(TestAuthority().issue("pz"), tmp_path / "pz")
    (home / "sign.key").write_bytes(Signer("pz").raw())
    (home / "config.json").write_bytes(msgspec.json.encode(node.NodeConfig()))
    return node.Console(home)


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"do":"compute","owners":[],"terms":{"x":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b'{"do":"compute","owners":[],"terms":{"function":"join_size","min_group":1'
        + b"0" * 400
        + b"}}",
        b'{"do":"compute","owners":[],"terms":{"epsilon":1e-9}}',
        b'{"do":"setpolicy","policy":{"epsilon_total":"NaN"}}',
        b'{"do":"setpolicy","policy":{"epsilon_total":-1}}',
        b"\xff\xfe\n",
        b"",
        None,
    ],
    ids=["deep", "deep terms", "huge", "tiny", "nan", "negative", "bytes", "empty", "too long"],
)
def test_the_console_survives_any_line(console, line):
    answer = msgspec.json.decode(asyncio.run(console.answer(line)))
    assert len(answer["refusal"]["sentence"]) < 400
    again = msgspec.json.decode(asyncio.run(console.answer(b'{"do":"showlog"}')))
    assert again["answer"]["entries"] == []


def test_the_console_survives_an_error_that_nobody_foresaw(console, monkeypatch, capsys):
    monkeypatch.setattr(console.party, "log_copy", lambda: 1 // 0)
    answer = msgspec.json.decode(asyncio.run(console.answer(b'{"do":"showlog"}')))
    assert answer["refusal"]["sentence"].startswith("ZeroDivisionError")
    assert "Traceback" in capsys.readouterr().err  # for the operator


def test_a_line_that_is_too_long_is_one_line_and_the_next_counts():
    async def read():
        reader = asyncio.StreamReader(limit=16)
        reader.feed_data(b"short\n" + b"x" * 100 + b"\nnext\n")
        reader.feed_eof()
        return [line async for line in node.lines(reader)]

    assert asyncio.run(read()) == [b"short\n", None, b"next\n"]
