"""Write tests/chat/golden/tokenizer.json: small vocabularies, tricky strings, and the ids llama.cpp gives them.

Needs llama-cpp-python and gguf. With arguments, compares Stride with llama.cpp on those GGUFs instead:

    python scripts/make_tokenizer_golden.py [VOCAB.gguf ...]
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as BpeTokenizer

from stride.chat.pretokenizers import PRE_TOKENIZERS
from stride.chat.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent.parent / "tests" / "chat" / "golden" / "tokenizer.json"
PRE = ["deepseek-v3", "llama-bpe", "qwen2", "gpt-2", "default", "starcoder", "tekken"]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

STRINGS = [
    "",
    " ",
    "  ",
    "     ",
    "\n",
    "\n\n\n",
    " \n \n",
    "\t\tx = 1\n\t\ty = 2\r\n\r\n  z",
    "Hello, world!",
    " Hello  world   again    ",
    "hello\u00a0there\u2003wide\u3000spaces",
    "I'm he's we'll THEY'RE you'd I'VE don'T it'Sabc '' 'x",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 v1.2.3 0x1F",
    "١٢٣٤ ½ Ⅷ ² 一二三四五 １２３",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n\n\nclass A(B):\n    pass\n",
    "for (int i=0;i<10;++i){a[i]+=b[i]*c;}//loop\n#include <vector>\n",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}',
    "!!! ... ??? ;;; --- ### $$$ %%% @@@ ^^^ &&& ~~~ `code` **bold** _it_",
    "«quotes» „deutsch“ – dash — em … ellipsis • bullet © ® ™ € £ ¥ ∑ √ ∞ ≠",
    "Grüße aus München, ça va? Ñandú Ωμέγα привет, мир! שלום עולם مرحبا بالعالم",
    "हिन्दी में पाठ ไทยภาษา বাংলা தமிழ்",
    "你好，世界！这是一个测试。日本語のテキスト、カタカナとひらがな。한국어 텍스트",
    "中文abc中文123中文 カタカナーabc",
    "😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ✌🏽 🤷🏻‍♀️ text",
    "e\u0301 cafe\u0301 n\u0303 Z\u0351\u0343\u0306algo \u0300alone",
    "a\u0000b\u0001c\u007fd\u0085e\u200bf\ufeffg",
    "\ud7ff\ue000\ufffd\U0010ffff\U0001f9ff\u2028\u2029",
    "<|im_start|>user\nhi<|im_end|>\n<think>deep</think><tool_call>",
    "<|im_start|><|im_start|> <|im_end|>\n\n<|im_end",
    "<keep> me<keep>",
    "https://example.com/a/b?c=d&e=f#g user@mail.org /usr/local/bin C:\\Windows\\",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "================================ -------------------------------- ________",
    "camelCaseString PascalCase SCREAMING_SNAKE kebab-case HTMLParser2Go iPhone",
    "x\n\n  y\n\n\n   z \n  \n\tw",
    "ſ'ſ 's 'S K'll ǅ ǲ ʰ ª",
    "word\u0301s ​zero—width\u00adsoft",
]


def random_strings(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    alphabet = " \n\t\r'aAbBzZsStTéßжд中文のカ한ก१0123456789.,!?-_<>|/\\\"#$+=^~`\u00a0\u0301😀🏽½"
    return ["".join(rng.choices(alphabet, k=rng.randint(1, 24))) for _ in range(count)]


class Witness:
    """llama.cpp's tokenizer of one vocabulary."""

    def __init__(self, path: str) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def encode(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 16))()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, special)
        return list(ids[:n])

    def token_bytes(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(512)
        n = llama_cpp.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, True)
        return buffer.raw[:n]

    def end_ids(self) -> list[int]:
        n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        return [i for i in range(n_vocab) if llama_cpp.llama_vocab_is_eog(self._vocab, i)]


