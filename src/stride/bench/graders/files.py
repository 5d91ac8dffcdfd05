"""The files in an answer: fenced blocks, named by their info string, first comment, or the words before them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

FILE_NAME = r"[\w./-]*\w\.(?:py|txt|toml|md|json|ya?ml|ini|cfg|sh)"
_NAME = re.compile(rf"(?<![\w./-]){FILE_NAME}(?![\w-])")
_NAME_COMMENT = re.compile(rf"^\s*(?:#|//)\s*(?:file(?:name)?\s*:\s*)?`?({FILE_NAME})`?\s*(?:[-–—(:].*)?$", re.I)
_PYTHON = ("python", "python3", "py")


def extract_files(text: str) -> dict[str, str]:
    """File name → source, for every fenced block that is Python or has a name. A later file of one name replaces it.

    A block may hold several files, each begun by a comment with its name; a fence that is never closed (an answer
    cut off) reaches to the end.
    """
    files: dict[str, str] = {}
    before = ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline":
            before = token.content
        elif token.type == "fence":
            for name, source in _block_files(token, before):
                files[name or _unused("main.py", files)] = source
            before = ""
    return files


def _block_files(fence: Token, before: str) -> Iterator[tuple[str | None, str]]:
    language, _, rest = fence.info.strip().partition(" ")
    language, _, suffix = language.partition(":")
    parts = _split(fence.content)
    if len(parts) > 1 or parts[0][0]:
        yield from ((name, source) for name, source in parts if name or source.strip())
        return
    named = _NAME.findall(f"{suffix} {rest}") or _NAME.findall(before)
    if named and (named[-1].endswith(".py") or language.lower() not in _PYTHON):
        yield named[-1], fence.content
    elif language.lower() in _PYTHON:
        yield None, fence.content


def _split(source: str) -> list[tuple[str | None, str]]:
    """(name, source) parts of a block, split at comments that are nothing but a file's name."""
    parts: list[tuple[str | None, list[str]]] = [(None, [])]
    for line in source.splitlines(keepends=True):
        found = _NAME_COMMENT.match(line.rstrip("\n"))
        if found:
            parts.append((found[1], []))
        parts[-1][1].append(line)
    joined = [(name, "".join(lines)) for name, lines in parts]
    return joined[1:] if len(joined) > 1 and not joined[0][1].strip() else joined


def _unused(name: str, taken: dict[str, str]) -> str:
    stem, number = name.removesuffix(".py"), 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}.py"
    return name
