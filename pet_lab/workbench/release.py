"""What of a run may leave the house: checked by rules, signed by two people, packed to run again.

A request lives in `releases/<run id>/` of the workspace. Sign-offs hold for exactly what was
checked: another row, rule, exception or context voids them. A pack holds no withheld value, no
record and no path; where a cell was withheld or rounded, the run's own report stays behind too.
"""

import dataclasses
import json
import re
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from pet_lab import files
from pet_lab.checks import require
from pet_lab.workbench import disclosure, notebooks, results, runs, sweep, tables
from pet_lab.workbench.disclosure import OutputCell, Rules, Verdict
from pet_lab.workbench.errors import ParameterError, WorkbenchError
from pet_lab.workbench.report import pages
from pet_lab.workbench.report.guard import guard
from pet_lab.workbench.runs import RunRecord, RunSpec
from pet_lab.workbench.workspace import Workspace

PERSONAL = ("real", "own")
SIGN_OFFS = 2
HOME = "https://pypi.org/project/pet-lab/"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CRATE, NOTEBOOK, REQUEST, LOCK = (
    "ro-crate-metadata.json",
    "notebook.ipynb",
    "request.json",
    "uv.lock",
)
MOST_BYTES = 1 << 30  # of an unpacked pack


class SignOff(msgspec.Struct, frozen=True):
    """A checker's name and reason, when, and the digest of what was signed."""

    name: str
    reason: str
    date: str
    digest: str


class ReleaseRequest(msgspec.Struct, frozen=True):
    """What its author and the checkers wrote; kept beside the run."""

    context: str = ""
    exceptions: dict[str, str] = {}
    sign_offs: tuple[SignOff, ...] = ()


@dataclass(frozen=True)
class CheckedRun:
    """A run under the rules: verdicts by table, what may leave, what not and why."""

    record: RunRecord
    rules: Rules
    verdicts: list[Verdict]
    cells: list[OutputCell]
    rows: pd.DataFrame
    whole: pd.DataFrame
    personal: bool

    @property
    def untouched(self) -> bool:
        """Whether every row leaves as it is, by the rules alone: a report shows more than rows."""
        excepted = any(v.why.startswith(disclosure.EXCEPTION) for v in self.verdicts)
        return not excepted and self.rows.equals(self.whole)

    @property
    def withheld(self) -> pd.DataFrame:
        """One row a withheld cell: table, setting, reason; no value."""
        lines = [
            (c.table, ", ".join(f"{k}={v}" for k, v in c.where.items()), "; ".join(c.reasons))
            for c in self.cells
            if c.reasons
        ]
        return pd.DataFrame(lines, columns=["table", "cell", "reason"])

    def digest(self, request: ReleaseRequest) -> str:
        """Hash of all that a checker signs."""
        signed = {
            "run": [self.record.notebook, self.record.run_id, dict(self.record.hashes)],
            "rules": asdict(self.rules),
            "verdicts": [asdict(v) for v in self.verdicts],
            "rows": self.rows.to_csv(index=False),
            "words": [request.context, request.exceptions],
        }
        return files.sha256(files.canonical_json(signed).encode())


def rules(ws: Workspace) -> Rules:
    """The house's rules: `release.toml` of the workspace over ACRO's defaults."""
    path = ws.root / "release.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Rules, strict=False)
    except FileNotFoundError:
        return Rules()
    except ValueError as error:
        raise ParameterError(f"release.toml does not hold rules: {error}") from None


def check(record: RunRecord, house: Rules, exceptions: Mapping[str, str]) -> CheckedRun:
    """Apply the rules to every table of a finished run."""
    whole = pd.read_parquet(record.folder / runs.ROWS)
    known = runs.CONTRIBUTIONS in record.hashes
    behind = pd.read_parquet(record.folder / runs.CONTRIBUTIONS) if known else None
    personal = any(item.get("kind") in PERSONAL for item in record.data)
    cells = disclosure.cells(whole, behind)
    unknown = sorted(set(exceptions) - {c.table for c in cells})
    there = "; ".join(dict.fromkeys(c.table for c in cells))
    sentence = f"No table is called {', '.join(unknown)}; there are: {there}."
    require(not unknown, sentence, ParameterError)
    disclosure.protect(cells, house)
    verdicts = disclosure.judge(cells, personal=personal, exceptions=exceptions)
    rows = disclosure.released(whole, cells, house)
    return CheckedRun(record, house, verdicts, cells, rows, whole, personal)


