"""Windows of a text, cut by the rule that `cachalot lab quality` states, with llama.cpp's tokenizer."""

import json
import subprocess
import tempfile


def read(path):
    """The text's bytes; lines of one NUL byte are empty."""
    with open(path, "rb") as file:
        return file.read().replace(b"\n\0\n", b"\n\n")


def floor_boundary(text, at):
    """The last boundary of a UTF-8 character that is not beyond `at`."""
    at = min(at, len(text))
    while 0 < at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    return at


def windows(text, tokenize, count, tokens):
    """`count` windows of `tokens` ids, and the bytes each was cut from.

    Window `i` begins at the first paragraph after `i / count` of the text.
    """
    found = []
    for i in range(count):
        part = text[floor_boundary(text, len(text) * i // count):floor_boundary(text, len(text) * (i + 1) // count)]
        paragraph = part.find(b"\n\n")
        part = part[paragraph + 2:] if i > 0 and paragraph >= 0 else part
        # More than enough: the last tokens before a cut may be others than in the whole text.
        part = part[:floor_boundary(part, tokens * 12)]
        ids = tokenize(part)
        assert len(ids) >= tokens + 16, f"part {i + 1} of {count} is too short for {tokens} tokens"
        found.append((ids[:tokens], part))
    return found


def cachalot_ids(cachalot, model, text, *more):
    """Ids of a prompt as Cachalot's tokenizer makes them, and what it answers greedily."""
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
        file.write(text)
        file.flush()
        command = [cachalot, "run", "-m", model, "--file", file.name, "--temperature", "0", "--json", *more]
        out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return out["prompt_token_ids"], out["text"]
