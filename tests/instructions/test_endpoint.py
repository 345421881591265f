"""Tags through a real HTTP server on this machine that speaks /v1/chat/completions."""

from __future__ import annotations

import json
import logging
import threading
import traceback

import pytest

from chat_server import fault, said, serving
from clray import endpoint
from clray.errors import ModelError
from clray.instructions import tagger
from clray.instructions.prompt import POINTS, TAGS
from clray.instructions.tagger import make_tagger

KEY = "sk-secret-0123456789"


def tags(*names):
    return said({"tags": [{"tag": name, "explanation": "why"} for name in names]})


@pytest.fixture
def serve():
    with serving() as start:
        yield start


def asked(url, **changes):
    spec = {"kind": "endpoint", "url": url, "model": "qwen", "key_env": None, "timeout_seconds": 10.0, "retries": 2}
    return make_tagger({**spec, "most": 3, **changes})


def test_schema_temperature_and_key_arrive(serve, monkeypatch):
    monkeypatch.setenv("TAG_KEY", KEY)
    server = serve(tags("cosplay", "story writing"))
    assert asked(server.url, key_env="TAG_KEY")(["Tell a story."]) == [["cosplay", "story writing"]]
    [(path, headers, body)] = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body["model"] == "qwen" and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": TAGS.question("Tell a story.", 3)}]
    form = {"name": "tags", "strict": True, "schema": TAGS.schema(3)}
    assert body["response_format"] == {"type": "json_schema", "json_schema": form}


def test_many_instructions_come_back_in_order_each_asked_once(serve):
    def echo(body):
        return tags(body["messages"][0]["content"].split("[begin]\n")[1].split("\n[end]")[0])

    server = serve(echo)
    texts = [f"instruction {number}" for number in range(40)]
    assert asked(server.url)([*texts, "", texts[0]]) == [*([text] for text in texts), [], [texts[0]]]
    assert len(server.requests) == 40


def test_no_more_tags_than_asked_for_even_where_the_server_ignores_the_schema(serve):
    assert asked(serve(tags("a", "b", "c", "d")).url)(["x"]) == [["a", "b", "c"]]


def test_a_server_that_fails_is_asked_again(serve):
    server = serve(fault(500), fault(503), tags("translation"))
    assert asked(server.url)(["x"]) == [["translation"]]
    assert len(server.requests) == 3


def test_an_answer_that_is_no_json_is_asked_for_again(serve):
    server = serve(said("Sure! Tags: a, b"), said(None), tags("translation"))
    assert asked(server.url)(["x"]) == [["translation"]]
    assert len(server.requests) == 3


def test_an_answer_that_stays_broken_names_the_instruction_and_the_mend(serve):
    server = serve(said("Sure!"))
    with pytest.raises(ModelError, match=r"model 'qwen', instruction 'y{80}': the answer is not JSON .*Use a model"):
        asked(server.url)(["y" * 500])
    assert len(server.requests) == 3


def test_an_answer_that_is_no_completion_is_refused(serve):
    with pytest.raises(ModelError, match="not JSON"):
        asked(serve((200, '{"hello": 1}')).url, retries=0)(["x"])
    with pytest.raises(ModelError, match="check the url"):
        asked(serve((200, "{broken")).url, retries=0)(["x"])


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (fault(401, f"Incorrect API key provided: {KEY}"), "refuses the key in 'TAG_KEY' (HTTP 401)"),
        (fault(403, f"{KEY} may not"), "refuses the key in 'TAG_KEY' (HTTP 403)"),
        (fault(404, f"no model for {KEY}"), "HTTP 404: "),
        (fault(500, f"crashed on {KEY}"), "HTTP 500: "),
        (said(f"your key is {KEY}"), "the answer is not JSON"),
    ],
)
def test_the_key_stands_in_no_error_and_no_log(serve, monkeypatch, caplog, reply, text):
    monkeypatch.setenv("TAG_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ModelError) as raised:
        asked(serve(reply).url, key_env="TAG_KEY", retries=1)(["x"])
    assert text in str(raised.value)
    assert KEY not in "".join(traceback.format_exception(raised.value)) + caplog.text


@pytest.mark.parametrize("value", [None, "  ", "schlüssel", "two\nlines"])
def test_a_key_that_is_absent_or_unfit_is_named_before_anything_is_asked(monkeypatch, value):
    monkeypatch.delenv("TAG_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TAG_KEY", value)
    with pytest.raises(ModelError, match="environment variable 'TAG_KEY'") as raised:
        asked("http://127.0.0.1:9/v1", key_env="TAG_KEY")
    assert not value or not value.strip() or value not in str(raised.value)


def test_without_a_key_none_of_the_environment_is_sent(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(tags("a"))
    asked(server.url)(["x"])
    assert KEY not in json.dumps(server.requests[0][1])
    with pytest.raises(ModelError, match="requests without a key; name one with key_env"):
        asked(serve(fault(401)).url, retries=0)(["x"])


def test_a_server_that_is_not_there_or_sleeps_is_named(serve):
    with pytest.raises(ModelError, match="not reached"):
        asked("http://127.0.0.1:9/v1", retries=0)(["x"])
    wake = threading.Event()

    def sleep(body):
        wake.wait(5)
        return tags("a")

    with pytest.raises(ModelError, match=r"no answer within 0.1 s; raise timeout_seconds"):
        asked(serve(sleep).url, retries=0, timeout_seconds=0.1)(["x"])
    wake.set()


@pytest.mark.parametrize(("kind", "package"), [("endpoint", "openai"), ("model", "llguidance")])
def test_a_missing_package_names_the_extra(monkeypatch, kind, package):
    for module in (tagger, endpoint):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf"needs the package {package}: pip install 'clray\[tagging\]'"):
        make_tagger({"kind": kind, "most": 3, "url": "http://127.0.0.1:9/v1", "model": "m"})


def test_points_are_asked_for_by_their_own_question(serve):
    server = serve(said({"points": [{"point": "light reaction"}, {"point": "chloroplast"}, {"point": " "}]}))
    assert asked(server.url, form="points")(["Where is light taken up?"]) == [["light reaction", "chloroplast"]]
    [(_, _, body)] = server.requests
    assert body["messages"][0]["content"] == POINTS.question("Where is light taken up?", 3)
    assert body["response_format"]["json_schema"] == {"name": "points", "strict": True, "schema": POINTS.schema(3)}
    with pytest.raises(
        ModelError, match=r"points.by endpoint http.*question 'x': each of \"points\" is an object with"
    ):
        asked(serve(said({"points": [{"tag": "a"}]})).url, form="points", retries=0)(["x"])
