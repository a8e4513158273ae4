"""A stand-in of the Hugging Face hub over HTTP: repositories with files, and how the real one refuses.

Headers and status codes are those that huggingface.co sends; what a client asks for is answered by path alone.
"""

import hashlib
import json
import re

import stand_in

COMMIT = "c0ffee" + "0" * 34
# What the hub answers for a name of this organisation: status, X-Error-Code, X-Error-Message, more headers.
REFUSALS = {
    "gated": (401, "GatedRepo", "Access to this repository is restricted and you must be authenticated", {}),
    "denied": (403, "GatedRepo", "Access to this repository is restricted and you are not in the authorized list", {}),
    "gone": (404, "RepoNotFound", "Repository not found", {}),
    "unauthorized": (401, None, "Invalid credentials in Authorization header", {}),
    "expired": (401, None, 'User Access Token "old" is expired', {}),
    "forbidden": (403, None, "not today", {}),
    "disabled": (403, None, "Access to this resource is disabled.", {}),
    "busy": (429, None, None, {"Retry-After": "77"}),
    "broken": (500, None, "Internal Error", {}),
    "away": (503, None, None, {}),
}


class FakeHub(stand_in.StandIn):
    """`repositories` maps "models/ORG/NAME" or "datasets/ORG/NAME" to its files, the same at each of `commits`.

    The last commit is `main`; `asked` notes paths.
    """

    def __init__(self, repositories):
        self.repositories, self.asked, self.commits = repositories, [], [COMMIT]
        super().__init__(Handler)


class Handler(stand_in.Handler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body, path = self.body(), self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        kind = "datasets" if "datasets/" in path else "models"
        match = re.match(r"(?:/api)?/(?:models/|datasets/)?(?P<id>[\w.-]+/[\w.-]+)(?P<rest>/.*)?$", path)
        if match is None:  # the libraries ask for more than repositories
            return self.refuse(404, None, "Not found", {})
        name, rest = match["id"], match["rest"] or ""
        refusal = REFUSALS.get(name.partition("/")[0])
        # The hub shows what a gated repository is; its files are what it guards.
        if refusal and not (
            refusal[1] == "GatedRepo" and path.startswith("/api/") and not rest.startswith(("/tree", "/auth-check"))
        ):
            return self.refuse(*refusal)
        files = self.server.repositories.get(f"{kind}/{name}")
        if files is None and not refusal:
            return self.refuse(404, "RepoNotFound", "Repository not found", {})
        revision = re.match(r"/(?:resolve|revision|tree|paths-info)/([^/]+)", rest)
        wanted = revision[1] if revision and revision[1] != "main" else self.server.commits[-1]
        if wanted not in self.server.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {wanted}", {})
        return self.serve(name, files or {}, rest, body, wanted)

    def serve(self, name, files, rest, body, commit):
        if match := re.match(r"/resolve/[^/]+/(.+)", rest):
            if match[1] not in files:
                return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            content = files[match[1]]
            etag = hashlib.sha1(content).hexdigest()
            return self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})
        if rest.startswith("/tree/") or rest.startswith("/paths-info/"):
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            if body:
                asked = (
                    json.loads(body)["paths"] if body.startswith(b"{") else re.findall(r"paths=([^&]+)", body.decode())
                )
                entries = [entry for entry in entries if entry["path"] in asked]
            return self.send(200, json.dumps(entries).encode())
        siblings = [{"rfilename": path} for path in files]
        return self.send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings, "tags": []}).encode())

    def refuse(self, status, code, message, more):
        headers = {**({"X-Error-Code": code} if code else {}), **({"X-Error-Message": message} if message else {})}
        return self.send(status, json.dumps({"error": message}).encode(), {**headers, **more})
