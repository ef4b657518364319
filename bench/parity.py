"""Greedy answers of Cachalot and llama.cpp on the same GGUF: equal, or how close the logits were where they part.

For each prompt both engines continue the same token ids by greedy choice. Where they first differ, llama.cpp's own logits
of the two candidates are compared: a small gap means rounding decided, a large one means a bug.

llama.cpp rounds activations to eight bits for quantized weights, which alone moves logits by a tenth and more. With
`--decode` it therefore runs on a copy of the file whose weights are decoded to f32 (the same numbers, no rounding of
activations); Cachalot runs on the file as it is.
"""

import argparse
import json
import subprocess
import sys

PROMPTS = [
    "The history of the city begins with a small settlement on the river,",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "<|im_start|>user\nExplain in simple words why the sky is blue.<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a village at the foot of a mountain, there lived a clockmaker who",
]


def decoded(path, out):
    """Writes the GGUF at `path` with every tensor as f32."""
    import gguf

    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cachalot", default="target/release/cachalot")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", action="store_true", help="llama.cpp with flash attention (it sums values in f16)")
    parser.add_argument("--decode", metavar="FILE", help="llama.cpp runs on an f32 copy of the model, written here")
    args = parser.parse_args()

    import os

    import llama_cpp

    if args.decode and not os.path.exists(args.decode):
        decoded(args.model, args.decode)
    llm = llama_cpp.Llama(args.decode or args.model, n_ctx=2048, n_threads=args.threads, n_threads_batch=args.threads,
                          flash_attn=args.flash, logits_all=True, verbose=False)
    print("| prompt | equal tokens | gap of the logits where they part |\n|---|---:|---:|")
    worst = 0.0
    for prompt in PROMPTS:
        command = [args.cachalot, "run", "-m", args.model, "-p", prompt, "-n", str(args.tokens), "--temperature", "0",
                   "--ignore-eos", "--json"]
        out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        prompt_ids, got = out["prompt_token_ids"], out["token_ids"]
        theirs = llm.tokenize(prompt.encode(), add_bos=False, special=True)
        assert theirs == prompt_ids, f"tokenizers differ: {theirs} {prompt_ids}"
        llm.reset()
        llm.eval(prompt_ids)
        gap, equal = 0.0, 0
        for i, token in enumerate(got):
            logits = llm.scores[llm.n_tokens - 1]
            best = int(logits.argmax())
            if best != token:
                gap = float(logits[best] - logits[token])
                break
            equal += 1
            llm.eval([token])
        worst = max(worst, gap)
        print(f"| {prompt[:40]!r} | {equal} of {len(got)} | {gap:.4f} |")
    print(f"\nLargest gap: {worst:.4f}")
    sys.exit(0 if worst < 1e-2 else 1)


if __name__ == "__main__":
    main()
