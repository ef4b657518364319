"""Choices of what to keep, from the lines that `cachalot lab quality --out DIR` wrote: a table of answers by method and budget,
and the front of quality over bytes as an SVG file. Later runs of a recipe replace earlier ones.

    python3 bench/keep.py unknown/quality.jsonl --known known/quality.jsonl --svg front.svg
"""

import argparse
import json
import pathlib
import re

from curve import answers_of

BUDGETS = ("0.5", "0.25", "0.1")


def rows(paths):
    """Outcomes by recipe; what runs of other tasks have found is put together."""
    found = {}
    for path in paths or []:
        for line in pathlib.Path(path).read_text().splitlines():
            row = json.loads(line)
            if row["kind"] != "quality" or row["failure"]:
                continue
            to = found.setdefault(row["recipe"].replace(", when=prompt", "").replace("when=prompt, ", ""), {"answers": {}})
            if row["scores"]:
                to.update(scores=row["scores"], long=row["memory"]["bits_per_element_long"])
            answers = row["answers"] if isinstance(row["answers"], list) else [row["answers"] or {}]
            to["answers"].update({one.get("task", "needle"): one for one in answers if one})
    return found


def split(recipe):
    """The method without its budget, and the budget."""
    budget = re.search(r"budget=([0-9.]+)", recipe)
    bare = re.sub(r"budget=[0-9.]+(, )?", "", recipe).replace("()", "").replace(", )", ")")
    return bare, budget and budget.group(1)


def share(answers, task):
    one = answers.get(task)
    if not one:
        return "–"
    if task == "multi-needle":
        return f"{100 * one['accuracy']:.0f}%"
    return f"{one['right']}/{one['of']}"


def table(unknown, known):
    methods = {}
    for recipe in list(unknown) + list(known):
        bare, budget = split(recipe)
        if budget in BUDGETS and "+" not in recipe:
            methods.setdefault(bare, {})[budget] = recipe
    head = "".join(f" {b}: needle | known | multi | kv |" for b in BUDGETS)
    print(f"| method |{head}\n|---|{'---:|' * 4 * len(BUDGETS)}")
    for name in ["f16", *methods]:
        cells = []
        for budget in BUDGETS:
            recipe = "f16" if name == "f16" else methods[name].get(budget, "")
            own, seen = (of.get(recipe, {}).get("answers", {}) for of in (unknown, known))
            cells += [share(own, "needle"), share(seen, "needle"), share(own, "multi-needle"), share(own, "kv-retrieval")]
        print(f"| {name} | {' | '.join(cells)} |")


def front(found, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cachalot", "svg.fonttype": "none", "font.size": 8})
    import matplotlib.pyplot as plt

    points = []
    for recipe, row in found.items():
        needles = row["answers"].get("needle")
        if "scores" in row and needles and recipe != "f16" and row["scores"]["kl_mean"] > 0:
            points.append((100 * row["long"] / 16, row["scores"]["kl_mean"], 100 * needles["right"] / needles["of"], recipe))
    figure, panels = plt.subplots(1, 2, figsize=(13, 6))
    for panel, at, label in ((panels[0], 1, "mean KL from f16, nats"), (panels[1], 2, "needles found, %")):
        for ours, color in ((False, "#4a6fa5"), (True, "#c1443c")):
            own = [p for p in points if ("cachalot" in p[3]) == ours]
            panel.scatter([p[0] for p in own], [p[at] for p in own], s=12, color=color, label="with our formats" if ours else "methods alone")
        # Where many lie together, the best of them have names.
        best = {}
        for point in points:
            place = round(point[0] / 4)
            best.setdefault(place, []).append(point)
        for group in best.values():
            group.sort(key=lambda p: (p[1] if at == 1 else -p[2], p[1]))
            for x, y, name in ((p[0], p[at], p[3]) for p in group[:5]):
                panel.annotate(split(name)[0], (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
        panel.set(xlabel="bytes of a long context, % of f16's", ylabel=label)
        panel.grid(True, alpha=0.3)
    panels[0].set_yscale("log")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", help="quality.jsonl files of runs where the question is not known")
    parser.add_argument("--known", nargs="*", help="quality.jsonl files of runs where it is")
    parser.add_argument("--svg", help="where to draw the front")
    args = parser.parse_args()
    unknown = rows(args.results)
    table(unknown, rows(args.known))
    if args.svg:
        front(unknown, args.svg)


if __name__ == "__main__":
    main()
