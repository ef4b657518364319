"""llama.cpp through llama-cpp-python: logits of every token of a window under one kind of KV cache."""

import ctypes
import os

import gguf
import numpy as np


class Pages:
    """What becomes of the keys and values of a page.

    `format` is one of ggml's. `halves`: channels of keys in the order of rotate-half, where those that turn together
    lie half a head apart, as Cachalot has them; else as GGUF files of Llama models have them, where they are
    neighbours. That decides which 32 channels share a scale. `rotate`: a normalised Walsh-Hadamard transform of every
    head first. `last`: only so many of the last layers; all if absent.
    """

    def __init__(self, format, tokens=64, halves=True, rotate=False, last=None):
        self.kind, self.tokens = gguf.GGMLQuantizationType[format.upper()], tokens
        self.halves, self.rotate, self.last = halves, rotate, last

    def apply(self, rows, dim, keys):
        """`rows` of heads of `dim` channels each, through the format and back."""
        heads = rows.reshape(len(rows), -1, dim)
        order = np.arange(dim)
        if keys and self.halves:
            order = np.concatenate([order[::2], order[1::2]])
        transform = np.eye(dim, dtype=np.float32)
        if self.rotate:
            assert dim & (dim - 1) == 0, f"no Walsh-Hadamard matrix of {dim} channels here"
            transform = np.ones((1, 1), dtype=np.float32)
            while len(transform) < dim:
                transform = np.block([[transform, transform], [transform, -transform]])
            transform /= np.sqrt(np.float32(dim))
        flat = (heads[..., order] @ transform).reshape(len(rows), -1)
        back = gguf.quants.dequantize(gguf.quants.quantize(flat, self.kind), self.kind)
        written = np.empty_like(heads)
        # The matrix is its own inverse.
        written[..., order] = back.reshape(heads.shape) @ transform
        return written.reshape(rows.shape)


class Peer:
    """A model with one kind of cache.

    `kv` is llama.cpp's type of keys and values, `rotate` whether it rotates them before it quantizes, as it does by
    default. With `pages`, the cache is in f32 (without flash attention, which would round it to f16), and whenever a
    page is full, its keys and values are replaced by what the format makes of them: the rule by which Cachalot writes
    pages, carried out on llama.cpp's own cache.
    """

    def __init__(self, model, kv, tokens, rotate=False, pages=None, threads=2, every=True):
        # Read when a context is made.
        os.environ["LLAMA_ATTN_ROT_DISABLE"] = "0" if rotate else "1"
        import llama_cpp

        kind = gguf.GGMLQuantizationType[kv.upper()].value
        assert not pages or kv == "f32", "pages are written into a cache in f32"
        self.api, self.pages = llama_cpp, pages
        self.llm = llama_cpp.Llama(model, n_ctx=tokens, n_batch=512, n_threads=threads, n_threads_batch=threads,
                                   type_k=kind, type_v=kind, flash_attn=kv != "f32", logits_all=every, verbose=False)

    def close(self):
        self.llm.close()

    def logits(self, ids):
        """`[len(ids)][vocabulary]`, a view that the next call overwrites."""
        self.llm.reset()
        self.llm._ctx.kv_cache_clear()
        step = self.pages.tokens if self.pages else len(ids)
        for at in range(0, len(ids), step):
            self.llm.eval(ids[at:at + step])
            if self.pages and at + step < len(ids):
                self.write_page(at, at + step)
        return self.llm.scores[:len(ids)]

    def answer(self, ids, most):
        """Greedily, without the token that ends it."""
        self.llm.reset()
        self.llm._ctx.kv_cache_clear()
        self.llm.eval(ids)
        found = []
        while len(found) < most:
            logits = self.api.llama_get_logits_ith(self.llm.ctx, -1)
            token = int(np.ctypeslib.as_array(logits, shape=(self.llm.n_vocab(),)).argmax())
            if self.api.llama_vocab_is_eog(self.llm._model.vocab, token):
                break
            found.append(token)
            self.llm.eval([token])
        return found

    def write_page(self, begin, end):
        """Keys and values of tokens `begin..end` through the format and back, in the state of sequence 0."""
        api, ctx, model = self.api, self.llm.ctx, self.llm._model.model
        size = api.llama_state_seq_get_size(ctx, 0)
        state = (ctypes.c_uint8 * size)()
        assert api.llama_state_seq_get_data(ctx, state, size, 0) == size
        layers = api.llama_model_n_layer(model)
        heads = api.llama_model_n_head_kv(model)
        width = api.llama_model_n_embd(model) // api.llama_model_n_head(model) * heads
        # At the end: whether values lie transposed, the number of layers, then keys and then values of every layer,
        # each with its type (f32 is 0) and the size of a row, `[tokens][width]`, or of an element and a column,
        # `[width][tokens]`.
        block = 12 + end * width * 4
        bytes_ = np.frombuffer(state, dtype=np.uint8)[size - 2 * layers * block - 8:]
        assert list(bytes_[:8].view(np.uint32)) == [1, layers], "another form of state than this was written for"
        for i, part in enumerate(bytes_[8:].reshape(2 * layers, block)):
            keys = i < layers
            if self.pages.last is not None and i % layers < layers - self.pages.last:
                continue
            assert list(part[:12].view(np.uint32)) == ([0, 4 * width, 0] if keys else [0, 4, width])
            rows = part[12:].view(np.float32).reshape((end, width) if keys else (width, end))
            rows = (rows if keys else rows.T)[begin:]
            rows[:] = self.pages.apply(rows, width // heads, keys)
        assert api.llama_state_seq_set_data(ctx, state, size, 0) == size
