"""Pairs of sentences from the English-Russian translations that PyPI wheels carry: gettext catalogs and JSON.

Wheels are read as archives; nothing is installed.
"""

import html
import json
import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import polib

from secateur.config.errors import InputError
from secateur.config.teacher import Wheel
from secateur.data.files import write_json
from secateur.data.progress import progress_bar
from secateur.data.wheels import UnavailableError, fetch_wheel

logger = logging.getLogger(__name__)

EXTRACTOR = 1  # part of the cached pairs' name: raise it when the same wheel gives other pairs
DOWNLOADS = 4  # at a time

RUSSIAN = re.compile(r"(?:^|[/._-])(ru(?:[_-]ru)?)(?:[/.-].*)?\.(?:po|mo|json)$", re.IGNORECASE)  # ru/a.po, b-ru_RU.mo
DEFAULT = re.compile(r'Default: "((?:[^"\\]|\\.)*)"')  # Zope's catalogs: the text, where the msgid is a symbol
SYMBOL = re.compile(r"[\w.-]*\w[_.]\w[\w.-]*")  # label_add_item, not English
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


def read_catalogs(wheels: Sequence[Wheel], cache: Path) -> dict[str, list[Pair]]:
    """Return the pairs of each wheel, by the wheel's name, in the order given; read once, then kept in `cache`.

    A wheel that cannot be had, or is not the one pinned, is named in a warning and left out.
    Raises InputError if that befalls all of them.
    """
    if not wheels:
        return {}
    catalogs: dict[str, list[Pair]] = {}
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        results = pool.map(partial(read_wheel, cache=cache), wheels)
        progress = progress_bar("reading catalogs", results, total=len(wheels), unit="wheels")
        for wheel, pairs in zip(wheels, progress, strict=True):
            if isinstance(pairs, str):
                reason = f"{wheel.name} {wheel.version}: {pairs}"
                logger.warning("catalog left out: %s", reason)
            else:
                catalogs[wheel.name] = pairs
    if not catalogs:
        raise InputError(f"corpus.catalogs: none of {len(wheels)} wheels can be had; {reason}")
    found = f"{len(catalogs)} of {len(wheels)}" if len(catalogs) < len(wheels) else str(len(wheels))
    logger.info("%d pairs in %s catalogs", sum(map(len, catalogs.values())), found)
    return catalogs


def read_wheel(wheel: Wheel, cache: Path) -> list[Pair] | str:
    """Return a wheel's pairs or, if it cannot be had, the reason."""
    kept = find_kept(wheel, cache)
    if kept.exists():
        return [(en, ru) for en, ru in json.loads(kept.read_text(encoding="utf-8"))]
    try:
        pairs = extract_pairs(fetch_wheel(wheel, cache / "wheels"))
    except (UnavailableError, zipfile.BadZipFile) as error:
        return str(error)
    write_json(kept, pairs, indent=0)
    return pairs


def find_kept(wheel: Wheel, cache: Path) -> Path:
    """Return where a wheel's pairs are kept once they are read."""
    return cache / "catalogs" / f"{wheel.name}-{wheel.version}-{wheel.sha256[:16]}-{EXTRACTOR}.json"


def extract_pairs(path: Path) -> list[Pair]:
    """Return every distinct pair of the wheel's Russian translations, cleaned of markup, file by file."""
    pairs: dict[Pair, None] = {}  # a set that keeps the order
    with zipfile.ZipFile(path) as wheel:
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
            return read_gettext(polib.pofile(wheel.read(name).decode("utf-8-sig")))
        if name.endswith(".mo") and source not in wheel.NameToInfo:
            return read_gettext(polib.mofile(wheel.read(name)))
        if name.endswith(".json") and english in wheel.NameToInfo:
            return list(match_json(json.loads(wheel.read(english)), json.loads(wheel.read(name))))
    except (OSError, ValueError) as error:
        logger.warning("%s: %s skipped: %s", wheel.filename, name, error)
    return []


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
    en_parts, ru_parts = PARAGRAPH.split(en.strip()), PARAGRAPH.split(ru.strip())
    if len(en_parts) != len(ru_parts):
        en_parts, ru_parts = [en], [ru]
    pairs = [(strip_markup(en), strip_markup(ru)) for en, ru in zip(en_parts, ru_parts, strict=True)]
    return [(en, ru) for en, ru in pairs if en and ru and not SYMBOL.fullmatch(en) and not set("{}|") & set(en + ru)]


def strip_markup(text: str) -> str:
    """Return an interface text without tags, placeholders, accelerators and reStructuredText marks."""
    text = html.unescape(text)
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return text
