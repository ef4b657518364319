"""Perplexity, divergence and needles of `cachalot lab quality` beside llama.cpp's, on the same tokens.

Parts, each a table: `types`, what users of both get; `floor`, how much noise there is; `pages`, llama.cpp's cache
written by Cachalot's rule, so that both compute the same; `steps`, from the one to the other; `formula`, the
definitions in f64 beside llama.cpp's own tool, on llama.cpp's logits; `needles`, the same prompts.
"""

import argparse
import os
import sys
import tempfile

import measures
import needles
import numpy as np
import ours
import text
import tool
from peer import Pages, Peer

BOUND = 0.005


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--text", required=True)
    parser.add_argument("--cachalot", default="target/release/cachalot")
    parser.add_argument("--decoded", metavar="FILE", default="decoded-f32.gguf",
                        help="a copy of the model with weights in f32, written where it is not there")
    parser.add_argument("--parts", default="types,floor,pages,steps,needles",
                        help="of types, floor, pages, steps, formula, needles")
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--question-tokens", default="1500,3500")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--perplexity-tool", metavar="FILE", help="llama-perplexity, for the part `formula`")
    args = parser.parse_args()
    if not os.path.exists(args.decoded):
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
        import parity

        parity.decoded(args.model, args.decoded)
    Check(args).run(args.parts.split(","))


