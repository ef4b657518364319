"""Prefill and decode speed of Cachalot and llama.cpp, run in turn on the same model; prints a Markdown table.

Every round runs each engine once at each depth, so that both see the same noise; the table has medians over rounds.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

DEPTHS = [512, 4096, 7936]


def tokens(count):
    """The ids that `cachalot bench` feeds; both engines compute the same work."""
    return [(i * 7919) % 40000 + 100 for i in range(count)]


def child(model, depth, decode, threads, kv, flash):
    """Runs in a process of its own: one measurement of llama.cpp."""
    import time

    import llama_cpp

    kinds = {"f16": 1, "q8_0": 8, "q4_0": 2}
    llm = llama_cpp.Llama(
        model, n_ctx=8192, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512,
        flash_attn=flash, type_k=kinds[kv], type_v=kinds[kv], verbose=False,
    )
    llm.eval(tokens(8))
    llm.reset()
    start = time.perf_counter()
    llm.eval(tokens(depth))
    prefill = depth / (time.perf_counter() - start)
    times = []
    for i in range(decode):
        start = time.perf_counter()
        llm.eval([500 + i])
        times.append(time.perf_counter() - start)
    print(json.dumps({"prefill": prefill, "decode": 1 / statistics.median(times)}))


def llama(args, depth, kv):
    command = [sys.executable, __file__, "--child", kv, "--model", args.model, "--depths", str(depth),
               "--threads", str(args.threads), "--decode", str(args.decode)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def ours(args, depth, kv="f16"):
    command = [args.cachalot, "bench", "-m", args.model, "--depths", str(depth), "--threads", str(args.threads),
               "--decode", str(args.decode), "--turns", "4", "--repeat", "1", "--kv", kv, "--json"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(out)["depths"]
    for row in rows:
        row |= {"prefill": row["prefill_tokens_per_second"], "decode": row["decode_tokens_per_second"]}
    return rows


def processor():
    """The processor's name."""
    names = (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return next(names, "") or platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cachalot", default="target/release/cachalot")
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-kv", default="f16", help="KV types of llama.cpp, separated by commas")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    depths = [int(depth) for depth in args.depths.split(",")]
    if args.child:
        flash = os.environ.get("LLAMA_FLASH", "1") == "1"
        return child(args.model, depths[0], args.decode, args.threads, args.child, flash)

    engines = {"cachalot f16": lambda depth: ours(args, depth)[0]}
    for kv in args.llama_kv.split(","):
        engines[f"llama.cpp {kv}"] = lambda depth, kv=kv: llama(args, depth, kv)
    runs = {(name, depth): [] for name in engines for depth in depths}
    for round_ in range(args.rounds):
        for depth in depths:
            for name, run in engines.items():
                runs[name, depth].append(run(depth))
                print(f"round {round_ + 1}/{args.rounds} depth {depth} {name}: {runs[name, depth][-1]}", file=sys.stderr)

    median = lambda name, depth, what: statistics.median(run[what] for run in runs[name, depth])
    print(f"{processor()}, {args.threads} threads, medians of {args.rounds} rounds, tokens per second:\n")
    print("| depth | engine and KV | prefill | ratio | decode | ratio |\n|---:|---|---:|---:|---:|---:|")
    for depth in depths:
        for name in engines:
            cells = []
            for what in ("prefill", "decode"):
                value = median(name, depth, what)
                base = median(f"llama.cpp {args.llama_kv.split(',')[0]}", depth, what)
                cells.append(f"{value:.1f} | {value / base:.2f}")
            print(f"| {depth} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
