"""The server through the eyes of the real `openai` client. Standard library and `openai` only.

Environment: CACHALOT_URL (http://127.0.0.1:8080), CACHALOT_API_KEY (unset: the server asks for none).
Nothing here depends on what the model says, only on how the answers fit together.
"""

import asyncio
import json
import math
import os
import time
import unittest
import urllib.request

import openai
from openai import AsyncOpenAI, OpenAI

URL = os.environ.get("CACHALOT_URL", "http://127.0.0.1:8080").rstrip("/")
KEY = os.environ.get("CACHALOT_API_KEY")
OPTIONS = dict(base_url=URL + "/v1", api_key=KEY or "none", max_retries=0, timeout=300)
CHAT = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Tell me about the sea."}]
PROMPT = "The sea is"
GOING_ON = {"ignore_eos": True}


def fetch(path, key=KEY):
    request = urllib.request.Request(URL + path, headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, answer.headers, answer.read().decode()


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = OpenAI(**OPTIONS)
        cls.model = cls.client.models.list().data[0].id

    def chat(self, **more):
        arguments = dict(model=self.model, messages=CHAT, temperature=0, max_tokens=24)
        return self.client.chat.completions.create(**{**arguments, **more})

    def complete(self, **more):
        arguments = dict(model=self.model, prompt=PROMPT, temperature=0, max_tokens=24)
        return self.client.completions.create(**{**arguments, **more})

    def gather(self, stream):
        """Text, finish reason and usage of a chat stream of one choice."""
        text, reason, usage, role = "", None, None, None
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                self.assertIsNone(reason, "nothing comes after the finish reason")
                role = choice.delta.role or role
                text += choice.delta.content or ""
                reason = choice.finish_reason
        self.assertEqual(role, "assistant")
        return text, reason, usage


class Models(Case):
    def test_list_and_retrieve(self):
        models = self.client.models.list().data
        self.assertEqual(len(models), 1)
        self.assertEqual(self.client.models.retrieve(self.model).id, self.model)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.models.retrieve("no-such-model")
        self.assertEqual(caught.exception.code, "model_not_found")


class Chat(Case):
    def test_streamed_equals_whole(self):
        for more in ({}, {"max_tokens": 3}, {"max_completion_tokens": 5}):
            whole = self.chat(**more)
            stream = self.chat(stream=True, stream_options={"include_usage": True}, **more)
            text, reason, usage = self.gather(stream)
            choice = whole.choices[0]
            self.assertEqual((text, reason), (choice.message.content, choice.finish_reason))
            self.assertEqual(usage.prompt_tokens, whole.usage.prompt_tokens)
            self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)

    def test_usage(self):
        answer = self.chat(max_tokens=7, extra_body=GOING_ON)
        usage = answer.usage
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(usage.completion_tokens, 7)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + 7)
        self.assertLessEqual(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens)
        longer = self.chat(messages=CHAT + [{"role": "assistant", "content": "It is wide."}, CHAT[1]], max_tokens=1)
        self.assertGreater(longer.usage.prompt_tokens, usage.prompt_tokens)
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertTrue(answer.system_fingerprint)
        self.assertEqual(answer.model, self.model)
        self.assertEqual(answer.model_extra["timings"]["predicted_n"], 7)

    def test_content_parts_are_the_text(self):
        parts = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "about the sea."}]
        in_parts = self.chat(messages=[CHAT[0], {"role": "user", "content": parts}])
        self.assertEqual(in_parts.choices[0].message.content, self.chat().choices[0].message.content)

    def test_stop(self):
        full = self.chat(max_tokens=40, extra_body=GOING_ON).choices[0].message.content
        self.assertGreater(len(full), 8, full)
        middle = len(full) // 2
        for stop in (full[middle : middle + 3], full[middle - 4 : middle + 4]):
            expected = full[: full.find(stop)]
            for given in (stop, ["never in there \u2603", stop]):
                answer = self.chat(max_tokens=40, stop=given, extra_body=GOING_ON).choices[0]
                self.assertEqual((answer.message.content, answer.finish_reason), (expected, "stop"))
            stream = self.chat(max_tokens=40, stop=stop, stream=True, extra_body=GOING_ON)
            self.assertEqual(self.gather(stream)[:2], (expected, "stop"))

    def test_n(self):
        arguments = dict(n=3, max_tokens=6, temperature=1.2, seed=11, extra_body=GOING_ON)
        answer = self.chat(**arguments)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2])
        self.assertEqual(answer.usage.completion_tokens, 18)
        texts = ["", "", ""]
        for chunk in self.chat(stream=True, **arguments):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        self.assertEqual(texts, [c.message.content for c in answer.choices])

    def test_seed(self):
        say = lambda seed: self.chat(temperature=1.5, seed=seed, max_tokens=16).choices[0].message.content
        self.assertEqual(say(7), say(7))
        self.assertEqual(say(-(2**63)), say(-(2**63)))
        self.assertGreater(len({say(seed) for seed in range(8)}), 1)

    def test_greedy_whatever_the_filters(self):
        greedy = self.chat().choices[0].message.content
        for more in ({"top_p": 0, "temperature": 1}, {"extra_body": {"top_k": 1}, "temperature": 1}):
            self.assertEqual(self.chat(**more).choices[0].message.content, greedy)

    def test_logprobs(self):
        answer = self.chat(logprobs=True, top_logprobs=20, extra_body=GOING_ON)
        tokens = answer.choices[0].logprobs.content
        said = answer.choices[0].message.content.encode()
        joined = b"".join(bytes(t.bytes) for t in tokens)
        # The last character may be incomplete, and is then a replacement character in the text.
        self.assertEqual(joined.decode(errors="replace"), said.decode())
        for token in tokens:
            top = [t.logprob for t in token.top_logprobs]
            self.assertEqual(len(top), 20)
            self.assertEqual(top, sorted(top, reverse=True))
            self.assertEqual(token.logprob, top[0], "greedy takes the most likely token")
            total = sum(math.exp(t) for t in top)
            self.assertLessEqual(total, 1 + 1e-4)
            self.assertGreater(total, 0)
        streamed = []
        for chunk in self.chat(logprobs=True, top_logprobs=20, stream=True, extra_body=GOING_ON):
            for choice in chunk.choices:
                streamed += choice.logprobs.content if choice.logprobs else []
        self.assertEqual([t.model_dump() for t in streamed], [t.model_dump() for t in tokens])
        self.assertIsNone(self.chat().choices[0].logprobs)

    def test_json_schema(self):
        schema = {
            "type": "object",
            "properties": {"color": {"enum": ["red", "green", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["color", "count"],
            "additionalProperties": False,
        }
        shape = {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": schema}}
        for temperature in (0, 1):
            for seed in range(3):
                # A model may put up to 64 blanks wherever JSON allows some, and small ones do.
                answer = self.chat(response_format=shape, max_tokens=1000, temperature=temperature, seed=seed).choices[0]
                self.assertEqual(answer.finish_reason, "stop", answer.message.content)
                value = json.loads(answer.message.content)
                self.assertEqual(set(value), {"color", "count"})
                self.assertIn(value["color"], ("red", "green", "blue"))
                self.assertIsInstance(value["count"], int)
                self.assertTrue(0 <= value["count"] <= 99)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}})
        self.assertEqual(caught.exception.param, "response_format")

    def test_closing_a_stream_cancels_it(self):
        stream = self.chat(stream=True, max_tokens=100_000, extra_body=GOING_ON)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        stream.close()
        line = "cachalot_http_generations 0"
        until = time.monotonic() + 60
        while line not in fetch("/metrics")[2].splitlines():
            self.assertLess(time.monotonic(), until, "the generation was not cancelled")
            time.sleep(0.05)


class Completions(Case):
    def test_streamed_equals_whole(self):
        whole = self.complete()
        text = "".join(c.choices[0].text for c in self.complete(stream=True) if c.choices)
        self.assertEqual(text, whole.choices[0].text)
        self.assertEqual(self.complete(max_tokens=openai.NOT_GIVEN, extra_body=GOING_ON).usage.completion_tokens, 16)

    def test_echo_and_several_prompts(self):
        alone = [self.complete(prompt=p).choices[0].text for p in ("One two", "The sky")]
        both = self.complete(prompt=["One two", "The sky"], echo=True, n=2)
        self.assertEqual([c.index for c in both.choices], [0, 1, 2, 3])
        expected = ["One two" + alone[0]] * 2 + ["The sky" + alone[1]] * 2
        self.assertEqual([c.text for c in both.choices], expected)

    def test_token_ids(self):
        whole = self.complete(prompt=[10, 11, 12], max_tokens=4, extra_body=GOING_ON)
        self.assertEqual(whole.usage.prompt_tokens, 3)
        many = self.complete(prompt=[[10, 11, 12], [13]], max_tokens=4, extra_body=GOING_ON)
        self.assertEqual(many.usage.prompt_tokens, 4)
        self.assertEqual(many.choices[0].text, whole.choices[0].text)

    def test_logprobs(self):
        answer = self.complete(logprobs=5, extra_body=GOING_ON).choices[0]
        lists = answer.logprobs
        self.assertEqual(len(lists.tokens), len(lists.token_logprobs))
        self.assertEqual(len(lists.tokens), len(lists.top_logprobs))
        self.assertEqual("".join(lists.tokens[:-1]), answer.text[: len("".join(lists.tokens[:-1]))])
        offset = 0
        for token, start, logprob, top in zip(lists.tokens, lists.text_offset, lists.token_logprobs, lists.top_logprobs):
            self.assertEqual(start, offset)
            offset += len(token)
            self.assertLessEqual(logprob, 0)
            self.assertEqual(logprob, max(top.values()))

    def test_logit_bias(self):
        forced = self.complete(max_tokens=4, logit_bias={"50": 100}, logprobs=0, extra_body=GOING_ON).choices[0]
        self.assertEqual(len(set(forced.logprobs.tokens)), 1, forced.logprobs.tokens)
        self.assertEqual(len(forced.logprobs.tokens), 4)
        banned = self.complete(max_tokens=4, logit_bias={"50": -100}, logprobs=0, extra_body=GOING_ON).choices[0]
        self.assertNotIn(forced.logprobs.tokens[0], banned.logprobs.tokens)


class Errors(Case):
    def refused(self, kind, status, **more):
        with self.assertRaises(kind) as caught:
            self.chat(**more)
        self.assertEqual(caught.exception.status_code, status)
        self.assertTrue(caught.exception.request_id)
        return caught.exception

    def test_bad_parameters(self):
        for name, value in (("temperature", 3), ("top_p", -1), ("n", 0), ("n", 129), ("max_tokens", -1),
                            ("max_tokens", 0), ("presence_penalty", 5), ("stop", [""]), ("seed", "x"),
                            ("logit_bias", {"999999999": 1}), ("messages", [])):
            error = self.refused(openai.BadRequestError, 400, **{name: value})
            self.assertEqual(error.param, name)
            self.assertEqual(error.type, "invalid_request_error")

    def test_kinds(self):
        self.assertEqual(self.refused(openai.NotFoundError, 404, model="gpt-nothing").code, "model_not_found")
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]
        self.assertIn("image_url", str(self.refused(openai.BadRequestError, 400, messages=image)))
        error = self.refused(openai.BadRequestError, 400, extra_body={"kv": "no-such-recipe"})
        self.assertEqual(error.param, "kv")

    def test_a_prompt_beyond_the_context_names_both_numbers(self):
        context = self.client.models.list().data[0].model_extra["max_model_len"]
        with self.assertRaises(openai.APIStatusError) as caught:
            self.complete(prompt=[10] * (context + 5))
        self.assertEqual((caught.exception.status_code, caught.exception.code), (413, "context_length_exceeded"))
        self.assertIn(str(context), str(caught.exception))
        self.assertIn(str(context + 5), str(caught.exception))

    def test_keys(self):
        if not KEY:
            self.skipTest("the server asks for no key")
        stranger = OpenAI(**{**OPTIONS, "api_key": "wrong"})
        with self.assertRaises(openai.AuthenticationError) as caught:
            stranger.models.list()
        self.assertEqual(caught.exception.code, "invalid_api_key")
        self.assertEqual(fetch("/health", key=None)[0], 200)

    def test_streams_are_refused_like_the_others(self):
        self.refused(openai.BadRequestError, 400, stream=True, temperature=-1)


class Together(Case):
    def test_answers_do_not_depend_on_who_else_is_served(self):
        prompts = [f"Number {i} is followed by" for i in range(6)]
        alone = [self.complete(prompt=p, max_tokens=12).choices[0].text for p in prompts]

        async def everybody():
            async with AsyncOpenAI(**OPTIONS) as client:
                return await asyncio.gather(
                    *(client.completions.create(model=self.model, prompt=p, temperature=0, max_tokens=12) for p in prompts)
                )

        self.assertEqual([a.choices[0].text for a in asyncio.run(everybody())], alone)

    def test_health_and_metrics(self):
        self.assertEqual(json.loads(fetch("/health")[2])["status"], "ok")
        self.complete(max_tokens=3, extra_body=GOING_ON)
        status, headers, text = fetch("/metrics")
        self.assertTrue(headers["content-type"].startswith("text/plain"))
        names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}
        for name in ("cachalot_ttft_seconds_bucket", "cachalot_inter_token_seconds_bucket", "cachalot_queue_length",
                     "cachalot_batch_size_bucket", "cachalot_kv_bytes", "cachalot_http_requests_total"):
            self.assertIn(name, names)


if __name__ == "__main__":
    unittest.main(verbosity=2)
