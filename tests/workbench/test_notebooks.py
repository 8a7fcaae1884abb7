"""Finding notebooks and reading their parameters, with every refusal in plain words."""

import json
import math
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_notebooks import BODY, PARAMETERS, notebook_text

from pet_lab.workbench import notebooks
from pet_lab.workbench.errors import NotebookError, ParameterError
from pet_lab.workbench.notebooks import Parameter

PARAMS = {
    "level": Parameter("level", "float", 1.0),
    "steps": Parameter("steps", "int", 2),
    "label": Parameter("label", "str", "a"),
    "wide": Parameter("wide", "bool", False),
    "sizes": Parameter("sizes", "list[int]", [1]),
    "names": Parameter("names", "list[str]", []),
    "out": Parameter("out", "str", ""),
}


# --- finding -----------------------------------------------------------------------------------


def test_names_are_paths_without_ending(make_workspace):
    ws = make_workspace({"b/two": BODY, "a/one": BODY, "a/.ipynb_checkpoints/one": BODY})
    assert notebooks.find(ws) == ["a/one", "b/two"]


def test_a_unique_last_part_is_enough(make_workspace):
    ws = make_workspace({"b/two": BODY, "a/one": BODY})
    for text in ("two", "b/two", "b/two.ipynb", "notebooks/b/two.ipynb"):
        assert notebooks.resolve(ws, text) == "b/two"
    assert notebooks.path(ws, "two") == ws.notebooks / "b" / "two.ipynb"


def test_near_matches_are_listed(make_workspace):
    ws = make_workspace({"a/membership_sweep": BODY, "b/typos": BODY})
    with pytest.raises(NotebookError, match="did you mean a/membership_sweep"):
        notebooks.resolve(ws, "membership_swep")
    with pytest.raises(NotebookError, match="there are: a/membership_sweep, b/typos"):
        notebooks.resolve(ws, "zzz")


def test_an_ambiguous_name_is_refused(make_workspace):
    ws = make_workspace({"a/one": BODY, "b/one": BODY})
    with pytest.raises(NotebookError, match="means several notebooks: a/one, b/one"):
        notebooks.resolve(ws, "one")


# --- reading -----------------------------------------------------------------------------------


def test_title_and_claim(make_workspace):
    ws = make_workspace(
        {
            "g/marked": notebook_text(
                title="# Exact linkage\n\n**Claim.** It is\nlow.\n\n**Source.** X"
            ),
            "g/plain": notebook_text(title="# Title\n\nFirst paragraph\nhere.\n\nSecond."),
            "g/bare": notebook_text(title="words only"),
        }
    )
    read = {n: notebooks.path(ws, n) for n in notebooks.find(ws)}
    assert notebooks.title(read["g/marked"]) == "Exact linkage"
    assert notebooks.claim(read["g/marked"]) == "It is low."
    assert notebooks.claim(read["g/plain"]) == "First paragraph here."
    assert notebooks.title(read["g/bare"]) == "bare"


def test_the_hashes_see_sources_and_nothing_else(make_workspace):
    ws = make_workspace()
    content = notebooks.read(notebooks.path(ws, "tiny"))
    before = notebooks.code_hash(content), notebooks.prose_hash(content)
    content["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    content["cells"][-1]["execution_count"] = 9
    content["metadata"]["anything"] = 1
    assert (notebooks.code_hash(content), notebooks.prose_hash(content)) == before
    content["cells"][-1]["source"] += "\n1"
    assert notebooks.code_hash(content) != before[0]


def test_text_and_code_have_hashes_of_their_own(make_workspace):
    ws = make_workspace({"g/a": notebook_text(*BODY), "g/b": notebook_text(*BODY, title="# Other")})
    a, b = (notebooks.read(notebooks.path(ws, n)) for n in ("g/a", "g/b"))
    assert notebooks.code_hash(a) == notebooks.code_hash(b)
    assert notebooks.prose_hash(a) != notebooks.prose_hash(b)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "not valid JSON"),
        ('{"worksheets": []}', "expected notebook format 4"),
        ("[]", "expected notebook format 4"),
        (notebook_text(*BODY, parameters=None), "no parameters cell"),
        (notebook_text(*BODY, kernel=None), "names no kernel"),
        (
            notebook_text(*BODY, kernel={"name": "ir", "display_name": "R", "language": "R"}),
            "only python3",
        ),
        (notebook_text(*BODY, parameters="seed: int = 1"), "no parameter out"),
        (notebook_text(*BODY, parameters="out: int = 1"), "out is of type int"),
    ],
)
def test_a_notebook_not_in_the_house_form_is_refused_before_a_kernel_starts(
    make_workspace, text, says
):
    ws = make_workspace()
    path = ws.notebooks / "group" / "tiny.ipynb"
    path.write_text(text)
    with pytest.raises(NotebookError, match=says):
        notebooks.check_form(path)


