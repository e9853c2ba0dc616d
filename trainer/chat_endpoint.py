"""A chat model behind an OpenAI-compatible endpoint: POST {base}/chat/completions.

Knows how to ask, wait and ask again, and what an answer cost; not what is asked.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from m3search.errors import ConfigError

RETRIED = (408, 409, 425, 429)
"""status codes below 500 that may go away"""
HOPELESS = (301, 302, 303, 307, 308, 401, 403, 404, 405)
"""status codes that every further request would get, too"""
LONGEST_PAUSE = 60.0
"""seconds, whatever a server asks"""
SHOWN = 200
"""characters of a refusal in a message"""


class NoAnswerError(Exception):
    """A request that got no answer; the next one may."""


class Settings(NamedTuple):
    """How an endpoint is asked."""

    base: str
    """URL up to and without /chat/completions"""
    model: str
    key: str = ""
    timeout: float = 60.0
    """seconds for one request"""
    tries: int = 5
    backoff: float = 1.0
    """seconds before the second try, doubled for each further one, and up to half as much again"""
    per_minute: float = 0.0
    """requests at most, 0 for no limit"""
    temperature: float = 0.7
    max_tokens: int = 128


@dataclass
class Usage:
    """What an endpoint was asked so far, and what that took."""

    counts: Counter[str] = field(default_factory=Counter)
    """requests, retries, prompt_tokens, completion_tokens, and tries that failed by reason"""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        """Counts, from any thread."""
        with self._lock:
            self.counts.update(counts)


class Endpoint:
    """An endpoint that any number of threads may ask."""

    def __init__(self, settings: Settings, sleep: Callable[[float], object] | None = None) -> None:
        if not settings.base.startswith(("http://", "https://")):
            raise ConfigError(
                "--base-url",
                expected="a URL such as http://localhost:8000/v1",
                found=repr(settings.base),
                remedy="Give it up to and without /chat/completions.",
            )
        self.usage = Usage()
        self._settings = settings
        self._url = settings.base.rstrip("/") + "/chat/completions"
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self._free = 0.0
        """when the next request may start, by the monotonic clock"""

    def stop(self) -> None:
        """Ends what is asked in other threads: no further try, no pause."""
        self._stopped.set()

    def ask(self, prompt: str) -> str:
        """The answer to a prompt; NoAnswerError after all tries, ConfigError where none helps."""
        pause = 0.0
        for number in range(self._settings.tries):
            if number:
                self.usage.add(retries=1)
                self._sleep(max(pause, self._backoff(number)))
            self._wait_turn()
            if self._stopped.is_set():
                raise NoAnswerError("stopped")
            self.usage.add(requests=1)
            try:
                return self._read(self._post(prompt))
            except urllib.error.HTTPError as error:
                with error:
                    pause = self._refused(error)
                problem = f"status_{error.code}"
            except (TimeoutError, urllib.error.URLError, ConnectionError) as error:
                reason = getattr(error, "reason", error)
                problem = "timeout" if isinstance(reason, TimeoutError) else "no_connection"
            except (http.client.HTTPException, ValueError, LookupError, TypeError):
                problem = "malformed"
            self.usage.add(**{problem: 1})
        raise NoAnswerError(problem)

    def _post(self, prompt: str) -> bytes:
        settings = self._settings
        body = {
            "model": settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if settings.key:
            headers["Authorization"] = f"Bearer {settings.key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=settings.timeout) as response:
            content: bytes = response.read()
        return content

    def _read(self, content: bytes) -> str:
        answer = json.loads(content)
        usage = answer.get("usage") or {}
        self.usage.add(
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
        text = answer["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("no text in the answer")
        return text

    def _refused(self, error: urllib.error.HTTPError) -> float:
        """The seconds that the server asks to wait; raises where another try is no use."""
        said = " ".join(error.read(4 * SHOWN).decode("utf-8", "replace").split())[:SHOWN]
        if error.code in HOPELESS:
            raise ConfigError(
                self._url,
                expected="an answer",
                found=f"status {error.code} {error.reason}: {said}",
                remedy="Check --base-url, --model and the variable that holds the key.",
            ) from None
        if error.code < 500 and error.code not in RETRIED:
            self.usage.add(**{f"status_{error.code}": 1})
            raise NoAnswerError(f"status_{error.code}") from None
        try:
            return min(float(error.headers.get("Retry-After") or 0), LONGEST_PAUSE)
        except ValueError:  # a date
            return 0.0

    def _backoff(self, number: int) -> float:
        pause = self._settings.backoff * 2.0 ** (number - 1)
        return float(min(pause, LONGEST_PAUSE) * random.uniform(1.0, 1.5))

    def _wait_turn(self) -> None:
        """Returns when the rate allows another request."""
        if self._settings.per_minute <= 0:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free)
            self._free = start + 60.0 / self._settings.per_minute
        if start > now:
            self._sleep(start - now)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would carry the key to another place."""

    def redirect_request(self, *_: Any) -> None:
        return None
