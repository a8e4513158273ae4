"""An OpenAI-compatible server without a model, for tests of what talks to one."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 0  # a free one


class Server(ThreadingHTTPServer):
    """A stand-in: streams `deltas` to everybody, with what llama.cpp, vLLM or Ollama would send around them.

    Who asks for no stream gets them as one message. It lists `models`.
    """

    daemon_threads = True
    request_queue_size = 128  # of 5, the default, a busy machine drops some

    def __init__(self, deltas, finish="stop", status=200, pause=0.0, usage=True, models=("the-model",)):
        self.models = models
        self.deltas, self.finish, self.status, self.pause, self.usage = deltas, finish, status, pause, usage
        self.requests, self.gets, self.sent, self.broken = [], 0, 0, threading.Event()
        super().__init__(("127.0.0.1", PORT), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.gets += 1
        self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.headers["Authorization"], body))
        if self.server.status != 200:
            self.reply(self.server.status, {"error": {"message": "no room\nat all"}})
            return
        if not body.get("stream"):
            time.sleep(self.server.pause)
            message = {"role": "assistant", "content": None}
            for delta in self.server.deltas:
                message |= {
                    name: (message.get(name) or "") + (text or "") for name, text in delta.items() if name != "role"
                }
            choice = {"index": 0, "message": message, "finish_reason": self.server.finish}
            self.reply(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for delta in self.server.deltas:
                self.event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
                self.server.sent += 1
                time.sleep(self.server.pause)
            self.event(choices=[{"index": 0, "delta": {}, "finish_reason": self.server.finish}])
            if self.server.usage:
                self.event(choices=[], usage={"completion_tokens": 7, "prompt_tokens": 1, "total_tokens": 8})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.broken.set()

    def event(self, **fields):
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", **fields}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
