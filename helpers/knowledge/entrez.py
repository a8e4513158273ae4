"""A topic's citations from NCBI's E-utilities, as files that the index reads.

Rules and formats: https://www.ncbi.nlm.nih.gov/books/NBK25497/ and NBK25499/ (esearch, and efetch by PMIDs in batches;
3 requests a second without a key and 10 with one).
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from httpx import Response

from helpers import InputError
from helpers.files import read_json, write_json, write_text
from helpers.knowledge.documents import UnreadableError
from helpers.knowledge.markup import clean, local, parse
from helpers.tracking.secrets import export_secrets

ADDRESS = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils/"
KEY = "NCBI_API_KEY"
BATCH = 200  # citations a request, and a file
MOST = 9_999  # citations of one search: for PubMed, esearch gives no more
TRIES = 5
MAX_WAIT = 60.0  # seconds
PASSING = (408, 425, 429)  # statuses that are worth another try, as all from 500 on


def fetch_topic(query: str, folder: Path, limit: int = 1000, address: str = ADDRESS) -> list[Path]:
    """Fetch the `limit` best matches of a PubMed query into `folder`; returns its files, of BATCH citations each.

    A search is kept with its PMIDs in `.search.json`, so that a fetch that was stopped goes on where it stopped, with
    the same citations; delete the folder to search anew. NCBI_API_KEY is found as other secrets are, and never stored.
    Raises InputError, in one line, for a query without a match, a folder of another query, a refused key or no network.
    """
    query, limit, search = clean(query), min(limit, MOST), folder / ".search.json"  # hidden: the index passes over it
    if not query or limit < 1:
        raise InputError("a topic has a query and a limit of at least 1 citation")
    export_secrets([KEY])
    key = os.environ.get(KEY, "").strip()
    about = {"tool": "ai-doctor"} | ({"api_key": key} if key else {})
    with httpx.Client(base_url=address, timeout=60, follow_redirects=True) as client:
        if not search.is_file():
            how = {"db": "pubmed", "term": query, "retmode": "json", "retmax": limit, "sort": "relevance"}
            pmids = _ask(client, "esearch.fcgi", how | about, _pmids)[:limit]
            write_json(search, {"query": query, "limit": limit, "pmids": pmids})
        kept = read_json(search)
        if (kept["query"], kept["limit"]) != (query, limit):
            raise InputError(f"{folder} holds another search ({kept['query']!r}, {kept['limit']}): name another folder")
        files = []
        for number, start in enumerate(range(0, len(kept["pmids"]), BATCH)):
            files.append(folder / f"batch-{number:04}.xml")
            if not files[-1].is_file():
                ids = kept["pmids"][start : start + BATCH]
                how = {"db": "pubmed", "retmode": "xml", "id": ",".join(ids)}
                write_text(files[-1], _ask(client, "efetch.fcgi", how | about, _citations))
                print(f"{start + len(ids)} of {len(kept['pmids'])} citations")
    return files


def _ask(client: httpx.Client, name: str, settings: dict[str, Any], read: Callable[[Response], Any]) -> Any:
    """The answer as `read` makes of it; up to TRIES times, waiting as the server says or 1, 2, 4 ... seconds."""
    why, wait, secret = "", "", settings.get("api_key", "***")
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(MAX_WAIT, float(wait)) if wait.isdecimal() else 2.0 ** (attempt - 1))
        time.sleep(1 / (10 if "api_key" in settings else 3))  # no faster than NCBI allows
        wait = ""
        try:
            answer = client.post(name, data=settings)  # POST: an id list is too long for an address
            if answer.status_code == 200:
                return read(answer)
        except httpx.ConnectError:
            raise InputError(f"no connection to {client.base_url.host}: is there a network?") from None
        except (UnreadableError, httpx.TransportError) as error:
            why = clean(str(error)) or type(error).__name__
            continue
        why, wait = f"{answer.status_code}: {_reason(answer)}", answer.headers.get("Retry-After", "")
        if answer.status_code not in PASSING and answer.status_code < 500:
            raise InputError(f"NCBI's E-utilities refused {name} ({why.replace(secret, '***')})")
    raise InputError(f"NCBI's E-utilities at {client.base_url.host}: {why.replace(secret, '***')}; try again later")


def _pmids(answer: Response) -> list[str]:
    """PMIDs, best match first. UnreadableError for a failure of the server's search."""
    try:
        found = answer.json()["esearchresult"]
        pmids = [str(pmid) for pmid in found.get("idlist", []) if str(pmid).isdecimal()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnreadableError(_reason(answer)) from None
    if "ERROR" in found:
        raise UnreadableError(f"search failed: {clean(str(found['ERROR']))}")
    if not pmids:
        raise InputError("PubMed has nothing for this query")
    return pmids


def _citations(answer: Response) -> str:
    """The XML if it is whole: E-utilities answer some failures with 200 and an error in the text, or cut it off."""
    root = parse(answer.content)
    if local(root) != "PubmedArticleSet" or not len(root):
        raise UnreadableError(_reason(answer))
    return answer.content.decode("utf-8", errors="replace")


def _reason(answer: Response) -> str:
    """What an error's body says: {"error": ...}, <ERROR>...</ERROR> or plain text; else the status in words."""
    try:
        text = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = re.sub(r"<[^>]{0,500}>", " ", answer.text[:2000])
    return clean(text)[:200] or answer.reason_phrase
