"""What `cachalot lab quality` measures, read from its lines, and recipes as files."""

import json
import os
import subprocess
import tempfile

import numpy as np

RECIPE = """name = "{name}"
paper = "ggml"
summary = "for a comparison"
[encode]
exact = "{exact}"
[[encode.rules]]
layers = "{layers}"
k = {stages}
v = {stages}
"""


def recipe(folder, name, format, rotate=False, exact="f16", layers="all"):
    """The path of a recipe that writes the pages of these layers in a format of ggml."""
    path = os.path.join(folder, f"{name}.toml")
    stages = json.dumps((["hadamard"] if rotate else []) + [format])
    with open(path, "w") as file:
        file.write(RECIPE.format(name=name, exact=exact, layers=layers, stages=stages))
    return path


def lines(cachalot, model, text, *more):
    """A run of `cachalot lab quality`: all lines that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [cachalot, "lab", "quality", "-m", model, "--text", text, "--decode", "0", "--out", folder, *more]
        subprocess.run(command, check=True, capture_output=True)
        with open(os.path.join(folder, "quality.jsonl")) as file:
            return [json.loads(line) for line in file]


def windows(cachalot, model, text, window, count, recipes, reference, *more):
    """Of every recipe, in order: sums over 64 predictions each, `[windows][blocks][6]`.

    The sums are: how many, divergence, agreements of the first, of the first five, nll of the reference, of the recipe.
    """
    found = lines(cachalot, model, text, "--window", str(window), "--windows", str(count), "--questions", "0",
                  "--recipes", ",".join(recipes), "--reference", reference, *more)
    failed = [line["failure"] for line in found if line.get("failure")]
    assert not failed, failed
    names = [line["recipe"] for line in found if line["kind"] == "quality" and not line["is_reference"]]
    blocks = [[line["window"]["blocks"] for line in found if line["kind"] == "record" and line["recipe"] == name]
              for name in names]
    assert len(names) == len(recipes) and all(len(of) == count for of in blocks), names
    return [np.array(of) for of in blocks]


def summary(blocks):
    """As `measures.summary`, of sums over blocks."""
    count, kl, same, _, reference, other = blocks.reshape(-1, 6).sum(axis=0)
    return {"kl": kl / count, "reference": np.exp(reference / count), "perplexity": np.exp(other / count),
            "top1": same / count}
