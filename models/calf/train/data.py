"""Training text as tokens, and the synthetic long-context tasks made from it on the fly.

A row is `length + 1` token ids with, for every id, the weight of its prediction in the loss and a kind (see KINDS).
The text around a needle is corpus text and is trained on as text; what cannot be predicted (the digits of a needle,
the keys of a table) has weight zero; answers weigh more, the more so the fewer of them a row holds.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from names import CITIES, FIRST_NAMES, HELD_OUT_CITIES

KINDS = ("none", "text", "needle", "stream", "table", "repeat", "chat")
NONE, TEXT, NEEDLE, STREAM, TABLE, REPEAT, CHAT = range(len(KINDS))
END, TURN_START, TURN_END = 0, 1, 2
TEMPLATE_WEIGHT = 0.1
FIRST_ORDINARY = 3


def documents(path: Path):
    """The documents of one corpus file: they are separated by a line that holds one NUL."""
    for document in path.read_text(encoding="utf-8").split("\n\0\n"):
        document = document.strip("\0\n")
        if document:
            yield document


def pieces(document: str, size: int = 60_000):
    """Cut a document between the two newlines of a blank line, where the pre-tokenizer cuts anyway."""
    start = 0
    while start < len(document):
        end = document.find("\n\n", start + size)
        end = len(document) if end < 0 else end + 1
        yield document[start:end]
        start = end


def tokenize(tokenizer_file: Path, files: list[Path], cache: Path) -> np.ndarray:
    """All documents of `files` as uint16 ids, each followed by <|endoftext|>; kept in `cache` and mapped from there."""
    key = hashlib.sha256(tokenizer_file.read_bytes())
    for file in files:
        key.update(f"{file.name} {file.stat().st_size}".encode())
    target = cache / f"tokens-{key.hexdigest()[:16]}.u16"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        partial = target.with_suffix(".partial")
        with partial.open("wb") as out:
            for file in files:
                for document in documents(file):
                    for encoding in tokenizer.encode_batch_fast(list(pieces(document)), add_special_tokens=False):
                        out.write(np.array(encoding.ids, dtype=np.uint16).tobytes())
                    out.write(np.array([END], dtype=np.uint16).tobytes())
        partial.rename(target)
    return np.memmap(target, dtype=np.uint16, mode="r")


class Tasks:
    """Builds rows. Everything random comes from the generator handed in, so a seed fixes the data."""

    def __init__(self, tokenizer_file: Path, text: np.ndarray, rng: np.random.Generator, held_out: bool = False):
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self.text = text
        self.rng = rng
        vocab = self.tokenizer.get_vocab()
        self.vocab_size = len(vocab)
        self.digits = [vocab[str(d)] for d in range(10)]
        self.stop = vocab["."]
        spaced = np.zeros(self.vocab_size, dtype=bool)
        for token, index in vocab.items():
            spaced[index] = token[0] in "\u0120\u010a"
        self.opens = spaced  # tokens that begin with a space or a newline
        self.cities = HELD_OUT_CITIES if held_out else CITIES
        self.encode = functools.lru_cache(maxsize=200_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    # ---- pieces ----

    def names(self, count: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            draw = self.rng.random()
            if draw < 0.5:
                name = self.cities[self.rng.integers(len(self.cities))]
            elif draw < 0.65:
                name = FIRST_NAMES[self.rng.integers(len(FIRST_NAMES))]
            else:
                name = self.made_up_name()
            found[name] = None
        return list(found)

    def city_names(self, count: int) -> list[str]:
        return [self.cities[i] for i in self.rng.permutation(len(self.cities))[:count]]

    def made_up_name(self) -> str:
        def pick(letters):
            return letters[self.rng.integers(len(letters))]

        syllables = "".join(pick("bcdfghklmnprstvz") + pick("aeiou") for _ in range(self.rng.integers(2, 4)))
        return (syllables + pick(["", "", "n", "s", "r", "l"])).capitalize()

    def number(self) -> tuple[int, ...]:
        count = 5 if self.rng.random() < 0.7 else int(self.rng.integers(2, 8))
        return (self.digits[self.rng.integers(1, 10)],) + tuple(
            self.digits[d] for d in self.rng.integers(0, 10, count - 1)
        )

    def passage(self, length: int) -> np.ndarray:
        """Corpus text of exactly `length` tokens that begins after a full stop where one is near."""
        if length <= 0:
            return np.zeros(0, dtype=np.int64)
        start = int(self.rng.integers(0, len(self.text) - length - 200))
        stops = np.flatnonzero(self.text[start : start + 150] == self.stop)
        if len(stops):
            start += int(stops[0]) + 1
        return self.text[start : start + length].astype(np.int64)

    def sentence_ends(self, passage: np.ndarray) -> np.ndarray:
        """Positions where something may be put in: after a full stop that a space or a newline follows."""
        if len(passage) < 2:
            return np.array([0])
        ends = np.flatnonzero((passage[:-1] == self.stop) & self.opens[passage[1:]]) + 1
        return np.concatenate([[0], ends])

    def needle(self, thing: str, name: str, number, row: "Row", space: bool = True) -> None:
        row.add(self.encode(f"{' ' if space else ''}The {thing} of {name} is "), TEMPLATE_WEIGHT, NONE)
        row.add(number, 0.0, NONE)
        row.add((self.stop,), TEMPLATE_WEIGHT, NONE)

    def question(self, thing: str, name: str, number, row: "Row", kind: int, direct: bool = False) -> None:
        if direct:
            row.add(self.encode(f"\nThe {thing} of {name} is "), TEMPLATE_WEIGHT, NONE)
        else:
            row.add(self.encode(f"\nQuestion: What is the {thing} of {name}?"), TEMPLATE_WEIGHT, NONE)
            row.add(self.encode("\nAnswer: "), TEMPLATE_WEIGHT, NONE)
        row.add(number, -1.0, kind)
        row.add((self.stop,), 1.0, NONE)

    def thing(self) -> str:
        if self.rng.random() < 0.7:
            return "secret code"
        return ("lucky number", "door code", "phone number", "secret number", "password")[self.rng.integers(5)]

    # ---- rows ----

    def text_row(self, size: int) -> "Row":
        row = Row(size)
        row.add(self.text_at(size), 1.0, TEXT)
        return row

    def text_at(self, size: int) -> np.ndarray:
        start = int(self.rng.integers(0, len(self.text) - size))
        return self.text[start : start + size].astype(np.int64)

    def needle_row(self, size: int, keys: int, questions: int, chat: bool = False) -> "Row":
        """Needles scattered in text, then questions about them."""
        thing = self.thing()
        names = self.names(keys)
        numbers = [self.number() for _ in names]
        order = [int(i) for i in self.rng.permutation(keys)][:questions]
        direct = self.rng.random() < 0.15
        needles, tail = [], Row(size)
        for name, number in zip(names, numbers):
            needle = Row(size)
            self.needle(thing, name, number, needle, space=True)
            needles.append(needle)
        if chat:
            for turn, i in enumerate(order):
                if turn:
                    tail.add((TURN_START,) + self.encode("user\n"), TEMPLATE_WEIGHT, NONE)
                else:
                    tail.add(self.encode("\n"), TEMPLATE_WEIGHT, NONE)
                lead = "Question: " if self.rng.random() < 0.5 else ""
                tail.add(self.encode(f"{lead}What is the {thing} of {names[i]}?"), TEMPLATE_WEIGHT, NONE)
                tail.add((TURN_END,) + self.encode("\n"), TEMPLATE_WEIGHT, NONE)
                tail.add((TURN_START,) + self.encode("assistant\n"), TEMPLATE_WEIGHT, NONE)
                tail.add(numbers[i], -1.0, CHAT)
                tail.add((self.stop, TURN_END), 1.0, NONE)
                tail.add(self.encode("\n"), TEMPLATE_WEIGHT, NONE)
            head = (TURN_START,) + self.encode("user\n")
        else:
            for i in order:
                self.question(thing, names[i], numbers[i], tail, NEEDLE, direct)
            tail.add((END,), 1.0, NONE)
            head = ()
        room = size - len(head) - tail.used - sum(n.used for n in needles)
        if room < 0 and keys > 1:  # too many for this length: ask less
            return self.needle_row(size, max(1, keys - 1), max(1, min(questions, keys - 1)), chat)
        passage = self.passage(room)
        ends = self.sentence_ends(passage)
        places = np.sort(ends[self.rng.integers(0, len(ends), len(needles))])
        row = Row(size)
        row.add(head, TEMPLATE_WEIGHT, NONE)
        at = 0
        for place, needle in zip(places, needles):
            row.add(passage[at:place], 1.0, TEXT)
            row.join(needle)
            at = place
        row.add(passage[at:], 1.0, TEXT)
        row.join(tail)
        return row

    def stream_row(self, size: int, gap: int) -> "Row":
        """Text in which needles and questions about any earlier needle alternate all the way: dense supervision."""
        row, known, thing = Row(size), {}, self.thing()
        while row.used < size:
            passage = self.passage(int(self.rng.integers(0, 2 * gap + 1)))
            row.add(passage, 1.0, TEXT)
            if not known or self.rng.random() < 0.4:
                name = self.names(1)[0]
                if name not in known:
                    known[name] = self.number()
                    self.needle(thing, name, known[name], row)
            else:
                name = list(known)[self.rng.integers(len(known))]
                self.question(thing, name, known[name], row, STREAM, self.rng.random() < 0.15)
                row.add(self.encode("\n"), TEMPLATE_WEIGHT, NONE)
        return row

    def table_row(self, size: int, pairs: int) -> "Row":
        """Lines of key and value, some text, then the same lines in another order."""
        row = Row(size)
        while row.used < size:
            names = self.names(pairs)
            if self.rng.random() < 0.3:
                values = [tuple(self.encode(" " + v)) for v in self.names(pairs)]
            else:
                values = [self.encode(" ") + self.number() for _ in names]
            block = Row(size)
            for name, value in zip(names, values):
                block.add(self.encode(name + ":"), 0.0, NONE)
                block.add(value, 0.0, NONE)
                block.add(self.encode("\n"), TEMPLATE_WEIGHT, NONE)
            rest = size - row.used - 2 * block.used
            row.join(block)
            if rest > 0 and self.rng.random() < 0.5:
                row.add(self.passage(int(self.rng.integers(0, rest + 1))), 1.0, TEXT)
                row.add(self.encode("\n"), TEMPLATE_WEIGHT, NONE)
            for i in self.rng.permutation(pairs):
                row.add(self.encode(names[i] + ":"), 0.0, NONE)
                row.add(values[i], -1.0, TABLE)
                row.add(self.encode("\n"), TEMPLATE_WEIGHT, NONE)
        return row

    def repeat_row(self, size: int, span: int) -> "Row":
        """A span, something else, the span again: tokens drawn at random (nothing but copying helps) or text."""
        row = Row(size)
        while row.used < size:
            length = int(self.rng.integers(span // 2, span + 1))
            random = self.rng.random() < 0.6
            if random:
                tokens = self.rng.integers(FIRST_ORDINARY, self.vocab_size, length)
            else:
                tokens = self.passage(length)
            row.add(tokens, 0.0 if random else 1.0, NONE if random else TEXT)
            if self.rng.random() < 0.5:
                row.add(self.passage(int(self.rng.integers(0, span + 1))), 1.0, TEXT)
            row.add(self.encode("\n"), 0.0, NONE)
            skip = int(self.rng.integers(0, max(1, length // 2)))
            row.add(tokens[skip : skip + 2], 0.0, NONE)
            row.add(tokens[skip + 2 :], -1.0, REPEAT)
        return row

    def row(self, size: int, synthetic: float) -> "Row":
        """One training row; `synthetic` is the share of rows that carry a task."""
        rng = self.rng
        if rng.random() >= synthetic:
            return self.text_row(size)
        draw = rng.random()
        most = max(1, min(24, size // 60))
        if size < 300:  # short rows are there to teach copying: dense with questions
            draw = 0.4 + 0.75 * draw if draw < 0.8 else draw - 0.8
        if draw < 0.30:
            keys = int(rng.integers(1, most + 1)) if rng.random() < 0.5 else int(rng.integers(1, min(most, 5) + 1))
            return self.needle_row(size, keys, int(rng.integers(1, keys + 1)))
        if draw < 0.40:
            keys = int(rng.integers(1, min(most, 6) + 1))
            return self.needle_row(size, keys, int(rng.integers(1, keys + 1)), chat=True)
        if draw < 0.70:
            return self.stream_row(size, gap=int(rng.integers(0, 7 if size < 300 else 60)))
        if draw < 0.85:
            return self.table_row(size, pairs=int(rng.integers(2, 3 + min(30, size // 32))))
        return self.repeat_row(size, span=int(rng.integers(8, 9 + min(400, size // 4))))

    def batch(self, rows: int, length: int, synthetic: float, answer_share: float = 0.25):
        """Arrays [rows][length]: inputs, targets, weights of the targets, kinds of the targets."""
        ids, weights, kinds = [], [], []
        for _ in range(rows):
            row = self.row(length + 1, synthetic).cut()
            ids.append(row[0])
            kinds.append(row[2])
            answers = row[1] < 0
            weight = row[1].copy()
            if answers.any():
                # Few answers in a long row weigh more each, within bounds.
                weight[answers] = np.clip(answer_share * length / answers.sum(), 1.0, 6.0)
            weights.append(weight)
        ids, weights, kinds = np.stack(ids), np.stack(weights), np.stack(kinds)
        return ids[:, :-1], ids[:, 1:], weights[:, 1:], kinds[:, 1:]


class Row:
    """Ids with weights (-1 marks an answer) and kinds, collected up to a size."""

    def __init__(self, size: int):
        self.size, self.used, self.parts = size, 0, []

    def add(self, ids, weight: float, kind: int) -> None:
        count = len(ids)
        if count:
            self.parts.append((np.asarray(ids, dtype=np.int64), weight, kind))
            self.used += count

    def join(self, other: "Row") -> None:
        self.parts.extend(other.parts)
        self.used += other.used

    def cut(self):
        ids = np.concatenate([p[0] for p in self.parts])[: self.size]
        weights = np.concatenate([np.full(len(p[0]), p[1], np.float32) for p in self.parts])[: self.size]
        kinds = np.concatenate([np.full(len(p[0]), p[2], np.int64) for p in self.parts])[: self.size]
        return ids, weights, kinds
