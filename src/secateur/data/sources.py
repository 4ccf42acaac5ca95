"""Rows of parallel text from files and Hugging Face data sets, as they are there."""

import gzip
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from secateur.config.corpus import DatasetSettings
from secateur.config.errors import InputError, require, say_error
from secateur.config.reading import read_wheels
from secateur.data.progress import progress_bar
from secateur.data.texts import decode_text, find_strange

FREQUENT = "wordfreq"
SMALL, MOST_GROWTH = 2**28, 100  # bytes that any gzip file may unpack to; for a byte packed, of a larger one
LETTERS = {"en": re.compile("[a-z]+(?:['’-][a-z]+)*"), "ru": re.compile("[а-яё]+(?:-[а-яё]+)*")}

logger = logging.getLogger(__name__)


class Row(NamedTuple):
    en: str
    ru: str
    source: str
    translated: bool = True  # one side is the translation of the other


def read_table(path: Path, max_malformed: float) -> list[Row]:
    """Read en, ru[, source] from a tab-separated file; lines of another width than most are skipped up to a share."""
    table = [(number, line.split("\t")) for number, line in enumerate(read_lines(path), start=1) if line.strip()]
    widths = Counter(len(cells) for _, cells in table if len(cells) in (2, 3))
    width = widths.most_common(1)[0][0] if widths else 3
    malformed = [(number, len(cells)) for number, cells in table if len(cells) != width]
    if len(malformed) > max_malformed * len(table):
        number, columns = malformed[0]
        raise InputError(
            f"{path}: line {number} has {columns} tab-separated columns, not {width if widths else '2 (en, ru) or 3'}; "
            f"{len(malformed)} of {len(table)} lines are malformed, at most {max_malformed:.2%} may be"
        )
    skipped = f", {len(malformed)} malformed lines skipped" if malformed else ""
    logger.info("%s: %d rows%s", path, len(table) - len(malformed), skipped)
    name = source_name(path)
    return [Row(cells[0], cells[1], "".join(cells[2:]).strip() or name) for _, cells in table if len(cells) == width]


def read_aligned(en_path: Path, ru_path: Path) -> list[Row]:
    """Read two texts whose n-th lines are translations of each other."""
    en, ru = read_lines(en_path), read_lines(ru_path)
    if len(en) != len(ru):
        raise InputError(f"{en_path} has {len(en)} lines, {ru_path} has {len(ru)}: aligned texts have equally many")
    logger.info("%s, %s: %d rows", en_path, ru_path, len(en))
    name = source_name(en_path)
    return [Row(*sides, name) for sides in zip(en, ru, strict=True)]


