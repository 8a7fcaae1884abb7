"""Tokens, joins, counts and totals at the linker, against the tables in clear."""

import dataclasses
import json

import msgspec
import numpy as np
import pandas as pd
import pytest
from hostile import Line, check_hostile

from pet_lab import psi
from pet_lab.parties.errors import PartyError
from pet_lab.psi import disclosure, linker, tokens
from pet_lab.psi.disclosure import OutputRules, QueryLog
from pet_lab.psi.linker import Linker, LinkerAnswer, Query, combine

OPEN = OutputRules(min_cell=0)


def files(n=400, seed=1, overlap=0.75):
    rng = np.random.default_rng(seed)
    shift = int(n * (1 - overlap))
    left = pd.DataFrame(
        {
            "id": [f"{i:05d}" for i in range(n)],
            "pref": rng.choice(["100", "300"], n, p=[0.7, 0.3]),
        }
    )
    right = pd.DataFrame(
        {
            "id": [f"{i + shift:05d}" for i in range(n)],
            "size": rng.choice(["small", "large"], n),
        }
    )
    values = rng.integers(-(10**9), 10**9, n)
    return (
        psi.DataHolder("statcan", left),
        psi.DataHolder("cbs", right.sample(frac=1, random_state=2, ignore_index=True)),
        values,
    )


PUBLIC = {"pref": ["100", "300"], "size": ["small", "large"]}


def linked(
    left,
    right,
    *,
    values=None,
    linkers=1,
    rules=OPEN,
    on="id",
    value_bound=None,
    public=True,
    **more,
):
    result = psi.intersect(psi.EcdhEngine(), left, right, on=on, variant="analytics")
    labels = [
        {c: PUBLIC[c]} if public and set(side.frame[c]) <= set(PUBLIC[c]) else None
        for side, c in ((left, "pref"), (right, "size"))
    ]
    a = tokens.tables_for_linkers(
        left,
        result.left,
        on=on,
        columns=["pref"],
        values=values,
        linkers=linkers,
        value_bound=value_bound,
        public=labels[0],
    )
    b = tokens.tables_for_linkers(
        right, result.right, on=on, columns=["size"], linkers=linkers, public=labels[1]
    )
    made = [Linker(("statcan", "cbs"), rules=rules, **more) for _ in range(linkers)]
    for one, x, y in zip(made, a, b, strict=True):
        one.accept(x, "statcan")
        one.accept(y, "cbs")
    return made, result


def query(result, *group_by, **more):
    return Query(session=result.left.session, group_by=group_by, **more)


BOTH = ("cbs:size", "statcan:pref")


@pytest.fixture(scope="module")
def line():
    line = Line()
    yield line
    line.close()


def again(message):
    """The message as its receiver reads it."""
    return msgspec.json.decode(msgspec.json.encode(message), type=type(message))


def test_counts_are_those_of_the_join_in_clear():
    left, right, _ = files()
    (one,), result = linked(left, right)
    got = one.answer(query(result, *BOTH), "cbs").table(result.right.link_key)
    clear = left.frame.merge(right.frame, on="id").groupby(["size", "pref"]).size()
    assert got.set_index(["size", "pref"])["count"].to_dict() == clear.to_dict()


@pytest.mark.parametrize("linkers", [2, 3])
def test_totals_by_additive_shares_are_exact(linkers):
    left, right, values = files()
    made, result = linked(left, right, values={"value": values}, linkers=linkers)
    q = query(result, *BOTH, measure="total", value="statcan:value")
    got = combine([one.answer(q, "cbs") for one in made], result.right.link_key)
    frame = left.frame.assign(value=values).merge(right.frame, on="id")
    clear = frame.groupby(["size", "pref"])["value"].sum()
    assert got.set_index(["size", "pref"])["total"].to_dict() == clear.to_dict()


def test_duplicates_are_pairs_of_a_join_not_their_product_in_every_cell():
    # Two records of one key on each side, in different cells: the join has 4 pairs, one a cell.
    # A count that multiplies 2 x 2 in every cell would show 4 and 4.
    left = psi.DataHolder("statcan", pd.DataFrame({"id": ["k", "k"], "pref": ["100", "300"]}))
    right = psi.DataHolder("cbs", pd.DataFrame({"id": ["k", "k"], "size": ["small", "large"]}))
    (one,), result = linked(left, right)
    got = one.answer(query(result, *BOTH), "cbs").table(result.right.link_key)
    assert got["count"].tolist() == [1, 1, 1, 1]
    got = one.answer(query(result, "statcan:pref"), "cbs").table(result.right.link_key)
    assert got["count"].tolist() == [2, 2]


