"""Byte-level BPE (``tokenizer.ggml.model`` = gpt2), through the tokenizers library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as BpeTokenizer
from tokenizers.models import BPE

from stride.chat.pretokenizers import PreTokenizer
from stride.errors import ModelFileError


def _byte_of_character() -> dict[int, int]:
    """GPT-2's bijection, code point to byte: printable Latin-1 is itself, the other 68 bytes are U+0100 and up.

    The code points of those 68 bytes themselves map to a surrogate, so that they are not mistaken for bytes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return dict.fromkeys(others, 56320) | {0x100 + i: byte for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


def token_text_to_bytes(text: str) -> bytes:
    """The bytes a byte-level token stands for; characters outside the alphabet stand for themselves."""
    try:
        return text.translate(_BYTE_OF_CHARACTER).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode() if len(text) == 1 else b"".join(map(token_text_to_bytes, text))


class ByteLevelBpe:
    """Merges the bytes of each word in the order of ``merges``.

    Raises:
        ModelFileError: a merge is malformed or makes a token that is not in the vocabulary.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[str], pre_tokenizer: PreTokenizer) -> None:
        pairs = []
        for i, merge in enumerate(merges):
            left, _, right = merge.partition(" ")
            if not (left and right):
                raise ModelFileError(f"tokenizer.ggml.merges[{i}] is {merge!r}, not two tokens")
            pairs.append((left, right))
        try:
            model = BPE(dict(vocabulary), pairs, ignore_merges=pre_tokenizer.ignore_merges)
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(f"tokenizer.ggml.merges do not fit the vocabulary: {error}") from error
        self._bpe = BpeTokenizer(model)
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                *(pre_tokenizers.Split(Regex(expression), "isolated") for expression in pre_tokenizer.expressions),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def encode(self, text: str) -> list[int]:
        """Token ids. Other threads go on meanwhile: of the library's ways, only those for batches let them."""
        ids: list[int] = self._bpe.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids
