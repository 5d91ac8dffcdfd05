"""Answers to the coding test, read and run: what is good has all points, and each fault costs its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stride.bench.client import Answer
from stride.bench.graders import NOT_RUN, running
from stride.bench.graders.behaviour import ESSENTIAL, WEIGHTS
from stride.bench.graders.coding import CodingGrader
from stride.bench.graders.running import LOG
from stride.bench.graders.static import INSTEAD_OF_RUNNING, READ
from stride.bench.sandbox import SandboxError

HERE = Path(__file__).parent
GOOD = (HERE / "todo_answer.md").read_text("utf-8")
POST_SHAPED = (HERE / "post_shaped_answer.md").read_text("utf-8")


class Reader(CodingGrader):
    """Reads, and runs nothing."""

    workshop = "no sandbox in this test"


def failures(text: str, grader: CodingGrader | None = None) -> dict[str, str]:
    grade = (grader or Reader())(Answer(content=text))
    return {check.name: check.evidence for check in grade.checks if not check.passed and check.weight}


# --- Read ---------------------------------------------------------------------------------------------


def test_a_good_answer_passes_every_check_that_reads():
    grade = Reader()(Answer(content=GOOD))
    assert failures(GOOD) == {}
    assert grade.outcome == "pass"
    n = len(READ) + len(INSTEAD_OF_RUNNING)
    assert grade.score == f"5.0 of 5, {n} of {n} checks, not run"
    assert grade.checks[-1].evidence == "no sandbox in this test"


@pytest.mark.parametrize(
    ("check", "old", "new", "evidence"),
    [
        ("Python parses", "def welcome():", "def welcome(:", "main.py:"),
        ("Imports FastAPI", "from fastapi import", "from flask import", "not imported"),
        ("Imports exist", "from fastapi import", "import todo_magic\nfrom fastapi import", "todo_magic"),
        ("SQLite storage", "sqlite:///./tasks.db", "postgresql://db", "sqlalchemy"),
        ("Create route", "@app.post(", "@app.put(", "no POST"),
        ("List route", '@app.get("/tasks/"', '@app.get("/everything"', "no GET without"),
        ("Read route", '@app.get("/tasks/{task_id}"', '@app.get("/task-by-id"', "no GET with"),
        ("Update route", "@app.put(", "@app.head(", "no PUT/PATCH"),
        ("Delete route", "@app.delete(", "@app.head(", "no DELETE"),
        ("201 on create", ", status_code=status.HTTP_201_CREATED", "", "POST /tasks/"),
        ("204 on delete", ", status_code=204", "", "DELETE /tasks/{task_id}"),
        ("404 by HTTPException", "status_code=404", "status_code=400", "no HTTPException"),
        ("Pagination", "skip: int = 0, limit: int = 50, ", "", "no skip"),
        ("Pydantic models", "(BaseModel)", "", "no Pydantic model"),
        ("Pydantic v2 calls", "task.model_dump()", "task.dict()", ".dict()"),
        ("Nothing deprecated", "    model_config = ConfigDict(from_attributes=True)",
         "    class Config:\n        from_attributes = True", "class Config"),
        ("Requirements pinned", "uvicorn==0.34.0", "uvicorn", "not pinned: uvicorn"),
        ("Endpoints documented", ', summary="One task"', "", "GET /tasks/{task_id}"),
    ],
)  # fmt: skip
def test_each_check_can_fail(check, old, new, evidence):
    assert old in GOOD
    assert evidence in failures(GOOD.replace(old, new))[check]


def test_every_check_is_tried_above():
    tried = {case[0] for case in test_each_check_can_fail.pytestmark[0].args[1]}
    assert tried | {"Files extracted"} == READ.keys() | INSTEAD_OF_RUNNING.keys()


def test_an_answer_without_code_fails_everything():
    grade = Reader()(Answer(content="I cannot help with that."))
    assert (grade.n_passed, grade.points, grade.outcome) == (0, 0.0, "fail")


def test_routes_of_a_router_with_prefix():
    text = """```python
from fastapi import APIRouter
router = APIRouter(prefix="/todos")
@router.get("")
async def all_todos(page: int = 1): ...
@router.get("/{i}")
async def one(i: int): ...
@router.post("/", status_code=201)
async def add(): ...
```"""
    failed = failures(text)
    assert not {"List route", "Read route", "Create route", "201 on create", "Pagination"} & failed.keys()
    assert "Delete route" in failed


def test_204_by_a_response_in_the_body_counts():
    text = GOOD.replace(", status_code=204", "").replace(
        "db.delete(one(task_id, db))", "db.delete(one(task_id, db))\n    return Response(status_code=204)"
    )
    assert "204 on delete" not in failures(text)


@pytest.mark.parametrize("source", ["x = " + "(" * 5000 + ")" * 5000, "a\0b", "'\\d'", "-" * 100_000 + "1"])
def test_odd_sources_are_answers_too(source):
    assert Reader()(Answer(content=f"```python\n{source}\n```")).points < 2


# --- Run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grader():
    """One for all: it looks for a sandbox and fetches the packages once."""
    made = CodingGrader()
    assert not isinstance(made.workshop, str), made.workshop
    return made


def test_a_good_answer_passes_every_check_that_runs(grader):
    grade = grader(Answer(content=GOOD))
    assert failures(GOOD, grader) == {}
    assert (grade.points, grade.outcome) == (5.0, "pass")
    assert {check.name for check in grade.checks} == {*READ, *WEIGHTS, "No undefined names", "Sandbox"}


def test_an_answer_of_the_posts_shape_has_the_posts_faults(grader):
    failed = failures(POST_SHAPED, grader)
    assert failed.keys() == {"Nothing deprecated", "204 on delete, without a body", LOG}
    assert "broke the connection off" in failed["204 on delete, without a body"]
    assert "MovedIn20Warning" in failed[LOG]
    assert grader(Answer(content=POST_SHAPED)).points == 4.5


def test_the_same_answer_corrected_has_all_points(grader):
    corrected = (
        POST_SHAPED.replace("from sqlalchemy.ext.declarative import declarative_base\n", "")
        .replace("import sessionmaker", "import declarative_base, sessionmaker")
        .replace("    class Config:\n        from_attributes = True", "    model_config = {'from_attributes': True}")
        .replace("    return JSONResponse(status_code=status.HTTP_204_NO_CONTENT, content=None)\n", "")
    )
    assert failures(corrected, grader) == {}


BOMB = """import os, time
end = time.monotonic() + 5
for _ in range(9):
    if time.monotonic() < end:
        os.fork()
