"""Text to token ids and back, built from a GGUF file's metadata."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from stride.chat.breakers import SequenceBreakers
from stride.chat.byte_level import ByteLevelBpe, token_text_to_bytes
from stride.chat.pretokenizers import pre_tokenizer
from stride.chat.sentencepiece import SPACE, SentencePieceBpe
from stride.chat.vocabulary import HIDDEN_TYPES, TokenType, Vocabulary
from stride.errors import ModelFileError, RequestError, UnsupportedError
from stride.types import PromptPiece

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


class Tokenizer:
    """Encodes plain text with the model's own algorithm and splits at special tokens where that is asked for.

    *Special* tokens are those of type control or unknown: they never appear as plain text. User-defined tokens
    (type 4) are matched in any text, as the models were trained. Immutable, safe to share between threads.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        encoder: _Encoder,
        *,
        byte_level: bool,
        space_prefix: bool,
        add_bos: bool,
        add_eos: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._encoder = encoder
        self._space_prefix = space_prefix
        self._bytes = [_token_bytes(text, vocabulary.types[i], byte_level) for i, text in enumerate(vocabulary.texts)]
        self.longest = max(map(len, self._bytes))
        """Bytes of the longest token."""
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.eos_ids = vocabulary.end_ids
        self.add_bos = add_bos and self.bos_id is not None
        self.add_eos = add_eos and self.eos_id is not None
        self.special_tokens: Mapping[str, int] = vocabulary.of_types(*HIDDEN_TYPES)
        user_defined = vocabulary.of_types(TokenType.USER_DEFINED)
        self._always_matched = _any_of(user_defined)
        self._all_matched = _any_of([*self.special_tokens, *user_defined])
        self.sequence_breakers = SequenceBreakers(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Build the tokenizer that ``tokenizer.ggml.*`` describes.

        Raises:
            UnsupportedError: a tokenizer or pre-tokenizer that is not known; it is named.
            ModelFileError: the vocabulary is missing or contradicts itself.
        """
        model = str(metadata.get("tokenizer.ggml.model", ""))
        if model not in ("gpt2", "llama"):
            raise UnsupportedError(f"tokenizer model {model!r} is not supported; known are gpt2, llama")
        vocabulary = Vocabulary.from_metadata(metadata)
        byte_level = model == "gpt2"
        encoder: _Encoder
        if byte_level:
            pre = pre_tokenizer(str(metadata.get("tokenizer.ggml.pre", "default")))
            add_bos = pre.add_bos
            plain = {text: i for text, i in vocabulary.ids.items() if vocabulary.types[i] not in HIDDEN_TYPES}
            encoder = ByteLevelBpe(plain, list(metadata.get("tokenizer.ggml.merges", ())), pre)
        else:
            add_bos = True
            plain = vocabulary.of_types(TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
            encoder = SentencePieceBpe(plain, vocabulary.scores, _byte_ids(vocabulary))
        return cls(
            vocabulary,
            encoder,
            byte_level=byte_level,
            space_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", not byte_level)),
            add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)),
            add_eos=bool(metadata.get("tokenizer.ggml.add_eos_token", False)),
        )

    @property
    def n_vocab(self) -> int:
        return len(self._bytes)

    @property
    def bos_token(self) -> str:
        """The text of the beginning-of-sequence token, or ""."""
        return "" if self.bos_id is None else self.token_text(self.bos_id)

    @property
    def eos_token(self) -> str:
        """The text of the end-of-sequence token, or ""."""
        return "" if self.eos_id is None else self.token_text(self.eos_id)

    def token_text(self, token_id: int) -> str:
        """The token as the vocabulary spells it."""
        self._check(token_id)
        return self._vocabulary.texts[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes the token adds to a text; those of a special token spell its name."""
        self._check(token_id)
        return self._bytes[token_id]

    def is_special(self, token_id: int) -> bool:
        self._check(token_id)
        return self._vocabulary.types[token_id] in HIDDEN_TYPES

    def encode(self, text: str, special: bool = False, *, continues: bool = False) -> list[int]:
        """Token ids of ``text``, without BOS and EOS. ``special``: the names of special tokens mean those tokens.

        ``continues``: other text stands before it, so that no space is put there.
        """
        return self._encode([PromptPiece(text, trusted=special)], after_token=not continues)

    def encode_prompt(self, pieces: Sequence[PromptPiece]) -> list[int]:
        """Token ids of a rendered prompt: only trusted pieces may name special tokens.

        Begins with one BOS if the model wants it, whether or not the template wrote it.
        """
        ids = self._encode(pieces)
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def _encode(self, pieces: Sequence[PromptPiece], after_token: bool = True) -> list[int]:
        """SentencePiece models put a space before text that follows no text, but a token (``after_token``)."""
        ids: list[int] = []
        for piece in pieces:
            matched = self._all_matched if piece.trusted else self._always_matched
            for part in matched.split(_SURROGATE.sub("\ufffd", piece.text)) if matched else [piece.text]:
                if not part:
                    continue
                if matched and matched.fullmatch(part):
                    ids.append(self._vocabulary.ids[part])
                    after_token = True
                else:
                    ids += self._encoder.encode(" " + part if self._space_prefix and after_token else part)
                    after_token = False
        return ids

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of ``ids``; special tokens appear only when asked for, invalid UTF-8 as U+FFFD."""
        data = b"".join(self.token_bytes(i) for i in ids if special or not self.is_special(i))
        if self._space_prefix:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", errors="replace")

    def detokenizer(self, keep: Iterable[str] = ()) -> Detokenizer:
        """A detokenizer for one stream, which shows the special tokens named in ``keep`` and no others."""
        return Detokenizer(self, frozenset(self.special_tokens[text] for text in keep if text in self.special_tokens))

    def _check(self, token_id: int) -> None:
        if not 0 <= token_id < self.n_vocab:
            raise RequestError(f"token {token_id} is not in the vocabulary of {self.n_vocab} tokens")


class Detokenizer:
    """Turns one stream of tokens into text, holding back the bytes of a character until it is whole."""

    def __init__(self, tokenizer: Tokenizer, keep: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._keep = keep
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that became certain with this token."""
        if self._tokenizer.is_special(token_id) and token_id not in self._keep:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What was held back; an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Matches any of ``texts``, the longest where several begin at one place."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None


def _token_bytes(text: str, token_type: int, byte_level: bool) -> bytes:
    match token_type:
        case TokenType.CONTROL | TokenType.UNKNOWN | TokenType.USER_DEFINED:
            return text.encode()
        case TokenType.NORMAL:
            return token_text_to_bytes(text) if byte_level else text.replace(SPACE, " ").encode()
        case TokenType.BYTE:
            if found := _BYTE_TOKEN.fullmatch(text):
                return bytes.fromhex(found[1])
            raise ModelFileError(f"token {text!r} has type byte, but is not of the form <0xNN>")
        case _:
            return b""  # unused and undefined tokens stand for nothing


def _byte_ids(vocabulary: Vocabulary) -> list[int]:
    """For each byte, the token that stands for it: ``<0xNN>``, else the character itself, else unknown."""
    ids: list[int] = []
    for byte in range(256):
        token_id = vocabulary.ids.get(f"<0x{byte:02X}>", vocabulary.ids.get(chr(byte), vocabulary.unknown_id))
        if token_id is None:
            raise ModelFileError(f"the vocabulary has neither a token for byte 0x{byte:02X} nor an unknown token")
        ids.append(token_id)
    return ids