# --- the request -------------------------------------------------------------------------------


def folder(ws: Workspace, record: RunRecord) -> Path:
    """Where the request of a run is kept."""
    return ws.root / "releases" / record.run_id


def load(ws: Workspace, record: RunRecord) -> ReleaseRequest:
    """The request as it stands; an empty one where there is none."""
    path = folder(ws, record) / REQUEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=ReleaseRequest)
    except FileNotFoundError:
        return ReleaseRequest()
    except ValueError:
        raise WorkbenchError(f"{ws.shown(path)} is damaged; remove it and sign again.") from None


def ask(
    ws: Workspace,
    record: RunRecord,
    *,
    context: str = "",
    exceptions: Mapping[str, str] | None = None,
    sign: str = "",
    reason: str = "",
) -> tuple[CheckedRun, ReleaseRequest, Path | None]:
    """Check a run again, keep what was written and signed, and pack it once two have signed.

    Returns what was checked, the request, and the pack, where all is there. Raises a
    WorkbenchError for a signature that cannot count: no reason, twice the same name, nothing to
    release, no context of real or own data.
    """
    before = load(ws, record)
    words = {**before.exceptions, **(exceptions or {})}
    request = ReleaseRequest(context.strip() or before.context, words, before.sign_offs)
    checked = check(record, rules(ws), request.exceptions)
    digest = checked.digest(request)
    signed = tuple(s for s in request.sign_offs if s.digest == digest)
    if sign:
        names = {s.name.casefold() for s in signed}
        for holds, sentence in (
            (
                sign.strip() and reason.strip(),
                "A sign-off is a name and a reason: --sign and --reason.",
            ),
            (
                sign.strip().casefold() not in names,
                f"{sign} has signed; the second is another person.",
            ),
            (len(checked.rows), "Nothing may leave: every table is withheld; see withheld.csv."),
            (
                request.context or not checked.personal,
                "Readers need the context: say population, period and unit with --context.",
            ),
        ):
            require(holds, sentence, WorkbenchError)
        signed += (SignOff(sign.strip(), reason.strip(), runs.now(), digest),)
    request = msgspec.structs.replace(request, sign_offs=signed)
    place = folder(ws, record)
    place.mkdir(parents=True, exist_ok=True)
    files.write_atomic(place / REQUEST, msgspec.json.format(msgspec.json.encode(request)))
    files.write_atomic(place / "withheld.csv", checked.withheld.to_csv(index=False).encode())
    done = len(signed) >= SIGN_OFFS
    return checked, request, pack(ws, checked, request) if done else None


# --- the pack ----------------------------------------------------------------------------------


def pack(ws: Workspace, checked: CheckedRun, request: ReleaseRequest) -> Path:
    """Write the pack of a signed request: page, rows, verdicts, and what runs it again."""
    record = checked.record
    source = notebooks.read(notebooks.path(ws, record.notebook))
    fresh = notebooks.code_hash(source) == record.fingerprints.get("code")
    require(fresh, "The notebook changed since this run; run it again, then sign.", WorkbenchError)
    public = {
        "format": 1,
        "notebook": record.notebook,
        "parameters": {k: _name_only(v) for k, v in record.parameters.items()},
        "inputs": {Path(given).name: digest for given, digest in record.inputs.items()},
        "data": list(record.data),
        "versions": dict(record.versions),
        "fingerprints": dict(record.fingerprints),
        "rules": asdict(checked.rules),
        "verdicts": [asdict(v) for v in checked.verdicts],
        "withheld": checked.withheld.to_dict("records"),
        "context": request.context,
        "exceptions": request.exceptions,
        "sign_offs": msgspec.to_builtins(request.sign_offs),
    }
    content = {
        "index.html": _page(ws, checked, request).encode(),
        "rows.csv": checked.rows.to_csv(index=False).encode(),
        "rows.parquet": checked.rows.to_parquet(index=False),
        "withheld.csv": checked.withheld.to_csv(index=False).encode(),
        "release.json": json.dumps(public, indent=1, ensure_ascii=False).encode(),
        NOTEBOOK: json.dumps(source, indent=1, ensure_ascii=False).encode(),
    }
    if (ws.root / LOCK).is_file():
        content[LOCK] = (ws.root / LOCK).read_bytes()
    if checked.untouched:  # figures and sentences cannot be withheld cell by cell
        page = pages.build_run(ws, record).read_text("utf-8")
        content["report.html"] = re.sub(r"<nav .*?</nav>", "", page, count=1, flags=re.S).encode()
    content[CRATE] = _crate(checked, request, content)
    target = folder(ws, record) / f"{record.notebook.replace('/', '-')}-{record.run_id}.zip"
    with files.replacing(target) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name)  # of 1980, so that the same pack is the same bytes
            archive.writestr(entry, content[name], zipfile.ZIP_DEFLATED)
    return target


