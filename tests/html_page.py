"""What a page of HTML shows, for the tests of those that this project writes."""

from html.parser import HTMLParser

ADDRESSES = ("href", "src", "srcset", "action", "data")


class Page(HTMLParser):
    """Tags with their attributes, the text outside of scripts and styles, and the cells of each table's rows."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text, self.rows, self._hidden, self._cell = [], "", [], False, False
        self.feed(source)
        self.close()
        self.names = {tag for tag, _ in self.tags}
        self.addresses = [each[name] for _, each in self.tags for name in each if name in ADDRESSES]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._hidden = tag in ("script", "style")
        self.text += "\n" if tag == "br" else ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._hidden = False
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += "" if self._hidden else data
        if self._cell:
            self.rows[-1][-1] += data
