"""Questions from a chat endpoint: what is asked, checked, retried, and gone on with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from trainer_scripts import Record, Runner, read, script, write

from m3search.errors import ConfigError

chat, checks, paragraphs = map(script, ("chat_endpoint", "question_checks", "paragraphs"))
synthesise = script("synthesise_questions")
TEXT = (
    "The lighthouse of the harbour turns every ten seconds, and each one has a rhythm of its own."
)


class FakeEndpoint(ThreadingHTTPServer):
    """Answers by a function of the prompt: a text, a status, raw bytes, or seconds to wait."""

    daemon_threads = True
    answer: Callable[[str], Any] = staticmethod(lambda prompt: "What turns?")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server_port}/v1"
        self.seen: list[Record] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is expected here."""


class Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def do_POST(self) -> None:
        self.server.busy += 1
        self.server.most_busy = max(self.server.most_busy, self.server.busy)
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        self.server.seen.append(request)
        self.server.keys.append(self.headers["Authorization"])
        answer = self.server.answer(request["messages"][0]["content"])
        self.server.busy -= 1
        status, content = 200, answer
        if isinstance(answer, float):
            time.sleep(answer)
            return
        if isinstance(answer, int):
            status, content = answer, b'{"error": "so it is"}'
        elif isinstance(answer, str):
            message = {"role": "assistant", "content": answer}
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            content = json.dumps({"choices": [{"message": message}], "usage": usage}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status in (302, 429):
            self.send_header("Location" if status == 302 else "Retry-After", "7")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Runner(synthesise, capsys)


def one_after_the_other(*answers: Any) -> Callable[[str], Any]:
    remaining = iter(answers)
    return lambda prompt: next(remaining)


def endpoint(server: FakeEndpoint, pauses: list[float], **settings: Any) -> Any:
    return chat.Endpoint(chat.Settings(server.base + "/", "m", **settings), pauses.append)


def test_what_is_asked(server: FakeEndpoint) -> None:
    found = endpoint(server, [], key="secret", temperature=0.2)
    assert found.ask("Why?") == "What turns?"
    assert server.seen == [{"model": "m", "messages": [{"role": "user", "content": "Why?"}],
                            "temperature": 0.2, "max_tokens": 128}]  # fmt: skip
    assert server.keys == ["Bearer secret"]
    assert found.usage.counts == {"requests": 1, "prompt_tokens": 100, "completion_tokens": 10}


def test_what_may_go_away_is_tried_again(server: FakeEndpoint) -> None:
    null = b'{"choices": [{"message": {"content": null}}]}'
    server.answer = one_after_the_other(500, b"<html>", b'{"choices": []}', null, 429, 503, "Why?")
    pauses: list[float] = []
    found = endpoint(server, pauses, tries=7, backoff=1.0)
    assert found.ask("x") == "Why?"
    counts = {"status_500": 1, "status_429": 1, "status_503": 1, "malformed": 3, "requests": 7,
              "retries": 6, "prompt_tokens": 100, "completion_tokens": 10}  # fmt: skip
    assert found.usage.counts == counts
    for place, (least, most) in enumerate([(1, 1.5), (2, 3), (4, 6), (8, 12), (16, 24), (32, 48)]):
        assert least <= pauses[place] <= most
    server.answer = one_after_the_other(429, "Why?")
    assert found.ask("x") == "Why?" and pauses[-1] == 7.0  # as the server asked


def test_timeouts_and_lost_connections(server: FakeEndpoint) -> None:
    server.answer = one_after_the_other(0.5, 0.0, 0.5)
    found = endpoint(server, [], timeout=0.1, tries=3)
    with pytest.raises(chat.NoAnswerError, match="timeout"):
        found.ask("x")
    assert found.usage.counts == {"requests": 3, "retries": 2, "timeout": 2, "no_connection": 1}


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_what_does_not_go_away_is_not_tried_again(server: FakeEndpoint, status: int) -> None:
    server.answer = lambda prompt: status
    found = endpoint(server, [], key="secret")
    with pytest.raises(Exception, match=f"status.{status}") as raised:
        found.ask("x")
    assert isinstance(raised.value, chat.NoAnswerError if status == 400 else ConfigError)
    assert "secret" not in str(raised.value)
    assert len(server.seen) == 1


def test_a_stop_ends_pauses_and_tries(server: FakeEndpoint) -> None:
    server.answer = lambda prompt: 500
    found = chat.Endpoint(chat.Settings(server.base, "m", backoff=50.0))
    threading.Timer(0.1, found.stop).start()
    with pytest.raises(chat.NoAnswerError, match="stopped"):
        found.ask("x")
    assert len(server.seen) == 1


def test_the_rate(server: FakeEndpoint) -> None:
    pauses: list[float] = []
    found = endpoint(server, pauses, per_minute=60)
    for _ in range(3):
        found.ask("x")
    assert len(pauses) == 2 and 0.5 < pauses[0] <= 1 and 1.5 < pauses[1] <= 2


@pytest.mark.parametrize(
    ("question", "paragraph", "problem"),
    [
        ("What turns?", TEXT, ""),
        ("What turns", TEXT, "not one question"),
        ("What turns? And what not?", TEXT, "not one question"),
        ("Sure:\nWhat turns?", TEXT, "not one question"),
        ("", TEXT, "empty"),
        ("?!", TEXT, "empty"),
        ("Что вращается?", TEXT, "another language"),
        ("What is the name of the tower that turns?", "Der Turm ist in der Stadt und er dreht sich "
         "nicht, das ist ein Haus für den Bau.", "another language"),
        ("Was dreht sich in der Stadt?", "Der Turm ist in der Stadt und er dreht sich.", ""),
        ("灯台は何回まわりますか", "灯台は港にあります。十秒ごとに回ります。", ""),
        ("灯塔在哪里", "灯台は港にあります。十秒ごとに回ります。", "another language"),
        ("灯塔在哪里？", "灯塔在港口的东边，每十秒钟转一圈。「の」", ""),
        ("¿Qué es un faro?", "El faro de la ciudad es el más alto y se ve en el mar.", ""),
        ("ما هو الدور؟", "هذا هو الدور الذي يقوم به المنار في الميناء", ""),
        ("Τι είναι αυτό;", "Αυτό είναι ένας φάρος στο λιμάνι", ""),
        ("So why is it that " + TEXT[4:-1] + "?", TEXT, "copied"),
        ("为什么" + "灯塔港口海水" * 6 + "？", "灯塔港口海水" * 6 + "。", "copied"),
    ],
)  # fmt: skip
def test_answers(question: str, paragraph: str, problem: str) -> None:
    assert checks.problem_of(question, paragraph) == problem


def test_answers_are_cleaned() -> None:
    for answer in (' "Why?" ', "Question: Why?", 'Q: "Why?"', "“Why?”", "Why?\n"):
        assert checks.clean_answer(answer) == "Why?"
    assert checks.clean_answer('"A" or "B"?') == '"A" or "B"?'


def test_paragraphs() -> None:
    split = paragraphs.split_paragraphs
    assert split("aaa\nbb\n\ncccc\nd", 4, 9) == ["aaa\nbb", "cccc"]
    assert split("aa bb cc dd ee", 4, 6) == ["aa bb", "cc dd"]
    assert split("aaa bbb", 3, 7) == ["aaa bbb"]
    assert split("漢字漢字漢字漢", 2, 3) == ["漢字漢", "字漢字"]
    document = synthesise.Document("d", "\n".join(f"paragraph {n}" for n in range(30)))
    many, few = (paragraphs.Drawing(n, 0, 5, 20).draw(document) for n in (8, 3))
    assert many[:3] == few and len(set(many)) == 8 and set(many) < set(document.text.split("\n"))
    drawn = {paragraphs.Drawing(1, 0, 5, 20, seed).draw(document)[0] for seed in range(40)}
    assert len(drawn) > 15


def make_corpus(path: Path, count: int = 6) -> Path:
    documents: list[Record] = [
        {"_id": f"d{n}", "title": f"T{n}" if n else "", "lang": "en",
         "text": "\n".join(f"Paragraph {p} of {n} says that {TEXT}" for p in range(5))}
        for n in range(count)
    ]  # fmt: skip
    return write(path / "c.docs.jsonl", [*documents, {"_id": "s", "text": "short"}])


def options(server: FakeEndpoint, out: Path, *more: object) -> tuple[object, ...]:
    return ("--out", out, "--base-url", server.base, "--model", "m", "--min-document", 100,
            "--min-paragraph", 60, "--max-paragraph", 200, "--backoff", 0.001, *more)  # fmt: skip


def test_a_run_and_its_going_on(
    tmp_path: Path, server: FakeEndpoint, ask: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = make_corpus(tmp_path), tmp_path / "c.jsonl"
    server.answer = one_after_the_other("What is 1?", "no question", "What is 2?", 400)
    monkeypatch.setenv("THE_KEY", "k")
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(corpus.read_bytes().splitlines(True)[:3]))
    report = ask(short, *options(server, out, "--concurrency", 1, "--key-variable", "THE_KEY",
                                 "--price", 1, 10))  # fmt: skip
    assert set(server.keys) == {"Bearer k"}
    texts = [each["text"] for each in read(corpus)]
    assert read(out) == [
        {"query": "What is 1?", "pos": [texts[0]], "lang": "en", "id": "d0", "paragraph": 0},
        {"query": "What is 2?", "pos": [texts[1]], "title": "T1", "lang": "en", "id": "d1",
         "paragraph": 0},
    ]  # fmt: skip
    prompt, paragraph = server.seen[0]["messages"][0]["content"].split("\n\n")
    assert prompt == synthesise.PROMPT and paragraph in texts[0]
    assert (report["written"], report["given_up"]) == (2, 1)
    assert report["refused"] == {"not one question": 1}
    assert report["failures"] == {"status_400": 1} and report["cost"] == pytest.approx(600e-6)

    with out.open("ab") as file:
        file.write(b'{"query": "cut o')
    server.answer = staticmethod(lambda prompt: f"What is {hash(prompt)}?")
    report = ask(corpus, *options(server, out, "--questions", 2, "--pos-id"))
    lines = read(out)
    assert report["written"] == 10 and report["skipped"] == {"short document": 1}
    places = [(each["id"], each["paragraph"]) for each in lines]
    assert sorted(places) == [(f"d{n}", p) for n in range(6) for p in range(2)]
    assert places[2:] == sorted(places[2:]) and lines[-1]["pos_id"] == "d5"
    assert len({each["query"] for each in lines}) == 12
    asked = len(server.seen)
    report = ask(corpus, *options(server, out, "--questions", 2))
    assert len(server.seen) == asked and report["skipped"] == {
        "done before": 6,
        "short document": 1,
    }


def test_requests_run_side_by_side(tmp_path: Path, server: FakeEndpoint, ask: Runner) -> None:
    together = threading.Barrier(3, timeout=5)

    def answer(prompt: str) -> str:
        together.wait()
        return "What turns?"

    server.answer = answer
    report = ask(make_corpus(tmp_path), *options(server, tmp_path / "o", "--concurrency", 3))
    assert report["written"] == 6 and server.most_busy == 3


def test_a_silent_endpoint_ends_the_run(tmp_path: Path, server: FakeEndpoint, ask: Runner) -> None:
    corpus, out = make_corpus(tmp_path, 30), tmp_path / "o.jsonl"
    remaining = iter(["What turns?"])
    server.answer = lambda prompt: next(remaining, 500)
    said = ask.fail(corpus, *options(server, out, "--tries", 1, "--concurrency", 1))
    assert "found none to 10 questions in a row, last status_500" in said
    assert len(read(out)) == 1
    corpus, other = make_corpus(tmp_path, 22), tmp_path / "other"
    server.answer = one_after_the_other(*2 * [*9 * [500], "What turns?"], 500, 500)
    report = ask(corpus, *options(server, other, "--tries", 1, "--concurrency", 1))
    assert (report["written"], report["given_up"]) == (2, 20)  # now and then is no silence
    server.answer = lambda prompt: 500  # never, however few are asked
    few = make_corpus(tmp_path, 3)
    said = ask.fail(few, *options(server, tmp_path / "none", "--tries", 1))
    assert "found none to 3 questions in a row, last status_500" in said
    assert f"{tmp_path / 'none'}: no line is left for it" in said
    assert not (tmp_path / "none").exists()
    server.answer = lambda prompt: 401
    assert "status 401 Unauthorized: {" in ask.fail(corpus, *options(server, out))
    assert len(read(out)) == 1
    assert "leave .gz out" in ask.fail(corpus, *options(server, tmp_path / "o.gz")).lower()
    assert "--base-url: expected a URL" in ask.fail(
        corpus, *options(server, out), "--base-url", "x"
    )
    other = write(tmp_path / "other.jsonl", [{"query": "q"}])
    assert "lines of an earlier run" in ask.fail(corpus, *options(server, other))
