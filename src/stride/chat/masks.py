"""What keeps a model's answers to what is asked of them: its grammar and its budget of reasoning, as one mask."""

from __future__ import annotations

from collections.abc import Sequence

from stride.chat.answer_grammar import answer_grammar, text_grammar
from stride.chat.constraints import Constraints, TextFormat
from stride.chat.grammar import GrammarCompiler
from stride.chat.parsers.format import ToolFormat
from stride.chat.reasoning import EFFORT_BUDGETS, ThoughtBudget
from stride.chat.tokenizer import Tokenizer
from stride.errors import RequestError
from stride.types import LogitsMask, Tool


class AnswerMasks:
    """The masks of one model's requests; compiled grammars are kept. Thread-safe.

    ``knows_efforts``: the chat template itself tells the model how much to think.
    """

    def __init__(self, tokenizer: Tokenizer, tool_format: ToolFormat, knows_efforts: bool) -> None:
        self.grammars = GrammarCompiler(tokenizer, tool_format.shown_tokens)
        self._text_grammars = GrammarCompiler(tokenizer, ())
        self._tokenizer = tokenizer
        self._format = tool_format
        self._knows_efforts = knows_efforts

    def text(self, text_format: TextFormat) -> LogitsMask:
        """What keeps a text to a format as a whole.

        Raises:
            RequestError: it cannot be enforced; names the field.
        """
        return self._text_grammars.mask(text_grammar(text_format), text_format.field)

    def answer(self, tools: Sequence[Tool], constraints: Constraints, in_reasoning: bool) -> LogitsMask | None:
        """What keeps an answer in the model's own format to what is asked of it, if anything is.

        ``in_reasoning``: the prompt ends within a thought.

        Raises:
            RequestError: it cannot be enforced; names the field.
        """
        mask: LogitsMask | None = None
        grammar = answer_grammar(self._format, tools, constraints, in_reasoning)
        if grammar is not None:
            if constraints.text is not None:  # alone: an error of it is not the tools', and no thought comes first
                self.text(constraints.text)
            field = constraints.text.field if constraints.text is not None and not tools else "tools"
            try:
                mask = self.grammars.mask(grammar, field)
            except RequestError:
                self._blame_tool(tools)
                raise
        if constraints.reasoning_effort and not self._knows_efforts:
            constraints = constraints.at_most(EFFORT_BUDGETS[constraints.reasoning_effort])
        budget = constraints.reasoning_budget
        if budget is None or self._format.reasoning is None:
            return mask
        return ThoughtBudget(mask, budget, self._tokenizer, self._format, tools, in_reasoning)

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
                self.grammars.mask(grammar, "tools", repr(half[0].name))
            except RequestError:
                if len(tools) == 1:
                    raise
                tools = half
            else:
                tools = tools[len(half) :]
