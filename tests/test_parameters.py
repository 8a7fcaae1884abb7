"""Every parameter of every notebook, at the edges of its type: success, or one sentence of ours.

Each notebook's cells run up to its check of parameters, so a fault is seen before work starts; then
pairs of edges that the check accepts run whole, as many as a few minutes allow.
"""

import ast
import contextlib
import io
import itertools
import random
import re
import signal
import time
import traceback

import pytest

from pet_lab import data
from pet_lab.workbench import notebooks, sweep
from pet_lab.workbench.workspace import Workspace

WS = Workspace.find(__file__)
NAMES = notebooks.find(WS)
SLOW = ("private_ml/shadow_models", "primers/adversarial_examples")  # half of the time
CHECK = ("study.Settings(", "study.check(")
HUGE = 2**63
SMALL = {  # edges with which a run is still short
    "int": (0, -1, 1, 2, 3),
    "float": (0.0, -1.0, 1.0, 0.5, 1e-12, 1e12),
    "bool": (True, False),
    "str": ("", " ", "no such thing", "$", "\x00", "a" * 5000, "../.."),
}
LARGE = {"int": (HUGE, -HUGE, 2**32), "float": (1e-300, 1e300, -1e300), "bool": (), "str": ()}
NEVER = (-1, -1e300, HUGE, -HUGE, 2**32)  # no parameter of any study is negative or endless
FOREIGN = (None, "text", float("nan"), float("inf"), [], [None], [[1]], {"a": 1}, 1j, b"x")
BUILT_IN = {"IndexError", "KeyError", "ZeroDivisionError", "MemoryError", "TypeError", "NameError"}
BUILT_IN |= {"AttributeError", "OverflowError", "RecursionError", "AssertionError", "TimeoutError"}
BUILT_IN |= {"LinAlgError", "FloatingPointError", "UnboundLocalError", "StopIteration"}


def edges(parameter, kinds):
    """Values of the parameter's type; lists empty, of one, repeated, and of another length."""
    inner = parameter.type.removeprefix("list[").removesuffix("]")
    values = [v for kind in kinds for v in kind[inner]]
    if inner == parameter.type:
        return values
    default = parameter.default or values[:1]
    return [[], *([v] for v in values), default * 2, default[:1], [*default, values[0]]]


def parameters_of(name):
    declared = notebooks.parameters(notebooks.path(WS, name))
    return [p for p in declared.values() if p.name != notebooks.RUNNER_SETS]


def a_sentence(text):
    """One line that begins as a sentence does and ends with a full stop."""
    return bool(re.fullmatch(r"[^\s].{10,}\.", text)) and not text.startswith("(")


def checked(name):
    """Compiled code from after the parameters cell to the check of parameters, without tables."""
    cells = notebooks.code(notebooks.read(notebooks.path(WS, name)))[1:]
    nodes = [node for text in cells for node in ast.parse(text).body]
    texts = [ast.unparse(node) for node in nodes]
    end = next(i for i, text in enumerate(texts) if any(c in text for c in CHECK))
    shown = ("plots.table(", "plots.use_style(")
    return compile("\n".join(t for t in texts[: end + 1] if not t.startswith(shown)), name, "exec")


def refusal(name, code, given):
    """None where the check accepts the parameters, else its sentence; anything else is a fault."""
    try:
        values = notebooks.check(notebooks.parameters(notebooks.path(WS, name)), given)
        namespace = {**values, "out": ""}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, namespace)
    except Exception as raised:
        error = raised
    else:
        return None
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    fault = ({k: repr(v)[:60] for k, v in given.items()}, repr(error), last)
    assert type(error).__name__ not in BUILT_IN, fault
    assert a_sentence(str(error)), fault
    assert "/pet_lab/" in last, fault
    return str(error)


