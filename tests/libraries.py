"""What a source holds, and small made-up libraries, whose index notes what it was asked."""

from helpers.knowledge.corpora import read_file, source_files
from helpers.knowledge.documents import Document, Section
from helpers.knowledge.importing import Added
from helpers.knowledge.index import Index
from helpers.knowledge.library import Library

ORGANS = ["heart", "liver", "kidney", "spleen", "lung", "brain", "colon", "femur"]


def read_documents(source):
    """Every document, deletion and rejection of a source, file by file in reading order."""
    for path in source_files(source):
        yield from read_file(path, source)


def document(source, *texts, title="Title"):
    return Document(source, [Section((title, str(n)), [text]) for n, text in enumerate(texts)], "CC0")


class AskedIndex(Index):
    """An index that notes the queries in `asked`."""

    def __init__(self, path):
        self.asked = []
        super().__init__(path)

    def search(self, query, k=10):
        self.asked.append(query)
        return super().search(query, k)


def library_of(path, *documents):
    """By default two passages a document, and a document for each organ."""
    index = AskedIndex(path)
    some = [document(organ, f"The {organ} is an organ.", f"Diseases of the {organ} are many.") for organ in ORGANS]
    index.add(documents or some)
    return Library(index, Added(), None)
