"""How small exact half-float keys and values can become, from sessions of one model:

    cachalot session save -m MODEL --dir s --file learn.txt learn    # and the same for test
    python3 bench/lossless_bound.py LEARN.ckv… TEST.ckv --theta 100000 [--every 1]

Bits an element, on the last session, of coders that know more and more: the distribution of sign and exponent in each channel
(mantissas by their exponent); then what linear forecasts fitted on the other sessions take off: half the logarithm of how much
they lower the variance, which is what any coder of the remainder gains as long as it spans many mantissa steps. Needs numpy."""
import argparse, json, struct
import numpy as np

def load(path):  # keys and values [layer][head][token][channel], from docs/kv-file.md
    data = open(path, "rb").read()
    at, sides = (64 + struct.unpack_from("<I", data, 12)[0] + 63) // 64 * 64, ({}, {})
    while data[at:at + 8] == b"CKVBLOCK":
        n, start, pages, codecs, size = struct.unpack_from("<IQIIQ", data, at + 12)
        for i in range(pages if n == 64 else 0):
            layer, head, place = struct.unpack_from("<HH20xQ", data, at + 144 + 4 * n + codecs + 32 * i)
            for side, offset in ((0, 64), (1, 64 + 64 * 64 * 2)):
                page = np.frombuffer(data, np.float16, 64 * 64, at + place + offset).reshape(64, 64)
                sides[side].setdefault((layer, head), {})[start] = page.T if side == 0 else page
        at += size
    return [{lane: np.concatenate([pages[s] for s in sorted(pages)])[64:] for lane, pages in side.items()} for side in sides]

def entropy(symbols):
    p = np.bincount(symbols) / len(symbols)
    return -(p[p > 0] * np.log2(p[p > 0])).sum()

def alone(x):  # bits of sign, exponent and four bits of mantissa, then six as they are
    bits = np.ascontiguousarray(x).view(np.uint16)
    top = np.mean([entropy(bits[:, c] >> 10) for c in range(x.shape[1])])
    mantissa = 0.0
    exponents = (bits >> 10 & 31).ravel()
    for e in np.unique(exponents):
        some = (bits.ravel() >> 6 & 15)[exponents == e]
        mantissa += entropy(some) * len(some) / bits.size
    return top + mantissa + 6

def before(keys, angles):  # rotary position undone
    turn = np.arange(64, 64 + len(keys))[:, None] * angles
    a, b = keys[:, :32].astype(float), keys[:, 32:].astype(float)
    return np.concatenate([a * np.cos(turn) + b * np.sin(turn), b * np.cos(turn) - a * np.sin(turn)], 1)

def left(x, y, given_x, given_y):  # log2 of spreads a channel, mean, of y's remainder in its own components
    mean, given_mean = x.mean(0), given_x.mean(0) if given_x is not None else None
    x, y = x - mean, y - mean
    if given_x is not None:
        slopes = np.linalg.lstsq(given_x - given_mean, x, rcond=None)[0]
        x, y = x - (given_x - given_mean) @ slopes, y - (given_y - given_mean) @ slopes
    basis = np.linalg.eigh(np.cov(x.T))[1]
    return np.log2((y @ basis).std(0)).mean()

if __name__ == "__main__":
    parse = argparse.ArgumentParser()
    parse.add_argument("files", nargs="+")
    parse.add_argument("--theta", type=float, default=1e5), parse.add_argument("--every", type=int, default=1)
    args = parse.parse_args()
    angles = args.theta ** (-np.arange(32) / 32)
    (*learned, (tk, tv)) = map(load, args.files)
    rows = {}
    add = lambda name, bits: rows.setdefault(name, []).append(bits)
    layers = sorted({layer for layer, _ in tk})[::args.every]
    heads = sorted({head for _, head in tk})
    for layer in layers:
        learn = [np.concatenate([before(k[layer, h], angles) for k, _ in learned]) for h in heads]
        learn += [np.concatenate([v[layer, h].astype(float) for _, v in learned]) for h in heads]
        test = [before(tk[layer, h], angles) for h in heads] + [tv[layer, h].astype(float) for h in heads]
        own = lambda x, y: np.log2((y - x.mean(0)).std(0)).mean()
        for h in heads:
            k, v = alone(tk[layer, h]), alone(tv[layer, h])
            add("each channel alone", (k + v) / 2)
            i, j = h, h + len(heads)
            # Keys as they lie turn, so what forecasts gain is measured from what they are before that, in favour of the bound.
            base = [own(learn[i], test[i]), own(learn[j], test[j])]
            gain = left(learn[i], test[i], None, None) - base[0] + left(learn[j], test[j], learn[i], test[i]) - base[1]
            add("given the other channels of its head, keys for values", (k + v + gain) / 2)
            now = lambda x: x[1:]
            past = lambda x: np.concatenate([x[i], x[j]], 1)[:-1]
            gain = left(now(learn[i]), now(test[i]), past(learn), past(test)) - base[0]
            both = lambda x: np.concatenate([x[i][1:], past(x)], 1)
            gain += left(now(learn[j]), now(test[j]), both(learn), both(test)) - base[1]
            add("and its head's previous token", (k + v + gain) / 2)
        size = 2 * len(heads)
        wide = lambda x: np.concatenate(x, 1)
        base = np.mean([own(a, b) for a, b in zip(learn, test)])
        mean = np.mean([alone(tk[layer, h]) + alone(tv[layer, h]) for h in heads]) / 2
        add("given all heads of its layer", mean + left(wide(learn), wide(test), None, None) - base)
        gain = left(wide(learn)[1:], wide(test)[1:], wide(learn)[:-1], wide(test)[:-1]) - base
        add("and their previous token", mean + gain)
    for name, bits in rows.items():
        print(f"| {name} | {np.mean(bits):.2f} | {16 / np.mean(bits):.3f} |")