def _name_only(value: Any) -> Any:
    if isinstance(value, list):
        return [_name_only(v) for v in value]
    return pages.without_folder(value) if isinstance(value, str) else value


def _page(ws: Workspace, checked: CheckedRun, request: ReleaseRequest) -> str:
    """The page of the pack: each table with its verdict, withheld cells named, who signed."""
    left = {i for c in checked.cells if not c.reasons for i in c.rows}
    every = [dataclasses.replace(c, reasons=[]) for c in checked.cells]
    rounded = disclosure.released(checked.whole, every, checked.rules)
    shown = []
    for verdict in checked.verdicts:
        mine = [c for c in checked.cells if c.table == verdict.table]
        values = rounded["value"].astype(object).where(rounded.index.isin(left), "withheld")
        lines = [
            {**c.where, "replicate": rounded["replicate"].iloc[i], "value": values.iloc[i]}
            for c in mine
            for i in c.rows
        ]
        frame = pd.DataFrame(lines, dtype=object)
        if frame["replicate"].nunique() <= 1:
            frame = frame.drop(columns="replicate")
        fits = verdict.withheld < verdict.cells and len(frame) <= tables.MOST_ROWS
        caption = f"{verdict.table}: {verdict.verdict}, {verdict.why}"
        shown.append((verdict, tables.table_html(frame, caption=caption) if fits else ""))
    html = pages.render(
        ws,
        "release.html.j2",
        "index.html",
        pages=[],
        glossary=False,
        title=notebooks.title(notebooks.path(ws, checked.record.notebook)),
        record=checked.record,
        summary=results.summary(checked.record),
        shown=shown,
        request=request,
        rules=checked.rules,
        untouched=checked.untouched,
    )
    guard(html, root=ws.root, rows=results.summary(checked.record).get("guard_rows"))
    return html


