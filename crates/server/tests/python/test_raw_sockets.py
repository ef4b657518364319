"""Raw sockets against a running server: rude clients, absent ones, and a thousand at once. Standard library only."""

import json
import os
import socket
import unittest
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

URL = urlparse(os.environ.get("CACHALOT_URL", "http://127.0.0.1:8080"))
KEY = os.environ.get("CACHALOT_API_KEY")
AUTHORIZATION = f"authorization: Bearer {KEY}\r\n" if KEY else ""


def connect():
    return socket.create_connection((URL.hostname, URL.port), timeout=120)


def completion(**fields):
    body = json.dumps({"prompt": "The sea", "temperature": 0, "max_tokens": 4, "ignore_eos": True, **fields})
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}content-type: application/json\r\n"
    return f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def rest(s):
    pieces = []
    try:
        while piece := s.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces).decode(errors="replace")


def healthy():
    with connect() as s:
        s.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return rest(s).startswith("HTTP/1.1 200")


class RawSockets(unittest.TestCase):
    def tearDown(self):
        self.assertTrue(healthy())

    def test_garbage(self):
        for junk in (b"\0" * 100 + b"\r\n\r\n", os.urandom(5000), b"GET / HTTP/7\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01"):
            with connect() as s:
                try:
                    s.sendall(junk)
                    s.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                self.assertNotIn(" 200 ", rest(s).split("\r\n")[0])

    def test_truncated_body(self):
        with connect() as s:
            s.sendall(completion()[:-5])
            s.shutdown(socket.SHUT_WR)
            self.assertNotIn(" 200 ", rest(s).split("\r\n")[0])

    def test_half_closed_in_a_stream(self):
        with connect() as s:
            s.sendall(completion(stream=True, max_tokens=100_000))
            s.recv(1000)
            s.shutdown(socket.SHUT_WR)
            rest(s)

    def test_a_slow_reader_holds_up_nobody(self):
        with connect() as slow:
            slow.sendall(completion(stream=True, max_tokens=200))
            for _ in range(5):
                with connect() as s:
                    s.sendall(completion())
                    self.assertIn(" 200 ", rest(s).split("\r\n")[0])
            # It was late, and yet nothing is lost.
            self.assertIn("data: ", rest(slow))

    def test_a_thousand_connections_at_once(self):
        everybody = [connect() for _ in range(1000)]
        try:
            for s in everybody[::-1]:
                s.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            with ThreadPoolExecutor(32) as pool:
                answers = list(pool.map(rest, everybody))
        finally:
            for s in everybody:
                s.close()
        self.assertEqual(sum(a.startswith("HTTP/1.1 200") for a in answers), 1000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