def read_texts(en_path: Path, ru_path: Path) -> list[Row]:
    """Read an English and a Russian text that are not translations of each other, a sentence on each line.

    The n-th longest lines of both are a row, so that what is read in one batch is of like length; the shorter text
    starts again where it ends.
    """
    sides = [sorted((line for line in read_lines(path) if line.strip()), key=len) for path in (en_path, ru_path)]
    count = max(map(len, sides))
    logger.info("%s, %s: %d and %d sentences", en_path, ru_path, *map(len, sides))
    en, ru = ([side[row * len(side) // count] for row in range(count)] for side in sides)
    return [Row(*pair, source_name(en_path), translated=False) for pair in zip(en, ru, strict=True)]


def name_sources(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Return files as keys of a corpus: lists of catalogs end in .yaml, the rest is one table or two aligned texts.

    Raises InputError: three texts or more.
    """
    names = [str(path) for path in paths]
    lists = [name for name in names if name.endswith((".yaml", ".yml"))]
    texts = [name for name in names if name not in lists]
    if not all(names):
        raise InputError("pairs: a file's name is empty")
    if len(texts) > 2:
        raise InputError(f"pairs: one .tsv or two aligned texts, not {len(texts)} files")
    catalogs = [wheel for name in lists for wheel in read_wheels(Path(name))]
    return {"files": [texts] if len(texts) == 2 else texts, "catalogs": catalogs}


def read_given(pairs: Any) -> list[Row]:
    """Return pairs that are in memory as rows: a data set or a frame with two columns of text, or pairs of texts.

    Of a `datasets.Dataset` or a pandas frame the columns `en` and `ru` are taken, else the first two. Raises
    InputError: fewer than two columns; an item that is not a pair of texts, by its number.
    """
    names = getattr(pairs, "column_names", None)  # a data set
    if names is None and hasattr(pairs, "columns"):  # a frame
        names = list(pairs.columns)
    if isinstance(names, dict):
        raise InputError(f"pairs: a data set of several splits; give one of them: {', '.join(map(repr, names))}")
    if names is not None:
        if len(names) < 2:
            raise InputError(f"pairs: two columns of text are needed, there is {', '.join(map(repr, names)) or 'none'}")
        chosen = ("en", "ru") if {"en", "ru"} <= set(names) else tuple(names[:2])
        pairs = zip(*(list(pairs[name]) for name in chosen), strict=True)
    rows = [check_pair(number, pair) for number, pair in enumerate(pairs)]
    if not rows:
        raise InputError("pairs: there are none")
    return rows


def check_pair(number: int, pair: Any) -> Row:
    sides = list(pair) if isinstance(pair, Iterable) and not isinstance(pair, str | Mapping) else []
    if len(sides) != 2 or not all(isinstance(side, str) for side in sides):
        raise InputError(f"pairs: item {number} is {pair!r:.60}, not a pair of texts (English, Russian)")
    flaw = find_strange(sides[0]) or find_strange(sides[1])
    if flaw:
        raise InputError(f"pairs: item {number} {flaw}")
    return Row(sides[0], sides[1], "pairs")


def source_name(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text, gzipped if its name ends in .gz; a byte order mark and \\r\\n are tolerated.

    Raises InputError: no such file, or one that cannot be read; not UTF-8, by the line; empty.
    """
    try:
        content = unpack(path) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file: {error}") from None
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or "it does not fit in memory"
        raise InputError(f"{path}: cannot be read: {reason}") from None
    text = decode_text(content, str(path))
    if not text.strip():
        raise InputError(f"{path}: empty")
    # Not splitlines(), which also breaks at \x0b, \x85 and U+2028, inside a sentence.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def unpack(path: Path) -> bytes:
    """Return what a gzip file holds. Raises InputError: far more than a text does that was packed to its size."""
    most = max(SMALL, MOST_GROWTH * path.stat().st_size)
    with gzip.open(path) as packed:
        content = packed.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: unpacks to over {most:,} bytes, which is no text")
    return content


def read_dataset(dataset: DatasetSettings) -> Iterator[Row]:
    """Yield the rows of a Hugging Face data set, hub name or local folder."""
    import datasets  # takes a second, and most runs need none

    count = 0
    try:
        table = datasets.load_dataset(dataset.name, dataset.config, split=dataset.split, streaming=dataset.streaming)
        for record in progress_bar(dataset.name, islice(table, dataset.limit), total=dataset.limit, unit="rows"):
            en, ru = (read_column(record, column, dataset.name) for column in (dataset.en, dataset.ru))
            yield Row(en, ru, dataset.name)
            count += 1
    except InputError:
        raise
    except Exception as error:  # of the library and of those that it reads each format with
        reason = say_error(error)
        raise InputError(f"dataset {dataset.name}, split {dataset.split}: {reason}") from error
    logger.info("dataset %s: %d rows", dataset.name, count)


def read_words(count: int) -> list[Row]:
    """Return the `count` most frequent words of each language, two to a row, by rank; no row is a pair."""
    en, ru = (list(islice(word_frequencies(language), count)) for language in ("en", "ru"))
    return [Row(*sides, FREQUENT, translated=False) for sides in zip(en, ru, strict=False)]


def word_frequencies(language: str) -> dict[str, float]:
    """Return the words of `en` or `ru` in its own letters, as shares of all words, the most frequent first.

    They come from the optional package wordfreq (Speer, 2022): subtitles, encyclopedia, news, books, posts, the web.
    Raises InputError where it is not installed.
    """
    require("wordfreq", extra="words", by="corpus.words, student.vocabulary.general")
    from wordfreq import get_frequency_dict

    letters = LETTERS[language]
    frequencies = get_frequency_dict(language, "best")
    return {word: share for word, share in frequencies.items() if letters.fullmatch(word)}


def read_column(record: dict[str, Any], column: str, name: str) -> str:
    """Return a text column; `a.b` is the column of that name or, if there is none, the field b of the struct a."""
    value: Any = record
    for key in [column] if column in record else column.split("."):
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"dataset {name}: no column {column}; there are {', '.join(list_columns(record))}")
        value = value[key]
    if not isinstance(value, str | None):
        raise InputError(f"dataset {name}: column {column} holds {type(value).__name__}, not text")
    return value or ""


def list_columns(record: dict[str, Any]) -> Iterator[str]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from (f"{key}.{field}" for field in list_columns(value))
        else:
            yield key
