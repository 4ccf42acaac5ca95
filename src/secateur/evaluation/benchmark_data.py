"""The encodechka benchmark's files: where they come from, what columns they have, how they are read.

They are the original files of github.com/avidale/encodechka, either in a folder the user names or downloaded
once from that repository at a pinned commit, every file checked against its sha256.
"""

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

from secateur.config.errors import InputError
from secateur.config.evaluation import EncodechkaSettings
from secateur.data.download import answer_within
from secateur.data.files import hash_file, whole_file
from secateur.data.progress import progress_bar

log = logging.getLogger(__name__)

COMMIT = "1c239b16669ea0a57af4c5e19eba3daedeca67a9"
SOURCE = f"https://raw.githubusercontent.com/avidale/encodechka/{COMMIT}/encodechka_eval/data"
OPEN_SECONDS = 10.0  # for a host to answer; a silent one is given up on after this long

SHA256 = {
    "stsb_dev.csv": "a357bd10d302de03d064c7b295e1f5a6db75c043d41068896441be5b41fad967",
    "para_gold.csv": "4a7ba6065b6735a04699a06c9cdf602f08c34b047d6774f17c545ad6d400d37e",
    "xnli_ru.csv": "a451c1061a000072bc01efa5e96f7bbbdf18b1f2c6be13d29045789d46372593",
    "SentiRuEval2016_small_train.csv": "8147090ba42675047c5fcf0bdd48c89cfc46fdfa30b9e697dd21bbbe871bbfaf",
    "SentiRuEval2016_small_test.csv": "af6ef9a94dd68234e0c980c3bb112cc30d36363101c050c5e2da7092bb4b3b7b",
    "toxic_train.csv": "34b67121bd33d30b44cda2d937ab568d3baf3a40c3dbbff87e29a9053959056c",
    "toxic_test.csv": "93c879f0abfdbb6050c7e595e06e7887ad2350dc6e9bfda324a9f77e4b375cb3",
    "inappropriate_train.csv": "f10e85c3ec434c85cece74837f9071019fd09cd39c239bb37206ac4f6affccb0",
    "inappropriate_test.csv": "eff4c7b596b11ce55e20c1e346054b1698eb2082ac9be3e570bbf04608665e11",
    "intents_train.csv": "21f6c4838340285efef048eb44a0adf9db650d0fae374e7ed841bb1f7685455d",
    "intents_test.csv": "da6b214528af9bdfea9286dee45f1fbb4162b5082e876a4ead438913bc3a8d3e",
    "factru.json": "30a298bae76e931fad229c6160bf284132daadf6bd272041167de5469e53bb1a",
    "rudrec.json": "11484d38217999fb04cf3c9a7edfdf1ad3ad40e70a1a7a6720576c1e4c3d07a0",
}


class DownloadError(RuntimeError):
    """The benchmark's files could not be downloaded; the message is one line that says why."""


@dataclass(frozen=True)
class Part:
    """One CSV file of a task: its text column, or the two of a pair, and its label column."""

    file: str
    texts: tuple[str, ...]
    label: str
    read_label: Callable[[str], str | int | float] = str
    labels: tuple[str, ...] = ()  # the labels there are, and no cell may be empty; none: any


@dataclass(frozen=True)
class Examples:
    """A part as read: `texts` holds one list a column."""

    texts: tuple[list[str], ...]
    labels: list[str | int | float]


@dataclass(frozen=True)
class Entities:
    """Texts and, for each, its named entities: (type, first character, past the last character)."""

    texts: list[str]
    entities: list[list[tuple[str, int, int]]]


# One part: pairs scored as they are. Two: what the classifier learns from, and what it is tested on.
SENTENCE_PARTS: dict[str, tuple[Part, ...]] = {
    "STS": (Part("stsb_dev.csv", ("sentence1", "sentence2"), "similarity_score", float),),
    "PI": (Part("para_gold.csv", ("text_1", "text_2"), "class", int),),
    "NLI": (Part("xnli_ru.csv", ("sentence1", "sentence2"), "gold_label"),),
    "SA": (
        Part("SentiRuEval2016_small_train.csv", ("text",), "answer"),
        Part("SentiRuEval2016_small_test.csv", ("text",), "answer"),
    ),
    "TI": (Part("toxic_train.csv", ("text",), "toxic", int), Part("toxic_test.csv", ("text",), "toxic", int)),
    "IA": (Part("inappropriate_train.csv", ("text",), "y", int), Part("inappropriate_test.csv", ("text",), "y", int)),
    "IC": (Part("intents_train.csv", ("text",), "label"), Part("intents_test.csv", ("text",), "label")),
    "ICX": (Part("intents_train.csv", ("answer",), "label"), Part("intents_test.csv", ("text",), "label")),
}
WORD_FILES = {"NE1": "factru.json", "NE2": "rudrec.json"}


