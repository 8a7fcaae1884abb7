from pet_lab.workbench import results, sweep


def test_a_grid_runs_once_and_is_then_skipped(make_workspace):
    ws = make_workspace()
    specs = sweep.plan(ws, "tiny", {"steps": 3}, {"level": [1.0, 2.0]})
    events = []
    first = sweep.execute(ws, specs, jobs=2, progress=events.append)
    assert [r.state for r in first] == ["done", "done"], [r.problem for r in first]
    again = sweep.execute(ws, specs, jobs=2)
    assert all(r.skipped for r in again)
    rows = results.read(ws, "tiny")
    assert len(rows) == 6
    assert set(rows["label"]) == {"a"}
    assert not list(ws.runs.rglob(".attempt-*"))