SPECIAL = [("<s>", CONTROL), ("</s>", CONTROL), ("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)]
SPECIAL += [("<think>", CONTROL), ("</think>", CONTROL), ("<tool_call>", USER_DEFINED), ("<keep>", USER_DEFINED)]


def byte_level_metadata(pre: str) -> dict[str, Any]:
    """A vocabulary of about 400 tokens, trained on the strings above."""
    bpe = BpeTokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(e), "isolated") for e in PRE_TOKENIZERS[pre].expressions),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(STRINGS * 2, trainer)
    trained = json.loads(bpe.to_str())["model"]
    texts = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    # A whole word without merges, which only a tokenizer that ignores merges can find.
    words = [word for word in ("again", "Ġcomment") if word not in texts]
    special = SPECIAL[:-1] if pre == "gpt-2" else SPECIAL
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [text for text, _ in special] + texts + words,
        "tokenizer.ggml.token_type": [kind for _, kind in special] + [NORMAL] * (len(texts) + len(words)),
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in trained["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def sentencepiece_metadata(*, space_prefix: bool, inner_spaces: bool) -> dict[str, Any]:
    """Byte tokens, characters, and merged pieces whose scores fall with their rank.

    ``inner_spaces``: some tokens reach over a space, so that words cannot be encoded one by one.
    """
    bpe = BpeTokenizer(models.BPE())
    split = "never" if inner_spaces else "first"
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=split, split=not inner_spaces)
    bpe.decoder = decoders.Metaspace()
    # Without the pieces of special tokens: llama.cpp would merge them into the token itself, even in plain text.
    corpus = [text for text in STRINGS if "<|" not in text] * 2
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=500, limit_alphabet=120, show_progress=False))
    vocabulary: dict[str, int] = json.loads(bpe.to_str())["model"]["vocab"]
    head = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    head += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    tail = [("<|im_start|>", CONTROL), ("<keep>", USER_DEFINED)]
    taken = {text for text, _ in head + tail}
    texts = [text for text in sorted(vocabulary, key=vocabulary.__getitem__) if text not in taken and "\0" not in text]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [t for t, _ in head] + texts + [t for t, _ in tail],
        "tokenizer.ggml.token_type": [k for _, k in head] + [NORMAL] * len(texts) + [k for _, k in tail],
        # Equal scores in pairs, so that ties are settled by position.
        "tokenizer.ggml.scores": [0.0] * len(head) + [-float(i // 2) for i in range(len(texts))] + [0.0] * len(tail),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }


def write_vocabulary(path: str, metadata: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def read_metadata(path: str) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


def compare(path: str, texts: list[str]) -> int:
    """How many of ``texts``, tokens and end tokens differ between Stride and llama.cpp; prints the first few."""
    witness, tokenizer = Witness(path), Tokenizer.from_metadata(read_metadata(path))
    differences = []
    for text in texts:
        for special in (False, True):
            ours, theirs = tokenizer.encode(text, special), witness.encode(text, special)
            if ours != theirs:
                differences.append(f"{text!r} special={special}: {ours} instead of {theirs}")
    differences += [
        f"token {i}: {tokenizer.token_bytes(i)!r} instead of {witness.token_bytes(i)!r}"
        for i in range(tokenizer.n_vocab)
        if tokenizer.token_bytes(i) != witness.token_bytes(i)
    ]
    if tokenizer.eos_ids != set(witness.end_ids()):
        differences.append(f"end tokens {sorted(tokenizer.eos_ids)} instead of {witness.end_ids()}")
    print(f"{path}: {len(texts)} strings, {len(differences)} differences", *differences[:8], sep="\n  ")
    return len(differences)


def golden_case(name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/vocabulary.gguf"
        write_vocabulary(path, metadata)
        if compare(path, STRINGS + random_strings(300, seed=2)):
            raise SystemExit(f"{name}: Stride and llama.cpp differ; the golden file was not written")
        witness = Witness(path)
        ids = [[witness.encode(text, special) for special in (False, True)] for text in STRINGS]
        return {"name": name, "metadata": metadata, "end_ids": witness.end_ids(), "ids": ids}


def main(paths: list[str]) -> None:
    if paths:
        raise SystemExit(sum(compare(path, STRINGS + random_strings(3000, seed=1)) for path in paths) > 0)
    cases = [golden_case(pre, byte_level_metadata(pre)) for pre in PRE]
    for space_prefix, inner_spaces in ((True, False), (False, False), (True, True)):
        name = f"sentencepiece{'-prefix' if space_prefix else ''}{'-inner-spaces' if inner_spaces else ''}"
        metadata = sentencepiece_metadata(space_prefix=space_prefix, inner_spaces=inner_spaces)
        cases.append(golden_case(name, metadata))
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"strings": STRINGS, "cases": cases}, ensure_ascii=False, separators=(",", ":"))
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
