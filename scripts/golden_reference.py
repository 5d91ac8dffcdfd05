"""llama.cpp, through llama-cpp-python's low-level interface, set as exact as it goes: F32 cache, no flash attention."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp_ext

CONTEXT_TYPE_MTP = 1
GGML_TYPE_F32 = 0
PROCESS_TYPE_DECODE = 1
N_THREADS = 2


def ggml_library() -> Path:
    """``libggml-base`` as llama-cpp-python loaded it."""
    with open("/proc/self/maps") as maps:
        return Path(next(line.split()[-1] for line in maps if "libggml-base" in line))


class Reference:
    """A model file in llama.cpp. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mtp = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(vocab)
        self.n_embd: int = llama_cpp.llama_model_n_embd(self._model)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_model_free(self._model)

    def logits(self, tokens: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [n, vocab] logits, float32 [n, embd] states before the final norm) of one sequence."""
        with self._context(len(tokens)) as context:
            llama_cpp_ext.llama_set_embeddings_nextn(context, True, False)
            self._decode(context, tokens)
            return self._results(context, len(tokens))

    def embedding(self, tokens: Sequence[int] | np.ndarray, pooling: int) -> np.ndarray:
        """float32 [embd]: the vector of one sequence, pooled (llama.cpp's number) and not normalised."""
        with self._context(len(tokens), embeddings=True, pooling_type=pooling) as context:
            self._decode(context, tokens)
            vector = llama_cpp.llama_get_embeddings_seq(context, 0)
            return np.ctypeslib.as_array(vector, (self.n_embd,)).copy()

    def draft(self, head: int, tokens: Sequence[int] | np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `logits`, of a draft head: token i is what follows the token that row i of ``states`` belongs to."""
        with self._context(len(tokens), ctx_type=CONTEXT_TYPE_MTP) as context:
            llama_cpp_ext.llama_set_embeddings_nextn(context, True, True)
            llama_cpp_ext.llama_set_nextn_layer_offset(context, head)
            states = np.ascontiguousarray(states, np.float32)
            batch = llama_cpp.llama_batch_ext_init(context)
            for index, token in enumerate(tokens):
                at = llama_cpp.llama_batch_ext_add_token(batch, 0, token)
                pointer = states[index].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
                row = llama_cpp.llama_embd(pointer, 1, self.n_embd)
                position = (ctypes.c_int32 * 1)(index)
                ok = llama_cpp.llama_batch_ext_set_pos(batch, at, position)
                ok = ok and llama_cpp.llama_batch_ext_set_embd_token(batch, at, row)
                ok = ok and llama_cpp.llama_batch_ext_set_output_logits(batch, at, True)
                if at != index or not ok:
                    raise RuntimeError(f"token {index} does not fit the batch")
            status = llama_cpp.llama_process(context, PROCESS_TYPE_DECODE, batch)
            if status != 0:
                raise RuntimeError(f"llama_process gave {status}")
            results = self._results(context, len(tokens))
            llama_cpp.llama_batch_ext_free(batch)
            return results

    def _decode(self, context: Any, tokens: Sequence[int] | np.ndarray) -> None:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 1
        status = llama_cpp.llama_decode(context, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")

    @contextmanager
    def _context(self, n_tokens: int, **settings: int) -> Iterator[Any]:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(64, n_tokens)
        params.n_threads = params.n_threads_batch = N_THREADS
        params.type_k = params.type_v = GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        for name, value in settings.items():
            setattr(params, name, value)
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("llama.cpp makes no context")
        yield context
        llama_cpp.llama_free(context)

    def _results(self, context: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (n, self.n_vocab))
        states = np.ctypeslib.as_array(llama_cpp_ext.llama_get_embeddings_nextn(context), (n, self.n_embd))
        return logits.copy(), states.copy()
