"""What a turn of the suite can be asked to be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stride.bench.graders import Check
from stride.bench.graders.arguments import names
from stride.bench.graders.tools import Call, Judgement, Turn, Wanted, judge_calls, well_formed
from stride.bench.suite.case import Judge

_ASKS = re.compile(
    r"\?|\b(please|could you|can you|let me know|tell me|i need|i'd need|provide|specify|which|missing)\b", re.I
)
_TELLS = re.compile(
    r"\b(errors?|fail(s|ed|ure|ing)?|unable|unavailable|unreachable|sorry|apologi[sz]e|problems?|issues?|trouble"
    r"|cannot|(can|could|did|was|is)( not|n['’]t)|not able|time[d-]?[ -]?out|try(ing)? again|tried again)\b",
    re.I,
)
_TEMPERATURE = re.compile(r"\d\s*(?:°|º|degrees|celsius|fahrenheit|[CF]\b)", re.I)
_NUMBER = re.compile(r"(?<![\d.])\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Look:
    """Something that an answer in words has to have."""

    name: str
    sees: Callable[[str], bool]


ASKS = Look("asks for what is missing", lambda words: _ASKS.search(words) is not None)


def says(*any_of: str) -> Look:
    """One of these, as words of their own."""
    return Look("says " + " or ".join(any_of), lambda words: any(names(words, wanted) for wanted in any_of))


def says_number(value: float) -> Look:
    """This number, with or without commas between thousands."""

    def sees(words: str) -> bool:
        return value in {float(number.replace(",", "")) for number in _NUMBER.findall(words)}

    return Look(f"says {value:g}", sees)


def calls(*wanted: Wanted) -> Judge:
    """Exactly these calls, in any order."""
    return lambda turns: judge_calls(turns[-1], wanted)


def answers(*looks: Look) -> Judge:
    """Words and no call; what is looked for counts only in such an answer."""

    def judge(turns: Sequence[Turn]) -> Judgement:
        turn = turns[-1]
        abstained = turn.outcome == "abstained"
        checks = [Check("an answer and no call", abstained, _shown(turn))]
        checks += [Check(look.name, abstained and look.sees(turn.text), _shown(turn)) for look in looks]
        return Judgement(tuple(checks))

    return judge


def retries_or_tells(wanted: Wanted) -> Judge:
    """After a tool's error: the same call again, or words that tell of the failure and make no temperature up."""

    def judge(turns: Sequence[Turn]) -> Judgement:
        turn = turns[-1]
        if turn.calls:
            return judge_calls(turn, [wanted])
        told = turn.outcome == "abstained" and _TELLS.search(turn.text) is not None
        made_up = _TEMPERATURE.search(turn.text)
        return Judgement(
            (Check("tried again or told of the failure", told, _shown(turn)),),
            (Check("nothing made up", made_up is None, made_up[0] if made_up else "no temperature"), well_formed(turn)),
        )

    return judge


def anything() -> Judge:
    """Any answer at all, be it malformed: only a later turn is compared with it."""

    def judge(turns: Sequence[Turn]) -> Judgement:
        answer = turns[-1].answer
        sizes = len(answer.tool_calls), len(answer.content), len(answer.reasoning)
        evidence = "{} calls, {} characters of text, {} of reasoning".format(*sizes)
        return Judgement((), (Check("an answer", any(sizes), evidence),))

    return judge


def repeats() -> Judge:
    """The same calls and the same text as the turn before."""

    def judge(turns: Sequence[Turn]) -> Judgement:
        first, second = turns[-2], turns[-1]
        before, after = [_plain(call) for call in first.calls], [_plain(call) for call in second.calls]
        return Judgement(
            (
                Check("same calls", before == after, f"{_names(first)} and {_names(second)}"),
                _same("same text", first.answer.content, second.answer.content),
                _same("same reasoning", first.answer.reasoning, second.answer.reasoning),
            )
        )

    return judge


def _same(name: str, first: str, second: str) -> Check:
    """Evidence is where two texts part."""
    if first == second:
        return Check(name, True, f"{len(first)} characters")
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    parts = [text[max(at - 20, 0) : at + 40] for text in (first, second)]
    return Check(name, False, f"they part at character {at}: {parts[0]!r} and {parts[1]!r}")


def _plain(call: Call) -> tuple[str, str]:
    """Name and arguments; JSON may be spaced as a server likes."""
    return call.name, call.text if call.fault else json.dumps(call.arguments, sort_keys=True)


def _names(turn: Turn) -> str:
    return ", ".join(str(call) for call in turn.calls) or "no call"


def _shown(turn: Turn) -> str:
    return "; ".join([*(str(call) for call in turn.calls if not call.fault), *turn.faults]) or turn.words