class Check:
    def __init__(self, args):
        import llama_cpp

        self.args = args
        vocabulary = llama_cpp.Llama(args.model, vocab_only=True, verbose=False)
        self.template = vocabulary.metadata["tokenizer.chat_template"]
        self.encode = lambda part, special=False: vocabulary.tokenize(part, add_bos=False, special=special)
        self.source = text.read(args.text)
        cut = text.windows(self.source, self.encode, args.windows, args.window)
        self.ids = [ids for ids, _ in cut]
        for ids, part in cut:
            got, _ = text.cachalot_ids(args.cachalot, args.model, part, "-n", "1", "--ignore-eos")
            assert got[:len(ids)] == ids, "the tokenizers differ"
        print(f"{args.windows} windows of {args.window} tokens; token ids are the same in both.")

    def run(self, parts):
        for part in parts:
            getattr(self, part)()

    def logits(self, model, kv, **more):
        """Of every window, without the last row, which predicts nothing."""
        peer = Peer(model, kv, self.args.window, threads=self.args.threads, **more)
        try:
            return [peer.logits(ids)[:-1].copy() for ids in self.ids]
        finally:
            peer.close()

    def theirs(self, reference, model, kv, **more):
        other = self.logits(model, kv, **more)
        rows = [measures.against(p, q, ids[1:]) for p, q, ids in zip(reference, other, self.ids)]
        return measures.summary(np.concatenate(rows))

    def ours(self, recipes, reference, *more):
        args = self.args
        found = ours.windows(args.cachalot, args.model, args.text, args.window, args.windows, recipes, reference,
                             "--threads", str(args.threads), *more)
        return [ours.summary(blocks) for blocks in found]

    def types(self):
        """The cache types of both, on the file as it is and on its weights in f32."""
        kinds = [("q8_0", False), ("q4_0", False), ("q8_0", True), ("q4_0", True)]
        for weights, model, more in [("as in the file", self.args.model, []),
                                     ("in f32", self.args.decoded, ["--exact-weights"])]:
            with tempfile.TemporaryDirectory() as folder:
                recipes = [ours.recipe(folder, f"kv{i}", *kind) for i, kind in enumerate(kinds)]
                found = self.ours(recipes, "f16", *more)
            heading(f"Weights {weights}, against f16")
            reference = self.logits(model, "f16")
            row("f16", None, None, found[0]["reference"], self.perplexity(reference))
            for kind, mine in zip(kinds, found):
                theirs = self.theirs(reference, model, kind[0], rotate=kind[1])
                row(name(kind), mine, theirs, mine["perplexity"], theirs["perplexity"])

    def pages(self):
        """The same rule in both: a page is written when it is full, and read exactly until then."""
        kinds = [(format, False, last) for last in (1, 4, None) for format in ("q8_0", "q4_0")] + [("q4_0", True, None)]
        with tempfile.TemporaryDirectory() as folder:
            recipes = [ours.recipe(folder, f"kv{i}", format, rotate, "f32", f"-{last}.." if last else "all")
                       for i, (format, rotate, last) in enumerate(kinds)]
            f16, *found = self.ours(["f16", *recipes], "f32", "--exact-weights")
            # The same but for the rounding of what is not yet written: what a difference of 2^-12 grows to.
            other = ours.recipe(folder, "other", "q4_0")
            grown, = self.ours([other], recipes[kinds.index(("q4_0", False, None))], "--exact-weights")
        heading("Weights in f32, llama.cpp's cache written by our rule, against f32")
        model = self.args.decoded
        reference = self.logits(model, "f32")
        row("f32", None, None, found[0]["reference"], self.perplexity(reference))
        theirs = self.theirs(reference, model, "f16")
        row("f16", f16, theirs, f16["perplexity"], theirs["perplexity"])
        for kind, mine in zip(kinds, found):
            pages = Pages(kind[0], rotate=kind[1], last=kind[2])
            theirs = self.theirs(reference, model, "f32", pages=pages)
            which = f"last {kind[2]} of the layers" if kind[2] else "all layers"
            row(f"{name(kind)}, {which}", mine, theirs, mine["perplexity"], theirs["perplexity"])
        print(f"\nOurs with q4_0, the open page in f16, against ours with it in f32: KL {grown['kl']:.5f}, "
              f"perplexity ratio {grown['perplexity'] / grown['reference']:.5f}, top-1 {100 * grown['top1']:.2f}%")

    def floor(self):
        """What the least of all changes of the cache, f32 for f16, makes of the logits."""
        for weights, model, more in [("as in the file", self.args.model, []),
                                     ("in f32", self.args.decoded, ["--exact-weights"])]:
            mine, = self.ours(["f32"], "f16", *more)
            heading(f"Weights {weights}, against f16")
            theirs = self.theirs(self.logits(model, "f16"), model, "f32")
            row("f32", mine, theirs, mine["perplexity"], theirs["perplexity"])

    def steps(self):
        """From llama.cpp's q4_0 to ours, one difference at a time, all in llama.cpp."""
        model = self.args.decoded
        reference = self.logits(model, "f32")
        print("\n| llama.cpp, weights in f32, against f32 | KL | perplexity | top-1 % |\n|---|---:|---:|---:|")
        for what, kv, more in [
            ("its q4_0, without rotation", "q4_0", {}),
            ("queries not rounded, a token exact for itself", "f32", {"pages": Pages("q4_0", tokens=1, halves=False)}),
            ("pages of 64, exact until full", "f32", {"pages": Pages("q4_0", halves=False)}),
            ("channels of keys in the order of halves: our rule", "f32", {"pages": Pages("q4_0")}),
        ]:
            theirs = self.theirs(reference, model, kv, **more)
            cells = f"{theirs['kl']:.5f} | {theirs['perplexity']:.4f} | {100 * theirs['top1']:.2f}"
            print(f"| {what} | {cells} |", flush=True)

    def formula(self):
        """llama.cpp's logits by our definition and by its own tool, over the second halves of the windows."""
        args = self.args
        reference = self.logits(args.model, "f16")
        half = args.window // 2
        print("\n| llama.cpp's logits, second halves | KL, f64 | KL, its tool | ratio | perplexity, f64 | its tool "
              "| ratio |\n|---|---:|---:|---:|---:|---:|---:|")
        for kind in [("q8_0", False), ("q4_0", False), ("q4_0", True)]:
            other = self.logits(args.model, kind[0], rotate=kind[1])
            rows = [measures.against(p[half:], q[half:], ids[half + 1:])
                    for p, q, ids in zip(reference, other, self.ids)]
            f64 = measures.summary(np.concatenate(rows))
            its = tool.divergence(args.perplexity_tool, args.model, self.ids, reference, *kind, args.threads)
            cells = [cell for key in ("kl", "perplexity")
                     for cell in (f"{f64[key]:.6f}", f"{its[key]:.6f}", f"{f64[key] / its[key]:.5f}")]
            print(f"| {name(kind)} | {' | '.join(cells)} |", flush=True)

    def needles(self):
        """Right or wrong, question by question, under f16."""
        import jinja2

        template, args = jinja2.Template(self.template), self.args

        def prompt(message):
            messages = [{"role": "user", "content": message}]
            return self.encode(template.render(messages=messages, add_generation_prompt=True).encode(), special=True)

        print("\n| tokens | ours, right | llama.cpp, right | the same verdict | the same answer |\n"
              "|---:|---:|---:|---:|---:|")
        differ = []
        for tokens in map(int, args.question_tokens.split(",")):
            cases = needles.cases(self.source, self.encode, prompt, tokens, args.questions, 5, 1)
            found = ours.lines(args.cachalot, args.model, args.text, "--windows", "0", "--recipes", "f32",
                               "--questions", str(args.questions), "--question-tokens", str(tokens),
                               "--threads", str(args.threads))
            lab = [answer for line in found if line["kind"] == "record" and line["recipe"] == "f16"
                   for answer in line["answers"]]
            assert [(line["prompt_tokens"], line["expected"]) for line in lab] == [(len(i), [n]) for _, i, n in cases]
            peer = Peer(args.model, "f16", tokens + 32, threads=args.threads, every=False)
            verdicts, same = [], 0
            for at, (line, (message, ids, number)) in enumerate(zip(lab, cases)):
                got, again = text.cachalot_ids(args.cachalot, args.model, message.encode(), "--chat", "-n", "24")
                assert got == ids and again == line["answer"], "not the laboratory's prompt"
                theirs = peer.llm.detokenize(peer.answer(ids, 24)).decode(errors="replace").strip()
                verdicts.append((line["score"] == 1, number in theirs))
                same += theirs == line["answer"].strip()
                if verdicts[-1][0] != verdicts[-1][1]:
                    differ.append(f"{tokens} tokens, question {at + 1}, wanted {number}: ours {line['answer']!r}, "
                                  f"llama.cpp {theirs!r}")
            peer.close()
            right = [sum(side) for side in zip(*verdicts)]
            agree = sum(a == b for a, b in verdicts)
            print(f"| {tokens} | {right[0]}/{len(lab)} | {right[1]}/{len(lab)} | {agree} | {same} |", flush=True)
        print("\n" + ("\n".join(differ) or "No verdict differs."))

    def perplexity(self, logits):
        rows = [measures.against(rows, rows, ids[1:]) for rows, ids in zip(logits, self.ids)]
        return measures.summary(np.concatenate(rows))["perplexity"]


def name(kind):
    return f"{kind[0]}, rotated" if kind[1] else kind[0]


def heading(what):
    print(f"\n{what}:\n\n| KV | perplexity, ours | llama.cpp | ratio | within 0.5% | KL, ours | llama.cpp | ratio "
          "| within 0.5% | top-1 %, ours | llama.cpp |\n|---|---:|---:|---:|---|---:|---:|---:|---|---:|---:|")


def row(what, mine, theirs, my_perplexity, their_perplexity):
    def compared(a, b, digits):
        return f"{a:.{digits}} | {b:.{digits}} | {a / b:.4f} | {'yes' if abs(a / b - 1) <= BOUND else 'no'}"

    tail = "– | – | – | – | – | –"
    if mine:
        tail = f"{compared(mine['kl'], theirs['kl'], 4)} | {100 * mine['top1']:.2f} | {100 * theirs['top1']:.2f}"
    print(f"| {what} | {compared(my_perplexity, their_perplexity, 7)} | {tail} |", flush=True)


if __name__ == "__main__":
    main()
