#!/usr/bin/env bash
# Starts a server and runs the client tests against it.
#
#   run.sh [CACHALOT_BINARY] [arguments of `cachalot serve`, such as -m MODEL]
#
# Needs python3 with venv and, the first time, a package index for the pinned `openai`. VENV=DIR names a virtual
# environment to use or to make.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-"$here/../../../../target/release/cachalot"}
shift || true
export CACHALOT_API_KEY=test-key-$$

venv=${VENV:-"${TMPDIR:-/tmp}/cachalot-server-tests-venv"}
# The copy is written last, so an environment that has it is complete, and has these versions.
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
    if ! python3 -m venv "$venv" 2>/dev/null; then
        echo "python3 cannot make virtual environments; installing Debian's python3-venv" >&2
        root=
        [ "$(id -u)" = 0 ] || root=sudo
        if ! { $root apt-get update -qq && $root apt-get install -y -qq python3-venv; } >&2; then
            echo "install Python 3 with its venv module, or set VENV to a virtual environment that exists" >&2
            exit 1
        fi
        python3 -m venv --clear "$venv"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/requirements.txt"
fi

log=$(mktemp)
# A thousand connections need more than the usual number of file descriptors, on both sides.
ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)" || true
"$binary" serve --host 127.0.0.1 --port 0 --api-key "$CACHALOT_API_KEY" "$@" 2>"$log" &
server=$!
finish() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    rm -f "$log"
}
trap finish EXIT

for _ in $(seq 1200); do
    CACHALOT_URL=$(sed -n 's/.*listening on \(http:[^ ]*\).*/\1/p' "$log" | head -n 1)
    [ -n "$CACHALOT_URL" ] && break
    if ! kill -0 "$server" 2>/dev/null; then
        echo "the server did not start:" >&2
        cat "$log" >&2
        exit 1
    fi
    sleep 0.1
done
[ -n "$CACHALOT_URL" ] || { echo "the server is not ready after two minutes:" >&2; cat "$log" >&2; exit 1; }
export CACHALOT_URL

result=0
"$venv/bin/python" "$here/test_openai_client.py" || result=1
"$venv/bin/python" "$here/test_raw_sockets.py" || result=1

# A polite end: the server must leave by itself, with success.
kill -TERM "$server"
if ! wait "$server"; then
    echo "the server did not end well:" >&2
    tail -n 20 "$log" >&2
    result=1
fi
exit $result
