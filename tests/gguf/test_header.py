"""Broken files: each is refused at once, by name and place, before memory is taken."""

import contextlib
import os
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.errors import ModelFileError, UnsupportedError
from stride.gguf import QuantType, open_gguf
from stride.gguf.quants import quantize
from stride.gguf.writer import write_gguf

# --- files made byte by byte, so that they can be wrong in any one place -----------------------


def string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, payload):
    return string(key) + struct.pack("<I", kind) + payload


def u32(key, value):
    return pair(key, 4, struct.pack("<I", value))


def array(key, kind, count, payload=b""):
    return pair(key, 9, struct.pack("<IQ", kind, count) + payload)


def tensor(name, dimensions=(32,), kind=0, offset=0):
    """Dimensions in the file's order, row length first."""
    sizes = struct.pack(f"<{len(dimensions)}Q", *(size % 2**64 for size in dimensions))
    return string(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)


def file(pairs=(), tensors=(), data=0, *, magic=b"GGUF", version=3, n_pairs=None, n_tensors=None, alignment=32):
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    n_pairs = len(pairs) if n_pairs is None else n_pairs
    head = magic + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(data)


TENSOR = "blk.0.x"
HEAD = 24  # magic, version, two counts
DATA = 64  # where the data of a file with one tensor of one dimension begins
VALUE = HEAD + 9 + 4  # where the value of a key of one letter begins
ENTRY = HEAD + 8 + 7  # where the entry of TENSOR begins, after its name
HUGE = struct.pack("<Q", 2**63)

