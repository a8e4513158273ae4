import time
from contextlib import suppress

import pytest

from helpers.knowledge import cnxml, own_files
from helpers.knowledge.documents import UnreadableError
from helpers.knowledge.markup import clean


def test_clean_leaves_one_printable_line_in_composed_form():
    assert clean(" a\x00b\u2009\n\te\u0301 \ud800\u00adx\u202e\ufeff ") == "ab \u00e9 x"


HEAD = '<document xmlns="http://cnx.rice.edu/cnxml"><content><para id="insulin">'
MANY = 20_000


@pytest.mark.parametrize(
    "content",
    [
        HEAD + "<![CDATA[" * MANY,
        HEAD + "<term>x</term>" * MANY + "</para></content></document>",
        HEAD + "(" + "<link target-id='insulin'/>in" * MANY + "</para></content></document>",
        HEAD + "<exercise/>x" * MANY + "</para></content></document>",
    ],
)
def test_a_module_takes_a_time_in_proportion_to_its_length(content):
    start = time.process_time()
    with suppress(UnreadableError):
        list(cnxml.read_module(cnxml.Path("/nowhere/m/index.cnxml"), content.encode()))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("name", "line"),
    [
        *(("a.md", line) for line in ("<!--", "**a ", "[x](", "`a ", "_a ", "# ", "| ", "```\n", "a\n\n")),
        *(("a.html", line) for line in ("<!--", "<p>", "</p>", "<b hidden>", "<a b='", "<!x", "<?", "&#")),
    ],
)
def test_an_own_file_takes_a_time_in_proportion_to_its_length(write, name, line):
    count = MANY if name == "a.html" else MANY // 2
    path, start = write(name, line * count), time.process_time()
    with suppress(UnreadableError):
        list(own_files.read_own_file(path, path))
    assert time.process_time() - start < 2
