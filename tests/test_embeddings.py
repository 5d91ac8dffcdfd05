"""Vectors of texts: `LLM.embed`, and `Embeddings` over a real engine."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stride import LLM
from stride.embeddings import normalized
from stride.errors import ContextOverflowError, DeadlineError, GenerationError, OverloadedError, RequestError

TEXTS = ["Hello", "The cat sat on the mat.", "x", "Once upon a time " * 20]


@pytest.fixture(scope="module")
def llm():
    with LLM(n_ctx=256, n_parallel=2, max_queue=1) as model:
        yield model


def test_each_text_has_a_vector_of_length_1(llm):
    vectors = llm.embed(TEXTS)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(TEXTS), llm.config.n_embd))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(llm.embed(text), [vector], atol=1e-6)
        np.testing.assert_allclose(llm.embed(llm.tokenize(text)), [vector], atol=1e-6)


def test_token_ids_may_be_arrays(llm):
    ids = np.array(llm.tokenize(TEXTS[1]))
    np.testing.assert_array_equal(llm.embed(ids), llm.embed([ids]))


def test_many_texts_need_no_more_places_than_run_together(llm):
    vectors = llm.embed([f"text {i}" for i in range(40)])
    assert len(np.unique(vectors, axis=0)) == 40
    np.testing.assert_allclose(vectors[17], llm.embed("text 17")[0], atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("", "texts is empty"),
        ([], "texts is empty"),
        (["a", ""], "texts is empty"),
        ([[]], "texts is empty"),
        ([1, 10**9], "texts must be token ids from 0 to"),
        ([[1], [-1]], "texts must be token ids from 0 to"),
        ([1.5], "texts must be made of token ids"),
        ([["a"]], "texts must be made of token ids"),
        (7, "texts must be a text, token ids, or a list of such"),
    ],
)
def test_what_is_no_text_is_refused(llm, texts, message):
    with pytest.raises(RequestError, match=message) as caught:
        llm.embed(texts)
    assert caught.value.field == "texts"


def test_a_text_that_does_not_fit_is_refused_or_cut(llm):
    with pytest.raises(ContextOverflowError, match="401 tokens, but the context window has 256"):
        llm.embed(["Hello", "x y " * 100])
    ids = llm.tokenize("x y " * 100)
    cut = llm.embeddings("x y " * 100, truncate=True).result()
    assert cut.usage.prompt_tokens == 256
    np.testing.assert_allclose(cut.vectors, llm.embed(ids[:256], norm=-1), atol=1e-5)


def test_a_model_that_ends_texts_with_a_token_has_it_at_their_end(llm, monkeypatch):
    ids, end = llm.tokenize("Hello"), llm.tokenizer.eos_id
    monkeypatch.setattr(llm.tokenizer, "add_eos", True)
    np.testing.assert_array_equal(llm.embed("Hello"), llm.embed([*ids, end]))
    assert llm.embeddings("x y " * 100, truncate=True).result().usage.prompt_tokens == 256
    monkeypatch.undo()
    cut = [*llm.tokenize("x y " * 100)[:255], end]
    monkeypatch.setattr(llm.tokenizer, "add_eos", True)
    np.testing.assert_array_equal(llm.embeddings("x y " * 100, truncate=True).result().vectors, llm.embed(cut, norm=-1))


def test_poolings(llm):
    assert llm.pooling == "last", "the file says nothing"
    text = llm.tokenize(TEXTS[1])
    prefixes = np.concatenate([llm.embed(text[: i + 1], norm=-1) for i in range(len(text))])
    expected = {"mean": prefixes.mean(axis=0), "cls": prefixes[0], "last": prefixes[-1]}
    for pooling, vector in expected.items():
        with LLM(n_ctx=256, pooling=pooling) as other:
            np.testing.assert_allclose(other.embed(text, norm=-1)[0], vector, atol=1e-4)
    for unknown in ("rank", "none", ""):
        with pytest.raises(RequestError, match=f"pooling is '{unknown}', but must be one of mean, cls, last"):
            LLM(pooling=unknown)


def test_a_full_queue_refuses_before_anything_is_done(llm):
    hold, held = threading.Event(), threading.Event()
    waiting = threading.Thread(target=llm.engine.exclusively, args=(lambda: (held.set(), hold.wait(20)),))
    waiting.start()
    assert held.wait(20)
    first = llm.embeddings(["a", "b"])
    with pytest.raises(OverloadedError):
        llm.embeddings(["c", "d"])
    hold.set()
    assert first.result().usage.prompt_tokens == 2 * len(llm.tokenize("a"))
    waiting.join()
    assert llm.embed("e").shape[0] == 1


def test_a_list_may_take_no_longer_than_a_request():
    with LLM(n_ctx=256, request_seconds=0.05) as model, pytest.raises(DeadlineError, match=r"longer than 0\.05 s"):
        model.embed(["word " * 200] * 2000)


def test_cancelling_ends_all_texts(llm):
    job = llm.embeddings(["word " * 200] * 50)
    job.cancel()
    with pytest.raises(GenerationError, match="cancelled"):
        job.result()
    assert llm.embed("free again").shape[0] == 1


def test_closing_fails_what_is_not_done():
    with LLM(n_ctx=256) as model:
        job = model.embeddings(["word " * 200] * 50)
    with pytest.raises(GenerationError, match="closed"):
        job.result()


def test_norms():
    vectors = np.array([[3, -4], [0, 0]], np.float32)
    for norm, expected in {2: [0.6, -0.8], 1: [3 / 7, -4 / 7], 0: [24570, -32760], -1: [3, -4]}.items():
        np.testing.assert_allclose(normalized(vectors, norm), [expected, [0, 0]], rtol=1e-6)
    with pytest.raises(RequestError, match="norm is -2"):
        normalized(vectors, -2)


@given(
    arrays.arrays(np.float32, (2, 5), elements=st.floats(-(2.0**120), 2.0**120, width=32)), st.integers(1, 2**31 - 1)
)
def test_a_norm_is_1_whatever_the_magnitude(vectors, norm):
    found = normalized(vectors, norm).astype(np.float64)
    for given_vector, vector in zip(vectors, found, strict=True):
        largest = np.abs(vector).max()
        scaled = np.abs(vector) / (largest or 1)
        total = largest * (scaled**norm).sum() ** (1 / norm)
        assert total == pytest.approx(1 if given_vector.any() else 0, rel=1e-5)
