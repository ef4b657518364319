"""Time to the first token of prompts that begin alike: cold, warm, from disk after a restart, and without reuse, through the
server; llama.cpp's prompt cache and slots beside it. Prints Markdown tables.

Every round starts new servers, measures every recipe once and then llama.cpp, so that all see the same noise; tables have
medians over rounds, and medians of ratios within a round. Prompts are token ids of a text, so that both engines get the
same. Files are pushed out of the system's page cache before anything is read from disk. Every warm answer is compared with
the cold one, at temperature 0: a difference ends the script.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import compare
from served import Server

QUESTIONS = [
    "\n\nQuestion: who is the first person that the text above speaks of, and what do they want from the others? Answer:",
    "\n\nRequest: name one place that the text above mentions, and say in a sentence what happens there. Reply:",
    "\n\nSummary: in a few plain words, for a reader in a hurry, this is what has happened so far in the story above:",
    "\n\nReview: what a critic would praise about the style of the text above, and what they would object to, is this:",
]


class Peer:
    """llama.cpp in a process of its own; see slots.py."""

    def __init__(self, args, folder):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slots.py")
        command = [sys.executable, script, args.model, str(args.threads), folder]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.version = self._answer()["version"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("llama.cpp ended")
        return json.loads(line)

    def __call__(self, do, **request):
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self):
        self.process.stdin.close()
        self.process.wait(60)


def forget(folder):
    """Pushes the files of a folder out of the system's page cache."""
    for root, _, names in os.walk(folder):
        for name in names:
            file = os.open(os.path.join(root, name), os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def same(cold, warm, what):
    """The promise: an answer has the same bits, whatever was found."""
    if cold["text"] != warm["text"]:
        raise SystemExit(f"{what}: cold {cold['text']!r}, warm {warm['text']!r}")


class Rounds:
    def __init__(self, args, folder):
        self.args, self.folder, self.compared, self.rows = args, folder, 0, []
        self.peer = Peer(args, folder)
        if args.raw:
            open(args.raw, "w").close()
        with open(args.text, encoding="utf-8", errors="replace") as file:
            text = file.read(8 * (args.rounds + 1) * (sum(args.lengths) + 1000))
        self.ids = self.peer("tokenize", text=text)["ids"]
        self.questions = [self.peer("tokenize", text=question)["ids"] for question in QUESTIONS]
        self.at = 0

    def window(self, length):
        """Text that no prompt had before."""
        self.at += length
        assert self.at <= len(self.ids), "the text is too short"
        return self.ids[self.at - length : self.at]

    def note(self, **row):
        self.rows.append(row | {"load": os.getloadavg()[0]})
        line = json.dumps(self.rows[-1])
        print(line, file=sys.stderr, flush=True)
        if self.args.raw:
            with open(self.args.raw, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def one(self, round_):
        first = self.window(256)
        windows = [(length, self.window(length)) for length in self.args.lengths]
        for kv in self.args.kv:
            folder = os.path.join(self.folder, "disk")
            with Server(self.args, "--kv", kv, "--no-kv-reuse") as without:
                without.complete(first)
                self.memory(round_, kv, first, windows, folder, without)
                forget(folder)
                self.disk(round_, kv, first, windows, folder, without)
            shutil.rmtree(folder)
        self.theirs(round_, windows)

    def memory(self, round_, kv, first, windows, folder, without):
        """Every prefix once, with one question; then two others about the longest, and the first again."""
        q = self.questions
        with Server(self.args, "--kv", kv, "--kv-disk", folder) as server:
            server.complete(first)
            for _, ids in windows:
                cold = server.complete(ids + q[0])
                assert cold["cached"] == 0
            time.sleep(2)  # What was computed is still being written.
            warm = server.complete(ids + q[1])
            again = server.complete(ids + q[2])
            same(cold, server.complete(ids + q[0]), f"{kv}, repeated")
        self.compared += 1
        if round_ == 0:
            same(without.complete(ids + q[2]), again, f"{kv}, second warm")
            self.compared += 1
        self.note(part="memory", round=round_, kv=kv, tokens=len(ids) + len(q[1]), cold=cold["seconds"],
                  warm=warm["seconds"], warm_cached=warm["cached"], again=again["seconds"],
                  again_cached=again["cached"], text=again["text"])

    def disk(self, round_, kv, first, windows, folder, without):
        """A new process on the same folder is asked something else about the same texts, and so is one without reuse."""
        names = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
        size = sum(map(os.path.getsize, names))
        with Server(self.args, "--kv", kv, "--kv-disk", folder) as server:
            server.complete(first)
            for length, ids in windows:
                found = server.complete(ids + self.questions[3])
                cold = without.complete(ids + self.questions[3])
                assert cold["cached"] == 0
                same(cold, found, f"{kv}, from disk, {length} tokens")
                self.compared += 1
                self.note(part="disk", round=round_, kv=kv, length=length, found=found["seconds"],
                          cached=found["cached"], cold=cold["seconds"], folder=size)

    def theirs(self, round_, windows):
        q = self.questions
        length, ids = windows[-1]
        cold = self.peer("cold", ids=ids + q[0])["seconds"]
        warm = self.peer("warm", ids=ids + q[1])
        again = self.peer("warm", ids=ids + q[2])
        self.note(part="memory", round=round_, kv="llama.cpp f16", tokens=length + len(q[1]), cold=cold,
                  warm=warm["seconds"], warm_cached=warm["kept"], again=again["seconds"], again_cached=again["kept"])
        size = self.peer("save", ids=ids, name="slot")["bytes"]
        forget(self.folder)
        found = self.peer("restore", ids=ids + q[3], name="slot")
        self.note(part="disk", round=round_, kv="llama.cpp f16", length=length, found=found["seconds"],
                  read=found["read"], cached=found["kept"], cold=cold, folder=size)


def tables(args, rows):
    kinds = [*args.kv, "llama.cpp f16"]
    of = lambda part, kv, **keys: [row for row in rows if row["part"] == part and row["kv"] == kv
                                   and all(row[key] == value for key, value in keys.items())]
    mid = lambda rows, what: statistics.median(row[what] for row in rows)
    share = lambda rows, what, base: 100 * statistics.median(row[what] / row[base] for row in rows)

    print(f"A prefix of {args.lengths[-1]} tokens, then a question of about 25; seconds to the first token:\n")
    print("| KV | cold | warm, first | of cold | tokens computed | warm, later | of cold | tokens computed |"
          "\n|---|---:|---:|---:|---:|---:|---:|---:|")
    for kv in kinds:
        found = of("memory", kv)
        if not found:
            continue
        cells = [f"{mid(found, 'cold'):.2f}"]
        for what in ("warm", "again"):
            computed = statistics.median(row["tokens"] - row[f"{what}_cached"] for row in found)
            cells += [f"{mid(found, what):.3f}", f"{share(found, what, 'cold'):.1f} %", f"{computed:.0f}"]
        print(f"| {kv} | {' | '.join(cells)} |")
    print("\nFrom disk, in a new process, beside computing the same prompt without reuse:\n")
    print("| KV | tokens | computed | from disk | of computed | slowest round | tokens found |"
          "\n|---|---:|---:|---:|---:|---:|---:|")
    for kv in kinds:
        for length in args.lengths:
            found = of("disk", kv, length=length)
            if not found:
                continue
            worst = 100 * max(row["found"] / row["cold"] for row in found)
            cached = sorted({row["cached"] for row in found})
            print(f"| {kv} | {length} | {mid(found, 'cold'):.2f} | {mid(found, 'found'):.3f} | "
                  f"{share(found, 'found', 'cold'):.1f} % | {worst:.1f} % | {', '.join(map(str, cached))} |")


def main():
    numbers = lambda text: [int(part) for part in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True, help="a long text; every prompt is a part of its own")
    parser.add_argument("--kv", default="f16,q4_0,cachalot-4,kivi-2", help="recipes, separated by commas")
    parser.add_argument("--lengths", type=numbers, default=[512, 1024, 2048, 4096, 6000],
                        help="tokens of prefixes; the last is the one kept in memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cachalot", default="target/release/cachalot")
    parser.add_argument("--folder", help="where disk blocks and slots go; a temporary folder if absent")
    parser.add_argument("--raw", metavar="FILE", help="write all measurements as lines of JSON")
    parser.add_argument("--tables", metavar="FILE", help="measure nothing; the tables of such a file")
    args = parser.parse_args()
    args.kv = args.kv.split(",")
    if args.tables:
        with open(args.tables, encoding="utf-8") as file:
            return tables(args, [json.loads(line) for line in file])
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rounds = Rounds(args, folder)
        for round_ in range(args.rounds):
            rounds.one(round_)
        rounds.peer.stop()
    print(f"{compare.processor()}, {args.threads} threads, medians of {args.rounds} rounds; llama-cpp-python "
          f"{rounds.peer.version}. {rounds.compared} warm answers of 16 tokens were compared with cold ones, all equal.\n")
    tables(args, rounds.rows)


if __name__ == "__main__":
    main()