def test_the_join_is_that_of_pandas_for_any_multiplicities():
    rng = np.random.default_rng(5)
    left = pd.DataFrame(
        {"id": rng.integers(0, 30, 80).astype(str), "pref": rng.choice(["x", "y"], 80)}
    )
    right = pd.DataFrame(
        {"id": rng.integers(5, 40, 60).astype(str), "size": rng.choice(["s", "l"], 60)}
    )
    (one,), result = linked(psi.DataHolder("statcan", left), psi.DataHolder("cbs", right))
    got = one.answer(query(result, *BOTH), "cbs").table(result.right.link_key)
    clear = left.merge(right, on="id").groupby(["size", "pref"]).size()
    assert got.set_index(["size", "pref"])["count"].to_dict() == clear.to_dict()


def test_an_empty_intersection_gives_an_empty_answer():
    left = psi.DataHolder("statcan", pd.DataFrame({"id": ["a"], "pref": ["100"]}))
    right = psi.DataHolder("cbs", pd.DataFrame({"id": ["b"], "size": ["small"]}))
    (one,), result = linked(left, right, public=False)
    answer = one.answer(query(result, *BOTH), "cbs")
    assert answer.values == ()
    assert len(again(answer).table(result.right.link_key)) == 0


# -- tokens ----------------------------------------------------------------------------------------


def test_tokens_are_of_one_length_and_bound_to_key_party_and_column():
    one = tokens.ColumnCipher(bytes(32))
    token = one.encrypt("small", party="cbs", column="size")
    assert (
        len(token) == len(one.encrypt("x" * 31, party="cbs", column="size")) == tokens.TOKEN_WIDTH
    )
    assert one.encrypt("small", party="cbs", column="size") == token
    assert one.decrypt(token, party="cbs", column="size") == "small"
    others = {
        one.encrypt("small", party="cbs", column="class"),
        one.encrypt("small", party="statcan", column="size"),
        tokens.ColumnCipher(b"k" * 32).encrypt("small", party="cbs", column="size"),
    }
    assert token not in others
    assert len(others) == 3
    for party, column in (("cbs", "class"), ("statcan", "size")):
        with pytest.raises(psi.MessageError, match="not one of"):
            one.decrypt(token, party=party, column=column)
    with pytest.raises(psi.PsiError, match="at most 31 bytes"):
        one.encrypt("é" * 16, party="cbs", column="size")


def test_the_linker_sees_neither_keys_nor_labels_nor_their_hashes():
    left, right, values = files(n=60)
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id")
    table = tokens.tables_for_linkers(
        left, result.left, on="id", columns=["pref"], values={"v": values}, linkers=2
    )[0]
    seen = (
        msgspec.json.encode(table.header)
        + table.pack().tobytes()
        + b"".join(t.tobytes() for t in table.labels.values())
    )
    message = psi.protocol.Message("statcan", "linker", "tokens", 0, 1, 0, seen)
    transcript = psi.Transcript([message])
    assert not transcript.contains_any([*left.values("id"), "100", "300"])
    for v in values:
        assert int(v).to_bytes(8, "big", signed=True) not in seen
    assert len(table) == 45  # rows of the intersection only


def test_tables_hold_rows_in_the_order_of_their_tags_not_of_the_file():
    left, right, _ = files(n=50, overlap=1)
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id")
    (table,) = tokens.tables_for_linkers(left, result.left, on="id", columns=["pref"])
    tags = [t.tobytes() for t in table.tags]
    assert tags == sorted(tags)


