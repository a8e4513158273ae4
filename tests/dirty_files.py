"""Broken and hostile files, made by code: some 600 by kind, each with good rows or questions among what is wrong.

A case is (name, file name, content, k): content is bytes, or a function that makes the file at a path; k of the good
rows that `GOOD` makes are in it and must come through wherever the file is not refused.
"""

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

Case = tuple[str, str, bytes | Callable[[Path], object], int]
COLUMNS = ("Question", "Complex_CoT", "Response")
WORDS = [
    "fever", "cough", "rash", "pain", "heart", "liver", "kidney", "child", "woman", "drug", "dose", "blood", "pulse",
]  # fmt: skip


def good_row(k: int) -> dict:
    rng = random.Random(k)
    question = " ".join(rng.choices(WORDS, k=12))
    return dict(zip(COLUMNS, (f"Case {k}: {question}?", f"Thought {k}: naïve 37 °C.", f"Answer {k}."), strict=True))


def good_question(k: int) -> dict:
    options = {"A": f"Drug {k}", "B": "Rest", "C": "Surgery"}
    return {"id": f"q{k}", "question": good_row(k)["Question"], "options": options, "answer_idx": "ABC"[k % 3]}


GOOD = {"rows": good_row, "questions": good_question}
VALUES = [
    "null", "true", "false", "0", "-0", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", '""', '" "', "[]", "{}",
    '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\u001b[31mred\\u0007"', '"\\u202eabc"', '"\\ufffd"', '"\\ufeff"',
    '["a"]', '{"a": "b"}', "[[[]]]", "9" * 400, "9" * 5000, "1." + "0" * 5000, '"</think>"', '"<|im_end|>"', "1e-999",
    '"{{7*7}}"', '"\\u2028"', '"' + "x" * 100_000 + '"', "[null]", '"\\u0085"', '"\\\\"', "undefined", "'a'", "+1",
    "01", '"a', '"\\x41"', '"\\u12"', "/* */ 1", "1,", "True", "None", "-", '"\t"', "0x10", ".5", "{", "]", '"a" "b"',
]  # fmt: skip
# What stands on a line of its own, between good ones.
LINES = [
    b"3", b"[]", b"null", b'"text"', b"{}", b"{", b"}", b"[", b"]", b",", b"{},", b"\x00", b"\x00" * 5000, b"\x1b[2J",
    b"{'a': 1}", b"# comment", b"// comment", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80",
    b"\x0c", b"\x0b", b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbb\xbf", b"<html>", b"version https://git-lfs", b"--- ",
    b"NaN", b'{"Question": "a", "Question": "b", "Complex_CoT": "c", "Response": "d"}', b'{"a": {"b": 1, "b": 2}}',
    b'{"\\ud800": 1}', b'{"": 1}', b'{"id": 1e999}', b'{"Question": "only"}', b'{"a": 1}{"a": 2}', b"{} {}",
]  # fmt: skip
DEPTHS = (50, 98, 99, 100, 101, 102, 330, 900, 985, 995, 1000, 5000, 200_000)


def lines(rows: list, ends: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + ends for row in rows).encode()


def as_list(pieces: list[bytes]) -> bytes:
    return b"[\n" + b",\n".join(pieces) + b"\n]"


