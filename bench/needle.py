"""Single needles in a long text, asked through `cachalot run`: how many are answered.

The text is filler of our own; a sentence with a secret number lies at a depth of it, the question stands at the end.
"""

import argparse
import json
import random
import subprocess
import tempfile

CITIES = ["Vienna", "Lisbon", "Oslo", "Cairo", "Lima", "Quito", "Dublin", "Prague", "Athens", "Tunis"]
FILLER = [
    "The grass by the road was long and the wind moved it slowly.",
    "A boat went down the river with a load of timber.",
    "In the evening the lamps were lit and people sat by their doors.",
    "The baker opened his shop before the sun was up.",
    "Rain fell on the hills and the streams rose a little.",
    "Two children counted the carriages that crossed the bridge.",
]


def prompt(rng, sentences, depth):
    city, code = rng.choice(CITIES), rng.randrange(10000, 99999)
    text = [rng.choice(FILLER) for _ in range(sentences)]
    text.insert(int(depth * sentences), f"The secret code of {city} is {code}.")
    return f"{' '.join(text)}\n\nWhat is the secret code of {city}? Answer with the number only.", str(code)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cachalot", default="target/release/cachalot")
    parser.add_argument("--sentences", type=int, default=280, help="about 14 tokens each")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--kv", default="f16")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng, right, lengths = random.Random(args.seed), 0, []
    for i in range(args.count):
        text, code = prompt(rng, args.sentences, (i + 0.5) / args.count)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            command = [args.cachalot, "run", "-m", args.model, "--chat", "--file", file.name, "-n", "24",
                       "--temperature", "0", "--kv", args.kv, "--json"]
            out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ok = code in out["text"]
        right += ok
        lengths.append(out["usage"]["prompt_tokens"])
        print(f"{'right' if ok else 'WRONG'}: wanted {code}, got {out['text']!r} ({lengths[-1]} tokens)")
    print(f"{right} of {args.count} at {min(lengths)} to {max(lengths)} tokens, KV {args.kv}")


if __name__ == "__main__":
    main()
