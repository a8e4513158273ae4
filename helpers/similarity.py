"""How alike two texts are: folding them for comparison, and finding all similar pairs among thousands of questions."""

import unicodedata
from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

BLOCK = 512  # texts compared at once, which bounds the memory of a comparison


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


def similar_pairs(texts: list[str], threshold: float, alive: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, block by block, the pairs (i, j), i < j, of living texts that are at least `threshold` alike.

    An exact join, without the misses of MinHash: two sets with Jaccard index t share one of the n - ceil(t n) + 1
    rarest members of each, n its size (prefix filter; Bayardo, Ma and Srikant 2007), and only texts that meet there
    are compared. Rare members meet few texts, so the work grows about linearly. Pairs come in the order of j. The
    caller may clear `alive` between blocks, so that a boilerplate cluster is compared with its one survivor.
    """
    if not texts:
        return
    sets = CountVectorizer(analyzer=shingles, dtype=np.int32).fit_transform(texts)
    by_rarity = np.empty(sets.shape[1], dtype=sets.indices.dtype)
    by_rarity[np.argsort(sets.getnnz(axis=0), kind="stable")] = np.arange(sets.shape[1])
    sets = csr_matrix((sets.data, by_rarity[sets.indices], sets.indptr), shape=sets.shape)
    sets.sort_indices()
    sizes = sets.getnnz(axis=1)
    lengths = sizes - np.ceil(threshold * sizes - 1e-9).astype(int) + 1
    inside = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], sizes) < np.repeat(lengths, sizes)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    prefixes = csr_matrix((sets.data[inside], sets.indices[inside], ends), shape=sets.shape)
    for start in range(0, len(texts), BLOCK):
        block = start + np.flatnonzero(alive[start : start + BLOCK])
        earlier = np.flatnonzero(alive[: start + BLOCK])
        met = earlier[(prefixes[block] @ prefixes[earlier].T).getnnz(axis=0) > 0]
        shared = (sets[block] @ sets[met].T).tocoo()
        first, second, common = met[shared.col], block[shared.row], shared.data
        alike = (first < second) & (common >= threshold * (sizes[first] + sizes[second] - common) - 1e-9)
        yield first[alike], second[alike]
