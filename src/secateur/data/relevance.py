"""Queries, documents and which document answers which query, from files: what a search is judged on.

Texts are JSON lines with `_id`, `text` and perhaps `title` (the layout of BEIR, Thakur et al. 2021), or lines of
`id TAB text`; judgements are lines of `query id TAB document id [TAB relevance]`. A folder in BEIR's layout holds
queries.jsonl, corpus.jsonl and qrels/SPLIT.tsv. Any of the files may be gzipped.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.config.errors import InputError
from secateur.data.counting import say_count
from secateur.data.sources import read_lines
from secateur.data.texts import find_strange

log = logging.getLogger(__name__)

TEXT_HEADERS = ("id\ttext", "_id\ttext")
JUDGEMENT_HEADERS = ("query-id", "query_id", "qid")  # what the first column of a header is called


@dataclass(frozen=True)
class RelevanceSet:
    """Queries, the documents that are searched, and which of them are relevant to which query, all by id.

    Every query has a relevant document. `relevance` holds those above 0, the only ones that count; one that is not
    among the documents stays, as in trec_eval: it is never found. `notes`: what is odd in the files, a line each.
    """

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()


def find_beir(folder: Path, split: str) -> tuple[Path, Path, Path]:
    """Return the files of queries, documents and judgements in a folder of BEIR's layout, packed or not.

    Raises InputError: one of them is not there.
    """
    names = ("queries.jsonl", "corpus.jsonl", f"qrels/{split}.tsv")
    plain = [folder / name for name in names]
    queries, documents, relevant = (
        path if path.is_file() or not packed.is_file() else packed
        for path, packed in ((path, path.with_name(f"{path.name}.gz")) for path in plain)
    )
    for path in (path for path in (queries, documents, relevant) if not path.is_file()):
        raise InputError(f"{path}: no such file; a folder in BEIR's layout has {', '.join(names)}")
    return queries, documents, relevant


def read_relevance_set(queries: Path, documents: Path, relevant: Path) -> RelevanceSet:
    """Read the three files; a query without a relevant document is left out.

    Raises InputError: a file that cannot be read, or is empty; a malformed line; an id that is there twice; a query
    without text; no query has a relevant document, or none of these is there.
    """
    asked, searched, judged = read_texts(queries), read_texts(documents), read_judgements(relevant)
    for name in (name for name, text in asked.items() if not text):
        raise InputError(f"{queries}: query {name!r:.60} has no text")
    positive = {name: {each: value for each, value in found.items() if value > 0} for name, found in judged.items()}
    relevance = {name: positive[name] for name in asked if positive.get(name)}
    named = [each for found in relevance.values() for each in found]
    absent = [each for each in named if each not in searched]
    if not named:
        raise InputError(f"{relevant}: no query of {queries} has a relevant document in it")
    if len(absent) == len(named):
        raise InputError(f"{relevant}: none of its relevant documents is in {documents}, not even {absent[0]!r:.60}")
    odd = {
        "queries without a relevant document, which are not asked": [name for name in asked if name not in relevance],
        f"judged queries that are not in {queries.name}": [name for name in judged if name not in asked],
        f"relevant documents that are not in {documents.name}, so that nothing finds them": absent,
        f"documents of {documents.name} without text": [name for name, text in searched.items() if not text],
    }
    notes = tuple(f"{what}: {len(ids):,}, the first is {ids[0]!r:.60}" for what, ids in odd.items() if ids)
    log.info("%s: %d queries, %d documents", relevant, len(relevance), len(searched))
    return RelevanceSet({name: asked[name] for name in relevance}, searched, relevance, notes)


def read_texts(path: Path) -> dict[str, str]:
    """Return texts by id, of JSON lines where the file is called so, else of a table; a title stands before its text.

    Raises InputError: a malformed line; an id that is there twice; no text at all.
    """
    is_json = path.name.removesuffix(".gz").endswith((".jsonl", ".json"))
    texts: dict[str, str] = {}
    for number, line in number_lines(path):
        if number == 1 and line.lower() in TEXT_HEADERS:
            continue
        where = f"{path}: line {number}"
        name, text = parse_record(line, where) if is_json else parse_row(line, where)
        if name in texts:
            raise InputError(f"{where} has the id {name!r:.60}, which an earlier line has too")
        texts[name] = text.strip()
    if not any(texts.values()):
        raise InputError(f"{path}: holds no text")
    return texts


def number_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text that are not blank with their numbers, from 1."""
    return ((number, line) for number, line in enumerate(read_lines(path), start=1) if line.strip())


def parse_record(line: str, where: str) -> tuple[str, str]:
    """Return the id and the text of a JSON line, its title before the text, as BEIR joins them."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is not JSON") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} is {type(record).__name__}, not a JSON object with _id and text")
    fields = {"title": "", **record}
    if type(fields.get("_id")) is int:
        fields["_id"] = str(fields["_id"])  # judgements, a table, do not tell a number from a text
    for key in ("_id", "title", "text"):
        if key not in fields:
            raise InputError(f"{where} has no {key}")
        if not isinstance(fields[key], str | None):
            raise InputError(f"{where}: {key} is {fields[key]!r:.60}, not a text")
    name, title, text = (fields[key] or "" for key in ("_id", "title", "text"))
    flaw = find_strange(title + text)
    if flaw:
        raise InputError(f"{where} {flaw}")
    return check_name(name, where), f"{title} {text}" if title else text


def parse_row(line: str, where: str) -> tuple[str, str]:
    cells = line.split("\t")
    if len(cells) != 2:
        raise InputError(f"{where} has {say_count(len(cells), 'tab-separated column')}, not 2 (id, text)")
    return check_name(cells[0], where), cells[1]


def check_name(name: str, where: str) -> str:
    if not name.strip():
        raise InputError(f"{where}: an id is empty")
    return name.strip()


def read_judgements(path: Path) -> dict[str, dict[str, float]]:
    """Return by query the relevance of each document that was judged for it, 1 where a line has none.

    Raises InputError: a malformed line; two lines that judge one document differently for one query.
    """
    judged: dict[str, dict[str, float]] = {}
    for number, line in number_lines(path):
        cells = line.split("\t")
        if number == 1 and cells[0].strip().lower() in JUDGEMENT_HEADERS:
            continue
        where = f"{path}: line {number}"
        if len(cells) not in (2, 3):
            columns = say_count(len(cells), "tab-separated column")
            raise InputError(f"{where} has {columns}, not 2 or 3 (query id, document id, relevance)")
        query, document = (check_name(cell, where) for cell in cells[:2])
        value = parse_relevance(cells[2], where) if len(cells) == 3 else 1.0
        known = judged.setdefault(query, {})
        if known.setdefault(document, value) != value:
            raise InputError(f"{where} judges {document!r:.60} for {query!r:.60} otherwise than an earlier line")
    if not judged:
        raise InputError(f"{path}: holds no judgement")
    return judged


def parse_relevance(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: the relevance {text!r:.60} is not a number")
    return value
