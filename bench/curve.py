"""One table of all recipes from the lines that `cachalot lab quality --out DIR` wrote, and the curve of divergence over
bits as an SVG file. Later runs of a recipe replace earlier ones.
"""

import argparse
import json
import pathlib


def outcomes(paths):
    """The last outcome of every recipe, and the settings of the last run."""
    found, run = {}, None
    for path in paths:
        for line in pathlib.Path(path).read_text().splitlines():
            row = json.loads(line)
            if row["kind"] == "run":
                run = row
            elif row["kind"] == "quality" and (row["failure"] or row["scores"]):
                found[row["recipe"]] = row
    return found, run


def bits(row):
    return row["memory"]["bits_per_element_long"]


def answers_of(row, task="needle"):
    """Questions of one kind; files written before there were several kinds have no list."""
    answers = row["answers"]
    if isinstance(answers, list):
        return next((found for found in answers if found["task"] == task), None)
    return answers


def table(rows):
    print("| KV | bits, long | bits, 4k | mean KL [95%] | p99 KL | top-1 % | perplexity ratio [95%] | needles |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        if row["failure"]:
            print(f"| {row['recipe']} | failed: {row['failure']} | | | | | | |")
            continue
        s, answers = row["scores"], answers_of(row)
        kl, ratio = s["kl_interval"], s["perplexity_ratio_interval"]
        print(
            f"| {row['recipe']} | {bits(row):.2f} | {row['memory']['bits_per_element']:.2f} "
            f"| {s['kl_mean']:.2g} [{kl['low']:.2g}, {kl['high']:.2g}] | {s['kl_p99']:.2g} | {100 * s['top1']:.1f} "
            f"| {s['perplexity_ratio']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}] "
            f"| {answers['right']}/{answers['of']} |"
        )


def curve(rows, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cachalot", "svg.fonttype": "none", "font.size": 8})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6))
    points = [(bits(r), r["scores"]["kl_mean"], r["recipe"]) for r in rows if r["scores"] and bits(r) < 9.5]
    points = [point for point in points if point[1] > 0]
    ours = sorted(point for point in points if point[2].startswith("cachalot-"))
    theirs = [point for point in points if point not in ours]
    axes.scatter([p[0] for p in theirs], [p[1] for p in theirs], s=12, color="#4a6fa5", label="published and common formats")
    axes.plot([p[0] for p in ours], [p[1] for p in ours], "o-", color="#c1443c", label="Cachalot's own")
    for x, y, name in points:
        axes.annotate(name, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    axes.set(xlabel="bits per key or value of a long text, everything included", ylabel="mean KL from f16, nats")
    axes.set_yscale("log")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", help="quality.jsonl files")
    parser.add_argument("--svg", help="where to draw the curve")
    args = parser.parse_args()
    found, _ = outcomes(args.results)
    failed = [row for row in found.values() if row["failure"]]
    rows = sorted((row for row in found.values() if not row["failure"]), key=lambda r: (-bits(r), r["recipe"]))
    table(rows + failed)
    if args.svg:
        curve(rows, args.svg)


if __name__ == "__main__":
    main()
