"""llama.cpp's own measure: `llama-perplexity --kl-divergence` on logits of a reference that are handed to it."""

import os
import re
import subprocess
import tempfile

import numpy as np


def base_file(path, ids, logits):
    """Tokens and log probabilities of the second half of every window, sixteen bits each, as the tool reads them."""
    window, vocabulary = len(ids[0]), logits[0].shape[1]
    with open(path, "wb") as file:
        file.write(b"_logits_" + np.array([window, vocabulary, len(ids)], dtype=np.int32).tobytes())
        file.write(np.array(ids, dtype=np.int32).tobytes())
        for rows in logits:
            for row in rows[window // 2:window - 1].astype(np.float64):
                # As far as 16 below the most likely token; what is below that has the smallest.
                low = max(row.min(), row.max() - 16)
                scale = np.float32((row.max() - low) / 65535)
                norm = np.logaddexp.reduce(row)
                codes = np.clip(np.rint((row - low) / scale), 0, 65535).astype(np.uint16)
                file.write(np.array([scale, low - norm], dtype=np.float32).tobytes())
                file.write(codes.tobytes() + bytes(2 * (vocabulary % 2)))


def divergence(tool, model, ids, logits, kv, rotate, threads):
    """Mean KL, perplexities and agreement of the first tokens, over the second halves of the windows."""
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "base")
        base_file(base, ids, logits)
        command = [tool, "-m", model, "--kl-divergence", "--kl-divergence-base", base, "-c", str(len(ids[0])),
                   "-b", "512", "-ctk", kv, "-ctv", kv, "-fa", "on", "-t", str(threads)]
        environment = os.environ | {"LLAMA_ATTN_ROT_DISABLE": "0" if rotate else "1"}
        out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    text = out.stdout + out.stderr
    found = {"kl": r"Mean +KLD: +(\S+)", "reference": r"Mean PPL\(base\) +: +(\S+)",
             "perplexity": r"Mean PPL\(Q\) +: +(\S+)", "top1": r"Same top p: +(\S+)"}
    values = {name: float(re.search(pattern, text)[1]) for name, pattern in found.items()}
    return values | {"top1": values["top1"] / 100}
