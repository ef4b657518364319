"""The single needles of `cachalot lab quality`, made once more from their seed, and answered by llama.cpp.

That they are the same questions is checked: their lengths, what they expect, their token ids as `cachalot run --chat`
makes them, and that its answers are those of the laboratory.
"""

import math

import text

MASK = (1 << 64) - 1
KINDS = [
    ("The secret code of {} is {}.", "What is the secret code of {}?",
     "Vienna Lisbon Oslo Cairo Lima Havana Kyoto Toronto".split()),
    ("The ship {} carried exactly {} barrels of oil.", "How many barrels of oil did the ship {} carry?",
     "Albatross Dolphin Meridian Northwind Pelican Sirius Triton Valiant".split()),
    ("Doctor {} has the telephone number {}.", "What is the telephone number of Doctor {}?",
     "Abbott Brandt Castillo Dupont Eriksen Fischer Gallagher Horvath".split()),
    ("The painting of the {} was sold for {} dollars.", "For how many dollars was the painting of the {} sold?",
     ["blue horse", "broken bridge", "golden harp", "red tower", "sleeping fox", "white lily", "harbour", "mill"]),
    ("The bicycle of aunt {} bears the registration {}.", "Which registration does the bicycle of aunt {} bear?",
     "Agatha Bertha Clara Edith Matilda Olivia Rosalind Winifred".split()),
]
BEGINNING = ("Some facts with numbers are hidden in the following text. Remember them. You will be asked for one of "
             "the numbers afterwards.")


class Random:
    """SplitMix64, and Lemire's numbers below a bound."""

    def __init__(self, state):
        self.state = state & MASK

    @classmethod
    def of_item(cls, seed, item):
        return cls(cls(cls(seed).next() ^ item).next())

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    def below(self, bound):
        while True:
            product = self.next() * bound
            if product & MASK >= -bound % (1 << 64) % bound:
                return product >> 64


def sentences(source, tokenize, tokens, random):
    """Consecutive sentences of a random place with at least so many tokens."""
    size = tokens * 8
    begin = text.floor_boundary(source, random.below(max(len(source) - size, 0) + 1))
    end = begin + size
    while end < len(source) and source[end] & 0xC0 == 0x80:
        end += 1
    found, have, words, begun = [], 0, [], begin == 0
    for word in source[begin:end].decode().split():
        words.append(word)
        if not word.rstrip("\"')”’").endswith((".", "!", "?")) and len(words) < 40:
            continue
        if begun:
            found.append(" ".join(words))
            have += len(tokenize(f" {found[-1]}".encode()))
            if have >= tokens:
                return found
        words, begun = [], True
    raise SystemExit(f"the text has too few sentences at byte {begin}")


def pose(kept, depths, random):
    """The text with facts among its sentences, and `(question, number)` for each depth."""
    facts, questions = [], []
    for (fact, question, about), depth in zip((KINDS * len(depths))[:len(depths)], depths):
        name = about[random.below(len(about))]
        number = None
        while number is None or number in [n for _, n in questions] or any(number in s for s in kept):
            number = str(10_000 + random.below(90_000))
        facts.append((math.floor(depth * len(kept) + 0.5), fact.format(name, number)))
        questions.append((question.format(name), number))
    words = []
    for at in range(len(kept) + 1):
        words += [fact for place, fact in facts if place == at] + kept[at:at + 1]
    return " ".join(words), questions


def cases(source, tokenize, prompt, tokens, count, share, seed):
    """`(message, ids, number)` of each question; `prompt` makes ids of a user's message."""
    found, texts = [], -(-count // share)
    for index in range(texts):
        random = Random.of_item(seed, index)
        filler = sentences(source, tokenize, tokens, random)
        depths = [(i + 0.5) / count for i in range(index, count, texts)]
        # As many sentences as fit.
        fits, fails, best = 0, len(filler) + 1, None
        while fails - fits > 1 or best is None:
            keep = (fits + fails) // 2
            body, questions = pose(filler[:keep], depths, Random(random.state))
            asked = [f"{question} Answer with the number only." for question, _ in questions]
            messages = [f"{BEGINNING}\n\n{body}\n\n{question}" for question in asked]
            ids = [prompt(message) for message in messages]
            if max(map(len, ids)) <= tokens:
                fits, best = keep, (messages, ids, questions)
            else:
                assert keep > 0, f"a prompt has more than {tokens} tokens without any text"
                fails = keep
        messages, ids, questions = best
        found += [(message, one, number) for message, one, (_, number) in zip(messages, ids, questions)]
    return found
