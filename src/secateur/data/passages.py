"""Long texts for training: translations that stand one after the other in their source, joined.

An encoder that is trained on sentences alone is used on paragraphs. Where a corpus has documents, neighbours in a file
belong together; where it has not, a passage is at least as long as a paragraph. A translation of each part is a
translation of the whole.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest

import numpy as np

from secateur.config.errors import InputError
from secateur.data.cleaning import KeyedRow, count_words, key_row
from secateur.data.sources import Row

PASSAGES = "passages"  # the source that they are rows of
LEAST_WORDS = 40  # of a passage, on its longer side


def join_passages(rows: Sequence[KeyedRow], count: int, *, max_words: int) -> list[KeyedRow]:
    """Return up to `count` passages of 40 to `max_words` words, taken from each source in turn.

    Lengths are drawn evenly from that range; each translation is in one passage at the most. Raises InputError: the
    range is empty, or no source has enough neighbours.
    """
    if max_words < LEAST_WORDS:
        raise InputError(f"corpus.passage_words: {max_words} is less than the {LEAST_WORDS} words that a passage has")
    by_source: dict[str, list[KeyedRow]] = {}
    for keyed in sorted((row for row in rows if row.paired), key=lambda row: row.number):
        by_source.setdefault(keyed.row.source, []).append(keyed)
    lengths = np.random.default_rng(0)
    sources = [join_source(by_source[name], lengths, max_words) for name in sorted(by_source)]
    turns = (passage for turn in zip_longest(*sources) for passage in turn if passage is not None)
    found = list(islice(turns, count))
    if not found:
        raise InputError("corpus.passages: no source has translations enough to join")
    return [key_row(passage, 1) for passage in found]


def join_source(rows: Sequence[KeyedRow], lengths: np.random.Generator, max_words: int) -> Iterator[Row]:
    """Yield the passages of one source, whose rows stand as in its file."""
    parts: list[KeyedRow] = []
    words, wanted = 0, int(lengths.integers(LEAST_WORDS, max_words + 1))
    for keyed in rows:
        longer = max(count_words(keyed.en_key), count_words(keyed.ru_key))
        if parts and words + longer > wanted:
            if words >= LEAST_WORDS:
                yield join(parts)
            parts, words, wanted = [], 0, int(lengths.integers(LEAST_WORDS, max_words + 1))
        parts.append(keyed)
        words += longer


def join(parts: Sequence[KeyedRow]) -> Row:
    en, ru = (" ".join(getattr(part.row, side) for part in parts) for side in ("en", "ru"))
    return Row(en, ru, PASSAGES)
