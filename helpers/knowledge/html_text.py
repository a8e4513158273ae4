"""What a reader of a web page sees, by its headings. In one pass: no nesting is too deep, and none too slow."""

import re
from collections import Counter
from html.parser import HTMLParser

from helpers.knowledge.markup import clean

Parts = list[tuple[tuple[str, ...], list[str]]]  # paragraphs by the headings above them
DROPPED = {
    *("script", "style", "nav", "template", "noscript", "iframe", "svg", "button", "select", "textarea"),
    *("object", "audio", "video", "canvas"),
}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
BLOCKS = {*HEADINGS} | {
    *("address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset"),
    *("figcaption", "figure", "footer", "form", "header", "li", "main", "ol", "p", "pre", "section", "summary"),
    *("table", "tbody", "tfoot", "thead", "title", "tr", "ul"),
}
VOID = {*("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")}
CELLS = {"td", "th"}
CELL = "\ue001"  # where a cell of a table begins


def read_html(text: str, name: str) -> Parts:
    """Paragraphs under the page's title (or `name`) and h1 to h6; the cells of a table's row parted by semicolons.

    Scripts, styles, navigation, templates, forms' controls and hidden elements are left out.
    """
    page = _Page()
    # Python's parser searches the rest of the page again for each comment or tag that does not end.
    # The second choice takes all that follows an unclosed one, so that it is searched once.
    comment = re.compile(r"<!--(?:.*?-->|.*)", re.DOTALL)
    text = comment.sub(lambda match: "" if match[0].endswith("-->") else match[0], text.replace(CELL, ""))
    text = text.replace("<!--", "&lt;!--")
    end = text.rfind(">") + 1
    page.feed(text[:end] + text[end:].replace("<", "&lt;"))
    page.close()
    page.flush()
    return [((page.title or name, *path), paragraphs) for path, paragraphs in page.found]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[tuple[str, bool]] = []  # open tags, and whether they hide what is in them
        self.open: Counter[str] = Counter()
        self.hidden = 0
        self.title, self.text, self.headings = "", [], {}
        self.found: Parts = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            self.text.append(" " if tag == "br" else "")
            if tag == "hr":
                self.flush()
            return
        if tag in BLOCKS:
            self.flush()
        if tag in CELLS and not self.hidden:
            self.text.append(CELL)
        hides = tag in DROPPED or _is_hidden(dict(attrs))
        self.stack.append((tag, hides))
        self.open[tag] += 1
        self.hidden += hides

    def handle_endtag(self, tag: str) -> None:
        while self.open[tag]:
            if self.pop() == tag:
                break

    def pop(self) -> str:
        if self.stack[-1][0] in BLOCKS:
            self.flush()
        tag, hides = self.stack.pop()
        self.open[tag] -= 1
        self.hidden -= hides
        return tag

    def handle_data(self, data: str) -> None:
        if self.open["title"] or not self.hidden:
            self.text.append(data)

    def flush(self) -> None:
        line = "; ".join(cell for cell in map(clean, "".join(self.text).split(CELL)) if cell)
        self.text = []
        level = next((number for number, tag in enumerate(HEADINGS) if self.open[tag]), None)
        path = tuple(self.headings.values())
        if line and self.open["title"]:
            self.title = self.title or line
        elif line and level is not None:
            self.headings = {k: title for k, title in self.headings.items() if k < level} | {level: line}
        elif line and self.found and self.found[-1][0] == path:
            self.found[-1][1].append(line)
        elif line:
            self.found.append((path, [line]))


def _is_hidden(attributes: dict[str, str | None]) -> bool:
    style = "".join((attributes.get("style") or "").lower().split())
    shown = "display:none" not in style and "visibility:hidden" not in style
    return not shown or "hidden" in attributes or (attributes.get("aria-hidden") or "").lower() == "true"
