"""Rows to train on, from the packaged sample, the hub or the user's own file."""

import hashlib
import json
import re
from typing import Any

from helpers import PROJECT_ROOT, InputError
from helpers.config import DataSettings
from helpers.files import project_path
from helpers.sources.hub import HUB_CONFIG, hub_dataset, hub_table
from helpers.sources.tables import find_columns, read_table

Row = dict[str, Any]
COLUMNS = {"Question": "question", "Complex_CoT": "reasoning", "Response": "answer"}
# Other names of these columns, in any case, the first found; those with brackets are of
# FreedomIntelligence/Medical-R1-Distill-Data.
ALIASES = {
    "Question": ("question",),
    "Complex_CoT": ("complex_cot", "reasoning (reasoning_content)", "reasoning"),
    "Response": ("response", "response (content)", "answer"),
}
SAMPLE = PROJECT_ROOT / "helpers/data" / "sample.jsonl"
# Lone surrogates cannot be written; control characters and U+FFFD are what broken conversions leave behind.
INVALID = re.compile(r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd-\uffff]")


def read_rows(data: DataSettings, seed: int) -> tuple[list[Row], dict[str, Any]]:
    """Read `data.source` and draw `data.sample_size` rows of it at random, kept in the source's order.

    Returns the rows and their provenance: `source`, `revision` and `config` (the hub's commit and configuration, or
    None), `columns` (the source's names of COLUMNS), `rows` before the draw and `fingerprint`, the SHA-256 of the three
    columns, which does not depend on the file format. Raises InputError.
    """
    dataset, revision, config = hub_dataset(data.source), None, data.config
    name = dataset or data.source
    if dataset:
        config = config or (HUB_CONFIG if data.source == "hub" else None)
        instead = "data.source may also be sample or a file"
        table, revision, config = hub_table(name, config, "train", data.commit or data.revision, instead)
    elif config:
        raise InputError(f"data.config = {config!r} is for data sets of the hub, and data.source is {name}")
    else:
        table = read_table(SAMPLE if name == "sample" else project_path(name))
    if not table:
        raise InputError(f"{name} holds no rows")
    columns = find_columns(name, list(dict.fromkeys(column for _, cells in table for column in cells)), ALIASES)
    rows, digest = [], hashlib.sha256()
    for line, cells in table:
        rows.append({column: cells.get(found) for column, found in columns.items()} | {"line": line})
        digest.update(_content(rows[-1]))
        if isinstance(cells.get("specialty"), str) and not INVALID.search(cells["specialty"]):
            rows[-1]["specialty"] = cells["specialty"]
    provenance = {"source": name, "revision": revision, "config": config, "columns": columns}
    provenance |= {"rows": len(rows), "fingerprint": digest.hexdigest()}
    drawn = sorted(rows, key=lambda row: seeded_rank(row, seed))[: data.sample_size]
    return sorted(drawn, key=lambda row: row["line"]), provenance


def _content(row: Row) -> bytes:
    return json.dumps([row[column] for column in COLUMNS], default=str).encode()


def seeded_rank(row: Row, seed: int) -> bytes:
    """A row's key in a shuffle that depends on the seed and the row's content, not on its position."""
    return hashlib.sha256(str(seed).encode() + _content(row)).digest()
