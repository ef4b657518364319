"""Vector operations of a program that are calls: where the compiler did not inline an intrinsic into the function that has the
instruction set's features, each use of it costs a call and goes through memory. Prints a line per function, and who calls it;
fails if there is one. Closures in kernels are the usual cause. Needs `objdump` (binutils) and an x86-64 program.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter, defaultdict

START = re.compile(r"^0*([0-9a-f]+) <(.*)>:$")
CALL = re.compile(r"\b(?:call|jmp)\s+([0-9a-f]+) <([^+]*)>$")
# Not vectors: what asks for the processor's features.
HARMLESS = {"_xgetbv"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", nargs="?", default="target/release/cachalot")
    parser.add_argument("--crates", default="cachalot", help="only functions whose names begin so, or are called from such")
    args = parser.parse_args()

    text = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", "-C", args.program], stdout=subprocess.PIPE, text=True)
    # Many functions of one name: the address tells them apart.
    calls, callers, function = defaultdict(Counter), defaultdict(set), ("", "")
    for line in text.stdout:
        if start := START.match(line):
            function = start.groups()
        elif (call := CALL.search(line)) and call[1] != function[0]:
            callers[call[1]].add(function[1])
            if "core_arch::" in call[2]:
                calls[function][call[2].rsplit("::", 1)[1]] += 1
    if text.wait() != 0:
        sys.exit("objdump failed")

    found = 0
    for (address, function), operations in sorted(calls.items()):
        names = Counter({name: count for name, count in operations.items() if name not in HARMLESS})
        ours = [name for name in {function} | callers[address] if name.lstrip("<").startswith(args.crates)]
        if names and ours:
            found += 1
            print(f"{function}: {', '.join(name for name, _ in names.most_common(6))}")
            for caller in sorted(callers[address]):
                print(f"    called by {caller}")
    sys.exit(f"{found} functions call vector operations" if found else 0)


if __name__ == "__main__":
    main()