def texts(role: str) -> Iterator[Case]:
    """JSON: values, lines, shapes, nesting, encodings."""
    good = GOOD[role]
    rows = [good(k) for k in range(4)]
    dumped = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    fields = [*good(9), "id", "specialty"]
    for i, value in enumerate(VALUES):
        row = {**good(9), fields[i % len(fields)]: "@@"}
        piece = json.dumps(row, ensure_ascii=False).replace('"@@"', value).encode()
        yield f"value {value[:30]}", "a.jsonl", b"\n".join([*dumped[:2], piece, *dumped[2:]]), 4
        yield f"value in a list {value[:30]}", "a.json", as_list([*dumped[:2], piece, *dumped[2:]]), 4
    for line in LINES:
        yield f"line {line[:20]!r}", "a.jsonl", b"\n".join([*dumped[:2], line, *dumped[2:]]), 4
        yield f"first line {line[:20]!r}", "a.jsonl", b"\n".join([line, *dumped]), 4
        yield f"member {line[:20]!r}", "a.json", as_list([*dumped[:2], line, *dumped[2:]]), 4
    for depth in DEPTHS:
        for left, right in (("[", "]"), ('{"a":', "}")):
            deep = left * depth + "1" + right * depth
            inside = json.dumps({**good(9), "more": "@@"}).replace('"@@"', deep).encode()
            yield f"{depth} deep {left}", "a.jsonl", b"\n".join([*dumped, inside]), 4
            yield f"{depth} deep, open {left}", "a.json", (left * depth).encode(), 0
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    whole = b"\n".join(dumped)
    for name, content, k in [
        ("nothing", b"", 0),
        ("spaces", b" \n\t\r\n", 0),
        ("columns", json.dumps(columns).encode(), 0),
        ("columns over lines", json.dumps(columns, indent=1).encode(), 0),
        ("under a name", json.dumps({"data": rows}).encode(), 0),
        ("a list in a list", json.dumps([rows]).encode(), 0),
        ("two lists", json.dumps(rows).encode() * 2, 0),
        ("a list with a comma at its end", b"[" + b",".join(dumped) + b",]", 0),
        ("an open list", b"[" + b",".join(dumped), 0),
        ("a list in one line", b"[" + b",".join(dumped) + b"]", 4),
        ("rows over lines", b"\n".join(json.dumps(row, indent=1).encode() for row in rows), 0),
        ("rows without ends", b"".join(dumped), 0),
        ("commas at the ends", b",\n".join(dumped), 0),
        ("Windows", b"\r\n".join(dumped), 4),
        ("old Macintosh", b"\r".join(dumped), 4),
        ("blank lines", b"\n\n \n".join(dumped), 4),
        ("mark", b"\xef\xbb\xbf" + whole, 4),
        ("two marks", b"\xef\xbb\xbf" * 2 + whole, 4),
        ("mark inside", dumped[0] + b"\n\xef\xbb\xbf" + dumped[1], 2),
        ("cut", whole[:-3], 0),
        ("cut in a character", "é".encode()[:1], 0),
        ("zero bytes after it", whole + b"\n" + b"\x00" * 100, 4),
        ("record separators", b"\x1e" + b"\n\x1e".join(dumped), 4),
        ("percent of the last row's text", whole + b"\n" + dumped[0][:40], 4),
    ]:
        yield name, "a.jsonl", content, k
        yield f"{name}, .json", "a.json", content, k
    for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1", "cp1252", "utf-7", "cp037"):
        text = whole.decode()
        known = 4 * (code != "utf-7")  # which is ASCII of other characters: nothing tells it
        yield code, "a.jsonl", text.encode(code), known
        yield f"{code}, csv", "a.csv", csv_text(rows).encode(code, "replace"), known


def csv_text(rows: list[dict], separator: str = ",") -> str:
    def cell(value: object) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    return "".join(separator.join(map(cell, cells)) + "\n" for cells in [[*rows[0]], *(row.values() for row in rows)])


