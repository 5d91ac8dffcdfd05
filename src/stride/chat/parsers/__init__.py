"""Tool-call formats, one small module each, and which of them a model uses."""

from __future__ import annotations

from dataclasses import replace

from stride.chat.parsers.format import THINK, ToolFormat
from stride.chat.parsers.hermes import HERMES
from stride.chat.parsers.llama3 import LLAMA3
from stride.chat.parsers.mistral import MISTRAL
from stride.chat.parsers.step_xml import STEP_XML

PLAIN = ToolFormat("plain")
FORMATS = {each.name: each for each in (PLAIN, STEP_XML, HERMES, LLAMA3, MISTRAL)}

# What a template holds that teaches a format, most telling first.
_SIGNS = (
    (("<tool_call>", "<function="), STEP_XML),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<tool_call>",), HERMES),
    (("<|python_tag|>",), LLAMA3),
    (("<|start_header_id|>", '"parameters":'), LLAMA3),
)
_BY_ARCHITECTURE = {"step35": replace(STEP_XML, reasoning=THINK)}


def detect_format(template_source: str, architecture: str) -> ToolFormat:
    """The format that a chat template teaches, or that models of the architecture use where it teaches none."""
    found = next((each for signs, each in _SIGNS if all(sign in template_source for sign in signs)), None)
    if found is None:
        return _BY_ARCHITECTURE.get(architecture, replace(PLAIN, reasoning=_reasoning(template_source)))
    return replace(found, reasoning=_reasoning(template_source))


def _reasoning(template_source: str) -> tuple[str, str] | None:
    return THINK if THINK[1] in template_source else None


__all__ = ["FORMATS", "HERMES", "LLAMA3", "MISTRAL", "PLAIN", "STEP_XML", "ToolFormat", "detect_format"]