def test_the_frequency_attack_names_every_token_of_a_skewed_column():
    left, right, _ = files(n=4000, overlap=1)
    (one,), result = linked(left, right)
    table = one.held(result.left.session)["statcan"]
    key = result.left.link_key
    attack = tokens.frequency_attack(
        table, "pref", pd.Series({"100": 0.7, "300": 0.3}), link_key=key
    )
    assert attack["guess"].tolist() == attack["label"].tolist() == ["100", "300"]
    assert attack["rows"].tolist() == left.frame["pref"].value_counts().tolist()
    wrong = tokens.frequency_attack(
        table, "pref", pd.Series({"100": 0.3, "300": 0.7}), link_key=key
    )
    assert wrong["guess"].tolist() == ["300", "100"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"values": {"v": np.zeros(3, dtype=int)}}, "need two linkers"),
        ({"values": {"v": np.zeros(3)}, "linkers": 2}, "whole numbers, e.g. cents"),
        ({"values": {"v": np.zeros(2, dtype=int)}, "linkers": 2}, "one number per row"),
        ({"values": {"v": np.full(3, 2**62)}, "linkers": 2}, "could exceed 63 bits"),
        ({"values": {"v:x": np.zeros(3, dtype=int)}, "linkers": 2}, "A column name has"),
        ({"columns": ["nope"]}, "no column 'nope'"),
        ({"columns": ["gap"]}, "has missing values"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_reason(more, said):
    left = psi.DataHolder(
        "a", pd.DataFrame({"id": ["x", "y", "z"], "pref": ["1"] * 3, "gap": ["1", None, "2"]})
    )
    result = psi.intersect(psi.EcdhEngine(), left, psi.DataHolder("b", left.frame), on="id")
    with pytest.raises(psi.PsiError, match=said):
        tokens.tables_for_linkers(left, result.left, on="id", **more)


def test_after_cardinality_nobody_can_send_rows():
    left = psi.DataHolder("a", pd.DataFrame({"id": ["x"]}))
    result = psi.intersect(
        psi.EcdhEngine(), left, psi.DataHolder("b", left.frame), on="id", variant="cardinality"
    )
    with pytest.raises(psi.PsiError, match="nobody here knows the rows"):
        tokens.tables_for_linkers(left, result.left, on="id")


# -- who may do what ------------------------------------------------------------------------------


def test_only_the_two_parties_are_served():
    left, right, _ = files(n=40)
    (one,), result = linked(left, right)
    with pytest.raises(psi.PsiError, match="serves statcan and cbs only"):
        one.answer(query(result, *BOTH), "istat")
    fresh = Linker(("statcan", "cbs"))
    (table,) = tokens.tables_for_linkers(left, result.left, on="id")
    with pytest.raises(psi.PsiError, match="serves statcan and cbs only"):
        fresh.accept(table, "istat")
    with pytest.raises(psi.PsiError, match="in its own name"):
        fresh.accept(table, "cbs")  # posting as the other party
    with pytest.raises(psi.PsiError, match="two different parties"):
        Linker(("cbs", "cbs"))


def test_a_table_is_taken_once_and_only_when_both_are_here_is_answered():
    left, right, _ = files(n=40)
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id")
    (a,) = tokens.tables_for_linkers(left, result.left, on="id", columns=["pref"])
    one = Linker(("statcan", "cbs"))
    with pytest.raises(psi.PsiError, match="No table of statcan and cbs is here"):
        one.answer(query(result, "statcan:pref"), "cbs")
    assert one.accept(a, "statcan") == -1
    with pytest.raises(psi.PsiError, match="already sent its table"):
        one.accept(a, "statcan")
    with pytest.raises(psi.PsiError, match="No table of cbs is here"):
        one.answer(query(result, "statcan:pref"), "cbs")


def test_unknown_columns_are_refused_without_the_names_of_others():
    left, right, values = files(n=40)
    (one, _), result = linked(left, right, values={"v": values}, linkers=2)
    with pytest.raises(psi.PsiError, match=r"no column 'cbs:income' here; ask cbs"):
        one.answer(query(result, "cbs:income"), "cbs")
    with pytest.raises(psi.PsiError, match=r"no value column 'cbs:v' here; ask cbs"):
        one.answer(query(result, "cbs:size", measure="total", value="cbs:v"), "cbs")


def test_every_query_is_logged_refused_ones_too_and_no_value(tmp_path):
    left, right, _ = files(n=40)
    (one,), result = linked(left, right, log=QueryLog(tmp_path / "queries.jsonl"))
    one.answer(query(result, *BOTH), "cbs")
    with pytest.raises(psi.PsiError):
        one.answer(query(result, "cbs:income"), "statcan")
    lines = [json.loads(x) for x in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert [x["party"] for x in lines] == ["cbs", "statcan"]
    assert lines[0]["state"] == "answered"
    assert lines[1]["state"].startswith("refused: There is no column")
    assert not {"values", "labels"} & set(lines[0])


def test_a_restarted_linker_asks_for_the_tables_and_refuses_answered_sessions(tmp_path):
    left, right, _ = files(n=40)
    path = tmp_path / "queries.jsonl"
    (one,), result = linked(left, right, log=QueryLog.open(path))
    again = Linker(("statcan", "cbs"), log=QueryLog.open(path))
    with pytest.raises(psi.PsiError, match="No table of statcan and cbs is here"):
        again.answer(query(result, *BOTH), "cbs")
    one.answer(query(result, *BOTH), "cbs")
    after = Linker(("statcan", "cbs"), log=QueryLog.open(path))
    (table,) = tokens.tables_for_linkers(left, result.left, on="id")
    with pytest.raises(psi.PsiError, match="answered before the linker restarted"):
        after.accept(table, "statcan")
    path.write_text("not json\n")
    with pytest.raises(psi.PsiError, match="Line 1 of the query log is damaged"):
        QueryLog.open(path)


def test_an_answer_is_on_the_disk_before_it_leaves(tmp_path, monkeypatch):
    """A disk that takes no more: no answer, and none that is remembered and then given away."""
    left, right, _ = files(n=40)
    path = tmp_path / "queries.jsonl"
    noisy = OutputRules(min_cell=0, epsilon_per_query=0.5)
    (one,), result = linked(left, right, rules=noisy, log=QueryLog.open(path))
    synced = []

    def full(descriptor):
        synced.append(path.read_bytes())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disclosure.os, "fsync", full)
    asked = query(result, *BOTH)
    with pytest.raises(OSError, match="No space left"):
        one.answer(asked, "cbs")
    assert json.loads(synced[0])["state"] == "answered"
    assert not one._linked[asked.session].remembered
    assert one.log.spent() == 0.5
    monkeypatch.undo()
    one.answer(asked, "cbs")  # other noise, which costs again
    assert one.log.spent() == 1.0
    assert path.stat().st_mode & 0o077 == 0


def test_a_torn_last_line_of_the_log_is_removed_and_said(tmp_path, caplog):
    left, right, _ = files(n=40)
    path = tmp_path / "queries.jsonl"
    (one,), result = linked(left, right, log=QueryLog.open(path))
    one.answer(query(result, *BOTH), "cbs")
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    log = QueryLog.open(path)
    assert len(log.entries) == 1
    assert "Line 2 of the query log was cut off" in caplog.text
    assert path.read_bytes() == whole
    log.add("cbs", "00", {}, "answered")
    assert len(QueryLog.open(path).entries) == 2
    for wrong in ("NaN", "-1.0", '"0"'):  # any of these would disable the budget
        path.write_bytes(whole.replace(b'"epsilon":0.0', f'"epsilon":{wrong}'.encode()))
        with pytest.raises(psi.PsiError, match="Line 1 of the query log is damaged"):
            QueryLog.open(path)


def in_session(table, i):
    header = msgspec.structs.replace(table.header, session=i.to_bytes(16, "big"))
    return dataclasses.replace(table, header=header)


def test_no_party_fills_the_linker():
    left, right, _ = files(n=20)
    one = Linker(("statcan", "cbs"), rules=OPEN)
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id")
    (a,) = tokens.tables_for_linkers(left, result.left, on="id", columns=["pref"])
    (b,) = tokens.tables_for_linkers(right, result.right, on="id", columns=["size"])
    for i in range(200):
        one.accept(in_session(a, i), "statcan")
    assert len(one._waiting) == linker.MAX_WAITING
    assert one.accept(b, "cbs") == -1  # the other party is not kept out
    assert one.accept(a, "statcan") == len(a)
    for i in range(200, 200 + 2 * linker.MAX_SESSIONS):
        for table in (a, b):
            fresh = in_session(table, i)
            one.accept(fresh, table.header.party)
        if i == 200:
            one.answer(query(result, *BOTH), "cbs")
    assert len(one._linked) == linker.MAX_SESSIONS
    with pytest.raises(psi.PsiError, match="restarted or made room"):
        one.accept(a, "statcan")


def test_tables_for_another_linker_are_refused():
    left, right, values = files(n=20)
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id")
    a = tokens.tables_for_linkers(left, result.left, on="id", values={"v": values[:20]}, linkers=2)
    b = tokens.tables_for_linkers(right, result.right, on="id", linkers=2)
    one = Linker(("statcan", "cbs"))
    one.accept(a[0], "statcan")
    with pytest.raises(psi.PsiError, match="name the linkers of this session in another order"):
        one.accept(b[1], "cbs")
    assert one.accept(b[0], "cbs") == 15


def test_too_coarse_keys_and_too_many_cells_are_refused(monkeypatch):
    left, right, _ = files(n=40)
    (one,), result = linked(left, right)
    monkeypatch.setattr(linker, "MAX_CELLS", 3)
    with pytest.raises(psi.PsiError, match="at most 3 cells"):
        one.answer(query(result, *BOTH), "cbs")
    monkeypatch.setattr(linker, "MAX_PAIRS", 10)
    with pytest.raises(psi.PsiError, match="use a finer key"):
        linked(left, right)


def test_linkers_that_disagree_are_noticed():
    left, right, values = files(n=60)
    made, result = linked(left, right, values={"v": values}, linkers=2)
    q = query(result, *BOTH, measure="total", value="statcan:v")
    other = query(result, "cbs:size", measure="total", value="statcan:v")
    with pytest.raises(psi.PsiError, match="different queries"):
        combine([made[0].answer(q, "cbs"), made[1].answer(other, "cbs")], result.right.link_key)


# -- decoders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upload():
    left, right, values = files(n=40)
    result = psi.intersect(psi.EcdhEngine(), left, right, on="id")
    (table, _) = tokens.tables_for_linkers(
        left, result.left, on="id", columns=["pref"], values={"v": values}, linkers=2
    )
    return table


def test_an_upload_is_read_back(upload):
    header = again(upload.header)
    assert header == upload.header
    got = tokens.unpack(header, upload.labels, upload.pack())
    assert (got.tags == upload.tags).all()
    assert (got.codes["pref"] == upload.codes["pref"]).all()
    assert (got.shares["v"] == upload.shares["v"]).all()


def test_uploads_out_of_order_or_without_token_are_refused(upload):
    header, rows = upload.header, upload.pack()
    for labels, changed, said in (
        (upload.labels, rows[::-1], "row tags of a table are in ascending order"),
        (upload.labels, rows[:-1], "were announced"),
        ({"pref": upload.labels["pref"][::-1]}, rows, "distinct and in ascending order"),
        ({"pref": upload.labels["pref"][:1]}, rows, "has 2 tokens"),
    ):
        with pytest.raises(psi.MessageError, match=said):
            tokens.unpack(header, labels, changed)
    wrong = rows.copy()
    wrong[0, 16:20] = 255
    with pytest.raises(psi.MessageError, match="names a token that does not exist"):
        tokens.unpack(header, upload.labels, wrong)


def test_ten_thousand_hostile_table_headers(line, upload):
    raw = msgspec.json.encode(upload.header)
    assert check_hostile(lambda r: line.decode(tokens.TableHeader, r), [raw], 10_000) > 8_000


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ({"session": "x"}, "session"),
        ({"party": "../a"}, "matching regex"),
        ({"rows": -1}, ">= 0"),
        ({"rows": 1 << 40}, "<= 67108864"),
        ({"columns": {"a:b": 1}}, "matching regex"),
        ({"columns": {"a\n": 1}}, "matching regex"),
        ({"columns": {"pref": 41}}, "at most as many values as rows"),
        ({"columns": {f"c{i}": 1 for i in range(33)}}, "length <= 32"),
        ({"shares": [f"s{i}" for i in range(32)]}, "at most 32 columns"),
        ({"shares": ["pref"]}, "named twice"),
        ({"extra": 1}, "unknown field"),
    ],
)
def test_a_table_header_that_is_not_one_is_refused(line, upload, items, reason):
    raw = json.dumps({**json.loads(msgspec.json.encode(upload.header)), **items}).encode()
    with pytest.raises(PartyError, match=f"something else than a TableHeader: .*{reason}"):
        line.decode(tokens.TableHeader, raw)


