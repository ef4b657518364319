"""Decode and prefill speed, and memory, of KV recipes of Cachalot beside llama.cpp's KV types; prints a Markdown table.

Every round runs all recipes of Cachalot once, in turn, in one process, where they decode four tokens each before the next has
its turn, and then each KV type of llama.cpp in a process of its own, so that all see the same noise; the table has medians
over rounds. Quality is `cachalot lab quality`'s business.
"""

import argparse
import statistics
import sys

import compare


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv", required=True, help="recipes of Cachalot, separated by commas; f16 is always measured")
    parser.add_argument("--llama-kv", default="f16,q8_0,q4_0", help="KV types of llama.cpp; empty for none")
    parser.add_argument("--cachalot", default="target/release/cachalot")
    parser.add_argument("--depth", type=int, default=7936)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    runs = {}
    for round_ in range(args.rounds):
        print(f"round {round_ + 1} of {args.rounds}", file=sys.stderr)
        for row in compare.ours(args, args.depth, f"f16,{args.kv}"):
            runs.setdefault(("cachalot", row["kv"]), []).append(row)
        for kv in filter(None, args.llama_kv.split(",")):
            runs.setdefault(("llama.cpp", kv), []).append(compare.llama(args, args.depth, kv))

    def median(key, what):
        values = [run[what] for run in runs[key] if run.get(what) is not None]
        return statistics.median(values) if values else None

    base = ("cachalot", "f16")
    theirs = max((median(key, "decode") for key in runs if key[0] == "llama.cpp"), default=None)
    print(f"{compare.processor()}, {args.threads} threads, {args.depth} tokens, medians of {args.rounds} rounds:\n")
    print("| engine and KV | prefill tok/s | to our f16 | decode tok/s | to our f16 | to llama.cpp's best | KV MiB | "
          "peak resident growth to predicted peak |\n|---|---:|---:|---:|---:|---:|---:|---:|")
    for key in runs:
        prefill, decode = median(key, "prefill"), median(key, "decode")
        cells = [f"{prefill:.1f}", f"{prefill / median(base, 'prefill'):.2f}",
                 f"{decode:.1f}", f"{decode / median(base, 'decode'):.2f}",
                 f"{decode / theirs:.2f}" if theirs else "–"]
        kv, growth = median(key, "kv_bytes"), median(key, "resident_growth_bytes")
        cells.append(f"{kv / 2**20:.1f}" if kv else "–")
        cells.append(f"{growth / median(key, 'kv_peak_bytes'):.3f}" if growth else "–")
        print(f"| {' '.join(key)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
