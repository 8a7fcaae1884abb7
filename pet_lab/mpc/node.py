"""A party as a process: `python -m pet_lab.mpc.node FOLDER`.

The folder holds the party's certificate and keys, its policy and, for an owner, its data. The
operator's commands come on stdin, one JSON object a line, and the answers go to stdout: whoever
sits at this console speaks for this party, and for no other. No secret is ever an argument.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import wire
from .errors import MpcError
from .party import Party
from .policy import Policy, Signer
from .tasks import Column


def load(home: Path) -> Party:
    """The party whose things are in a folder."""
    config = json.loads((home / "config.json").read_text())
    schema = _schema(home)
    signer = Signer(config["name"], (home / "sign.key").read_bytes())
    return Party(
        home,
        wire.Doors(config["name"], home, set(config.get("revoked", ()))),
        signer,
        Policy.from_json(config.get("policy", {})),
        config.get("faults", ()),
        schema,
    )


def _schema(home: Path) -> dict[str, Column] | None:
    if not (home / "schema.json").exists():
        return None
    made = json.loads((home / "schema.json").read_text())
    return {k: Column(**{**c, "levels": tuple(c["levels"])}) for k, c in made.items()}


async def command(party: Party, said: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911
    """One order of the operator."""
    do = said.pop("do")
    if do == "members":
        party.members = {m["name"]: wire.Member(**m) for m in said["members"]}
        return {}
    if do == "request":
        return await party.request(**said)
    if do == "policy":
        party.policy = Policy.from_json(said["policy"])
        party.log.add("policy", **party.policy.as_json())
        return {}
    if do == "faults":
        party.faults = set(said["faults"])
        return {}
    if do == "reload":
        party.schema = _schema(party.home)
        return {}
    if do == "bar":
        party.bar(said["party"], said["why"])
        return {}
    if do == "send":
        return await party._ask(said["to"], said["message"])
    if do == "log":
        return {"entries": [asdict(e) for e in party.log.entries], "public": party.signer.public}
    if do == "sent":
        made, party.sent = [asdict(s) for s in party.sent], []
        return {"sent": made}
    raise MpcError(f"No such order: {do!r}.")


async def main(home: Path) -> None:
    party = load(home)
    host = json.loads((home / "config.json").read_text()).get("host", "127.0.0.1")
    port, data_port = await party.listen(host)
    me = wire.Member(party.name, host, port, data_port, party.signer.public)
    print(json.dumps(me.as_json()), flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=wire.MAX_FRAME)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        said = json.loads(line)
        try:
            made = await command(party, said)
        except MpcError as error:
            made = wire.error_json(error)
        except Exception as error:  # the console must answer, whatever happened
            made = {"error": f"{type(error).__name__}: {error}", "kind": "MpcError"}
            import traceback

            traceback.print_exc()
        print(json.dumps(made), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