def test_ten_thousand_hostile_tables(upload):
    header = upload.header

    def decode(raw):
        usable = raw[: len(raw) // header.width * header.width]
        rows = np.frombuffer(usable, dtype=np.uint8).reshape(-1, header.width)
        tokens.unpack(header, upload.labels, rows)

    assert check_hostile(decode, [upload.pack().tobytes()], 10_000) > 8_000


def test_ten_thousand_hostile_queries_and_answers(line):
    left, right, _ = files(n=40)
    (one,), result = linked(left, right)
    q = query(result, *BOTH)
    total = query(result, *BOTH, measure="total", value="statcan:v")
    raws = [msgspec.json.encode(x) for x in (q, total)]
    assert check_hostile(lambda raw: line.decode(Query, raw), raws, 10_000) > 8_000
    answer = one.answer(q, "cbs")
    assert again(answer) == answer
    raw = msgspec.json.encode(answer)
    assert check_hostile(lambda raw: line.decode(LinkerAnswer, raw), [raw], 10_000) > 5_000
    assert (
        check_hostile(lambda raw: line.decode(Query | LinkerAnswer, raw), [*raws, raw], 1000) > 500
    )


def change(**items):
    base = {
        "type": "query",
        "session": "AAAAAAAAAAAAAAAAAAAAAA==",
        "group_by": ["a:b"],
        "measure": "count",
        "value": None,
    }
    return json.dumps({**base, **items}).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (change(session="AAAA"), "length >= 16"),
        (change(group_by=[]), "length >= 1"),
        (change(group_by=[f"a:{i}" for i in range(9)]), "length <= 8"),
        (change(group_by=["a:b", "a:b"]), "names a column twice"),
        (change(group_by=["ab"]), "matching regex"),
        (change(group_by=["a:b:c"]), "matching regex"),
        (change(measure="median"), "Invalid enum value 'median'"),
        (change(measure="total"), "A total names its value column"),
        (change(value="a:v"), "a count names none"),
        (change(where="x"), "unknown field `where`"),
    ],
)
def test_a_query_that_is_not_one_is_refused(line, raw, reason):
    with pytest.raises(PartyError, match=f"something else than a Query: .*{reason}"):
        line.decode(Query, raw)


