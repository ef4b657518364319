"""What is measured of two sets of logits, in f64, from the definitions."""

import numpy as np


def log_softmax(logits):
    """Of every row, by numpy's own sum of exponentials."""
    wide = logits.astype(np.float64)
    return wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)


def against(reference, other, following):
    """Of every row: KL(reference ‖ other), nll of the reference, nll of the other, whether the first tokens agree."""
    rows = []
    for at in range(0, len(following), 64):
        p, q = log_softmax(reference[at:at + 64]), log_softmax(other[at:at + 64])
        token = np.asarray(following[at:at + 64])[:, None]
        kl = (np.exp(p) * (p - q)).sum(axis=-1)
        nll = [-np.take_along_axis(x, token, axis=-1)[:, 0] for x in (p, q)]
        rows.append(np.stack([kl, *nll, p.argmax(axis=-1) == q.argmax(axis=-1)], axis=-1))
    return np.concatenate(rows)


def summary(rows):
    """Mean KL, both perplexities, agreement of the most likely tokens."""
    kl, reference, other, same = rows.mean(axis=0)
    return {"kl": kl, "reference": np.exp(reference), "perplexity": np.exp(other), "top1": same}
