"""Files out of fences: names from wherever a model puts them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.bench.graders.files import extract_files


@pytest.mark.parametrize(
    "text",
    [
        "```python app/main.py\nx = 1\n```",
        '```python title="app/main.py"\nx = 1\n```',
        "```python:app/main.py\nx = 1\n```",
        "### `app/main.py`\n\n```python\nx = 1\n```",
        "**app/main.py**\n\n~~~py\nx = 1\n~~~",
        "1. app/main.py:\n\n   ```python\n   x = 1\n   ```",
    ],
)
def test_names_around_a_fence(text):
    assert extract_files(text) == {"app/main.py": "x = 1\n"}


def test_a_name_in_the_first_comment_stays_in_the_source():
    assert extract_files("```python\n# file: a.py\nx = 1\n```") == {"a.py": "# file: a.py\nx = 1\n"}


def test_several_files_in_one_fence():
    assert list(extract_files("```python\n# a.py\nx = 1\n\n# b.py (models)\ny = 2\n```")) == ["a.py", "b.py"]


def test_an_open_fence_reaches_to_the_end():
    assert extract_files("```python\nx = 1\ny =") == {"main.py": "x = 1\ny ="}


def test_unnamed_python_gets_names_and_other_languages_are_left_out():
    text = "```python\nx = 1\n```\n\nand\n\n```py\ny = 2\n```\n\n```bash\nls\n```\n\n```\ntree\n```"
    assert list(extract_files(text)) == ["main.py", "main_2.py"]


def test_the_last_file_of_a_name_counts():
    assert extract_files("```python a.py\nold\n```\n```python a.py\nnew\n```") == {"a.py": "new\n"}


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="`~#: \nabpy./*{}\t-", max_size=200))
def test_any_text_gives_files(text):
    for name, source in extract_files(text).items():
        assert name
        assert isinstance(source, str)
