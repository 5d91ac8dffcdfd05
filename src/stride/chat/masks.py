"""What keeps a model's answers to what is asked of them: its grammar and its budget of reasoning, as one mask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from stride.chat.answer_grammar import answer_grammar, text_grammar
from stride.chat.constraints import Constraints, TextFormat
from stride.chat.grammar import Grammar, GrammarCompiler
from stride.chat.grammar_cache import GrammarCache
from stride.chat.parsers.format import ToolFormat
from stride.chat.reasoning import EFFORT_BUDGETS, ThoughtBudget
from stride.chat.tokenizer import Tokenizer
from stride.errors import RequestError
from stride.types import GRAMMAR_BYTES, LogitsMask, Tool


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What is kept of a request: its grammar, or that it needs none."""

    grammar: Grammar | None

    @property
    def n_bytes(self) -> int:
        return 256 if self.grammar is None else self.grammar.n_bytes


class AnswerMasks:
    """The masks of one model's requests; compiled grammars are kept. Thread-safe.

    ``knows_efforts``: the chat template itself tells the model how much to think.
    """

    def __init__(self, tokenizer: Tokenizer, tool_format: ToolFormat, knows_efforts: bool) -> None:
        self.grammars = GrammarCompiler(tokenizer, tool_format.shown_tokens)
        self.cache: GrammarCache[_Compiled] = GrammarCache(GRAMMAR_BYTES // 2)
        self._text_grammars = GrammarCompiler(tokenizer, ())
        self._tokenizer = tokenizer
        self._format = tool_format
        self._knows_efforts = knows_efforts

    def text(self, text_format: TextFormat, cache_scope: str = "") -> LogitsMask:
        """What keeps a text to a format as a whole. Only within a scope can a request tell that it was asked before.

        Raises:
            RequestError: it cannot be enforced; names the field.
        """
        compiled = self.cache.get(_key(cache_scope, text_format), lambda: self._text(text_format))
        assert compiled.grammar is not None
        return compiled.grammar.mask()

    def answer(
        self, tools: Sequence[Tool], constraints: Constraints, in_reasoning: bool, cache_scope: str = ""
    ) -> LogitsMask | None:
        """What keeps an answer in the model's own format to what is asked of it, if anything is.

        ``in_reasoning``: the prompt ends within a thought. ``cache_scope`` as in `text`.

        Raises:
            RequestError: it cannot be enforced; names the field.
        """
        asked = (constraints.tool_choice, constraints.parallel_tool_calls)
        key = _key(cache_scope, constraints.text, asked, in_reasoning, tools)
        grammar = self.cache.get(key, lambda: self._answer(tools, constraints, in_reasoning, cache_scope)).grammar
        mask = None if grammar is None else grammar.mask()
        if constraints.reasoning_effort and not self._knows_efforts:
            constraints = constraints.at_most(EFFORT_BUDGETS[constraints.reasoning_effort])
        budget = constraints.reasoning_budget
        if budget is None or self._format.reasoning is None:
            return mask
        return ThoughtBudget(mask, budget, self._tokenizer, self._format, tools, in_reasoning)

    def _text(self, text_format: TextFormat) -> _Compiled:
        return _Compiled(self._text_grammars.compile(text_grammar(text_format), text_format.field))

    def _answer(
        self, tools: Sequence[Tool], constraints: Constraints, in_reasoning: bool, cache_scope: str
    ) -> _Compiled:
        grammar = answer_grammar(self._format, tools, constraints, in_reasoning)
        if grammar is None:
            return _Compiled(None)
        if constraints.text is not None:  # alone: an error of it is not the tools', and no thought comes first
            self.text(constraints.text, cache_scope)
        field = constraints.text.field if constraints.text is not None and not tools else "tools"
        try:
            return _Compiled(self.grammars.compile(grammar, field))
        except RequestError:
            self._blame_tool(tools)
            raise

    def _blame_tool(self, tools: Sequence[Tool]) -> None:
        """Find the tool that cannot be enforced, by halves: each is as many tools to compile.

        Raises:
            RequestError: names it.
        """
        while tools:
            half = tools[: (len(tools) + 1) // 2]
            grammar = answer_grammar(self._format, half, Constraints("required"), in_reasoning=False)
            assert grammar is not None
            try:
                self.grammars.compile(grammar, "tools", repr(half[0].name))
            except RequestError:
                if len(tools) == 1:
                    raise
                tools = half
            else:
                tools = tools[len(half) :]


def _key(
    cache_scope: str,
    text: TextFormat | None,
    asked: object = None,
    in_reasoning: bool = False,
    tools: Sequence[Tool] = (),
) -> bytes:
    """What stands for all that a grammar depends on.

    Raises:
        RequestError: a tool's schema is no JSON.
    """
    try:
        schemas = json.dumps([(tool.name, tool.parameters) for tool in tools])
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"tools hold a schema that is no JSON: {error}", field="tools") from None
    return hashlib.sha256(repr((cache_scope, text, asked, in_reasoning, schemas)).encode()).digest()
