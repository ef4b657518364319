"""Measures a Hugging Face folder of calf: validation loss and retrieval accuracy.

    python evaluate.py --model .. --valid valid.txt [--trials 100] [--seed 7] [--cross-check]

Validation loss is nats per token over windows of the validation text, spread evenly over it, every token after the
first of a window counted. A retrieval prompt is validation text of exactly the stated length with
needles put in after full stops; right means that greedy decoding gives every digit of a five-digit code and then the
full stop. --cross-check loads the folder with transformers and compares logits.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import END, TURN_END, TURN_START, Row, Tasks, tokenize
from export import load_weights
from model import Calf, Config

LENGTHS = (256, 512, 1024, 2048)
CODE = 5


@torch.no_grad()
def validation_loss(model: Calf, ids: np.ndarray, window: int, tokens: int, dtype: torch.dtype) -> tuple[float, int]:
    total, count, batch = 0.0, 0, max(1, 4096 // window)
    room = len(ids) - window - 1
    starts = np.linspace(0, room, max(1, min(tokens, len(ids)) // window)).astype(int)
    for i in range(0, len(starts), batch):
        part = torch.from_numpy(np.stack([ids[s : s + window + 1] for s in starts[i : i + batch]]).astype(np.int64))
        logits = model.logits(part[:, :-1], dtype)
        total += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
        count += part[:, 1:].numel()
    return total / count, count


def prompt(tasks: Tasks, length: int, keys: int, chat: bool):
    """A prompt and its answer, prompt + answer exactly `length` tokens; the depth of the needles is uniform."""
    rng = tasks.rng
    names = tasks.city_names(keys)
    numbers = [tuple(tasks.digits[d] for d in (rng.integers(1, 10), *rng.integers(0, 10, CODE - 1))) for _ in names]
    needles = []
    for name, number in zip(names, numbers):
        needle = Row(length)
        tasks.needle("secret code", name, number, needle)
        needles.append(np.concatenate([p[0] for p in needle.parts]))
    asked = int(rng.integers(keys))
    question = f"What is the secret code of {names[asked]}?"
    if chat:
        head = (TURN_START,) + tasks.encode("user\n")
        tail = tasks.encode(f"\n{question}") + (TURN_END,) + tasks.encode("\n")
        tail += (TURN_START,) + tasks.encode("assistant\n")
    else:
        head, tail = (), tasks.encode(f"\nQuestion: {question}") + tasks.encode("\nAnswer: ")
    answer = np.array(numbers[asked] + (tasks.stop,))
    passage = tasks.passage(length - len(head) - len(tail) - len(answer) - sum(map(len, needles)))
    ends = tasks.sentence_ends(passage)
    places = np.sort(ends[rng.integers(0, len(ends), keys)])
    parts, at = [np.array(head, dtype=np.int64)], 0
    for place, needle in zip(places, needles):
        parts += [passage[at:place], needle]
        at = place
    parts += [passage[at:], np.array(tail)]
    return np.concatenate(parts), answer


@torch.no_grad()
def retrieval(model: Calf, tasks: Tasks, length: int, keys: int, trials: int, chat: bool, dtype: torch.dtype) -> float:
    """Share of prompts answered right. Greedy decoding gives the answer exactly if, with the answer in place, every
    token of it is the most probable one at its position; so one forward pass decides."""
    right, batch = 0, max(1, 8192 // length)
    for i in range(0, trials, batch):
        made = [prompt(tasks, length, keys, chat) for _ in range(min(batch, trials - i))]
        ids = torch.from_numpy(np.stack([np.concatenate(m) for m in made]).astype(np.int64))
        size = len(made[0][1])
        hidden = model.model(ids, dtype)[:, -size - 1 : -1]
        best = F.linear(hidden, model.model.embed_tokens.weight.to(dtype)).argmax(-1)
        right += int((best == ids[:, -size:]).all(1).sum())
    return right / trials


@torch.no_grad()
def cross_check(model: Calf, folder: Path, ids: torch.Tensor) -> float:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True)
    assert turn == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", turn
    assert tokenizer.encode(turn)[0] == TURN_START and END == tokenizer.bos_token_id
    return (theirs(ids).logits.float() - model.logits(ids)).abs().max().item()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=Path(__file__).resolve().parent.parent)
    p.add_argument("--valid", type=Path, required=True)
    p.add_argument("--cache", type=Path, default=Path("/tmp/calf-cache"), help="where the tokenized text is kept")
    p.add_argument("--trials", type=int, default=100)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--windows", type=int, nargs="+", default=[256, 1024, 2048])
    p.add_argument("--valid-tokens", type=int, default=200_000, help="measure the loss on about this many tokens")
    p.add_argument("--only", nargs="*", help="the titles of the rows to measure, by their beginnings; all by default")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--bf16", action="store_true", help="activations in bfloat16: faster, not what is reported")
    p.add_argument("--cross-check", action="store_true")
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    dtype = torch.bfloat16 if a.bf16 else torch.float32
    tokenizer_file = a.model / "tokenizer.json"
    config = Config.read(a.model / "config.json")
    config.max_position_embeddings = max(config.max_position_embeddings, max(LENGTHS))
    model = Calf(config).eval()
    load_weights(model, a.model)
    ids = tokenize(tokenizer_file, [a.valid], a.cache)
    began = time.time()
    result = {"trials": a.trials, "seed": a.seed, "validation_loss": {}}
    for window in a.windows:
        loss, count = validation_loss(model, ids, window, a.valid_tokens, dtype)
        result["validation_loss"][window] = loss
        print(f"validation loss {loss:.3f} nats per token (windows of {window}, {count} tokens)", flush=True)
    rows = [
        ("1 needle", 1, False, False),
        ("4 needles", 4, False, False),
        ("1 needle, city never trained on", 1, False, True),
        ("4 needles, cities never trained on", 4, False, True),
        ("1 needle, chat", 1, True, False),
        ("4 needles, chat", 4, True, False),
    ]
    print("| retrieved, of " + str(a.trials) + " | " + " | ".join(map(str, LENGTHS)) + " |")
    print("|---|" + "---|" * len(LENGTHS))
    for title, keys, chat, held_out in rows:
        if a.only and not any(title.startswith(o) for o in a.only):
            continue
        cells = []
        for length in LENGTHS:
            tasks = Tasks(tokenizer_file, ids, np.random.default_rng([a.seed, length, keys]), held_out)
            cells.append(retrieval(model, tasks, length, keys, a.trials, chat, dtype))
        result[title] = dict(zip(map(str, LENGTHS), cells))
        print(f"| {title} | " + " | ".join(f"{100 * c:.0f}%" for c in cells) + " |", flush=True)
    if a.cross_check:
        sample = torch.from_numpy(ids[:700].astype(np.int64))[None]
        difference = cross_check(model, a.model, sample)
        print(f"largest difference of logits from transformers: {difference:.1e}")
        result["cross_check"] = difference
    print(f"({time.time() - began:.0f} s)")
    if a.json:
        a.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
