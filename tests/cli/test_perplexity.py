"""`stride perplexity`: what the logits say, and files that are too short."""

import math

import numpy as np

from stride import LLM


def test_it_is_the_exponential_of_the_mean_loss_over_second_halves(stride, tmp_path):
    text = "The quick brown fox jumps over the lazy dog and looks back at the long road. " * 6
    (tmp_path / "text.txt").write_text(text)
    result = stride("perplexity", "-f", tmp_path / "text.txt", "-c", 32, "--chunks", 2, "--backend", "numpy")
    assert result.returncode == 0, result.stderr
    with LLM(backend="numpy") as llm:
        ids = llm.tokenize(text)
        losses = []
        for start in (0, 32):
            window = [llm.tokenizer.bos_id, *ids[start + 1 : start + 32]]
            logits = llm.logits(window).astype(np.float64)
            for position in range(16, 31):
                row = logits[position]
                losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[ids[start + position + 1]])
    assert result.stdout.startswith(f"perplexity {math.exp(np.mean(losses)):.4f} ")


def test_a_text_that_is_too_short_is_refused_with_counts(stride, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    result = stride("perplexity", "-f", tmp_path / "short.txt")
    assert result.returncode == 1
    assert "512" in result.stderr


def test_a_file_that_is_not_text_is_refused_by_name(stride, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    result = stride("perplexity", "-f", tmp_path / "binary")
    assert result.returncode == 1
    assert "binary" in result.stderr