def tables(role: str) -> Iterator[Case]:
    """CSV. Questions have no options in a CSV file, so that all of theirs are refused."""
    good, k = GOOD[role], 4 if role == "rows" else 0
    text = csv_text([good(i) for i in range(4)])
    header, _, body = text.partition("\n")
    plain = header.replace('"', "")
    more = '"x","y","z"\n'
    for name, content in {
        "a quote inside": text + 'a"b,c,d\n',
        "an open quote": text + '"a,b,c\n',
        "an open quote in the header": '"' + text,
        "a cell too many": text + "a,b,c,d,e\n",
        "a cell too few": text + "a,b\n",
        "one cell": text + "a\n",
        "empty cells": text + ",,\n",
        "blank lines": text.replace("\n", "\n\n"),
        "Windows": text.replace("\n", "\r\n"),
        "old Macintosh": text.replace("\n", "\r"),
        "zero bytes": text + '"a\0b",c,d\n',
        "semicolons": text.replace('","', '";"'),
        "semicolons and a cell too many": plain.replace(",", ";") + "\na;b;c;d;e\n",
        "tabs": text.replace('","', '"\t"'),
        "pipes": text.replace('","', '"|"'),
        "spaces before": text.replace('","', '", "'),
        "spaces in the header": plain.replace(",", " , ") + "\n" + body,
        "a space before the header": " " + plain + "\n" + body,
        "no header": body,
        "a column twice": plain + ",Question\n" + body.replace('"\n', '",""\n'),
        "a column twice but for a space": plain + ", Question \n" + body.replace('"\n', '",""\n'),
        "columns without a name": plain + ",,\n" + body.replace('"\n', '",,\n'),
        "a header of quotes": '"""",""","\n' + body,
        "lower case": plain.lower() + "\n" + body,
        "an escape in the header": f"\x1b]0;x\x07{plain}\n{body}",
        "a huge cell": text + '"' + "x" * 200_000 + '","y","z"\n',
        "a line end in a cell": text + '"a\nb\r\nc","y","z"\n',
        "a formula": text + '"=cmd|/C calc!A0","y","z"\n',
        "NA": text + "NA,null,nan\n",
        "many columns": plain + "," * 5000 + "\n" + more,
        "a long header": plain + "," + "x" * 100_000 + "\n" + more,
        "sep": f"sep=,\n{text}",
        "only quotes": '"' * 1001,
        "only commas": "," * 1000 + "\n" + "," * 1000,
        "a byte order mark in a cell": text + '"\ufeff","y","z"\n',
    }.items():
        there = k if not name.startswith(("no header", "many", "a long", "semicolons and", "only")) else 0
        yield f"csv: {name}", "a.csv", content.encode(), there


def table_bytes(table: pa.Table, **how: object) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, **how)
    return sink.getvalue().to_pybytes()