def find_data(settings: EncodechkaSettings, cache: Path, *, source: str = SOURCE) -> Path:
    """Return a folder that holds every file of the chosen tasks: the user's, or one under `cache`, filled once.

    Raises InputError when a file of the user's folder is missing or damaged, DownloadError when there is no
    such folder to look in and the download fails; a host that does not answer is given up on after 10 s.
    """
    names = list_files(settings.tasks)
    if settings.data is None:
        return download(names, cache / f"encodechka-{COMMIT[:8]}", source)
    folder = Path(settings.data).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to read encodechka's files from")
    for task in settings.tasks:
        read_task(folder, task)
    for name in names:
        if hash_file(folder / name) != SHA256[name]:
            log.warning("%s differs from the original: its scores do not compare with published ones", folder / name)
    return folder


def list_files(tasks: Iterable[str]) -> list[str]:
    parts = [part.file for task in tasks for part in SENTENCE_PARTS.get(task, ())]
    words = [WORD_FILES[task] for task in tasks if task in WORD_FILES]
    return list(dict.fromkeys(parts + words))


def download(names: list[str], folder: Path, source: str) -> Path:
    """Fetch what `folder` lacks. Each file appears whole and checked, so a broken download goes on where it stopped."""
    absent = [name for name in names if not is_original(folder / name)]
    for name in progress_bar("encodechka data" if absent else "", absent, unit="files"):
        content = fetch(f"{source}/{name}")
        if hash_bytes(content) != SHA256[name]:
            raise DownloadError(f"{source}/{name}: not the expected file: sha256 is {hash_bytes(content)}")
        with whole_file(folder / name) as temporary:
            temporary.write_bytes(content)
    if absent:
        log.info("encodechka: downloaded %d files to %s", len(absent), folder)
    return folder


def is_original(path: Path) -> bool:
    return path.is_file() and hash_file(path) == SHA256[path.name]


def hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(url: str, *, seconds: float = OPEN_SECONDS) -> bytes:
    """Return what lies at `url`; raise DownloadError if nothing answers within `seconds`, or it falls silent."""
    try:
        with answer_within(seconds, lambda: urlopen(url, timeout=seconds)) as response:
            content: bytes = response.read()
            return content
    except (OSError, HTTPException) as error:
        raise DownloadError(f"{url}: cannot be downloaded: {' '.join(str(error).split())}") from None


def read_task(folder: Path, task: str) -> tuple[Examples, ...] | Entities:
    """Read and check all files of one task."""
    if task in WORD_FILES:
        return read_entities(folder / WORD_FILES[task])
    return tuple(read_examples(folder, part) for part in SENTENCE_PARTS[task])


def read_examples(folder: Path, part: Part) -> Examples:
    """Read one part; raise InputError that names the file, and the line or column, when it is not as it should be."""
    path = folder / part.file
    columns = (*part.texts, part.label)
    rows: list[list[str]] = []
    labels = []
    try:
        reader = csv.DictReader(StringIO(read_text(path), newline=""), strict=True)
        lacking = [name for name in columns if name not in (reader.fieldnames or ())]
        if lacking:
            raise InputError(f"{path}: has no column {', '.join(lacking)}")
        for row in reader:
            if any(row[name] is None for name in columns):
                raise InputError(f"{path}: line {reader.line_num} has too few columns")
            if part.labels:
                check_cells(row, part, f"{path}: line {reader.line_num}")
            rows.append([row[name] for name in part.texts])
            labels.append(part.read_label(row[part.label]))
    except csv.Error as error:
        raise InputError(f"{path}: not CSV: line {reader.line_num}: {error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: line {reader.line_num}: {part.label} is {row[part.label]!r}, not a number") from None
    if len(set(labels)) < 2:
        raise InputError(f"{path}: column {part.label} needs two different values, {len(rows)} rows have fewer")
    return Examples(texts=tuple(map(list, zip(*rows, strict=True))), labels=labels)


def check_cells(row: dict[str, str], part: Part, where: str) -> None:
    """Raise InputError for an empty cell or a label that the part does not know."""
    for name in (*part.texts, part.label):
        if not row[name].strip():
            raise InputError(f"{where}: {name} is empty")
    if row[part.label] not in part.labels:
        raise InputError(f"{where}: {part.label} is {row[part.label]!r}, not one of {', '.join(part.labels)}")


def read_entities(path: Path) -> Entities:
    """Read one word task's file: {"texts": [text, ...], "labels": [[[type, start, end], ...], ...]}."""
    text = read_text(path)
    try:
        data = json.loads(text)
        texts = [str(text) for text in data["texts"]]
        entities = [[(str(kind), int(start), int(end)) for kind, start, end in row] for row in data["labels"]]
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: expected texts and labels, lists of [type, start, end]") from None
    if len(texts) != len(entities) or len(texts) < 2:
        raise InputError(f"{path}: {len(texts)} texts and {len(entities)} lists of labels")
    for row, spans in enumerate(entities):
        if any(not 0 <= start <= end <= len(texts[row]) for _, start, end in spans):
            raise InputError(f"{path}: text {row} has an entity outside it")
    return Entities(texts=texts, entities=entities)


def read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; encodechka needs it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not text.strip():
        raise InputError(f"{path}: empty")
    return text