def test_two_parameters_cells_are_refused(make_workspace):
    ws = make_workspace()
    path = notebooks.path(ws, "tiny")
    content = json.loads(path.read_text())
    content["cells"].append(content["cells"][1])
    path.write_text(json.dumps(content))
    with pytest.raises(NotebookError, match="2 cells tagged"):
        notebooks.parameters(path)


# --- the parameters cell -----------------------------------------------------------------------


def test_types_defaults_and_help():
    found = notebooks.parse_cell(
        '"""Words are fine."""\n'
        "# a line of its own is no help\n"
        "error_rate: float = 0.2  # share of records\n"
        "epsilon: float = 1  # an int is a float here\n"
        "n = -3\n"
        "ratios = [0.5, 1]\n"
        "hidden: list[int] = [\n    40,\n    60,\n]  # widths\n"
        'name = "a # b"\n'
        "wide: bool = True"
    )
    assert found["error_rate"] == Parameter("error_rate", "float", 0.2, "share of records")
    assert found["epsilon"].default == 1.0
    assert isinstance(found["epsilon"].default, float)
    assert found["n"] == Parameter("n", "int", -3)
    assert found["ratios"] == Parameter("ratios", "list[float]", [0.5, 1.0])
    assert found["hidden"] == Parameter("hidden", "list[int]", [40, 60], "widths")
    assert found["name"] == Parameter("name", "str", "a # b")
    assert found["wide"].type == "bool"


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("x: float = 1 / 3", r"default of x is 1 / 3, but a parameter is a literal"),
        ("x: float = float('inf')", "a parameter is a literal"),
        ("x: float = 1e999", "finite number"),
        ("x: int = 1.5", "default of x is 1.5, but an int is expected"),
        ("x: int = True", "an int is expected"),
        ("x: dict = {}", "x is declared as dict"),
        ("x = None", "x is declared as NoneType"),
        ("x = [1, 'a']", "x is declared as list"),
        ("x = []", "x is declared as list"),
        ("x: list[int] = (1, 2.5)", "an int is expected"),
        ("import os", "expected only lines like"),
        ("x = y = 1", "expected only lines like"),
        ("x: int", "expected only lines like"),
        ("x = 1\nx = 2", "assigned twice"),
        ("x = = 1", "not Python"),
        ("# nothing", "is empty"),
    ],
)
def test_what_is_no_parameter_is_refused(cell, says):
    with pytest.raises(NotebookError, match=says):
        notebooks.parse_cell(cell)


# --- values ------------------------------------------------------------------------------------


def test_a_full_set_without_out():
    full = notebooks.check(PARAMS, {"level": 3, "sizes": (4, 5)})
    assert full == {
        "level": 3.0,
        "steps": 2,
        "label": "a",
        "wide": False,
        "sizes": [4, 5],
        "names": [],
    }
    assert isinstance(full["level"], float)