def parquets(role: str) -> Iterator[Case]:
    good = GOOD[role]
    rows = [good(k) for k in range(4)]
    table = pa.Table.from_pylist(rows)
    odd = {
        "date": pa.array([2**30] * 4, pa.date32()),
        "date before": pa.array([-(2**30)] * 4, pa.date32()),
        "microseconds": pa.array([2**62] * 4, pa.timestamp("us")),
        "milliseconds": pa.array([-(2**62)] * 4, pa.timestamp("ms")),
        "nanoseconds": pa.array([2**62] * 4, pa.timestamp("ns")),
        "duration": pa.array([2**62] * 4, pa.duration("s")),
        "zone": pa.array([1] * 4, pa.timestamp("us", tz="Mars/Phobos")),
        "bytes": pa.array([b"\xff"] * 4, pa.binary()),
        "decimal": pa.array([None] * 4, pa.decimal128(38, 10)),
        "floats": pa.array([float("nan"), float("inf"), -0.0, 1.0]),
        "nulls": pa.nulls(4),
        "booleans": pa.array([True] * 4),
        "lists": pa.array([["a"], [], None, ["b", None]]),
        "structs": pa.array([{"a": 1}] * 4),
        "maps": pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())),
        "dictionary": pa.array(["a", "b", "a", None]).dictionary_encode(),
    }
    for name, column in odd.items():
        yield f"parquet: another column of {name}", "a.parquet", table_bytes(table.append_column("more", column)), 4
        first = table.column_names[0]
        yield f"parquet: {name} as {first}", "a.parquet", table_bytes(table.set_column(0, first, column)), 0
    whole = table_bytes(table)
    yield "parquet: without rows", "a.parquet", table_bytes(table.slice(0, 0)), 0
    yield "parquet: without columns", "a.parquet", table_bytes(pa.table({})), 0
    yield "parquet: nothing", "a.parquet", b"", 0
    yield "parquet: the mark alone", "a.parquet", b"PAR1", 0
    yield "parquet: two in one", "a.parquet", whole * 2, 4
    yield "parquet: as jsonl", "a.jsonl", whole, 0
    yield "parquet: by its name", "a.parquet", lines(rows), 0
    yield (
        "parquet: control characters in a name",
        "a.parquet",
        table_bytes(table.rename_columns(["\x1b[31m\n\x07", *table.column_names[1:]])),
        0,
    )
    twice = table.append_column(table.column_names[0], pa.array(["z"] * 4))
    yield "parquet: a column twice", "a.parquet", table_bytes(twice), 4
    for codec in ("gzip", "zstd", "brotli", "lz4", "none"):
        yield f"parquet: {codec}", "a.parquet", table_bytes(table, compression=codec), 4
    for count in (1, 4, 8, 12, 100, len(whole) // 2):
        yield f"parquet: cut by {count}", "a.parquet", whole[:-count], 0


def bombs(role: str) -> Iterator[Case]:
    """Files that stand for much work, small ones of parquet above all."""
    names = [*GOOD[role](0)]

    def write(path: Path, column: pa.Array) -> None:
        parquet.write_table(pa.table(dict.fromkeys(names, column)), path)

    yield "one id many times", "a.jsonl", lines([GOOD[role](0)] * 20_000), 1
    for part in (b"[],", b"{},", b"1,"):
        content = b"[" + part * ((100 << 20) // len(part)) + b"0]"
        yield f"a list of {part!r}", "a.json", lambda path, content=content: path.write_bytes(content), 0
    good, ends = pa.Table.from_pylist([GOOD[role](k) for k in range(4)]), pa.array([0, 0, 0, 0, 1_000_000], pa.int32())
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    more = good.append_column("more", pa.ListArray.from_arrays(ends, long))
    yield "a list of a million texts of 1 MB", "a.parquet", lambda path: parquet.write_table(more, path), 4
    nulls = pa.nulls(30_000_000, pa.string())
    yield "30,000,000 rows of nothing", "a.parquet", lambda path: write(path, nulls), 0
    for rows, size in ((1000, 20), (2000, 10), (1, 500)):
        long = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * (size << 20)]))
        yield f"a text of {size} MB, {rows} times", "a.parquet", lambda path, long=long: write(path, long), 0


def other_kinds(role: str) -> Iterator[Case]:
    content = lines([GOOD[role](k) for k in range(4)])
    heads = {
        "zip": b"PK\x03\x04", "gzip": b"\x1f\x8b\x08\x00", "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-1.7\n%\xe2\xe3",
        "pickle": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.", "sqlite": b"SQLite format 3\x00", "elf": b"\x7fELF\x02",
        "html": b"<!doctype html><title>404</title>", "xml": b"<?xml version='1.0'?><a/>", "lfs": b"version https:",
    }  # fmt: skip
    for kind, head in heads.items():
        for ending in (".jsonl", ".json", ".csv", ".parquet"):
            yield f"{kind} as {ending}", f"a{ending}", head + b"\x00" * 50, 0
    for ending in (".xlsx", ".txt", ".jsonl.gz", ".JSONLX", ".yaml", ".pkl", ""):
        yield f"ending {ending!r}", f"a{ending}", content, 0
    yield "ending in capitals", "A.JSONL", content, 4