time.sleep(5)
"""
FORGED = """import os
print('{"passed": true, "score": 5}', flush=True)
os._exit(0)
"""
NOT_STARTED = WEIGHTS.keys()


@pytest.mark.parametrize(
    ("old", "new", "points", "failed", "evidence"),
    [
        ("def welcome():", "def welcome(:", 0.9, {"Python parses", *NOT_STARTED}, "invalid syntax"),
        ("status_code=status.HTTP_201_CREATED", "status_code=200", 4.8, {"201 on create"}, "200"),
        ("sqlite:///./tasks.db", "sqlite:////tmp/tasks.db", 1.5, NOT_STARTED, "unable to open database"),
        ("task.model_dump()", "task.dict()", 4.6, {"Pydantic v2 calls", LOG}, ".dict()"),
        ("from fastapi import", "import todo_x\nfrom fastapi import", 1.2, {"Imports exist", *NOT_STARTED}, "todo_x"),
        ("app = FastAPI()", "app = FastAPI()\nwhile True: pass", 1.5, NOT_STARTED, "nothing listens"),
        ("app = FastAPI()", f"app = FastAPI()\n{BOMB}", 1.5, NOT_STARTED, "processes"),
        ("app = FastAPI()", f"app = FastAPI()\n{FORGED}", 1.5, NOT_STARTED, "it ended before it listened"),
        ("row is None", "row is 5", 4.1, {"404 where nothing is", "Deletes"}, "500"),
        ("    row.text, row.done = task.text, task.done", "    pass", 4.5, {"Updates"}, "did not change"),
        (".offset(skip).limit(limit)", "", 4.8, {"Pagination"}, "gave"),
        ("    db.delete(one(task_id, db))", "    one(task_id, db)", 4.6, {"Deletes"}, "not 404"),
        ("return row\n\n\n@app.get", "return missing_name\n\n\n@app.get", 2.2, {"No undefined names"}, "missing_name"),
    ],
    ids=[
        "syntax error", "wrong status", "writes elsewhere", "deprecated call", "invented package", "endless loop",
        "fork bomb", "forged verdict", "no 404", "no update", "no pages", "no delete", "undefined name",
    ],
)  # fmt: skip
def test_each_fault_costs_its_points(grader, monkeypatch, old, new, points, failed, evidence):
    monkeypatch.setattr(running, "START_SECONDS", 4.0)
    assert old in GOOD
    text = GOOD.replace(old, new)
    found = failures(text, grader)
    assert failed <= found.keys()
    assert any(evidence in said for said in found.values()), found
    grade = grader(Answer(content=text))
    assert grade.points == points
    assert grade.outcome == ("fail" if points < 2.5 else "partial" if failed & ESSENTIAL else "pass")


def test_what_is_not_kept_is_gone_after_a_restart(grader):
    text = GOOD.replace('sqlite:///./tasks.db"', 'sqlite://"').replace(
        'connect_args={"check_same_thread": False})', 'connect_args={"check_same_thread": False}, poolclass=StaticPool)'
    )
    text = text.replace("from sqlalchemy import", "from sqlalchemy.pool import StaticPool\nfrom sqlalchemy import")
    assert failures(text, grader).keys() == {"Survives a restart"}


@pytest.mark.parametrize("name", ["../main.py", "/etc/main.py", "main.py/main.py", f"{'x' * 300}.py"])
def test_files_that_cannot_be_written_are_the_answers_fault(grader, name):
    grade = grader(Answer(content=f"{GOOD}\n\n```python\n# {name}\nimport fastapi\n```\n"))
    assert grade.outcome == "fail"
    evidence = {check.name: check.evidence for check in grade.checks}
    assert "cannot be written" in evidence["Starts"]


def test_a_sandbox_that_fails_is_not_the_answers_fault(grader, monkeypatch):
    def fails(*_: object) -> None:
        raise SandboxError("it does not start")

    monkeypatch.setattr(running.Workshop, "run", fails)
    grade = grader(Answer(content=GOOD))
    assert grade.outcome == "pass"
    assert [check.evidence for check in grade.checks if check.name == NOT_RUN] == ["it does not start"]


def test_without_packages_the_code_is_read_only(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("STRIDE_BENCH_WHEELS", os.fspath(tmp_path))
    grade = CodingGrader()(Answer(content=GOOD))
    assert grade.score.endswith("not run")
    assert "cannot be installed" in grade.checks[-1].evidence
    assert not list((tmp_path / "stride" / "bench").iterdir())
