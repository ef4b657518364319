"""Documents in another order, messages between agents, and a text edited in its middle, through the server: time to the first token, divergence from the
exact cache, and whether answers are right. Prints Markdown tables.

A trial has documents of its own, each with a sentence that no other has. They are read once, in one order or each by itself; then
asked for in another order, with one more that is new, once with each method. Divergence is what the server reports of its own answer
(`"kv": {"report": true}`): the mean KL of its tokens' distributions from those of a cache that is computed whole.

Agents have texts of their own. Each message is read by the first of them as ever, and then by the others with the method; what counts are
prompts that something was moved in.
"""

import argparse
import http.client
import json
import random
import re
import statistics
import tempfile

from served import Server

METHODS = ["pie", "cacheblend(share=0.05)", "cacheblend", "cacheblend(share=0.3)", "cacheblend-gradual", "kvshare",
           "kvshare(share=0.15, every=4, rows=16)", "cacheblend(share=1)", "cache-craft", "cache-craft(alpha=0.5)",
           "ape", "ape(temperature=1, scale=1)", "exact"]
AGENTS = ["pie", "cacheblend", "kvcomm", "exact"]
CITIES = ["Vienna", "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Seoul", "Tunis", "Accra", "Dakar", "Sofia", "Hanoi"]
# A sentence for a document, and the question for its number. Of different kinds: a small model that is asked for one of seven
# codes names any of them, whatever its cache.
FACTS = [("The secret code of Vienna is {}.", "What is the secret code of Vienna?"),
         ("The ship Albatross carried exactly {} barrels of oil.", "How many barrels of oil did the ship Albatross carry?"),
         ("Doctor Castillo has the telephone number {}.", "What is the telephone number of Doctor Castillo?"),
         ("The painting of the blue horse was sold for {} dollars.",
          "For how many dollars was the painting of the blue horse sold?"),
         ("The bicycle of aunt Matilda bears the registration {}.",
          "Which registration does the bicycle of aunt Matilda bear?"),
         ("The library of Ravenna owns {} books.", "How many books does the library of Ravenna own?"),
         ("The tunnel under the mountain is {} feet long.", "How many feet long is the tunnel under the mountain?"),
         ("The old lighthouse was built of {} stones.", "Of how many stones was the old lighthouse built?")]


def post(server, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=1200)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    if response.status != 200:
        raise RuntimeError(answer)
    return answer


