"""Trains calf. One command, one seed:

    python train.py --corpus DIR --out DIR --minutes 110 [--init ../] [--seed 1]

DIR of --corpus holds books.txt and technical.txt. --out gets `checkpoint.pt` (model, optimizers, step, time, random
states), `log.txt` and at the end the Hugging Face folder `calf/`. The same command again goes on from the checkpoint.
The learning rate follows the share of --minutes (or of --tokens) that is spent, and so does the curriculum (short rows
dense with tasks first, 2,048 tokens and mostly text at the end), except that a stage waits until answers are found.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

import optim
from data import KINDS, NEEDLE, STREAM, Tasks, tokenize
from export import export, load_weights
from model import Calf, Config, OutputLoss, chunk_loss

HERE = Path(__file__).resolve().parent

# Stages: the share of the run before which the stage is not left, lengths of rows with their probabilities, share of
# rows with a task, divisor of the batch. A stage is left when its time is over and answers are found (LEARNT).
CURRICULUM = [
    (0.00, {128: 0.7, 256: 0.3}, 0.85, 2),
    (0.20, {128: 0.1, 256: 0.4, 512: 0.5}, 0.50, 1),
    (0.40, {256: 0.25, 512: 0.35, 1024: 0.40}, 0.45, 1),
    (0.65, {256: 0.15, 512: 0.20, 1024: 0.35, 2048: 0.30}, 0.40, 1),
    (9.00, {512: 0.20, 1024: 0.30, 2048: 0.50}, 0.40, 1),
]
LEARNT = 0.5  # nats per answer token of needles, running mean
WARMUP_STEPS = 100
DECAY_FROM = 0.30


def rate(progress: float, step: int) -> float:
    decay = 1.0 if progress < DECAY_FROM else max(0.0, (1.0 - progress) / (1.0 - DECAY_FROM))
    return min(1.0, (step + 1) / WARMUP_STEPS) * decay


def save(path: Path, state: dict) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--corpus", type=Path, required=True, help="folder with books.txt and technical.txt")
    p.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log, token cache and result")
    p.add_argument("--minutes", type=float, help="wall time to train for, over all resumptions")
    p.add_argument("--tokens", type=float, help="tokens to train for, instead of --minutes")
    p.add_argument("--tokenizer", type=Path, default=HERE.parent / "tokenizer.json")
    p.add_argument("--init", type=Path, help="Hugging Face folder to begin from instead of random weights")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--batch", type=int, default=8192, help="tokens of one step")
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=2e-3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--save-minutes", type=float, default=4.0)
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    if (a.minutes is None) == (a.tokens is None):
        p.error("give either --minutes or --tokens")
    return a


def main() -> None:
    a = arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    text = tokenize(a.tokenizer, [a.corpus / "books.txt", a.corpus / "technical.txt"], a.out / "cache")
    rng = np.random.default_rng(a.seed)
    tasks = Tasks(a.tokenizer, text, rng)

    model = Calf(Config(max_position_embeddings=2048))
    if a.init:
        load_weights(model, a.init)
    optimizers = optim.build(model, a.muon_lr, a.adam_lr)
    peak = [[g["lr"] for g in o.param_groups] for o in optimizers]
    step, tokens, elapsed, level, answer_loss = 0, 0, 0.0, 0, 3.0
    checkpoint = a.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"]):
            o.load_state_dict(s)
        step, tokens, elapsed = state["step"], state["tokens"], state["elapsed"]
        level, answer_loss = state["level"], state["answer_loss"]
        rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])

    trunk = model.model
    if not a.no_compile:
        torch._dynamo.config.recompile_limit = 32
        trunk = torch.compile(model.model, dynamic=False)
        OutputLoss.chunk = staticmethod(torch.compile(chunk_loss, dynamic=False))

    def state() -> dict:
        return dict(
            model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], step=step, tokens=tokens,
            elapsed=elapsed, level=level, answer_loss=answer_loss, numpy=rng.bit_generator.state, torch=torch.get_rng_state(),
        )

    log = (a.out / "log.txt").open("a", buffering=1)
    sums, counts = np.zeros((5, len(KINDS))), np.zeros((5, len(KINDS)))  # by length 128..2048 and kind
    last_time, last_save, last_tokens, last_report = time.monotonic(), elapsed, tokens, elapsed
    while True:
        progress = elapsed / (a.minutes * 60) if a.minutes else tokens / a.tokens
        if progress >= 1.0:
            break
        if progress >= CURRICULUM[level][0] and answer_loss < LEARNT:
            level += 1
        _, lengths, synthetic, divisor = CURRICULUM[level]
        batch = a.batch // divisor
        length = int(rng.choice(list(lengths), p=list(lengths.values())))
        inputs, targets, weights, kinds = tasks.batch(batch // length, length, synthetic)
        target = torch.from_numpy(targets.reshape(-1).copy())
        weight = torch.from_numpy(weights.reshape(-1).copy()) / batch
        hidden = trunk(torch.from_numpy(inputs.copy()))
        total, losses = OutputLoss.apply(hidden.reshape(len(target), -1), model.model.embed_tokens.weight, target, weight)
        total.backward()
        factor = rate(progress, step)
        for o, rates in zip(optimizers, peak):
            for g, r in zip(o.param_groups, rates):
                g["lr"] = r * factor
            o.step()
        model.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + batch
        flat, row = kinds.reshape(-1), int(np.log2(length)) - 7
        sums[row] += np.bincount(flat, losses.numpy(), len(KINDS))
        counts[row] += np.bincount(flat, minlength=len(KINDS))
        asked = (flat == NEEDLE) | (flat == STREAM)
        if asked.any():
            answer_loss += 0.03 * (losses.numpy()[asked].mean() - answer_loss)
        now = time.monotonic()
        elapsed, last_time = elapsed + now - last_time, now
        if step % 25 == 0:
            mean = sums.sum(0) / np.maximum(counts.sum(0), 1)
            by_kind = " ".join(f"{k} {m:.3f}" for k, m in zip(KINDS[1:], mean[1:]))
            needles = [sums[r, 2:4].sum() / max(1, counts[r, 2:4].sum()) for r in range(5)]
            by_length = " ".join(f"{2 ** (7 + r)}:{n:.2f}" for r, n in enumerate(needles) if counts[r, 2:4].sum())
            speed = (tokens - last_tokens) / (elapsed - last_report)
            log.write(
                f"step {step} stage {level} progress {progress:.3f} tokens {tokens / 1e6:.1f}M lr {factor:.2f} {speed:.0f} tok/s"
                f" | {by_kind} | needles {by_length}\n"
            )
            sums[:], counts[:] = 0, 0
            last_report, last_tokens = elapsed, tokens
        if elapsed - last_save > a.save_minutes * 60:
            save(checkpoint, state())
            last_save = elapsed
    save(checkpoint, state())
    export(model, a.out / "calf", a.tokenizer.parent)
    log.write(f"done after {step} steps, {tokens / 1e6:.1f}M tokens, {elapsed / 60:.1f} minutes\n")


if __name__ == "__main__":
    main()
