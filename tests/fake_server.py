"""An OpenAI-compatible server without a model, for tests of what talks to one."""

import json
import threading
import time

import stand_in

PORT = 0  # a free one


class Server(stand_in.StandIn):
    """A stand-in: streams `deltas` to everybody, with what llama.cpp, vLLM or Ollama would send around them.

    Who asks for no stream gets them as one message. It lists `models`.
    """

    def __init__(self, deltas, finish="stop", status=200, pause=0.0, usage=True, models=("the-model",)):
        self.models = models
        self.deltas, self.finish, self.status, self.pause, self.usage = deltas, finish, status, pause, usage
        self.requests, self.gets, self.sent, self.broken = [], 0, 0, threading.Event()
        super().__init__(Handler, PORT)
        self.url = f"{self.address}/v1"


class Handler(stand_in.Handler):
    def answer(self):
        if self.command == "GET":
            self.server.gets += 1
            models = [{"id": name, "object": "model"} for name in self.server.models]
            self.reply(200, {"object": "list", "data": models})
            return
        body = json.loads(self.body())
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
        self.send(status, json.dumps(content).encode())
