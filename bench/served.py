"""A `cachalot serve` of its own on loopback, and a client that times the first token."""

import http.client
import json
import signal
import subprocess
import tempfile
import time


class Server:
    """Starts on a free port; `with` ends it as an operator would, by SIGTERM."""

    def __init__(self, args, *flags):
        command = [args.cachalot, "serve", "-m", args.model, "--threads", str(args.threads), "--port", "0", *flags]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log)
        self.port = self._port()

    def _port(self):
        for _ in range(1200):
            text = self._said()
            if "listening on http://" in text:
                return int(text.split("listening on http://")[1].split()[0].rsplit(":", 1)[1])
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {text}")
            time.sleep(0.05)
        raise RuntimeError("the server does not listen")

    def _said(self):
        self.log.seek(0)
        return self.log.read()

    def complete(self, ids, tokens=16):
        """Greedy completion of token ids: seconds to the first text, the text, prompt tokens that were not computed."""
        body = {"prompt": ids, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
                "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        start = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read().decode()}")
        first, text, usage = None, "", None
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            for choice in chunk["choices"]:
                if choice["text"] and first is None:
                    first = time.perf_counter() - start
                text += choice["text"]
            usage = chunk.get("usage") or usage
        connection.close()
        if first is None:
            raise RuntimeError("an answer without text")
        assert usage["prompt_tokens"] == len(ids), usage
        return {"seconds": first, "text": text, "cached": usage["prompt_tokens_details"]["cached_tokens"]}

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
