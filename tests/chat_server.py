"""A real HTTP server on this machine that speaks /v1/chat/completions, with replies that a test prepares."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Gives the prepared replies in turn, the last one for ever, and remembers what came."""

    def __init__(self, *replies):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.requests, self.lock = list(replies), [], threading.Lock()

    def handle_error(self, *_):
        """A client that has gone is no fault here."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def asked(self):
        """The messages that came."""
        return [body["messages"][0]["content"] for _, _, body in self.requests]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.requests.append((self.path, headers, body))
            reply = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        status, content = reply(body) if callable(reply) else reply
        data = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """A function from replies to a server that gives them; all are gone at the end."""
    servers = []

    def start(*replies):
        server = Server(*replies)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def said(content, status=200):
    """A reply with that content; text as it is, anything else as JSON."""
    content = content if isinstance(content, str | None) else json.dumps(content)
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return status, json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def fault(status, message="busy"):
    """A reply of a server that cannot."""
    return status, json.dumps({"error": {"message": message, "type": "server_error"}})