# name: (bytes, message, tensor, offset)
BROKEN = {
    "1 empty": (b"", "empty", None, 0),
    "2 bad magic": (file(magic=b"GGML"), "no GGUF file", None, 0),
    "2 shorter than the magic": (b"GG", "too short", None, 0),
    "3 version 0": (file(version=0), "version 0", None, 4),
    "3 version 1": (file(version=1), "version 1", None, 4),
    "3 future version": (file(version=4), "version 4", None, 4),
    "4 big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian", None, 4),
    "4 big-endian magic": (b"FUGG" + struct.pack(">IQQ", 3, 0, 0), "big-endian", None, 0),
    "5 2^63 tensors": (file(n_tensors=2**63, data=64), "9223372036854775808 tensors", None, 8),
    "5 2^63 pairs": (file(n_pairs=2**63, data=64), "9223372036854775808 key-value pairs", None, 16),
    "5 more pairs than bytes": (file(n_pairs=1000, data=64), "1000 key-value pairs", None, 16),
    "6 key past the end": (file([HUGE + b"key"]), "past the end", None, HEAD),
    "6 value past the end": (file([pair("k", 8, HUGE)]), "'k' of 9223372036854775808 bytes", None, VALUE),
    "6 string in an array past the end": (
        file([array("k", 8, 2, string("a") + struct.pack("<Q", 2**40))]),
        "string 1 of the value of 'k'",
        None,
        VALUE + 12 + 9,
    ),
    "6 file ends in a string array": (
        file([array("k", 8, 1, b"")], alignment=1) + bytes(7),
        "1 strings in the value of 'k'",
        None,
        VALUE + 4,
    ),
    "7 array of 2^60": (file([array("k", 4, 2**60)]), f"{2**60} entries", None, VALUE + 4),
    "7 string array of 2^60": (file([array("k", 8, 2**60)]), f"{2**60} strings", None, VALUE + 4),
    "8 unknown value type": (file([pair("k", 13, bytes(8))]), "unknown type 13", None, VALUE - 4),
    "8 unknown item type": (file([array("k", 99, 1, bytes(8))]), "unknown type 99", None, VALUE),
    "8 truth value 2": (file([pair("k", 7, b"\2")]), "neither 0 nor 1", None, VALUE),
    "8 truth value 2 in an array": (file([array("k", 7, 2, b"\0\2")]), "neither 0 nor 1", None, VALUE + 12),
    "9 nested arrays": (file([array("k", 9, 1, bytes(16))]), "array of arrays", None, VALUE),
    "10 duplicate key": (file([u32("k", 1), u32("k", 1)]), "'k' comes twice", None, HEAD + 17),
    "11 empty key": (file([u32("", 1)]), "a key is empty", None, HEAD),
    "11 key that is no UTF-8": (file([u32(b"\xff\xfe", 1)]), "a key is not valid UTF-8", None, HEAD),
    "11 value that is no UTF-8": (file([pair("k", 8, string(b"\xff"))]), "'k' is not valid UTF-8", None, VALUE),
    "11 key that steers the terminal": (file([u32("\x1b[2J", 1)]), "cannot be shown", None, HEAD),
    "12 alignment 0": (file([u32("general.alignment", 0)]), "general.alignment is 0", None, None),
    "12 alignment 3": (file([u32("general.alignment", 3)]), "general.alignment is 3", None, None),
    "12 alignment u64": (
        file([pair("general.alignment", 10, struct.pack("<Q", 32))]),
        "general.alignment has the type 10",
        None,
        HEAD + 25,
    ),
    "12 alignment of text": (
        file([pair("general.alignment", 8, string("32"))]),
        "general.alignment has the type 8",
        None,
        HEAD + 25,
    ),
    "13 duplicate tensor": (
        file([], [tensor(TENSOR), tensor(TENSOR, offset=128)], 256),
        "tensor comes twice",
        "blk.0.x",
        HEAD + 39,
    ),
    "13 empty tensor name": (file([], [tensor(b"")], 128), "name is empty", None, HEAD),
    "13 tensor name that is no UTF-8": (file([], [tensor(b"\xff")], 128), "not valid UTF-8", None, HEAD),
    "13 tensor name with a line break": (file([], [tensor("a\nb")], 128), "cannot be shown", None, HEAD),
    "14 five dimensions": (file([], [tensor(TENSOR, (1,) * 5)], 128), "5 dimensions", "blk.0.x", ENTRY),
    "14 no dimension": (file([], [tensor(TENSOR, ())], 128), "0 dimensions", "blk.0.x", ENTRY),
    "15 zero dimension": (file([], [tensor(TENSOR, (32, 0))], 128), r"\[0, 32\]", "blk.0.x", ENTRY),
    "15 negative dimension": (file([], [tensor(TENSOR, (32, -1))], 128), r"\[-1, 32\]", "blk.0.x", ENTRY),
    "16 product overflow": (file([], [tensor(TENSOR, (2**32, 2**32))], 128), "too large", "blk.0.x", ENTRY),
    "16 product wraps to 0": (file([], [tensor(TENSOR, (2**32,) * 4)], 128), "too large", "blk.0.x", ENTRY),
    "16 bytes overflow": (file([], [tensor(TENSOR, (2**61,))], 128), "too large", "blk.0.x", ENTRY),
    "17 unknown tensor type": (file([], [tensor(TENSOR, kind=99)], 128), "type 99", "blk.0.x", ENTRY + 12),
    "17 removed tensor type": (file([], [tensor(TENSOR, kind=4)], 128), "type 4", "blk.0.x", ENTRY + 12),
    "18 row no multiple": (file([], [tensor(TENSOR, (33, 2), kind=8)], 128), "rows of 33", "blk.0.x", ENTRY),
    "18 row too short": (file([], [tensor(TENSOR, (32, 8), kind=12)], 144), "Q4_K", "blk.0.x", ENTRY),
    "19 offset past the end": (file([], [tensor(TENSOR, offset=2**40)], 128), "past the end", "blk.0.x", DATA + 2**40),
    "19 offset of 2^64 - 32": (
        file([], [tensor(TENSOR, offset=2**64 - 32)], 128),
        "past the end",
        "blk.0.x",
        DATA + 2**64 - 32,
    ),
    "19 misaligned offset": (file([], [tensor(TENSOR, offset=4)], 160), "alignment 32", "blk.0.x", HEAD),
    "20 overlap": (
        file([], [tensor("a", (64,)), tensor("b", (32,), offset=128)], 512),
        "overlaps that of tensor a",
        "b",
        DATA + 32 + 128,
    ),
    "20 same place": (file([], [tensor("a"), tensor("b")], 512), "overlaps that of tensor a", "b", DATA + 32),
    "21 one byte short": (file([], [tensor(TENSOR)], 127), "1 bytes past the end", "blk.0.x", DATA),
}


