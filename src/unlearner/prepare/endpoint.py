"""An OpenAI-compatible endpoint that is asked for JSON: retries, limits, costs; every answer is kept on disk.

Answers lie in the cache by the hash of what was asked, so that a preparation cut short goes on from them. The key is
read from the environment by the client and written nowhere.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock
from typing import Any, TypeVar

from unlearner import distributed
from unlearner.console import note, progress_bar, warn
from unlearner.errors import UserError, did_you_mean, half_character, install, plural
from unlearner.files import cache_directory, read_json, space_errors, write_json
from unlearner.options import EndpointOptions

KEY = "OPENAI_API_KEY"
AT_ONCE = 4
"""Requests under way at the same time."""
ATTEMPTS = 3
"""How often an answer is asked for at most, each time with the one before that could not be used."""
SENT_AGAIN = (408, 409, 429)
"""Besides 5xx, the statuses after which a request is sent again."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds until a request is sent again, the last for all further ones."""
LONGEST_TOLD = 120.0
"""Seconds that are waited at most where the endpoint says how long."""
SHAPES = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What comes of reading an answer of another shape: the client checks none."""
KEPT = "Answers so far are kept: repeat the same command to resume."
Value = TypeVar("Value")


class NoAnswerError(Exception):
    """Status 200 without an answer, as proxies send when the server behind them is busy."""


class Endpoint:
    """Raises UserError where the client is missing, the endpoint is not there, or it has several models and none was
    chosen."""

    def __init__(self, options: EndpointOptions) -> None:
        try:
            from openai import OpenAI
        except ImportError:
            raise UserError(f"--llm needs the package openai; install it with: {install('llm')}.") from None
        if distributed.count() > 1:
            raise UserError("--llm works in one process: start the command without torchrun.")
        assert options.llm is not None
        self.options, self.url = options, options.llm
        key = os.environ.get(KEY, "").strip()
        if not key.isascii() or not key.isprintable():  # which no header can hold
            raise UserError(f"{KEY} has characters that no key has (not ASCII, or line ends): set it again.")
        # Servers of one's own want no key, but the client wants one.
        try:
            self.client: Any = OpenAI(
                base_url=options.llm, api_key=key or "none", timeout=options.llm_timeout,
                max_retries=0,  # which would neither be counted nor stop
            )  # fmt: skip
        except Exception as error:  # the types are those of the client's HTTP library, which its versions change
            raise UserError(
                f"--llm {self.url} cannot be used ({type(error).__name__}): give a complete URL, such as "
                "http://localhost:8000/v1, and check the proxy if the environment names one."
            ) from None
        self.lock, self.stopped, self.began = Lock(), Event(), time.monotonic()
        self.sent = self.kept = self.dropped = self.read = self.written = 0
        self.plain = False
        """Whether the endpoint refused a response format, and answered without one."""
        self.refused = False
        self.model = options.llm_model or self._only_model()

    def _only_model(self) -> str:
        with self._errors():
            models = self._models()
        if not models:  # `transformers serve` lists what lies in the hub's cache
            raise UserError(f"--llm {self.url} names no model: give the name of its model with --llm-model.")
        if len(models) > 1:
            raise UserError(f"--llm {self.url} has {len(models)} models: name one with --llm-model ({_few(models)}).")
        return models[0]

    def _models(self) -> list[str]:
        return sorted(model.id for model in self._sent(self.client.models.list))

    def ask_all(
        self, tasks: Sequence[tuple[str, dict[str, Any]]], check: Callable[[int, Any], Value | None], title: str
    ) -> list[Value | None]:
        """The answers to tasks, each an instruction and the JSON schema of its answer, in their order.

        `check(place, JSON value)` gives what is used of an answer, None for one that is to be asked for again, at most
        `ATTEMPTS` times; what fails then is None, and counted. Raises UserError where the endpoint gives no answers.
        However it ends, nothing is sent afterwards: requests under way are waited for, and their answers kept.
        """
        self.stopped.clear()
        found: list[Value | None] = [None] * len(tasks)
        with progress_bar(title, len(tasks)) as bar, ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                places = {
                    pool.submit(self._ask, prompt, schema, partial(check, place)): place
                    for place, (prompt, schema) in enumerate(tasks)
                }
                for done, each in enumerate(as_completed(places), start=1):
                    found[places[each]] = each.result()
                    bar(done)
            except BaseException:
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self.dropped += sum(value is None for value in found)
        return found

    def _ask(self, prompt: str, schema: dict[str, Any], check: Callable[[Any], Value | None]) -> Value | None:
        try:
            return self._asked(prompt, schema, check)
        except BaseException:
            self.stopped.set()  # here, before this thread takes the next task
            raise

    def _asked(self, prompt: str, schema: dict[str, Any], check: Callable[[Any], Value | None]) -> Value | None:
        messages = [{"role": "user", "content": prompt}]
        for _ in range(ATTEMPTS):
            text = self._answer(messages, schema)
            if text is None:
                return None
            value = find_json(text)
            wrong = "It is no JSON object." if value is None else "It does not have what was asked for."
            if value is not None and (used := check(value)) is not None:
                return used
            messages = [
                messages[0], {"role": "assistant", "content": text},
                {"role": "user", "content": f"{wrong} Answer again, with the JSON object alone."},
            ]  # fmt: skip
        return None

    def _answer(self, messages: list[dict[str, str]], schema: dict[str, Any]) -> str | None:
        """What the endpoint says; None where it refuses this prompt."""
        asked = [self.url, self.model, messages, schema, self.options.llm_max_tokens]
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        file = cache_directory() / "endpoint" / key[:2] / f"{key}.json"
        if file.is_file():
            with self.lock:
                self.kept += 1
            return str(read_json(file)["text"])
        text = self._send(messages, schema)
        if text:
            with space_errors(file):
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_json(file, {"text": text})
        return text

    def _send(self, messages: list[dict[str, str]], schema: dict[str, Any]) -> str | None:
        """The text of an answer, empty where the model wrote none; None where the endpoint refuses this prompt."""
        from openai import BadRequestError, UnprocessableEntityError

        asked: dict[str, Any] = {
            "model": self.model, "messages": messages, "temperature": 0,
            "max_tokens": self.options.llm_max_tokens,
        }  # fmt: skip
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        with self._errors():
            if not self.plain:
                try:
                    return self._complete(**asked, response_format=form)
                except (BadRequestError, UnprocessableEntityError):
                    pass  # not every server knows response formats
            try:
                answer = self._complete(**asked)
            except (BadRequestError, UnprocessableEntityError) as error:
                self._refused(error.status_code)
                return None
        self.plain = True
        return answer

    def _complete(self, **asked: Any) -> str:
        """The text of one answer. Every request for one is counted here."""
        from openai.types.chat import ChatCompletion

        def send() -> Any:
            with self.lock:
                if self.sent >= self.options.llm_requests:
                    raise UserError(
                        f"--llm-requests {self.sent} are used up: repeat the command with more to resume from there."
                    )
                self.sent += 1
            answer = self.client.chat.completions.create(**asked)
            if isinstance(answer, ChatCompletion) and not answer.choices:
                raise NoAnswerError
            return answer

        answer = self._sent(send)
        text = answer.choices[0].message.content
        with self.lock:
            self.read += getattr(answer.usage, "prompt_tokens", None) or 0
            self.written += getattr(answer.usage, "completion_tokens", None) or 0
        return text if isinstance(text, str) and not half_character(text) else ""

    def _sent(self, send: Callable[[], Any]) -> Any:
        """What a request gives; after trouble that passes it is sent again, unless all is to stop."""
        import openai

        tried = 0
        while True:
            if self.stopped.is_set():
                raise CancelledError
            try:
                return send()
            except (openai.APIError, NoAnswerError) as error:
                if tried == self.options.llm_retries or not _passes(error):
                    raise
                pause = _pause(error, tried)
            tried += 1
            self.stopped.wait(pause)

    def _refused(self, status: int) -> None:
        """Say once that prompts are refused, by a filter of contents or because they are too long."""
        with self.lock:
            first, self.refused = not self.refused, True
        if first:
            warn(f"--llm {self.url} refuses a request (status {status}): what such requests ask for is left out")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The client's errors as sentences, and those of reading an answer that has another shape. What the endpoint
        says is left out: it may repeat the key."""
        import openai

        tries = f"after {self.options.llm_retries + 1} tries"
        try:
            yield
        except openai.APITimeoutError:
            raise UserError(
                f"--llm {self.url} does not answer within {self.options.llm_timeout:g} s, {tries}: give a longer "
                f"--llm-timeout. {KEPT}"
            ) from None
        except openai.APIConnectionError:
            raise UserError(
                f"--llm {self.url} cannot be reached, {tries}: check that the server is running and the URL is "
                f"right. {KEPT}"
            ) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise UserError(f"--llm {self.url} refuses the key: set the right one in {KEY}.") from None
        except openai.NotFoundError:
            raise UserError(f"--llm {self.url} does not have {self._missing()}") from None
        except openai.APIStatusError as error:
            again = f", {tries}" if _passes(error) else ""
            raise UserError(f"--llm {self.url} answers with status {error.status_code}{again}. {KEPT}") from None
        except NoAnswerError:
            raise UserError(
                f"--llm {self.url} sends status 200 without an answer, {tries}: check whether it is busy, and whether "
                f"the URL is right. {KEPT}"
            ) from None
        except (openai.APIError, *SHAPES):
            raise UserError(
                f"--llm {self.url} does not answer as OpenAI's API does: check the URL, which often ends in /v1."
            ) from None

    def _missing(self) -> str:
        """What was not found: the model, or the page itself."""
        import openai

        try:
            models = self._models()
        except (openai.APIError, *SHAPES):
            return "what an OpenAI-compatible endpoint has: check the URL, which often ends in /v1."
        return f"the model {getattr(self, 'model', '')!r}: {did_you_mean(getattr(self, 'model', ''), models)}"

    def tell(self) -> None:
        """How many requests, tokens, seconds, and what they cost."""
        parts = [
            plural(self.sent, "request"),
            f"{plural(self.kept, 'answer')} reused",
            f"{plural(self.read, 'token')} read",
            f"{self.written:,} written",
        ]
        if self.options.llm_price:
            prices = zip((self.read, self.written), self.options.llm_price, strict=True)
            parts.append(f"cost {sum(tokens * price for tokens, price in prices) / 1e6:.4f}")
        parts.append(f"{time.monotonic() - self.began:.0f} s")
        note(f"{self.model} at {self.url}: {', '.join(parts)}")


def _passes(error: Exception) -> bool:
    """Whether the same request may be answered later."""
    import openai

    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return (status in SENT_AGAIN or status >= 500) and error.response.headers.get("x-should-retry") != "false"
    return isinstance(error, openai.APIConnectionError | NoAnswerError)


def _pause(error: Exception, tried: int) -> float:
    """Seconds until the next try: as many as the endpoint asks for, or else more each time."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        told = float(headers.get("retry-after", 0))
    except ValueError:  # a date
        told = 0.0
    return min(told, LONGEST_TOLD) if told > 0 else PAUSES[min(tried, len(PAUSES) - 1)]


def find_json(text: str) -> Any:
    """The JSON object in an answer, which may stand between other words or in a code block; None where there is none,
    or one that is nested too deeply or holds half a character."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
            json.dumps(value, ensure_ascii=False).encode()
        except (RecursionError, UnicodeEncodeError):
            return None
        except ValueError:
            continue
        return value
    return None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
