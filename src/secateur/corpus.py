"""English-Russian pairs from files, data sets and catalogs: cleaned, deduplicated, split by hash.

A row is a pair of translations or, if not `paired`, two sentences too short to be compared with each other:
output matching, which needs no pairs, uses every row; everything else uses paired rows only.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from secateur import config
from secateur.catalogs import read_catalogs
from secateur.config import InputError
from secateur.sources import FREQUENT, Row, read_aligned, read_dataset, read_table, read_words

logger = logging.getLogger(__name__)

LATIN = re.compile("[A-Za-z]")
CYRILLIC = re.compile("[А-Яа-яЁё]")
WORDS = re.compile(r"\w+(?:[-'’]\w+)*")
ANY = "*"  # in max_per_source: every source not named
LENGTH_RATIO, LENGTH_SLACK = 3, 20  # a pair is misaligned if one side has over 3 times the other's characters + 20


@dataclass(frozen=True)
class Pairs:
    """Rows as columns. `paired` is False where the two sides serve as two sentences, not as a pair."""

    en: list[str]
    ru: list[str]
    source: list[str]
    paired: list[bool]

    def __len__(self) -> int:
        return len(self.en)

    @property
    def texts(self) -> "Pairs":
        """The rows that somebody wrote: all but lists of frequent words."""
        return self.take([row for row, source in enumerate(self.source) if source != FREQUENT])

    @property
    def translations(self) -> "Pairs":
        return self.take(np.flatnonzero(self.paired).tolist())

    def take(self, rows: Sequence[int]) -> "Pairs":
        return Pairs(
            [self.en[row] for row in rows],
            [self.ru[row] for row in rows],
            [self.source[row] for row in rows],
            [self.paired[row] for row in rows],
        )

    def weigh(self, source_weights: Mapping[str, float]) -> np.ndarray:
        """Return each row's weight, float64 [rows]: its source's, or 1."""
        return np.array([source_weights.get(source, 1.0) for source in self.source], np.float64)

    def draw(self, count: int, source_weights: Mapping[str, float]) -> "Pairs":
        """Return `count` rows, or as many as weigh something, each as often as its source's weight says: systematic
        sampling (Madow 1944). Without weights they are the first."""
        if not source_weights:
            return self.take(range(min(count, len(self))))
        weights = self.weigh(source_weights)
        count = min(count, int(np.count_nonzero(weights)))
        points = (np.arange(count) + 0.5) * (weights.sum() / max(count, 1))
        return self.take(np.searchsorted(np.cumsum(weights), points).tolist())


@dataclass(frozen=True)
class ParallelCorpus:
    """What stages train on and are judged by: no sentence is on both sides, and held-out rows are all paired."""

    train: Pairs
    held_out: Pairs


class KeyedRow(NamedTuple):
    """A clean row and what it is compared by: its normalised sides, their order, and its place in 0..1."""

    order: bytes  # hash of both keys
    en_key: str
    ru_key: str
    row: Row
    place: float  # hash of the English key, so that all translations of a sentence fall on one side
    paired: bool


def load_corpus(settings: config.Corpus, cache: Path) -> ParallelCorpus:
    """Read every source of `settings` and return what is left after cleaning, split into train and held-out rows.

    A row's side depends on its English text alone, so it never changes when sources are added. Rows come in the
    order of their hashes, whatever the order of the sources: any prefix is a fair sample. `cache` keeps wheels and
    what was read from them.

    Raises InputError: a source missing, unreadable or with too many malformed lines; nothing left on a side.
    """
    if not (settings.files or settings.datasets or settings.catalogs):
        raise InputError("corpus: name at least one of files, datasets, catalogs")
    rows = clean_rows(read_rows(settings, cache), min_words=settings.min_words, max_words=settings.max_words)
    known = {keyed.row.source for keyed in rows} | {wheel.name for wheel in settings.catalogs}
    for source in settings.max_per_source.keys() - known - {ANY}:
        raise InputError(f"corpus.max_per_source: no source {source}; there are {', '.join(sorted(known))}")
    rows = drop_duplicates(rows, settings.max_per_source)
    corpus = split_rows(rows, settings.held_out)
    check_sides(corpus, settings)
    log_pairs("train", corpus.train)
    log_pairs("held_out", corpus.held_out)
    return corpus


def check_sides(corpus: ParallelCorpus, settings: config.Corpus) -> None:
    """Raise InputError where one side has no pair; of a few pairs the hash may well hold out none, or all."""
    train, held_out = sum(corpus.train.paired), sum(corpus.held_out.paired)
    if train and held_out:
        return
    if not train + held_out:
        rows = len(corpus.train)
        raise InputError(f"corpus.min_words: {settings.min_words} words on each side, which none of {rows} rows has")
    lack, remedy = ("to judge by", "larger") if train else ("to train on", "smaller")
    raise InputError(
        f"corpus.held_out: {settings.held_out} of {train + held_out} pairs, picked by hash, leaves none {lack}: "
        f"give more pairs or a {remedy} share"
    )


def read_rows(settings: config.Corpus, cache: Path) -> Iterator[Row]:
    """Yield the rows of all sources, as they are there."""
    for file in settings.files:
        if isinstance(file, str):
            yield from read_table(Path(file), settings.max_malformed)
        else:
            yield from read_aligned(Path(file[0]), Path(file[1]))
    for dataset in settings.datasets:
        yield from read_dataset(dataset)
    yield from read_words(settings.words) if settings.words else ()
    for source, pairs in read_catalogs(settings.catalogs, cache).items():
        yield from (Row(en, ru, source) for en, ru in pairs)


def clean_rows(rows: Iterable[Row], *, min_words: int, max_words: int) -> list[KeyedRow]:
    """Collapse white space and leave out what cannot be a pair of an English and a Russian sentence."""
    clean, dropped = [], Counter[str]()
    for row in tqdm(rows, "reading pairs", unit=" rows", disable=None):
        keyed = key_row(row._replace(en=" ".join(row.en.split()), ru=" ".join(row.ru.split())), min_words)
        flaw = find_flaw(keyed, max_words)
        if flaw:
            dropped[flaw] += 1
        else:
            clean.append(keyed)
    logger.info("%d rows read, %d clean; dropped: %s", len(clean) + dropped.total(), len(clean), dict(dropped))
    if not clean:
        flaws = ", ".join(f"{flaw} in {count}" for flaw, count in dropped.most_common())
        raise InputError(f"corpus: no pair in {dropped.total()} rows ({flaws}); a row is English, then Russian")
    return clean


def key_row(row: Row, min_words: int) -> KeyedRow:
    en_key, ru_key = normalise(row.en), normalise(row.ru)
    order = blake2b(f"{en_key}\t{ru_key}".encode(), digest_size=8).digest()
    place = int.from_bytes(blake2b(en_key.encode(), digest_size=8).digest(), "big") / 2**64
    # Words are counted in the keys: copies of a pair must agree on whether it may be held out.
    paired = row.translated and min(count_words(en_key), count_words(ru_key)) >= min_words
    return KeyedRow(order, en_key, ru_key, row, place, paired)


def count_words(key: str) -> int:
    return key.count(" ") + 1


def find_flaw(keyed: KeyedRow, max_words: int) -> str | None:
    en, ru = keyed.row.en, keyed.row.ru
    if not LATIN.search(en):
        return "no English"
    if not CYRILLIC.search(ru):
        return "no Russian"
    if keyed.en_key == keyed.ru_key:
        return "not translated"
    if max(count_words(keyed.en_key), count_words(keyed.ru_key)) > max_words:
        return f"over {max_words} words"
    if max(len(en), len(ru)) > LENGTH_RATIO * min(len(en), len(ru)) + LENGTH_SLACK:
        return "lengths too different"
    return None


def normalise(text: str) -> str:
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
    logger.info("%d duplicates dropped, %d rows over their source's cap, %d kept", duplicates, over_cap, len(kept))
    return kept


def split_rows(rows: list[KeyedRow], held_out: float) -> ParallelCorpus:
    """Hold out paired rows by the hash of their English side; drop training rows that share a sentence with them."""
    held: list[KeyedRow] = []
    rest: list[KeyedRow] = []
    en_held: set[str] = set()
    ru_held: set[str] = set()
    for keyed in rows:
        if not keyed.paired or keyed.place >= held_out:
            rest.append(keyed)
        elif keyed.en_key not in en_held and keyed.ru_key not in ru_held:  # twice in a pool, a sentence finds itself
            held.append(keyed)
            en_held.add(keyed.en_key)
            ru_held.add(keyed.ru_key)
    train = [keyed for keyed in rest if keyed.en_key not in en_held and keyed.ru_key not in ru_held]
    logger.info(
        "%d rows held out, %d more with a sentence held out twice dropped, %d leaks dropped from training",
        len(held), len(rows) - len(rest) - len(held), len(rest) - len(train),
    )  # fmt: skip
    return ParallelCorpus(gather(train), gather(held))


def gather(rows: list[KeyedRow]) -> Pairs:
    return Pairs(
        en=[keyed.row.en for keyed in rows],
        ru=[keyed.row.ru for keyed in rows],
        source=[keyed.row.source for keyed in rows],
        paired=[keyed.paired for keyed in rows],
    )


def log_pairs(side: str, pairs: Pairs) -> None:
    per_source = ", ".join(f"{source} {count}" for source, count in Counter(pairs.source).most_common())
    sentences = len(set(pairs.en)) + len(set(pairs.ru))
    logger.info(
        "%s: %d pairs and %d rows too short to be pairs, %d sentences; rows per source: %s",
        side, sum(pairs.paired), len(pairs) - sum(pairs.paired), sentences, per_source,
    )  # fmt: skip