def changed_answer(answer, **items):
    return json.dumps({**json.loads(msgspec.json.encode(answer)), **items}).encode()


def test_an_answer_whose_cells_do_not_fit_its_axes_is_refused(line):
    left, right, _ = files(n=40)
    (one,), result = linked(left, right)
    answer = one.answer(query(result, *BOTH), "cbs")
    items = json.loads(msgspec.json.encode(answer))
    for changed, reason in (
        ({"values": items["values"][1:]}, "one value for each of its 4 cells"),
        ({"labels": items["labels"][:1]}, "one list of labels for each column"),
        ({"labels": [["AAAA"]] * 2}, "length >= 48"),
        ({"values": [1 << 64, *items["values"][1:]]}, "at most 64 bits"),
        ({"values": [-(1 << 63) - 1, *items["values"][1:]]}, "at most 64 bits"),
        ({"values": [0.5, *items["values"][1:]]}, "got `float`"),
        ({"epsilon": -1}, ">= 0"),
        ({"epsilon": 1e7}, "< 1000000"),
        ({"epsilon": True}, "got `bool`"),
    ):
        with pytest.raises(PartyError, match=f"something else than a LinkerAnswer: .*{reason}"):
            line.decode(LinkerAnswer, changed_answer(answer, **changed))


def test_a_further_key_is_compared_within_the_linked_pairs_and_by_nobody_else():
    rng = np.random.default_rng(8)
    n = 120
    block = rng.integers(0, 25, n).astype(str)
    date = rng.integers(0, 3, n).astype(str)
    left = psi.DataHolder("statcan", pd.DataFrame({"block": block, "date": date}))
    right = psi.DataHolder("cbs", left.frame.sample(frac=0.8, random_state=1, ignore_index=True))
    result = psi.intersect(psi.EcdhEngine(), left, right, on="block")
    one = Linker(("statcan", "cbs"), rules=OPEN)
    for party, outcome in ((left, result.left), (right, result.right)):
        (table,) = tokens.tables_for_linkers(
            party, outcome, on="block", joins={"link": ["block", "date"]}
        )
        one.accept(table, party.name)
    seen = linker.agreement(one, result.left.session, "cbs", join="link")
    by_block = left.frame["block"].value_counts()
    by_both = left.frame.value_counts(["block", "date"])
    want = sorted(
        (by_block.get(b, 0), by_both.get((b, d), 0))
        for b, d in right.frame.itertuples(index=False)
        if b in by_block
    )
    assert sorted(zip(seen["n_blocked"], seen["n_linked"], strict=True)) == want
    assert seen["block"].nunique() == len(set(block) & set(right.frame["block"]))
    with pytest.raises(psi.PsiError, match="sent no join named 'other'"):
        linker.agreement(one, result.left.session, "cbs", join="other")
