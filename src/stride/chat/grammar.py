"""Grammars become masks over the vocabulary, through llguidance.

The mask that follows a token is computed on a worker thread from the moment the token is accepted, so that it is
ready when the model's step is. llguidance lets go of Python's lock meanwhile. Masks of small vocabularies take less
time than that costs, and are computed at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import llguidance
import numpy as np

from stride.chat.tokenizer import Tokenizer
from stride.errors import GenerationError, RequestError
from stride.types import TokenSet

LARGEST_GRAMMAR = 1 << 20
"""Characters of a grammar at most."""
SMALL_GRAMMAR = 1 << 16
"""Up to so many characters a grammar is compiled at once, in under a tenth of a second; larger ones wait in line."""
SMALL_VOCABULARY = 8192
"""Up to this many tokens a mask takes less time than handing it to another thread (150 µs with all that follows)."""
MESSAGE_CHARACTERS = 300
BYTES_OF_GRAMMAR, BYTES_OF_CHARACTER, BYTES_OF_REPETITION = 1 << 18, 150, 8192
"""Memory of a compiled grammar, of each character of its text, and of each repetition: at most, as measured."""
_NO_MATCH = "NoExtensionBias"
_REPETITION = re.compile(r"\{\s*\d")
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=20_000,
    max_lexer_states=50_000,  # of each request, some kilobytes each
    max_grammar_size=150_000,  # some 380 bytes each
    verbose_errors=False,
)
_POOL = ThreadPoolExecutor(max_workers=2, thread_name_prefix="stride-grammar")
_LARGE = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stride-large-grammar")


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Thread-safe; large grammars are compiled one after another.

    ``shown_tokens`` are special tokens that a grammar's text may spell; no other special token ever matches text.
    """

    def __init__(self, tokenizer: Tokenizer, shown_tokens: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self._shown = frozenset(shown_tokens)
        self._lock = threading.Lock()
        self._ll_tokenizer: llguidance.LLTokenizer | None = None

    def mask(self, grammar: str, field: str) -> GrammarMask:
        """`compile`, and a mask that begins there."""
        return self.compile(grammar, field).mask()

    def compile(self, grammar: str, field: str, part: str = "") -> Grammar:
        """``grammar``, which is llguidance's Lark or its JSON form.

        Raises:
            RequestError: the grammar cannot be enforced, or nothing matches it; names ``field`` and the part of it.
        """
        if len(grammar) > LARGEST_GRAMMAR:
            raise RequestError(f"{field} makes a grammar of more than {LARGEST_GRAMMAR} characters", field=field)
        if len(grammar) > SMALL_GRAMMAR:
            return _LARGE.submit(self._compile, grammar, field, part).result()
        return self._compile(grammar, field, part)

    def _compile(self, grammar: str, field: str, part: str) -> Grammar:
        with self._lock:
            if self._ll_tokenizer is None:
                self._ll_tokenizer = _ll_tokenizer(self._tokenizer, self._shown)
        matcher = llguidance.LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            first = _token_set(_bits(matcher), self._tokenizer.n_vocab)
            if first.excluded or len(first.ids):
                return Grammar(field, _n_bytes(grammar), matcher, first, self._tokenizer)
        problem = _problem(matcher, "nothing matches it")
        raise RequestError(f"{field}{part and f': {part}'} cannot be enforced: {problem}", field=field)


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """A compiled grammar. ``field`` is the request's, ``n_bytes`` an estimate of its memory from above."""

    field: str
    n_bytes: int
    _matcher: llguidance.LLMatcher
    _first: TokenSet
    _tokenizer: Tokenizer

    def mask(self) -> GrammarMask:
        """A mask that begins at the start."""
        return GrammarMask(self.field, self._matcher.deep_copy(), self._first, self._tokenizer)


class GrammarMask:
    """A `LogitsMask`: where one answer stands in its grammar."""

    def __init__(self, field: str, matcher: llguidance.LLMatcher, first: TokenSet, tokenizer: Tokenizer) -> None:
        self._field = field
        self._matcher = matcher
        self._n_vocab = tokenizer.n_vocab
        self._bits: bytes | None = None
        self._allowed = first
        self._computing: Future[None] | None = None

    def allowed(self) -> TokenSet:
        """Which tokens may come next; waits until that is known.

        Raises:
            RequestError: the grammar has come to where nothing may follow, or takes more work than it may.
            GenerationError: the last token was not allowed.
        """
        self._wait()
        if not self._allowed.excluded and not len(self._allowed.ids):
            problem = _problem(self._matcher, "nothing can follow here")
            raise RequestError(f"{self._field} cannot be enforced any further: {problem}", field=self._field)
        return self._allowed

    def accept(self, token_id: int) -> None:
        self._wait()
        if self._n_vocab > SMALL_VOCABULARY:
            self._computing = _POOL.submit(self._advance, token_id)
        else:
            self._advance(token_id)

    def _wait(self) -> None:
        if self._computing is not None:
            self._computing.result()
            self._computing = None

    def _advance(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id) and token_id not in self._allowed:
            raise GenerationError(f"the grammar of {self._field} does not allow the token {token_id}")
        bits = _bits(self._matcher)
        if bits != self._bits:  # in free text, one mask follows another like it
            self._bits, self._allowed = bits, _token_set(bits, self._n_vocab)


def _bits(matcher: llguidance.LLMatcher) -> bytes:
    """The mask; nothing after an error, for which llguidance's own would be that of an end that may come."""
    bits = matcher.compute_bitmask()
    return b"" if matcher.is_error() else bits


def _token_set(bits: bytes, n_vocab: int) -> TokenSet:
    if not bits:
        return TokenSet(np.empty(0, np.intp))
    members = np.unpackbits(np.frombuffer(bits, np.uint8), count=n_vocab, bitorder="little")
    return TokenSet.of(members.view(np.bool_))


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


def _n_bytes(grammar: str) -> int:
    n_repetitions = sum(1 for _ in _REPETITION.finditer(grammar))
    return BYTES_OF_GRAMMAR + BYTES_OF_CHARACTER * len(grammar) + BYTES_OF_REPETITION * n_repetitions


def _problem(matcher: llguidance.LLMatcher, dead_end: str) -> str:
    message = matcher.get_error().partition("\n")[0][:MESSAGE_CHARACTERS]
    if message.startswith("panic"):  # the compiler's tables end at 65,535 symbols
        return "it is too large"
    return dead_end if message in ("", _NO_MATCH) else message