def test_numpy_values_are_taken_as_what_they_are():
    assert notebooks.check(PARAMS, {"level": np.float64(2), "steps": np.int64(3)})["steps"] == 3


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("levl", 1, "Unknown parameter 'levl'; did you mean level"),
        ("qqq", 1, "there are: level, steps, label, wide, sizes, names"),
        ("out", "x", "set by the runner"),
        ("steps", 2.0, "is 2.0, but an int is expected; its default is 2"),
        ("steps", True, "an int is expected"),
        ("steps", "2", "an int is expected"),
        ("level", "1", "a float is expected"),
        ("level", math.nan, "finite number"),
        ("level", 10**400, "too large"),
        ("wide", 1, "a bool is expected"),
        ("label", 1, "a str is expected"),
        ("label", None, "a str is expected"),
        ("sizes", 1, r"a list\[int\] is expected"),
        ("sizes", [1, 2.5], "an int is expected"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name, value, says):
    with pytest.raises(ParameterError, match=says):
        notebooks.check(PARAMS, {name: value})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("level=1", {"level": 1.0}),
        ("level= 1e-3", {"level": 0.001}),
        ("steps=-4", {"steps": -4}),
        ("wide=True", {"wide": True}),
        ("wide=false", {"wide": False}),
        ("label=a=b, c ", {"label": "a=b, c "}),
        ("label=", {"label": ""}),
        ("sizes=1,2", {"sizes": [1, 2]}),
        ("sizes=[1, 2]", {"sizes": [1, 2]}),
        ("sizes=", {"sizes": []}),
        ("names=a, b", {"names": ["a", "b"]}),
        ('names=["a, b"]', {"names": ["a, b"]}),
    ],
)
def test_command_line_texts(text, value):
    assert notebooks.parse(PARAMS, text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("level", "Expected name=value"),
        ("=1", "Expected name=value"),
        ("epsilom=3", "Unknown parameter"),
        ("level=abc", "is 'abc', but a float is expected"),
        ("level=inf", "finite number"),
        ("level=nan", "finite number"),
        ("steps=1.0", "an int is expected"),
        ("wide=yes", "true or false"),
        ("sizes=1;2", "an int is expected"),
        ("sizes=[1, 2", r"as JSON or 1,2,3"),
        ('sizes=["a"]', "an int is expected"),
    ],
)
def test_a_text_that_does_not_fit_is_refused(text, says):
    with pytest.raises(ParameterError, match=says):
        notebooks.parse(PARAMS, text)


def test_twice_is_refused():
    with pytest.raises(ParameterError, match="given twice"):
        notebooks.parse(PARAMS, ["level=1", "level=2"])
    with pytest.raises(ParameterError, match="given twice"):
        notebooks.parse_grid(PARAMS, ["level=1", "level=2"])


def test_grids():
    assert notebooks.parse_grid(PARAMS, ["level=1,10", "sizes=1,2;3", "wide=true,false"]) == {
        "level": [1.0, 10.0],
        "sizes": [[1, 2], [3]],
        "wide": [True, False],
    }


values = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": st.text(),
}
typed = st.sampled_from(sorted(values)).flatmap(lambda k: st.tuples(st.just(k), values[k]))


@given(typed)
def test_what_python_prints_is_read_back_as_the_same_value(pair):
    kind, value = pair
    params = {"x": Parameter("x", kind, value)}
    text = value if kind == "str" else str(value)
    assert notebooks.parse(params, f"x={text}") == {"x": value}


lists = st.sampled_from(sorted(values)).flatmap(
    lambda k: st.tuples(st.just(f"list[{k}]"), st.lists(values[k]))
)


@given(lists)
def test_lists_are_read_back_from_json(pair):
    kind, value = pair
    params = {"x": Parameter("x", kind, value)}
    assert notebooks.parse(params, f"x={json.dumps(value)}") == {"x": value}


@given(st.dictionaries(st.text(string.ascii_lowercase, min_size=1), typed, min_size=1))
def test_a_cell_written_from_values_is_parsed_to_them(chosen):
    import keyword

    chosen = {k: v for k, v in chosen.items() if not keyword.iskeyword(k)}
    text = "\n".join(f"{k}: {kind} = {v!r}  # about {k}" for k, (kind, v) in chosen.items())
    if chosen:
        found = notebooks.parse_cell(text)
        assert {k: (p.type, p.default) for k, p in found.items()} == chosen
        assert all(p.help == f"about {k}" for k, p in found.items())


def test_the_fixture_is_in_the_house_form():
    assert set(notebooks.parse_cell(PARAMETERS)) >= {"seed", "out"}
