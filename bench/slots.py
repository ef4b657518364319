"""llama.cpp's reuse of prompts, in a process of its own: `python3 slots.py MODEL THREADS FOLDER` answers lines of JSON.

`cold` and `warm` go through `Llama.generate`, which keeps the longest prefix that the context has in common with the prompt:
its prompt cache in memory. `save` writes the context's sequence to a file, as llama-server's slot save does; `restore` reads it
into another context, and then computes the rest of the prompt.
"""

import ctypes
import json
import os
import sys
import time

import llama_cpp


class Slots:
    def __init__(self, model, threads, folder):
        def context():
            return llama_cpp.Llama(model, n_ctx=8192, n_threads=threads, n_threads_batch=threads, n_batch=512,
                                   n_ubatch=512, flash_attn=True, type_k=1, type_v=1, verbose=True)

        self.first, self.second, self.folder = context(), context(), folder
        for llm in (self.first, self.second):
            llm.eval(list(range(100, 108)))
            self.empty(llm)

    def tokenize(self, text):
        return {"ids": self.first.tokenize(text.encode(), add_bos=False, special=False)}

    @staticmethod
    def empty(llm):
        llm.reset()
        llm._ctx.kv_cache_clear()

    @staticmethod
    def token(llm, ids):
        start = time.perf_counter()
        token = next(llm.generate(ids, temp=0.0))
        return {"seconds": time.perf_counter() - start, "token": token}

    def path(self, name):
        return os.path.join(self.folder, f"{name}.slot").encode()

    def cold(self, ids, **_):
        self.empty(self.first)
        return self.token(self.first, ids)

    def warm(self, ids, **_):
        """Also says how many tokens the context and the prompt have in common, all of which `generate` keeps."""
        had = self.first.input_ids[: self.first.n_tokens]
        kept = next((i for i, (a, b) in enumerate(zip(had, ids[:-1])) if a != b), min(len(had), len(ids) - 1))
        return {**self.token(self.first, ids), "kept": kept}

    def save(self, ids, name, **_):
        """Computes `ids`, then writes them."""
        self.empty(self.first)
        self.first.eval(ids)
        array = (llama_cpp.llama_token * len(ids))(*ids)
        start = time.perf_counter()
        bytes_ = llama_cpp.llama_state_seq_save_file(self.first.ctx, self.path(name), 0, array, len(ids))
        if not bytes_:
            raise RuntimeError("llama.cpp could not write its slot")
        return {"seconds": time.perf_counter() - start, "bytes": bytes_}

    def restore(self, ids, name, **_):
        llm = self.second
        self.empty(llm)
        array, count = (llama_cpp.llama_token * llm.n_ctx())(), ctypes.c_size_t(0)
        start = time.perf_counter()
        if not llama_cpp.llama_state_seq_load_file(llm.ctx, self.path(name), 0, array, len(array), ctypes.byref(count)):
            raise RuntimeError("llama.cpp could not read its slot")
        read = time.perf_counter() - start
        kept = list(array[: count.value])
        assert kept == ids[: len(kept)], "the slot of other tokens"
        llm.input_ids[: len(kept)] = kept
        llm.n_tokens = len(kept)
        token = next(llm.generate(ids, temp=0.0))
        return {"seconds": time.perf_counter() - start, "read": read, "token": token, "kept": len(kept)}


def main():
    model, threads, folder = sys.argv[1:]
    slots = Slots(model, int(threads), folder)
    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(slots, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
    main()
