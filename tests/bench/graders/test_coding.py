"""Static checks: a good answer passes them all, and each check fails for its own reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from stride.bench.client import Answer
from stride.bench.graders.coding import CHECKS, grade_code

GOOD = (Path(__file__).parent / "todo_answer.md").read_text("utf-8")


def failures(text: str) -> dict[str, str]:
    return {check.name: check.evidence for check in grade_code(Answer(content=text)).checks if not check.passed}


def test_a_good_answer_passes_every_check():
    grade = grade_code(Answer(content=GOOD))
    assert failures(GOOD) == {}
    assert grade.outcome == "pass"
    assert grade.score == f"{len(CHECKS)} of {len(CHECKS)} static checks"


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
    assert tried | {"Files extracted"} == set(CHECKS)


def test_an_answer_without_code_fails_everything():
    grade = grade_code(Answer(content="I cannot help with that."))
    assert grade.n_passed == 0
    assert grade.outcome == "fail"


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


def test_code_is_never_run(tmp_path):
    trap = tmp_path / "ran"
    grade_code(Answer(content=f"```python\nopen({str(trap)!r}, 'w')\n```"))
    assert not trap.exists()


@pytest.mark.parametrize("source", ["x = " + "(" * 5000 + ")" * 5000, "a\0b", "'\\d'", "-" * 100_000 + "1"])
def test_odd_sources_are_answers_too(source):
    assert grade_code(Answer(content=f"```python\n{source}\n```")).n_passed < len(CHECKS)