def cached(function):
    """The function, called once for the same arguments, which may be lists."""
    known = {}

    def once(*args, **more):
        key = repr((args, more))
        known[key] = known.get(key) or function(*args, **more)
        return known[key]

    return once


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PET_LAB_OFFLINE", "1")
        patch.setenv("PET_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("PET_LAB_DATA", raising=False)
        patch.setattr(data, "open_table", cached(data.open_table))  # a table is read once
        yield


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NAMES]
)
def test_the_check_refuses_in_one_sentence_or_accepts(name):
    smallest, code, faults = dict(sweep.profile(WS, name, "smoke").parameters), checked(name), []
    assert refusal(name, code, smallest) is None
    for parameter in parameters_of(name):
        for value in (*edges(parameter, (SMALL, LARGE)), *FOREIGN):
            try:
                said = refusal(name, code, {**smallest, parameter.name: value})
                never = any(value in (n, [n]) for n in NEVER) or (value in FOREIGN and value != [])
                text = parameter.type.endswith("str")
                assert said or text or not never, f"{parameter.name} = {value!r} is accepted"
            except AssertionError as fault:
                faults.append(str(fault).splitlines()[0])
    assert not faults, "\n".join(faults)


UNREACHABLE = [  # budgets that no noise spends: once refused after a minute of training
    ("private_ml/dp_training_vs_dp_data", {"epsilons": [1.0, 1e12]}),
    ("private_ml/dp_training_vs_dp_data", {"data_epsilons": [1.0, 1e12]}),
    ("private_ml/equal_budget_attacks", {"epsilons": [1e12]}),
    ("primers/memorisation", {"epsilon": 1e12}),
]


@pytest.mark.parametrize(("name", "given"), UNREACHABLE)
def test_a_budget_that_no_noise_spends_is_refused_before_work_starts(name, given):
    smallest = dict(sweep.profile(WS, name, "smoke").parameters)
    said = refusal(name, checked(name), {**smallest, **given})
    assert said
    assert "epsilon = " in said


# --- whole runs ----------------------------------------------------------------------------------

SEED, LIMIT_S = 20261127, 100  # CPU seconds of one run; and six times as many by the clock
WHOLE = {  # how many whole runs; a small run of the others takes a few seconds at most
    "primers/choosing": 4,
    "private_ml/dp_training_vs_dp_data": 2,  # the third asks the libraries for 250 CPU seconds
    "private_ml/equal_budget_attacks": 2,
    "private_ml/federated_learning": 3,
    "private_ml/membership_audit": 2,
    "private_ml/membership_sweep": 2,
    "private_ml/shadow_models": 2,
    "primers/adversarial_examples": 3,
    "shared_computation/service": 2,
}


def hang(*_):
    raise TimeoutError("the run does not end")


def accepted(name, code, smallest, rng):
    """Pairs of parameters at edges, without end, that the check accepts together."""
    parameters = parameters_of(name)
    while True:
        two = rng.sample(parameters, 2)
        given = {**smallest, **{p.name: rng.choice(edges(p, (SMALL,))) for p in two}}
        if refusal(name, code, given) is None:
            yield {p.name: given[p.name] for p in two}, given


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_small_run_succeeds_or_ends_in_one_sentence(name, monkeypatch):
    """All cells, in this process: kernels would take most of the time."""
    import matplotlib.pyplot as plt

    monkeypatch.setenv("PET_LAB_BATCH", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = notebooks.code(notebooks.read(notebooks.path(WS, name)))[1:]
    code = compile("\n".join(cells), name, "exec")
    smallest = dict(sweep.profile(WS, name, "smoke").parameters)
    pairs = accepted(name, checked(name), smallest, random.Random(f"{SEED} {name}"))
    print(f"seed {SEED}")
    faults, before = [], [signal.signal(s, hang) for s in (signal.SIGALRM, signal.SIGPROF)]
    try:
        for shown, given in itertools.islice(pairs, WHOLE.get(name, 8)):
            started = time.monotonic()
            signal.alarm(6 * LIMIT_S)
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            try:
                said = refusal(name, code, given)
                print(f"{shown}: {said or 'done'} ({time.monotonic() - started:.1f} s)"[:300])
            except AssertionError as fault:
                faults.append(f"{shown}: {str(fault).splitlines()[0]}"[:1000])
                print(faults[-1])
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
                plt.close("all")
    finally:
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.signal(number, handler)
    assert not faults, "\n".join(faults)
