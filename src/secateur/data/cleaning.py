"""Rows that can be pairs: white space collapsed, misfits left out, duplicates dropped."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from secateur.config.errors import InputError
from secateur.data.counting import say_count
from secateur.data.progress import progress_bar
from secateur.data.sources import FREQUENT, Row

logger = logging.getLogger(__name__)

LATIN = re.compile("[A-Za-z]")
CYRILLIC = re.compile("[А-Яа-яЁё]")
WORDS = re.compile(r"\w+(?:[-'’]\w+)*")
ANY = "*"  # in max_per_source: every source not named
LENGTH_RATIO, LENGTH_SLACK = 3, 20  # a pair is misaligned if one side has over 3 times the other's characters + 20


class KeyedRow(NamedTuple):
    """A clean row and what it is compared by: its normalised sides, their order, and its place in 0..1."""

    order: bytes  # hash of both keys
    en_key: str
    ru_key: str
    row: Row
    place: float  # hash of the English key, so that all translations of a sentence fall on one side
    paired: bool
    number: int  # among the rows that were read


def clean_rows(rows: Iterable[Row], *, min_words: int, max_words: int) -> list[KeyedRow]:
    """Collapse white space and leave out what cannot be a pair of an English and a Russian sentence."""
    clean, dropped = [], Counter[str]()
    for number, row in enumerate(progress_bar("reading pairs", rows, unit="rows")):
        tidy = row._replace(en=" ".join(row.en.split()), ru=" ".join(row.ru.split()))
        keyed = key_row(tidy, min_words, number=number)
        misfit = find_misfit(keyed, max_words)
        if misfit:
            dropped[misfit] += 1
        else:
            clean.append(keyed)
    reasons = ", ".join(f"{reason} in {count:,}" for reason, count in dropped.most_common())
    read = say_count(len(clean) + dropped.total(), "row")
    if not clean:
        raise InputError(f"corpus: no pair in {read} ({reasons}); a row is English, then Russian")
    logger.info("%s read%s", read, reasons and f", {len(clean):,} kept; left out: {reasons}")
    return clean


def key_row(row: Row, min_words: int, *, number: int = 0) -> KeyedRow:
    en_key, ru_key = comparison_key(row.en), comparison_key(row.ru)
    order = blake2b(f"{en_key}\t{ru_key}".encode(), digest_size=8).digest()
    place = find_place(en_key)
    # Words are counted in the keys: copies of a pair must agree on whether it may be held out.
    paired = row.translated and min(count_words(en_key), count_words(ru_key)) >= min_words
    return KeyedRow(order, en_key, ru_key, row, place, paired, number)


def find_place(key: str, *, salt: bytes = b"") -> float:
    """Return a number in 0..1 that depends on the key and the salt alone."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8, salt=salt).digest(), "big") / 2**64


def count_words(key: str) -> int:
    return key.count(" ") + 1


def find_misfit(keyed: KeyedRow, max_words: int) -> str | None:
    """Return why a row cannot be a pair of an English and a Russian sentence; None: it can."""
    en, ru = keyed.row.en, keyed.row.ru
    if not LATIN.search(en):
        return "no English"
    if not CYRILLIC.search(ru):
        return "no Russian"
    if keyed.en_key == keyed.ru_key:
        return "not translated"
    if max(count_words(keyed.en_key), count_words(keyed.ru_key)) > max_words:
        return f"over {max_words} words"
    if keyed.row.translated and max(len(en), len(ru)) > LENGTH_RATIO * min(len(en), len(ru)) + LENGTH_SLACK:
        return "lengths too different"
    return None


def comparison_key(text: str) -> str:
    """Return what two copies of a sentence have in common: its words, in NFKC, without case and punctuation."""
    return " ".join(WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def drop_duplicates(rows: list[KeyedRow], max_per_source: Mapping[str, int]) -> list[KeyedRow]:
    """Return the rows in the order of their hashes, each pair once, of a capped source the first so many.

    A row over its source's cap does not stand in the way of the same row from another source.
    """

    def cap(source: str) -> int:
        # words have a count of their own
        others = len(rows) if source == FREQUENT else max_per_source.get(ANY, len(rows))
        return max_per_source.get(source, others)

    kept: list[KeyedRow] = []
    per_source, duplicates, over_cap = Counter[str](), 0, 0
    for keyed in sorted(rows):
        source = keyed.row.source
        if kept and keyed[:3] == kept[-1][:3]:
            duplicates += 1
        elif per_source[source] >= cap(source):
            over_cap += 1
        else:
            kept.append(keyed)
            per_source[source] += 1
    reasons = [say_count(duplicates, "duplicate")] if duplicates else []
    reasons += [f"{over_cap:,} over max_per_source"] if over_cap else []
    if reasons:
        logger.info("%s kept; left out: %s", say_count(len(kept), "row"), ", ".join(reasons))
    return kept