def places(role: str) -> Iterator[Case]:
    """What is no plain file, and names."""
    content = lines([GOOD[role](k) for k in range(4)])
    for ending in (".jsonl", ".json", ".csv", ".parquet"):
        yield f"pipe {ending}", f"a{ending}", os.mkfifo, 0
        yield f"folder {ending}", f"a{ending}", Path.mkdir, 0
        yield f"link to itself {ending}", f"a{ending}", lambda path: path.symlink_to(path.name), 0
        yield f"broken link {ending}", f"a{ending}", lambda path: path.symlink_to("nowhere"), 0
        yield f"socket {ending}", f"a{ending}", lambda path: _socket(path), 0
        for device in ("zero", "null", "random", "full"):
            yield f"device {device} {ending}", f"a{ending}", lambda path, to=device: path.symlink_to(f"/dev/{to}"), 0
        yield f"6 GB of nothing {ending}", f"a{ending}", lambda path: _sparse(path, 6 << 30), 0
        yield f"good, 6 GB of nothing {ending}", f"a{ending}", lambda path: _sparse(path, 6 << 30, content), 0
    yield (
        "link in a circle",
        "a.jsonl",
        lambda path: (path.symlink_to("b.jsonl"), path.with_name("b.jsonl").symlink_to(path)),
        0,
    )
    for name in ("[a]", "a::b", "$HOME", "**", " a ", "-a", "%41", "e\u0301"):
        yield f"name {name}", f"{name}.jsonl", content, 4
    for name in ("\x1b[31mred", "a\nb", "\u202egpj", "\udcff", "\x7f"):
        yield f"name {name!r}", f"{name}.jsonl", content, 4
        yield f"name {name!r} of what is broken", f"{name}.jsonl", b"{", 0
    for name in ("x" * 300 + ".jsonl", "/".join(["y" * 200] * 30) + ".jsonl", "a\0b.jsonl", "~nobodyhere/x.jsonl", "."):
        yield f"no such name {name[:20]!r}", name, lambda path: None, 0


def _socket(path: Path) -> None:
    made, here = socket.socket(socket.AF_UNIX), os.getcwd()
    os.chdir(path.parent)  # its path may have 107 characters
    made.bind(path.name)
    made.close()
    os.chdir(here)


def _sparse(path: Path, size: int, content: bytes = b"") -> None:
    with open(path, "wb") as handle:
        handle.write(content)
        handle.truncate(size)


def question_values() -> Iterator[Case]:
    options = [None, [], {}, ["a"], ["a"] * 30, "AB", 3, [[1], [2]], {"A": None, "B": None}]
    options += [{"A": "x", key: "y"} for key in ("a", "AB", "", "1", "\u0410", "\x1b[31m", "\ud800", "Ａ", " B")]
    options += [{"A": "x", "B": text} for text in ("", "x", 3, 1.5, True, None, [], "\ud800", "\x1b[0m", "y" * 10**5)]
    odd = [None, "", " ", 3, 1.5, True, [], {}, "\ud800", "\x1b[31m", "x" * 10**5]
    answers = [*odd, "D", "b", " B", 0, 1, 7, -1, 1.0, "Rest", "rest", "AB"]
    changes = [{"options": value} for value in options] + [{"answer_idx": value} for value in answers]
    changes += [{"id": value} for value in [*odd, float("nan"), float("inf"), "q0"]]
    changes += [{"question": value} for value in [*odd, "\x00", "?" * 10**6, "<script>", "</think>"]]
    changes += [{name: value} for name in ("context", "relevant", "module", "pmid") for value in odd]
    changes += [{"extra": {"a": [1]}}, {"model_config": 1}, {"__class__": "x"}]
    changes += [{"options": {"A": "x", "B": "x"}, "answer_idx": "x"}]
    for number, change in enumerate(changes):
        rows = [good_question(0), good_question(1), {**good_question(5), **change}, good_question(2), good_question(3)]
        yield (
            f"question {number} {str(change)[:40]!r}",
            "a.jsonl",
            "".join(json.dumps(r) + "\n" for r in rows).encode(),
            4,
        )
    for number in (0, 7):
        bare = {name: value for name, value in good_question(number).items() if name != "id"}
        yield f"question without id {number}", "a.jsonl", lines([bare] * 4), 0
    yield "one id many times", "a.jsonl", lines([good_question(0)] * 50), 0
    twice = b'{"id": "t", "question": "Which?", "options": {"A": "x", "B": "y", "A": "z"}, "answer_idx": "A"}'
    yield "an option twice", "a.jsonl", lines([good_question(0)]) + twice, 4
    yield "the unseen rows' name", "validation.jsonl", lines([good_question(0)]), 0
