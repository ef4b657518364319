"""Checks of the training code that need no corpus: `python -m pytest test_train.py`."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import NEEDLE, STREAM, Tasks
from evaluate import prompt
from model import Calf, Config, OutputLoss
from optim import orthogonal

TOKENIZER = Path(__file__).resolve().parent.parent / "tokenizer.json"


def tasks(seed: int = 0, held_out: bool = False) -> Tasks:
    probe = Tasks(TOKENIZER, np.zeros(0, dtype=np.uint16), np.random.default_rng(0))
    sentence = " The door was open, and nobody had seen who came in that night."
    text = np.array(probe.encode(sentence) * 800, dtype=np.uint16)
    return Tasks(TOKENIZER, text, np.random.default_rng(seed), held_out)


def test_an_answer_is_the_number_of_its_needle():
    t = tasks()
    for seed in range(20):
        t.rng = np.random.default_rng(seed)
        ids, weights, kinds = t.needle_row(400, 4, 4).cut()
        assert len(ids) == 400
        text = t.tokenizer.decode(list(ids), skip_special_tokens=False)
        answers = t.tokenizer.decode([i for i, k in zip(ids, kinds) if k == NEEDLE])
        for asked in text.split("\nQuestion: What is the ")[1:]:
            about, answer = asked.split("?\nAnswer: ")
            answer = answer.split(".")[0]
            assert f"The {about} is {answer}." in text
            assert answer in answers
        assert np.all(weights[kinds == NEEDLE] == -1)


def test_tokens_of_a_row_are_those_of_its_text():
    t = tasks(3)
    for row in (t.needle_row(300, 3, 2), t.needle_row(300, 2, 2, chat=True)):
        ids = list(row.cut()[0])
        again = t.tokenizer.encode(t.tokenizer.decode(ids, skip_special_tokens=False)).ids
        assert again == ids


def test_a_seed_fixes_the_batch():
    first, second = tasks(5).batch(4, 256, 1.0), tasks(5).batch(4, 256, 1.0)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert np.array_equal(first[0][:, 1:], first[1][:, :-1])
    assert (first[2] >= 0).all() and ((first[3] == STREAM) | (first[3] == NEEDLE)).any()


def test_prompts_have_the_stated_length_and_hold_the_answer():
    t = tasks(1, held_out=True)
    for length in (256, 512):
        for chat in (False, True):
            ids, answer = prompt(t, length, 4, chat)
            assert len(ids) + len(answer) == length
            code = t.tokenizer.decode(list(answer))
            assert f"is {code}" in t.tokenizer.decode(list(ids))


def test_output_loss_has_the_gradient_of_cross_entropy():
    torch.manual_seed(0)
    hidden = torch.randn(50, 16, requires_grad=True)
    table = torch.randn(40, 16, requires_grad=True)
    target, weight = torch.randint(0, 40, (50,)), torch.rand(50)
    total, losses = OutputLoss.apply(hidden.bfloat16(), table, target, weight, 16)
    total.backward()
    ours = hidden.grad.clone(), table.grad.clone()
    hidden.grad = table.grad = None
    exact = F.cross_entropy(hidden @ table.T, target, reduction="none")
    (exact * weight).sum().backward()
    assert torch.allclose(losses, exact, atol=0.1)
    assert torch.allclose(ours[0], hidden.grad, atol=0.05) and torch.allclose(ours[1], table.grad, atol=0.05)


def test_attention_looks_only_back():
    torch.manual_seed(0)
    small = Config(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8)
    model = Calf(small)
    ids = torch.randint(0, 50, (1, 12))
    changed = ids.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 50
    a, b = model.logits(ids), model.logits(changed)
    assert torch.allclose(a[:, :8], b[:, :8], atol=1e-6) and not torch.allclose(a[:, 8:], b[:, 8:], atol=1e-3)


def test_newton_schulz_makes_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 16, 40)))
    assert values.min() > 0.4 and values.max() < 1.4