def _crate(checked: CheckedRun, request: ReleaseRequest, content: Mapping[str, bytes]) -> bytes:
    """The RO-Crate of the pack, by the profile for a run of a process."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.model.person import Person
    from rocrate.model.softwareapplication import SoftwareApplication
    from rocrate.rocrate import ROCrate

    record, kinds = checked.record, {".html": "text/html", ".csv": "text/csv"}
    kinds |= {".json": "application/json", ".ipynb": "application/x-ipynb+json"}
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        crate = ROCrate(version="1.1")  # what the profile stands on
        crate.name = f"Release of {record.notebook}, run {record.run_id}"
        headline = results.summary(record)["headline"]
        crate.description = headline if checked.untouched else "Rows of a run that may leave."
        crate.datePublished = datetime.fromisoformat(record.ended)
        terms = {"@type": "CreativeWork", "name": "None given"}
        terms["description"] = "Ask whoever handed you this pack."
        crate.license = crate.add(ContextEntity(crate, "#licence", terms))
        profile = {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
        crate.root_dataset["conformsTo"] = crate.add(ContextEntity(crate, PROFILE, profile))
        entries = {}
        for name, data in content.items():
            (here / name).write_bytes(data)
            facts = {"name": name, "sha256": files.sha256(data), "contentSize": str(len(data))}
            facts["encodingFormat"] = kinds.get(Path(name).suffix, "application/octet-stream")
            entries[name] = crate.add_file(here / name, name, properties=facts)
        version = record.versions.get("pet-lab", "")
        about = {"name": "pet-lab", "softwareVersion": version, "url": HOME}
        tool = crate.add(SoftwareApplication(crate, HOME, properties=about))
        people = [
            crate.add(Person(crate, f"#checker-{i}", {"name": s.name, "description": s.reason}))
            for i, s in enumerate(request.sign_offs, start=1)
        ]
        given = [NOTEBOOK, "release.json", *(n for n in content if n == LOCK)]
        action = crate.add_action(
            tool,
            "#run",
            object=[entries[n] for n in given],
            result=[e for n, e in entries.items() if n not in given],
            properties={
                "name": f"Run of {record.notebook}",
                "description": "One run of a notebook: what it read, and what of it may leave.",
                "startTime": record.started,
                "endTime": record.ended,
            },
        )
        action["agent"] = crate.root_dataset["author"] = people
        crate.root_dataset["mentions"] = action
        crate.write(here / "written")
        return (here / "written" / CRATE).read_bytes()


# --- running it again --------------------------------------------------------------------------


def verify(path: Path, settings: Sequence[str] = ()) -> list[str]:
    """Unpack, hold every file against its hash, run the notebook, and apply the rules anew.

    `settings` ("KEY=VALUE") say where the reader's own input files are. Returns notes on what is
    not the same but need not be (environment, package, digits); a WorkbenchError for the rest.
    """
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        public = _unpacked(path, here)
        ws = Workspace(here / "workspace")
        name = public["notebook"]
        source = ws.notebooks / f"{name}.ipynb"
        inside = source.resolve().is_relative_to(ws.notebooks)
        require(inside, "The pack names a notebook outside its folder.", WorkbenchError)
        source.parent.mkdir(parents=True)
        source.write_bytes((here / NOTEBOOK).read_bytes())
        if (here / LOCK).is_file():
            (ws.root / LOCK).write_bytes((here / LOCK).read_bytes())
        known = notebooks.parameters(source)
        given = {k: v for k, v in public["parameters"].items() if k in known}
        spec = RunSpec.of(name, {**given, **notebooks.parse(known, settings)})
        (record,) = sweep.execute(ws, [spec], jobs=1)
        require(record.ok, f"The pack does not run here: {record.problem}", WorkbenchError)
        house = msgspec.convert(public["rules"], Rules, strict=False)
        again = check(record, house, public["exceptions"])
        verdicts = [asdict(v) for v in again.verdicts]
        odd = [v["table"] for v, w in zip(verdicts, public["verdicts"], strict=False) if v != w]
        same = verdicts == public["verdicts"]
        sentence = f"Run again, other verdicts come out: {', '.join(odd) or 'other tables'}."
        require(same, sentence, WorkbenchError)
        cells = again.withheld.to_dict("records") == public["withheld"]
        require(cells, "Run again, other cells are withheld.", WorkbenchError)
        return _notes(again, record, public, here)


def _unpacked(path: Path, here: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            require(size < MOST_BYTES, f"{path.name} is too large for a pack.", WorkbenchError)
            archive.extractall(here)
        graph = json.loads((here / CRATE).read_bytes())["@graph"]
        hashes = {e["@id"]: e["sha256"] for e in graph if "sha256" in e}
        present = {p.name for p in here.iterdir()} - {CRATE}
        odd = sorted(present ^ set(hashes))
        odd += [n for n in present & set(hashes) if files.sha256_file(here / n) != hashes[n]]
        public = json.loads((here / "release.json").read_bytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise WorkbenchError(f"{path.name} is no pack of a release: {error}") from None
    require(not odd, f"{path.name} was changed: {', '.join(odd)}.", WorkbenchError)
    return public


def _notes(
    again: CheckedRun, record: RunRecord, public: Mapping[str, Any], here: Path
) -> list[str]:
    """What differs although the verdicts are the same."""
    then, notes = public["fingerprints"], []
    if then.get("modules") != record.fingerprints.get("modules"):
        notes.append("pet-lab's own code is not that of the pack")
    odd = {k for k, v in public["versions"].items() if record.versions.get(k) != v}
    if odd:
        notes.append(f"other versions here: {', '.join(sorted(odd))}")
    packed = pd.read_parquet(here / "rows.parquet")
    try:
        pd.testing.assert_frame_equal(packed, again.rows, rtol=1e-9)
    except AssertionError:
        notes.append("some released values are not the same to nine digits")
    return notes