class Texts:
    """Stretches of a text that were not used before, with a sentence in their middle."""

    def __init__(self, path, seed):
        with open(path, encoding="utf-8", errors="replace") as file:
            self.text = file.read(40_000_000)
        self.random = random.Random(seed)

    def document(self, words, sentence):
        at = self.random.randrange(len(self.text) - 20 * words)
        taken = self.text[at:at + 20 * words].split()[1:words + 1]
        middle = self.random.randrange(words // 4, 3 * words // 4)
        return " ".join(taken[:middle] + [sentence] + taken[middle:])

    def code(self):
        return str(self.random.randrange(10_000, 100_000))


def chat(server, documents, question, kv, tokens):
    parts = [{"type": "text", "text": "Some facts with numbers are hidden in these documents. Remember them. You will be asked for one of "
                                      "the numbers afterwards."}]
    for document in documents:
        parts += [{"type": "text", "text": "\n\nDocument:\n"}, {"type": "text", "text": document, "cache": "chunk"}]
    parts.append({"type": "text", "text": f"\n\n{question}"})
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": tokens, "kv": kv}
    return post(server, "/v1/chat/completions", body)


def result(answer, code):
    details = answer["usage"]["prompt_tokens_details"]
    report = answer.get("kv", {}).get("report", {})
    return {"seconds": answer["timings"]["time_to_first_token_ms"] / 1e3, "tokens": answer["usage"]["prompt_tokens"],
            "moved": details.get("kv_moved_tokens", 0), "again": details.get("kv_recomputed_tokens", 0), "right": code in answer["choices"][0]["message"]["content"],
            "report": report}


def rag(server, args, texts):
    rows = {method: [] for method in args.methods}
    for trial in range(args.trials):
        facts = texts.random.sample(FACTS, args.documents + 1)
        codes = [texts.code() for _ in facts]
        sentences = [fact.format(code) for (fact, _), code in zip(facts, codes)]
        known = [texts.document(args.words, sentence) for sentence in sentences[:-1]]
        for read in [[document] for document in known] if args.apart else [known]:
            # Computed whole, since nobody had them before; seen how they depend on each other.
            chat(server, read, "Say hello.", {"reuse": "cache-craft"}, 1)
        order = list(range(args.documents))
        while order == sorted(order):
            texts.random.shuffle(order)
        place = texts.random.randrange(args.documents + 1)
        asked = texts.random.sample(range(args.documents + (not args.known)), args.asked)
        for method in args.methods:
            # Of its own, or the next method would find it.
            documents = [known[i] for i in order]
            if not args.known:
                documents.insert(place, texts.document(args.words, sentences[-1]))
            for number, fact in enumerate(asked):
                # Time and divergence are of the first question: the others may find what it left.
                kv = {"reuse": method, **({"report": {"share": 1}} if number == 0 and args.report else {})}
                question = f"{facts[fact][1]} Answer with the number only."
                row = result(chat(server, documents, question, kv, args.answer), codes[fact])
                if number == 0:
                    rows[method].append({**row, "asked": 0, "right": 0})
                rows[method][-1]["asked"] += 1
                rows[method][-1]["right"] += row["right"]
            print(json.dumps({"trial": trial, "method": method, **rows[method][-1]}), flush=True)
    return rows


def agents(server, args, texts):
    rows = {method: [] for method in args.agents}
    texts_of = [texts.document(args.words // 4, "") for _ in range(args.several)]
    said = [texts.document(texts.random.randrange(args.words // 8, args.words // 4), "") for _ in range(args.messages)]
    for method in args.agents:
        # Beginnings of their own, or what the method before left would be found.
        own = [f"{texts.code()}. {text}" for text in texts_of]
        for number, message in enumerate(said):
            for agent, text in enumerate(own):
                parts = [{"type": "text", "text": "Another agent sends you this message.\n\nMessage:\n"},
                         {"type": "text", "text": message, "cache": "chunk"},
                         {"type": "text", "text": "\n\nThe message ends here. Say in one sentence what it is about and what you "
                                                  "would answer to the agent who sent it to you."}]
                messages = [{"role": "system", "content": text}, {"role": "user", "content": parts}]
                reuse = method if agent > 0 else "exact"
                body = {"messages": messages, "temperature": 0, "max_tokens": args.answer,
                        "kv": {"reuse": reuse, "report": {"share": 1}}}
                row = result(post(server, "/v1/chat/completions", body), "")
                if agent > 0:
                    rows[method].append(row)
                    print(json.dumps({"agents": method, "message": number, "agent": agent, **row}), flush=True)
    return rows


def agents_table(rows):
    lines = ["| reuse | prompts | something moved | tokens | of them moved | KL mean | KL largest mean | same top token |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for method, list_ in rows.items():
        moved = [row for row in list_ if row["moved"] > 0]
        kl = [row["report"].get("kl_mean", 0.0) for row in moved] or [0.0]
        top = [row["report"].get("top1_agreement", 1.0) for row in moved] or [1.0]
        middle = lambda name: statistics.median([row[name] for row in moved] or [0])
        lines.append(f"| {method} | {len(list_)} | {len(moved)} | {middle('tokens'):.0f} | {middle('moved'):.0f} | "
                     f"{statistics.mean(kl):.4f} | {max(kl):.4f} | {statistics.mean(top):.3f} |")
    return "\n".join(lines)


def edits(server, args, texts):
    methods = [method for method in args.methods if not method.startswith(("ape", "kvcomm"))]
    rows = {method: [] for method in methods}
    for trial in range(args.edits):
        city, code = texts.random.choice(CITIES), texts.code()
        text = texts.document(args.documents * args.words, "REPLACED")
        before, after = text.split("REPLACED")
        was, now = "Nobody had heard of any secret code by then.", f"The secret code of {city} is {code}."
        for method in methods:
            # A beginning of its own, or what the method before left would be found.
            document = f"{texts.code()}: {before}{was}{after}"
            name = f"edit-{trial}"
            messages = [{"role": "user", "content": document}, {"role": "assistant", "content": "I have read it."}]
            post(server, "/v1/kv/sessions", {"name": name, "messages": messages, "replace": True})
            body = {"session": name, "find": was, "replace": now, "reuse": method}
            edit = post(server, "/v1/kv/edit", body)
            question = [{"role": "user", "content": f"What is the secret code of {city}? Answer with the number only."}]
            body = {"messages": question, "temperature": 0, "max_tokens": args.answer,
                    "kv": {"session": name, "report": {"share": 1}}}
            row = result(post(server, "/v1/chat/completions", body), code)
            rows[method].append({**row, "seconds": edit["seconds"], "moved": edit["moved_tokens"],
                                 "again": edit["recomputed_tokens"]})
            print(json.dumps({"trial": trial, "edit": method, **rows[method][-1]}), flush=True)
    return rows


def looks(server, args, texts):
    """What it costs to see how documents depend on each other while they are computed: new documents each time."""
    rows = {method: [] for method in ["exact", "cache-craft"]}
    for trial in range(args.looks):
        for method in list(rows)[::1 if trial % 2 == 0 else -1]:
            documents = [texts.document(args.words, "Nothing is secret.") for _ in range(args.documents)]
            rows[method].append(result(chat(server, documents, "Say hello.", {"reuse": method}, 1), "-"))
            print(json.dumps({"trial": trial, "looks": method, **rows[method][-1]}), flush=True)
    return rows


def table(rows):
    exact = [row["seconds"] for row in rows["exact"]]
    lines = ["| reuse | tokens | of them moved | computed again | time to exact | KL mean | KL largest mean | same top token | right |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for method, list_ in ((method, list_) for method, list_ in rows.items() if list_):
        middle = lambda f: statistics.median(f(row) for row in list_)
        ratio = statistics.median(row["seconds"] / whole for row, whole in zip(list_, exact))
        kl = [row["report"].get("kl_mean", 0.0) for row in list_]
        top = [row["report"].get("top1_agreement", 1.0) for row in list_]
        right, asked = sum(row["right"] for row in list_), sum(row.get("asked", 1) for row in list_)
        lines.append(f"| {method} | {middle(lambda r: r['tokens']):.0f} | {middle(lambda r: r['moved']):.0f} | "
                     f"{middle(lambda r: r['again'] / max(r['moved'], 1)):.1%} | {ratio:.2f} | "
                     f"{statistics.mean(kl):.4f} | {max(kl):.4f} | {statistics.mean(top):.3f} | {right} of {asked} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cachalot", default="target/release/cachalot")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--edits", type=int, default=5, help="trials of an edited text")
    parser.add_argument("--looks", type=int, default=3, help="trials of documents that are looked at while they are computed")
    names = lambda text: re.split(r",\s*(?![^(]*\))", text)
    parser.add_argument("--methods", type=names, default=METHODS, help="with `exact` among them")
    parser.add_argument("--agents", type=names, default=AGENTS, help="methods for messages between agents")
    parser.add_argument("--several", type=int, default=3, help="agents")
    parser.add_argument("--messages", type=int, default=12, help="messages that all agents get; 0 for none")
    parser.add_argument("--apart", action="store_true", help="documents are read one by one, each in a prompt of its own")
    parser.add_argument("--known", action="store_true", help="no new document: all methods see the same prompts")
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--asked", type=int, default=1, help="questions about the documents of a trial")
    parser.add_argument("--report", action=argparse.BooleanOptionalAction, default=True, help="of divergence")
    parser.add_argument("--words", type=int, default=600, help="of a document; 600 are about 800 tokens")
    parser.add_argument("--answer", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--kv", default="f16")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    measures = [("Documents in another order", rag, args.trials), ("Messages between agents", agents, args.messages),
                ("Edits", edits, args.edits), ("Computed whole, and looked at", looks, args.looks)]
    for name, measure, trials in measures:
        if trials == 0:
            continue
        with tempfile.TemporaryDirectory() as folder:
            # On a machine that does other things, too, comparisons take their time.
            flags = ["--kv", args.kv, "--kv-sessions", folder, "--timeout", "3600", "--kv-replay-seconds", "1800"]
            with Server(args, *flags) as server:
                rows = measure(server, args, Texts(args.text, args.seed))
        shown = agents_table(rows) if measure is agents else table(rows)
        print(f"\n{name}, {args.kv}:\n\n{shown}\n", flush=True)


if __name__ == "__main__":
    main()
