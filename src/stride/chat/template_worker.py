"""Renders one chat template in a process of its own, which the kernel stops when it takes too much.

Templates come with model files and are not trusted. Jinja's sandbox keeps them from reaching anything, but cannot stop
a long loop, a huge string or a deep comparison inside the interpreter: limits on processor time and memory can.

Run as a script: reads one JSON line of settings, then one line per request, and answers each with one line. Imports
nothing of Stride, so that it starts fast. Ends when its input does.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.filters import do_trim
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class RefusedError(Exception):
    """What a template's ``raise_exception`` says about the conversation."""


class ExactFloat(float):
    """A number that prints as it was written."""

    text: str

    def __new__(cls, text: str) -> ExactFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


class Arguments(dict[str, Any]):
    """Tool-call arguments: a mapping to templates that look inside, their JSON text to templates that print them."""

    def __init__(self, members: Mapping[str, Any], text: str) -> None:
        super().__init__(members)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: object) -> str:
        return self._text + str(other)

    def __radd__(self, other: object) -> str:
        return str(other) + self._text


class SpecialTokens:
    """Tells special tokens that the template wrote from the same characters in somebody's text.

    In foreign text, a marker character follows each character of a special token, and of the beginning of one at the
    end of a string. What is left unmarked in the output was written by the template.
    """

    def __init__(self, texts: list[str], marker: str) -> None:
        texts = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
        self._marker = marker
        self._longest = len(texts[0]) if texts else 0
        self._beginnings = {text[:n] for text in texts for n in range(1, len(text))}
        self._any = re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else "(?!)")

    def mark(self, value: Any) -> Any:
        """``value`` with all its strings marked, keys too."""
        match value:
            case str():
                return self._mark_text(value)
            case Arguments():
                return Arguments({self.mark(k): self.mark(v) for k, v in value.items()}, self._mark_text(str(value)))
            case dict():
                return {self.mark(key): self.mark(item) for key, item in value.items()}
            case list():
                return [self.mark(item) for item in value]
            case _:
                return value

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """The output as (text, trusted) pieces: special tokens that the template wrote, and all the rest."""
        escaped = json.dumps(self._marker)[1:-1]  # as ASCII JSON has it
        parts = self._any.split(text)
        return [
            (part.replace(self._marker, "").replace(escaped, ""), bool(i % 2)) for i, part in enumerate(parts) if part
        ]

    def _mark_text(self, text: str) -> str:
        text = self._any.sub(lambda found: self._between(found[0]), text)
        end = len(text.rstrip())
        for n in range(min(self._longest - 1, end), 0, -1):
            if text[end - n : end] in self._beginnings:
                return text[: end - n] + self._between(text[end - n : end]) + text[end:]
        return text

    def _between(self, text: str) -> str:
        return "".join(char + self._marker for char in text)


class _GenerationTag(Extension):
    """``{% generation %}``, which marks the assistant's words for training, means nothing here."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for: Hugging Face's environment, except that None prints as nothing."""
    result = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", _GenerationTag],
        finalize=lambda value: "" if value is None else value,
    )
    result.filters["tojson"] = to_json
    result.filters["trim"] = lambda value, chars=None: "" if value is None else do_trim(value, chars)
    result.globals["raise_exception"] = _raise_exception
    result.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return result


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON text as Python's json writes it, but with numbers as they were written."""
    item_separator, key_separator = separators or (", " if indent is None else ",", ": ")
    step = " " * indent if isinstance(indent, int) else indent or ""

    def write(item: Any, margin: str) -> str:
        match item:
            case ExactFloat():
                return item.text
            case Mapping():
                entries = sorted(item.items()) if sort_keys else item.items()
                inner = [
                    json.dumps(str(key), ensure_ascii=ensure_ascii) + key_separator + write(each, margin + step)
                    for key, each in entries
                ]
                return wrap("{", inner, "}", margin)
            case list() | tuple():
                return wrap("[", [write(each, margin + step) for each in item], "]", margin)
            case _:
                return json.dumps(item, ensure_ascii=ensure_ascii)

    def wrap(opening: str, inner: list[str], closing: str, margin: str) -> str:
        if indent is None or not inner:
            return opening + item_separator.join(inner) + closing
        newline = "\n" + margin
        return opening + newline + step + (item_separator + newline + step).join(inner) + newline + closing

    return write(value, "")


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Turn tool-call arguments from JSON text into mappings where they are such."""
    for message in request["messages"]:
        for call in message.get("tool_calls", ()):
            text = call["function"]["arguments"]
            try:
                members = json.loads(text, parse_float=ExactFloat)
            except (ValueError, RecursionError):
                continue  # not JSON: the template sees the text
            if isinstance(members, dict):
                call["function"]["arguments"] = Arguments(members, text)
    return request


def unused_character(*texts: str) -> str:
    """A character that occurs in none of the ``texts``, raw or escaped as in JSON. Private-use ones come first."""
    for code in range(0x10FFFD, 0xF0000, -1):
        char = chr(code)
        if not any(char in text or json.dumps(char)[1:-1] in text for text in texts):
            return char
    raise RefusedError("the conversation uses every private-use character")


def error_reply(error: Exception) -> dict[str, Any]:
    kind = "request" if isinstance(error, RefusedError) else "template"
    message = (
        str(error) if isinstance(error, RefusedError | TemplateSyntaxError) else f"{type(error).__name__}: {error}"
    )
    line = error.lineno if isinstance(error, TemplateSyntaxError) else None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return {"error": kind, "message": message[:500], "line": line}


def serve(lines: Iterator[str], answer: Callable[[dict[str, Any]], None]) -> None:
    settings = json.loads(next(lines))
    limit_memory(settings["memory_bytes"])
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the parent may have ignored or blocked it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})

    def guarded(job: Callable[[], dict[str, Any]]) -> bool:
        # Unless disarmed in time, the kernel ends this process. Processor time, so that a busy machine does no harm.
        signal.setitimer(signal.ITIMER_PROF, settings["seconds"])
        try:
            reply = job()
        except Exception as error:  # whatever an untrusted template may raise becomes a message
            reply = error_reply(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer(reply)
        return "error" not in reply

    templates = []

    def compile_template() -> dict[str, Any]:
        templates.append(environment().from_string(settings["source"]))
        return {}

    def render(line: str) -> dict[str, Any]:
        marker = unused_character(line, settings["source"])
        special = SpecialTokens(settings["special_tokens"], marker)
        values = special.mark(prepare(json.loads(line)))
        size = 0
        chunks = []
        for chunk in templates[0].generate(
            {**values["kwargs"], **values, "bos_token": settings["bos_token"], "eos_token": settings["eos_token"]}
        ):
            size += len(chunk)
            if size > settings["output_characters"]:
                raise ValueError(f"the output is longer than {settings['output_characters']} characters")
            chunks.append(chunk)
        return {"pieces": special.pieces("".join(chunks))}

    if guarded(compile_template):
        for line in lines:
            guarded(lambda line=line: render(line))  # type: ignore[misc]


def limit_memory(size: int) -> None:
    if sys.platform == "linux":  # elsewhere the kernel does not enforce it, and processor time is the limit
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _raise_exception(message: str) -> None:
    raise RefusedError(message)


def main() -> None:
    def answer(reply: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()

    serve(iter(sys.stdin.readline, ""), answer)


if __name__ == "__main__":
    main()
