"""Chat templates: a conversation to a prompt in which only the template's own special tokens count."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stride.chat.messages import ROLES
from stride.chat.parsers.format import THINK
from stride.errors import ChatTemplateError, RequestError, shown
from stride.types import Message, PromptPiece, Tool

CPU_SECONDS = 5.0
MEMORY_BYTES = 1 << 30
OUTPUT_CHARACTERS = 1 << 25

Continued = Literal["content", "reasoning"]

FUNCTIONS = frozenset(
    {"range", "dict", "lipsum", "cycler", "joiner", "namespace", "raise_exception", "strftime_now"},
)
"""What templates find in their environment."""

_FOLDER = Path(__file__).parent
_BUILTIN = _FOLDER / "templates"
_ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "LANG")


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """``text`` is the sum of ``pieces``; give the pieces to ``Tokenizer.encode_prompt``.

    ``continues``: what the prompt ends within, if the last message is to be continued.
    """

    text: str
    pieces: tuple[PromptPiece, ...]
    continues: Continued | None = None


def builtin(name: str) -> str:
    """The source of a template that comes with Stride: step35 or chatml.

    Raises:
        KeyError: there is none of this name.
    """
    sources = {path.stem: path for path in _BUILTIN.glob("*.jinja")}
    return sources[name].read_text(encoding="utf-8")


class ChatTemplate:
    """One compiled template, in a worker process that outlives a runaway template by being started anew.

    Thread-safe: one conversation is rendered at a time.

    Raises:
        ChatTemplateError: the template cannot be compiled.
    """

    def __init__(
        self,
        source: str,
        bos_token: str = "",
        eos_token: str = "",
        special_tokens: Iterable[str] = (),
        *,
        cpu_seconds: float = CPU_SECONDS,
    ) -> None:
        self.source = source
        self._settings = {
            "source": source,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "special_tokens": list(special_tokens),
            "seconds": cpu_seconds,
            "memory_bytes": MEMORY_BYTES,
            "output_characters": OUTPUT_CHARACTERS,
        }
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        with self._lock:
            self._started_worker()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> RenderedPrompt:
        """The prompt for ``messages``; ``kwargs`` become variables of the template.

        ``continue_final_message``: the last one is the assistant's, and the prompt ends where its words do, or, where
        it has none yet, its thought.

        Raises:
            RequestError: the template refuses the conversation, fails at it, or takes more time or memory than it may;
                or its last message cannot be continued.
        """
        if continue_final_message:
            return self._continued(messages, tools, kwargs)
        try:
            request = json.dumps(
                {
                    "messages": [self._message(message) for message in messages],
                    "tools": [_tool(tool) for tool in tools] or None,
                    "add_generation_prompt": add_generation_prompt,
                    "kwargs": kwargs,
                }
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"the conversation or chat_template_kwargs are no JSON: {error}") from None
        with self._lock:
            worker = self._started_worker()
            try:
                reply = self._ask(worker, request)
            except ChatTemplateError as error:  # it was compiled: what it fails at is this request
                raise RequestError(str(error), field="messages") from None
        return _prompt(PromptPiece(text, trusted) for text, trusted in reply["pieces"])

    def _continued(
        self, messages: Sequence[Message], tools: Sequence[Tool], variables: dict[str, Any]
    ) -> RenderedPrompt:
        """The prompt up to the end of the last message: with a mark there, behind which it is cut off."""
        *before, last = messages
        if last.role != "assistant":
            raise RequestError("only a last message of the assistant's can be continued", field="messages")
        if last.tool_calls:
            raise RequestError("the last message calls tools, whose results must follow", field="messages")
        if THINK[1] in self.source:
            last = _with_open_thought(last)
        mark = secrets.token_hex(16)
        continues: Continued
        if last.content and not last.content.isspace():
            continues, last = "content", replace(last, content=last.content + mark)
        elif last.reasoning and not last.reasoning.isspace():
            continues, last = "reasoning", replace(last, content=None, reasoning=last.reasoning + mark)
        else:
            return self.render(before, tools, **variables)
        pieces = list(self.render([*before, last], tools, add_generation_prompt=False, **variables).pieces)
        while pieces and mark not in pieces[-1].text:
            pieces.pop()
        if not pieces:
            raise RequestError(
                f"the last message cannot be continued: this model's chat template does not tell its {continues}",
                field="messages",
            )
        end = pieces.pop()
        text = end.text[: end.text.rindex(mark)]
        return _prompt([*pieces, replace(end, text=text)] if text else pieces, continues)

    def close(self) -> None:
        """End the worker; a later `render` starts another."""
        with self._lock:
            if self._worker is not None:
                self._worker.stop()
                self._worker = None

    def _started_worker(self) -> _Worker:
        if self._worker is None:
            worker = _Worker()
            self._worker = worker
            self._ask(worker, json.dumps(self._settings))
        return self._worker

    def _ask(self, worker: _Worker, request: str) -> dict[str, Any]:
        answer = worker.ask(request)
        if not answer:
            self._worker = None
            raise ChatTemplateError(worker.epitaph())
        reply: dict[str, Any] = json.loads(answer)
        if "error" in reply:
            if reply["error"] == "request":
                raise RequestError(f"the chat template refuses the conversation: {reply['message']}", field="messages")
            raise ChatTemplateError(reply["message"], line=reply["line"])
        return reply

    def _message(self, message: Message) -> dict[str, Any]:
        """The message as templates expect it; keys that are absent in most conversations are left out."""
        if message.role not in ROLES:  # templates build special tokens of roles
            raise RequestError(
                f"the role of a message is {shown(message.role)}, but must be one of {', '.join(ROLES)}",
                field="messages.role",
            )
        if message.role == "developer" and "developer" not in self.source:
            message = replace(message, role="system")
        if message.role == "assistant":
            message = _trimmed(message, splits_reasoning=THINK[1] in self.source)
        # Templates add content to strings; only beside tool calls do they expect that there may be none.
        content = message.content if message.tool_calls else message.content or ""
        result: dict[str, Any] = {"role": message.role, "content": content}
        if message.reasoning is not None:
            result |= {"reasoning_content": message.reasoning, "reasoning": message.reasoning}
        if message.tool_calls:
            result["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            result["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            result["name"] = message.name
        return result


def _prompt(pieces: Iterable[PromptPiece], continues: Continued | None = None) -> RenderedPrompt:
    pieces = tuple(pieces)
    return RenderedPrompt("".join(piece.text for piece in pieces), pieces, continues)


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
    }


def _trimmed(message: Message, *, splits_reasoning: bool) -> Message:
    """The assistant's turn with white space around reasoning and content dropped: models loop when it piles up.

    ``splits_reasoning``: clients that know no reasoning send it back inside the content, within think tags.
    """
    content, reasoning = message.content, message.reasoning
    if splits_reasoning and reasoning is None and content is not None:
        begin, end = THINK
        head, closed, tail = content.partition(end)
        opened = head.lstrip().startswith(begin)
        if closed and (opened or begin not in head):
            reasoning, content = head.lstrip().removeprefix(begin), tail
    return replace(
        message,
        content=None if content is None else content.strip(),
        reasoning=None if reasoning is None else reasoning.strip(),
    )


def _with_open_thought(message: Message) -> Message:
    """The message with a thought that its content opens and does not close as its reasoning."""
    begin, end = THINK
    content = (message.content or "").lstrip()
    if message.reasoning is not None or not content.startswith(begin) or end in content:
        return message
    return replace(message, content=None, reasoning=content.removeprefix(begin))


class _Worker:
    """The process that runs template_worker.py, answering a line with a line. It dies with its owner."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_FOLDER / "template_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            process_group=0,  # an interrupt typed at the terminal is not for it
            encoding="ascii",
        )
        self.stop = weakref.finalize(self, _stop, self._process)

    def ask(self, line: str) -> str:
        """The answer, or "" if the worker died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except BrokenPipeError:
            return ""

    def epitaph(self) -> str:
        """Why it died."""
        status = self._process.wait()
        self.stop()
        if status == -signal.SIGPROF:
            return "stopped, because it takes too much time"
        return f"its worker process ended with status {status}"


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # nobody reads what was left to write
                pipe.close()
