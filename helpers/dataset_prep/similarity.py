"""How alike two texts are: folding them for comparison, and finding all similar pairs among thousands of questions."""

import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components

BLOCK = 512  # texts compared at once, which bounds the memory of a comparison
PAIRS = 2**16  # and pairs


class _Folding(dict[int, str]):
    """A translation table that fills itself: punctuation, spaces and controls part words."""

    def __missing__(self, code: int) -> str:
        character, category = chr(code), unicodedata.category(chr(code))
        if category == "Cf":  # zero-width joiners, direction marks
            folded = ""
        elif category[0] == "S" or 0x2E80 <= code < 0xA000 or 0x20000 <= code < 0x40000:
            folded = f" {character} "  # a "<" or "+" can be all the difference; an ideograph is a word
        else:
            folded = " " if category[0] in "PZC" else character
        return self.setdefault(code, folded)


# Cyrillic letters that look Latin: one MedQA item is written with them, which hides it from any comparison.
_FOLDING = _Folding(zip(map(ord, "аеікморстухјѕ"), "aeikmopctyxjs", strict=True))


def normalise(text: str) -> str:
    """Words with one space between, for comparing only: NFKC, case, look-alikes and punctuation folded away."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_FOLDING)
    return " ".join(folded.split()) or " ".join(text.split())


def runs(text: str, length: int) -> set[str]:
    """Every run of `length` words in a normalised text; none in a shorter one."""
    words = text.split(" ")
    return {" ".join(words[k : k + length]) for k in range(len(words) - length + 1)}


def shingles(question: str) -> set[str]:
    """The word 3-grams of a question; two are alike by the Jaccard index |A and B| / |A or B| of these sets.

    Two blank words stand at either end, so that the last word is in three of them like any other: else "What is the
    drug of choice for malaria?" and "... typhoid?" would have 0.71 in common.
    """
    return runs(f"  {normalise(question)}  ", 3)


def shared_shingles(questions: Sequence[str]) -> dict[str, int]:
    """The shingles that too many of the questions hold to tell two apart, and how many of them, most first.

    An instruction or a template ("What are the treatments for X?") stands in every row; two rows are not alike by it.
    Too many is more than the square root of their number, so that no one text can tie a large part of the rows
    together (0.7% of 20,000); of fewer than 100 questions more than 10 or a third, but always more than 4. Repeats of a
    question count once.
    """
    first: dict[int, int] = {}
    once = [k for k, question in enumerate(questions) if first.setdefault(hash(normalise(question)), k) == k]
    bound = max(4, min(len(once) / 3, 10), len(once) ** 0.5)
    hashes = _hashes(questions[k] for k in once)
    values, counts = np.unique(hashes[0], return_counts=True)
    often = set(values[counts > bound].tolist())
    # Only those whose hash is met too often are counted as text.
    found = Counter(run for k in once for run in shingles(questions[k]) if hash(run) in often) if often else Counter()
    most_first = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {shingle: count for shingle, count in most_first if count > bound}


def _hashes(questions: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all questions' shingles, one after the other, and where each question's begin and end."""
    found, ends = array("q"), array("q", [0])
    for question in questions:
        found.extend(map(hash, shingles(question)))
        ends.append(len(found))
    return np.frombuffer(found, dtype=np.int64), np.frombuffer(ends, dtype=np.int64)


def own_shingles(question: str, shared: Collection[str]) -> set[str]:
    """The shingles of a question without the `shared` ones; all of them where nothing else would be left."""
    every = shingles(question)
    return every.difference(shared) or every


def similar_pairs(
    texts: Sequence[str], threshold: float, alive: np.ndarray, shared: Collection[str] = ()
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, block by block, the pairs (i, j), i < j, of living texts that are at least `threshold` alike.

    They have to be so twice: by all their shingles, and by their own, those that are not `shared`. Pairs come in the
    order of j, and the caller may clear `alive` between blocks. An exact join, a little slower than linear.
    """
    if not texts:
        return
    hashes, ends = _hashes(texts)  # of 64 bits: among a million questions' two meet in one case of 40,000
    columns, indices = np.unique(hashes, return_inverse=True)
    indices, ends = indices.astype(np.int32), ends.astype(np.int32)
    every = csr_matrix((np.ones(len(indices), dtype=np.int32), indices, ends), shape=(len(texts), len(columns)))
    sets = _own(every, np.flatnonzero(np.isin(columns, [*map(hash, shared)])))
    sizes, holders = sets.getnnz(axis=1), sets.T.tocsr()  # by shingle, the texts that hold it
    for start in range(0, len(texts), BLOCK):
        block = start + np.flatnonzero(alive[start : start + BLOCK])
        common = (sets[block] @ holders).tocoo()
        first, second = common.col, block[common.row]
        alike = (first < second) & alive[first] & _reaches(threshold, common.data, sizes[first] + sizes[second])
        first, second = first[alike], second[alike]
        if shared:
            alike = _alike(every, first, second, threshold)
            first, second = first[alike], second[alike]
        yield first, second


def groups(texts: Sequence[str], threshold: float, shared: Collection[str] = ()) -> np.ndarray:
    """A label for each text, 0 and up: the same for two that a chain of `similar_pairs` links."""
    group, alive = np.arange(len(texts)), np.ones(len(texts), dtype=bool)
    for first, second in similar_pairs(texts, threshold, alive, shared):
        if not len(first):
            continue
        links = coo_matrix((np.ones(len(first)), (group[first], group[second])), shape=(len(texts), len(texts)))
        group = connected_components(links, directed=False)[1][group]
    return group


def _own(every: csr_matrix, shared: np.ndarray) -> csr_matrix:
    """The sets without the shared columns; a set of nothing else as it is."""
    weights = np.ones(every.shape[1], dtype=every.dtype)
    weights[shared] = 0
    own = every @ diags(weights, dtype=every.dtype)
    own.eliminate_zeros()
    return csr_matrix(own + diags((own.getnnz(axis=1) == 0).astype(every.dtype), dtype=every.dtype) @ every)


def _alike(sets: csr_matrix, first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each pair of sets reaches the threshold."""
    sizes, found = sets.getnnz(axis=1), [np.zeros(0, dtype=bool)]
    for start in range(0, len(first), PAIRS):
        i, j = first[start : start + PAIRS], second[start : start + PAIRS]
        common = np.asarray(sets[i].multiply(sets[j]).sum(axis=1)).ravel()
        found.append(_reaches(threshold, common, sizes[i] + sizes[j]))
    return np.concatenate(found)


def _reaches(threshold: float, common: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Whether the Jaccard index does, of sets with so many `common` members and `both` sizes together."""
    return common >= threshold * (both - common) - 1e-9
