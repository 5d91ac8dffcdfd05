"""Grammars become masks over the vocabulary, through llguidance.

The mask that follows a token is computed on a worker thread from the moment the token is accepted, so that it is
ready when the model's step is. llguidance lets go of Python's lock meanwhile.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor

import llguidance
import numpy as np

from stride.chat.tokenizer import Tokenizer
from stride.errors import GenerationError, RequestError
from stride.types import TokenSet

CACHED_GRAMMARS = 64
"""Compiled grammars that are kept for requests to come, the least recently used go first."""
MESSAGE_CHARACTERS = 300
_LIMITS = llguidance.LLParserLimits(verbose_errors=False)
_POOL = ThreadPoolExecutor(max_workers=2, thread_name_prefix="stride-grammar")


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Thread-safe.

    ``shown_tokens`` are special tokens that a grammar's text may spell; no other special token ever matches text.
    """

    def __init__(self, tokenizer: Tokenizer, shown_tokens: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self._shown = frozenset(shown_tokens)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, tuple[llguidance.LLMatcher, TokenSet]] = OrderedDict()
        self._ll_tokenizer: llguidance.LLTokenizer | None = None

    def mask(self, grammar: str, field: str, part: str = "") -> GrammarMask:
        """A mask that begins at the start of ``grammar``: llguidance's Lark, or its JSON form.

        Raises:
            RequestError: the grammar cannot be enforced, or nothing matches it; names ``field`` and the part of it.
        """
        with self._lock:
            found = self._compiled.get(grammar) or self._compile(grammar, field, part)
            self._compiled[grammar] = found
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        matcher, first = found
        return GrammarMask(matcher.deep_copy(), first, self._tokenizer.n_vocab)

    def _compile(self, grammar: str, field: str, part: str) -> tuple[llguidance.LLMatcher, TokenSet]:
        if self._ll_tokenizer is None:
            self._ll_tokenizer = _ll_tokenizer(self._tokenizer, self._shown)
        matcher = llguidance.LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            first = _allowed(matcher, self._tokenizer.n_vocab)
            if first.excluded or len(first.ids):
                return matcher, first
        problem = _first_line(matcher.get_error()) or "nothing matches it"
        raise RequestError(f"{field}{part and f': {part}'} cannot be enforced: {problem}", field=field)


class GrammarMask:
    """A `LogitsMask`: where one answer stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, first: TokenSet, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._next: Future[TokenSet] = Future()
        self._next.set_result(first)

    def allowed(self) -> TokenSet:
        """Which tokens may come next; waits until that is known.

        Raises:
            GenerationError: nothing may come next, or the grammar takes more work than it may.
        """
        allowed = self._next.result()
        if not allowed.excluded and not len(allowed.ids):
            problem = _first_line(self._matcher.get_error()) or "nothing can follow here"
            raise GenerationError(f"the grammar allows no token: {problem}")
        return allowed

    def accept(self, token_id: int) -> None:
        self._next = _POOL.submit(self._advance, self._next, token_id)

    def _advance(self, before: Future[TokenSet], token_id: int) -> TokenSet:
        before.result()
        self._matcher.consume_token(token_id)
        return _allowed(self._matcher, self._n_vocab)


def _allowed(matcher: llguidance.LLMatcher, n_vocab: int) -> TokenSet:
    """Empty after an error, for which llguidance's own mask would be that of an end that may come."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    if matcher.is_error():
        return TokenSet(np.empty(0, np.intp))
    return TokenSet.of(np.unpackbits(bits, count=n_vocab, bitorder="little").view(np.bool_))


class _Vocabulary:
    """What `llguidance.LLTokenizer` asks of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, shown: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        names = sorted(shown & tokenizer.special_tokens.keys(), key=len, reverse=True)
        self._shown = re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")
        ids = range(tokenizer.n_vocab)
        self.tokens = [tokenizer.token_bytes(i) for i in ids]
        self.eos_token_id = min(tokenizer.eos_ids, default=0)
        self.bos_token_id = tokenizer.bos_id
        # llguidance marks special tokens with the byte 0xFF, which no text holds: what begins with it is as special.
        self.special_token_ids = [
            i
            for i, text in enumerate(self.tokens)
            if i in tokenizer.eos_ids
            or (tokenizer.is_special(i) and tokenizer.token_text(i) not in shown)
            or text.startswith(b"\xff")
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of text that is certain; shown special tokens are meant where they are spelled."""
        ids: list[int] = []
        for part in self._shown.split(text if isinstance(text, str) else text.decode()):
            special = self._tokenizer.special_tokens.get(part) if self._shown.fullmatch(part) else None
            ids += [special] if special is not None else self._tokenizer.encode(part, continues=True)
        return ids


def _ll_tokenizer(tokenizer: Tokenizer, shown: frozenset[str]) -> llguidance.LLTokenizer:
    vocabulary = _Vocabulary(tokenizer, shown)
    eos_ids = sorted(tokenizer.eos_ids) or [vocabulary.eos_token_id]
    return llguidance.LLTokenizer(vocabulary, n_vocab=tokenizer.n_vocab, eos_token=eos_ids)  # type: ignore[arg-type]


def _first_line(message: str) -> str:
    return message.partition("\n")[0][:MESSAGE_CHARACTERS]
