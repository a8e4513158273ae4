"""The licence of a corpus, as it says itself."""

import os
import re
from contextlib import suppress
from pathlib import Path

from helpers.knowledge.markup import clean

CREATIVE_COMMONS = re.compile(
    r"https?://creativecommons\.org/licenses/(by(?:-nc)?(?:-sa|-nd)?)/(\d\.\d)\b", re.IGNORECASE
)
# A file that holds a licence: LICENSE, licence.md, MEDQUAD-LICENSE.txt, LICENSE-CODE.
FILE = re.compile(r"(.+[-_. ])?licen[cs]e([-_. ][^.]+)?(\.(txt|md))?", re.IGNORECASE)
OPENING = {"Attribution 4.0 International": "CC BY 4.0"}  # the first line of Creative Commons' own text


def licence_name(given: str) -> str:
    """'CC BY 4.0' for the address of a Creative Commons licence; anything else as it is."""
    match = CREATIVE_COMMONS.search(given)
    return f"CC {match[1].upper()} {match[2]}" if match else clean(given)


def licence_in(folder: Path) -> str:
    """The first line that is not blank of the folder's LICENSE or LICENCE; "" if there is none that can be read."""
    names = [folder / f"{name}{ending}" for name in ("LICENSE", "LICENCE") for ending in ("", ".txt", ".md")]
    for file in filter(os.path.isfile, names):
        with suppress(OSError), open(file, encoding="utf-8-sig", errors="replace") as handle:
            line = clean(handle.read(4096).lstrip().partition("\n")[0])[:200]
            return OPENING.get(line, licence_name(line))
    return ""