def test_5_more_strings_than_any_vocabulary_has(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(file([array(key, 8, 1 << 21, bytes(8 << 21)) for key in "abc"]))
    with pytest.raises(ModelFileError, match="2097152 strings in the value of 'b' are too many"):
        open_gguf(path)


def test_6_a_head_that_does_not_end(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(file([pair("k", 8, struct.pack("<Q", 1 << 32))]))
    os.truncate(path, 1 << 33)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="'k' goes beyond the 134217728 bytes"):
        open_gguf(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_by_name_at_once_and_without_memory(case, tmp_path):
    content, message, tensor_name, offset = case
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ModelFileError, match=message) as caught:
            open_gguf(path)
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.path == path
    assert caught.value.tensor == tensor_name
    assert caught.value.offset == offset


# --- what is right ----------------------------------------------------------------------------


@pytest.fixture
def valid(tmp_path):
    """A small file with every kind of value and several kinds of tensor."""
    rng = np.random.default_rng(0)
    kinds = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8", "?")
    metadata = {
        "general.architecture": "step35",
        "general.alignment": np.uint32(64),
        "text": "gewählt ✓",
        "strings": ["a", "", "\udcff\udcfe", "é"],
        **{f"scalar.{kind}": np.dtype(kind).type(1) for kind in kinds},
        **{f"array.{kind}": np.arange(3).astype(kind) for kind in kinds},
    }
    blocks = quantize(rng.standard_normal((2, 3, 64)), QuantType.Q8_0)
    tensors = [
        ("token_embd.weight", rng.standard_normal((4, 8)).astype(np.float32)),
        ("blk.0.experts", (blocks, QuantType.Q8_0)),
        ("blk.0.norm", np.ones(5, np.float16)),
    ]
    (path,) = write_gguf(tmp_path / "valid.gguf", metadata, tensors)
    return path


def test_values_of_every_type(valid):
    with open_gguf(valid) as model:
        assert model.metadata["scalar.u1"] == 1
        assert model.metadata["scalar.?"] is True
        assert isinstance(model.metadata["scalar.<f8"], float)
        assert model.metadata["text"] == "gewählt ✓"
        numbers = model.metadata["array.<i8"]
        assert numbers.dtype == np.int64
        assert numbers.tolist() == [0, 1, 2]
        with pytest.raises(ValueError, match="read-only"):
            numbers[0] = 1


def test_bytes_of_tokens_that_are_no_utf8_are_kept(valid):
    with open_gguf(valid) as model:
        assert [text.encode("utf-8", "surrogateescape") for text in model.metadata.strings("strings")] == [
            b"a",
            b"",
            b"\xff\xfe",
            "é".encode(),
        ]


@pytest.mark.parametrize("version", [2, 3])
def test_versions_that_are_read(version, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(file([u32("k", 7)], [tensor(TENSOR)], 128, version=version))
    with open_gguf(path) as model:
        assert model.metadata["k"] == 7
        assert model.tensors[TENSOR].offset == DATA + 32


def test_bytes_after_the_last_tensor_and_gaps_between_tensors_are_allowed(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(file([], [tensor("a", offset=256), tensor("b")], 384 + 1000))
    with open_gguf(path) as model:
        assert [(entry.name, entry.offset) for entry in model.tensors.values()] == [
            ("a", DATA + 32 + 256),
            ("b", DATA + 32),
        ]


def test_a_real_vocabulary_is_read_quickly(tmp_path):
    n = 128_896
    tokens = [f"token{i}" for i in range(n)]
    metadata = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [f"a{i} b" for i in range(n)],
        "tokenizer.ggml.scores": np.zeros(n, np.float32),
        "tokenizer.ggml.token_type": np.ones(n, np.int32),
    }
    (path,) = write_gguf(tmp_path / "m.gguf", metadata, [])
    seconds = []
    for _ in range(3):
        start = time.process_time()  # of this process alone, so that a busy machine does no harm
        with open_gguf(path) as model:
            seconds.append(time.process_time() - start)
            assert model.metadata["tokenizer.ggml.tokens"] == tokens
    assert min(seconds) < 0.3


# --- anything else ----------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(valid, tmp_path):
    content = valid.read_bytes()
    with open_gguf(valid) as model:
        end = max(entry.offset + entry.n_bytes for entry in model.tensors.values())
    path = tmp_path / "cut.gguf"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        if length < end:
            with pytest.raises(ModelFileError, match=r"cut\.gguf"):
                open_gguf(path)
        else:
            open_gguf(path).close()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bytes_give_a_clean_error_or_a_readable_file(data, tmp_path_factory):
    content = bytearray(FLIPPED)
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of the meaning is in the first bytes.
        place = data.draw(st.one_of(st.integers(0, 160), st.integers(0, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.gguf"
    path.write_bytes(content)
    with contextlib.suppress(ModelFileError, UnsupportedError), open_gguf(path) as model:
        for entry in model.tensors.values():
            assert entry.dequantize().shape == entry.shape


FLIPPED = file(
    [
        u32("general.alignment", 32),
        array("strings", 8, 2, string("ab") + string("c")),
        array("numbers", 5, 3, bytes(12)),
        pair("flag", 7, b"\1"),
        pair("text", 8, string("hello")),
        u32("split.count", 1),
    ],
    [tensor("a", (32, 2), 8), tensor("b", (4, 2), 0, 96), tensor("c", (256,), 12, 128)],
    384,
)
"""Pairs and tensors of several kinds, to be flipped."""
