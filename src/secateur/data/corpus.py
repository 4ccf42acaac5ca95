"""English-Russian pairs from files, data sets and catalogs: cleaned, deduplicated, split by hash.

A row is a pair of translations or, if not `paired`, two sentences too short to be compared with each other:
output matching, which needs no pairs, uses every row; everything else uses paired rows only.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from secateur.config.corpus import CorpusSettings
from secateur.config.errors import InputError
from secateur.data.catalogs import read_catalogs
from secateur.data.cleaning import ANY, KeyedRow, clean_rows, drop_duplicates
from secateur.data.counting import say_count
from secateur.data.pairs import Pairs, ParallelCorpus
from secateur.data.passages import join_passages
from secateur.data.sources import Row, read_aligned, read_dataset, read_table, read_texts, read_words

logger = logging.getLogger(__name__)


def load_corpus(settings: CorpusSettings, cache: Path, *, given: Sequence[Row] | None = None) -> ParallelCorpus:
    """Read every source of `settings` and return what is left after cleaning, split into train and held-out rows.

    `given` are rows in memory; they take the place of the sources.

    A row's side depends on its English text alone, so it never changes when sources are added. Rows come in the
    order of their hashes, whatever the order of the sources: any prefix is a fair sample. `cache` keeps wheels and
    what was read from them.

    Raises InputError: a source missing, unreadable or with too many malformed lines, a wheel too unless
    `allow_missing`; nothing left on a side.
    """
    if given is None and not (settings.files or settings.datasets or settings.catalogs):
        raise InputError("corpus: name at least one of files, datasets, catalogs")
    found, missing = read_sources(settings, cache) if given is None else (given, ())
    clean = clean_rows(found, min_words=settings.min_words, max_words=settings.max_words)
    known = {keyed.row.source for keyed in clean} | {wheel.name for wheel in settings.catalogs}
    for source in settings.max_per_source.keys() - known - {ANY}:
        raise InputError(f"corpus.max_per_source: no source {source}; there are {', '.join(sorted(known))}")
    train, held = split_keyed(drop_duplicates(clean, settings.max_per_source), settings.held_out)
    if settings.passages:
        train = sorted([*train, *make_passages(clean, held, settings)])
    corpus = ParallelCorpus(gather(train), gather(held), missing)
    check_sides(corpus, settings)
    log_pairs("for training and fitting", corpus.train)
    log_pairs("held out", corpus.held_out)
    return corpus


def make_passages(clean: list[KeyedRow], held: list[KeyedRow], settings: CorpusSettings) -> list[KeyedRow]:
    """Return passages of rows that may be trained on, whatever caps left out: capped rows have no neighbours."""
    en_held, ru_held = {keyed.en_key for keyed in held}, {keyed.ru_key for keyed in held}
    free = [
        keyed
        for keyed in clean
        if keyed.place >= settings.held_out and keyed.en_key not in en_held and keyed.ru_key not in ru_held
    ]
    return join_passages(free, settings.passages, max_words=settings.passage_words)


def check_sides(corpus: ParallelCorpus, settings: CorpusSettings) -> None:
    """Raise InputError where one side has no pair; of a few pairs the hash may well hold out none, or all."""
    train, held_out = sum(corpus.train.paired), sum(corpus.held_out.paired)
    if train and held_out:
        return
    if not train + held_out:
        rows = len(corpus.train)
        raise InputError(f"corpus.min_words: {settings.min_words} words on each side, which none of {rows} rows has")
    lack, remedy = ("to judge by", "larger") if train else ("to train or fit on", "smaller")
    raise InputError(
        f"corpus.held_out: {settings.held_out} of {train + held_out} pairs, picked by hash, leaves none {lack}: "
        f"give more pairs or a {remedy} share"
    )


def read_sources(settings: CorpusSettings, cache: Path) -> tuple[Iterable[Row], tuple[str, ...]]:
    """Return the rows of all sources, as they are there, and which wheels could not be had; files are read first."""
    local = [row for file in settings.files for row in read_file(file, settings.max_malformed)]
    local += [row for en, ru in settings.texts for row in read_texts(Path(en), Path(ru))]
    catalogs = read_catalogs(settings.catalogs, cache, allow_missing=settings.allow_missing)
    inside = (Row(en, ru, source) for source, pairs in catalogs.pairs.items() for en, ru in pairs)
    words = read_words(settings.words) if settings.words else []
    return chain(local, *map(read_dataset, settings.datasets), words, inside), catalogs.missing


def read_file(file: str | tuple[str, str], max_malformed: float) -> list[Row]:
    if isinstance(file, str):
        return read_table(Path(file), max_malformed)
    return read_aligned(Path(file[0]), Path(file[1]))


def split_rows(rows: list[KeyedRow], held_out: float) -> ParallelCorpus:
    """Hold out paired rows by the hash of their English side; drop training rows that share a sentence with them."""
    train, held = split_keyed(rows, held_out)
    return ParallelCorpus(gather(train), gather(held))


def split_keyed(rows: list[KeyedRow], held_out: float) -> tuple[list[KeyedRow], list[KeyedRow]]:
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
    log_left_out(len(rows) - len(rest) - len(held), "held-out pair", "another held-out pair")
    log_left_out(len(rest) - len(train), "training pair", "a held-out pair")
    return train, held


def log_left_out(count: int, noun: str, other: str) -> None:
    if count:
        share = "it shares" if count == 1 else "they share"
        logger.info("%s left out, as %s a sentence with %s", say_count(count, noun), share, other)


def gather(rows: list[KeyedRow]) -> Pairs:
    return Pairs(
        en=[keyed.row.en for keyed in rows],
        ru=[keyed.row.ru for keyed in rows],
        source=[keyed.row.source for keyed in rows],
        paired=[keyed.paired for keyed in rows],
    )


def log_pairs(side: str, pairs: Pairs) -> None:
    counts = Counter(pairs.source).most_common()
    per_source = ", ".join(f'"{source}": {say_count(count, "row")}' for source, count in counts)
    sentences = say_count(len(set(pairs.en)) + len(set(pairs.ru)), "sentence")
    paired = sum(pairs.paired)
    unpaired = len(pairs) - paired
    short = f" and {say_count(unpaired, 'row')} too short to be {'a pair' if unpaired == 1 else 'pairs'}"
    rows = say_count(paired, "pair") + (short if unpaired else "")
    logger.info("%s: %s, %s; from %s", side, rows, sentences, per_source)
