"""A topic's citations from NCBI's E-utilities, as files that the index reads.

Rules and formats: https://www.ncbi.nlm.nih.gov/books/NBK25497/ and NBK25499/ (esearch, and efetch by PMIDs in batches;
3 requests a second without a key and 10 with one; `tool` and `email` name the sender).
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from helpers import InputError
from helpers.files import read_json, write_json, write_text
from helpers.knowledge.documents import UnreadableError
from helpers.knowledge.markup import clean, local, parse
from helpers.secrets import export_secrets

ADDRESS = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils/"
KEY = "NCBI_API_KEY"
BATCH = 200  # citations a request, and a file
MOST = 9_999  # citations of one search: for PubMed, esearch gives no more
TRIES = 5
MAX_WAIT = 60.0  # seconds
TOOL = "ai-doctor"


class _TransientError(Exception):
    """An answer that is worth another try, and the seconds that the server asks to wait (None: it does not say)."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def fetch_topic(
    query: str, folder: Path, limit: int = 1000, email: str = "", address: str = ADDRESS, show: Callable = print
) -> list[Path]:
    """Fetch the `limit` best matches of a PubMed query into `folder`; returns its files, of BATCH citations each.

    A search is kept with its PMIDs in `.search.json`, so that a fetch that was stopped goes on where it stopped, with
    the same citations; delete the folder to search anew. NCBI_API_KEY is found as other secrets are, and never stored.
    Raises InputError, in one line, for a query without a match, a folder of another query, a refused key or no network.
    """
    if not clean(query) or limit < 1:
        raise InputError("a topic has a query and a limit of at least 1 citation")
    with httpx.Client(base_url=address, timeout=60, follow_redirects=True) as client:
        server = _Server(client, email)
        pmids = _searched(server, clean(query), folder, min(limit, MOST))
        files = []
        for number, start in enumerate(range(0, len(pmids), BATCH)):
            path = folder / f"batch-{number:04}.xml"
            files.append(path)
            if not path.is_file():
                write_text(path, server.fetch(pmids[start : start + BATCH]))
                show(f"{min(start + BATCH, len(pmids))} of {len(pmids)} citations")
    return files


def _searched(server: "_Server", query: str, folder: Path, limit: int) -> list[str]:
    """The PMIDs of the search, from the folder if it holds one for the same query and limit."""
    path = folder / ".search.json"  # hidden, so that the index passes over it
    if path.is_file():
        try:
            kept = read_json(path)
            pmids = [str(pmid) for pmid in kept["pmids"]]
            same = (kept["query"], kept["limit"]) == (query, limit)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is broken: delete {folder}") from None
        if not same:
            raise InputError(f"{folder} holds another search ({kept['query']!r}, {kept['limit']}): name another folder")
        return pmids
    pmids = server.search(query, limit)
    write_json(path, {"query": query, "limit": limit, "pmids": pmids})
    return pmids


class _Server:
    """Sends requests no faster than NCBI allows, and again where it asks for that."""

    def __init__(self, client: httpx.Client, email: str) -> None:
        self.client, self.last, self.answered = client, 0.0, False
        export_secrets([KEY])
        self.key = os.environ.get(KEY, "").strip()
        self.interval = 1 / (10 if self.key else 3)
        self.about = {"tool": TOOL} | ({"email": email} if email else {}) | ({"api_key": self.key} if self.key else {})

    def search(self, query: str, limit: int) -> list[str]:
        """PMIDs, best match first."""
        settings = {"db": "pubmed", "term": query, "retmode": "json", "retmax": limit, "sort": "relevance"}
        found = self.ask("esearch.fcgi", settings, _search_result)
        pmids = [str(pmid) for pmid in found.get("idlist", []) if str(pmid).isdecimal()]
        if not pmids:
            unknown = found.get("errorlist") or {}
            missing = ", ".join(map(str, unknown.get("phrasesnotfound") or [])) if isinstance(unknown, dict) else ""
            raise InputError(f"PubMed has nothing for {query!r}" + (f" (not found: {missing})" if missing else ""))
        return pmids[:limit]

    def fetch(self, pmids: list[str]) -> str:
        """The citations' XML."""
        return self.ask("efetch.fcgi", {"db": "pubmed", "retmode": "xml", "id": ",".join(pmids)}, _citations)

    def ask(self, name: str, settings: dict[str, Any], read: Callable[[httpx.Response], Any]) -> Any:
        """The answer as `read` makes of it; up to TRIES times, waiting as the server says or 1, 2, 4 ... seconds."""
        for attempt in range(TRIES):
            try:
                return read(self.answer(name, settings))
            except _TransientError as error:
                why, wait = str(error), error.wait
            except httpx.TransportError as error:
                if isinstance(error, httpx.ConnectError) and not self.answered:
                    raise InputError(f"no connection to {self.client.base_url.host}: is there a network?") from None
                why, wait = f"no answer ({clean(str(error)) or type(error).__name__})", None
            if attempt + 1 < TRIES:
                time.sleep(min(MAX_WAIT, wait if wait is not None else 2.0**attempt))
        raise InputError(f"NCBI's E-utilities at {self.client.base_url.host}: {self.hide(why)}; try again later")

    def answer(self, name: str, settings: dict[str, Any]) -> httpx.Response:
        time.sleep(max(0.0, self.last + self.interval - time.monotonic()))
        self.last = time.monotonic()
        answer = self.client.post(name, data=settings | self.about)  # POST: an id list is too long for an address
        self.answered = True
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise _TransientError(f"{answer.status_code}: {_reason(answer)}", _retry_after(answer))
        if answer.status_code != 200:
            raise InputError(f"NCBI's E-utilities refused {name} ({answer.status_code}: {self.hide(_reason(answer))})")
        return answer

    def hide(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


def _search_result(answer: httpx.Response) -> dict[str, Any]:
    """`esearchresult`; its ERROR is a failure of the server's search, or of the query."""
    try:
        found = answer.json()["esearchresult"]
    except (ValueError, KeyError, TypeError):
        raise _TransientError(_reason(answer)) from None
    if not isinstance(found, dict):
        raise _TransientError(_reason(answer))
    if error := found.get("ERROR"):
        raise _TransientError(f"search failed: {clean(str(error))}")
    return found


def _citations(answer: httpx.Response) -> str:
    """The XML if it is whole: E-utilities answer some failures with 200 and an error in the text, or cut it off."""
    try:
        root = parse(answer.content)
    except UnreadableError as error:
        raise _TransientError(f"an answer that {error}") from None
    if local(root) != "PubmedArticleSet" or not len(root):
        raise _TransientError(_reason(answer))
    return answer.content.decode("utf-8", errors="replace")


def _reason(answer: httpx.Response) -> str:
    """What an error's body says: {"error": ...}, <ERROR>...</ERROR> or plain text; else the status in words."""
    try:
        found = answer.json()
        text = str(found.get("error") or found.get("ERROR") or "") if isinstance(found, dict) else ""
    except ValueError:
        text = re.sub(r"<[^>]{0,500}>", " ", answer.text[:2000])
    return clean(text)[:200] or answer.reason_phrase


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds; None where nothing is given, or a date, which NCBI does not send."""
    value = answer.headers.get("Retry-After", "").strip()
    return float(value) if re.fullmatch(r"\d{1,9}(\.\d+)?", value) else None
