"""Reading, cleaning and splitting of parallel pairs, on sentences small enough to check by eye."""

import gzip
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from secateur.config.corpus import CorpusSettings, DatasetSettings
from secateur.config.errors import InputError
from secateur.config.evaluation import ValidationSettings
from secateur.data.cleaning import comparison_key, find_misfit, key_row
from secateur.data.corpus import load_corpus, log_left_out, log_pairs
from secateur.data.pairs import Pairs, ParallelCorpus
from secateur.data.sources import FREQUENT, Row
from secateur.evaluation.scores import hold_out

ANIMALS = {"cat": "кот", "dog": "пёс", "fox": "лис", "hen": "кура", "cow": "бык", "owl": "филин", "elk": "лось"}
PLACES = {"house": "доме", "garden": "саду", "forest": "лесу", "river": "реке", "field": "поле", "city": "городе"}
PAIRS = [
    (f"The {animal} lives in the {place}.", f"Этот {zver} живёт в {mesto}.")
    for (animal, zver), (place, mesto) in itertools.product(ANIMALS.items(), PLACES.items())
]

REAL = Path(__file__).parents[1] / "../shared/data/pairs/train.en-ru.tsv.gz"


def write_table(path: Path, rows: Iterable[tuple[str, ...]]) -> str:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(folder: Path, *files: str | tuple[str, str], **keys: object) -> ParallelCorpus:
    return load_corpus(CorpusSettings(files=files, **{"held_out": 0.2, **keys}), folder / "cache")  # type: ignore[arg-type]


def rows_of(pairs: Pairs) -> list[tuple[str, str]]:
    return list(zip(pairs.en, pairs.ru, strict=True))


def everything(corpus: ParallelCorpus) -> set[tuple[str, str]]:
    return {*rows_of(corpus.train), *rows_of(corpus.held_out)}


def test_table_plain_gzipped_and_aligned_texts_give_the_same_rows(tmp_path: Path) -> None:
    plain = write_table(tmp_path / "a.tsv", PAIRS)
    packed = tmp_path / "b.tsv.gz"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    en, ru = tmp_path / "c.en", tmp_path / "c.ru.gz"
    en.write_text("\n".join(pair[0] for pair in PAIRS), encoding="utf-8")
    ru.write_bytes(gzip.compress("\n".join(pair[1] for pair in PAIRS).encode()))

    corpora = [load(tmp_path, plain), load(tmp_path, str(packed)), load(tmp_path, (str(en), str(ru)))]

    assert everything(corpora[0]) == set(PAIRS)
    assert [rows_of(corpus.train) for corpus in corpora[1:]] == [rows_of(corpora[0].train)] * 2
    assert {corpora[0].train.source[0], corpora[1].train.source[0], corpora[2].train.source[0]} == {"a", "b", "c"}


def test_byte_order_mark_and_windows_line_ends_leave_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "windows.tsv"
    path.write_bytes("\r\n".join("\t".join(pair) for pair in PAIRS).encode("utf-8-sig"))
    assert everything(load(tmp_path, str(path))) == set(PAIRS)


def test_unusual_line_separators_inside_a_sentence_do_not_end_it(tmp_path: Path) -> None:
    odd = ("The bear\u2028lives in a den.", "Медведь\x85живёт в берлоге.")
    assert ("The bear lives in a den.", "Медведь живёт в берлоге.") in everything(
        load(tmp_path, write_table(tmp_path / "a.tsv", [*PAIRS, odd]))
    )


def test_third_column_names_the_source(tmp_path: Path) -> None:
    corpus = load(tmp_path, write_table(tmp_path / "a.tsv", [(*pair, "zoo") for pair in PAIRS]))
    assert set(corpus.train.source) == {"zoo"}


def test_few_ragged_lines_are_skipped_and_many_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.tsv", [*PAIRS[:2], ("one column",), *PAIRS[2:]])
    assert everything(load(tmp_path, path, max_malformed=0.1)) == set(PAIRS)
    with pytest.raises(InputError, match=r"a\.tsv: line 3 has 1 tab-separated columns, not 2; 1 of 43 lines"):
        load(tmp_path, path, max_malformed=0.01)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.tsv", b"", r"empty\.tsv: empty"),
        ("latin.tsv", b"A cat.\t\xea\xee\xf2\n", r"latin\.tsv: line 1 is not UTF-8 \(byte 0xea\)"),
        ("cut.tsv.gz", gzip.compress(b"A cat.\tB\n" * 99, mtime=0)[:-9], r"cut\.tsv\.gz: not a whole gzip file"),
        ("plain.tsv.gz", b"A cat.\tB\n", r"plain\.tsv\.gz: not a whole gzip file"),
        ("text.en", b"A cat sat on the mat.\n", r"text\.en: line 1 has 1 tab-separated columns, not 2 \(en, ru\) or 3"),
    ],
)
def test_bad_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_unequal_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tsv: no such file"):
        load(tmp_path, str(tmp_path / "nowhere.tsv"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load(tmp_path, str(tmp_path))
    en, ru = tmp_path / "a.en", tmp_path / "a.ru"
    en.write_text("One cat.\nTwo cats.\n", encoding="utf-8")
    ru.write_text("Один кот.\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.en has 2 lines, .*a\.ru has 1"):
        load(tmp_path, (str(en), str(ru)))


def test_no_source_and_nothing_left_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one of files, datasets, catalogs"):
        load(tmp_path)
    swapped = write_table(tmp_path / "swapped.tsv", [(ru, en) for en, ru in PAIRS])
    with pytest.raises(InputError, match=r"no pair in \d+ rows \(no English in \d+\); a row is English, then Russian"):
        load(tmp_path, swapped)
    short = write_table(tmp_path / "short.tsv", [("A cat.", "Кот."), ("A dog.", "Пёс.")])
    with pytest.raises(InputError, match=r"corpus\.min_words: 3 words on each side, which none of 2 rows has"):
        load(tmp_path, short)


@pytest.mark.parametrize(
    ("share", "words"), [(1e-9, "none to judge by: give more pairs or a larger share"), (0.999, "a smaller share")]
)
def test_a_side_that_the_hash_leaves_empty_is_said_with_the_remedy(tmp_path: Path, share: float, words: str) -> None:
    few = write_table(tmp_path / "few.tsv", PAIRS[:3])
    with pytest.raises(InputError, match=rf"corpus\.held_out: {share} of \d pairs, picked by hash, .*{words}"):
        load(tmp_path, few, held_out=share)


@pytest.mark.parametrize("streaming", [True, False])
def test_dataset_folder_is_read_by_dotted_columns_up_to_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "arrow")
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [json.dumps({"id": n, "translation": {"en": en, "ru": ru}}) for n, (en, ru) in enumerate(PAIRS)]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = DatasetSettings(str(folder), en="translation.en", ru="translation.ru", streaming=streaming, limit=30)

    corpus = load_corpus(CorpusSettings(datasets=(dataset,), held_out=0.2), tmp_path / "cache")

    assert everything(corpus) == set(PAIRS[:30])


def test_missing_dataset_and_missing_column_are_named_with_the_columns_there_are(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"english": "A cat.", "russian": "Кот."}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"no column en; there are english, russian"):
        load(tmp_path, datasets=(DatasetSettings(str(folder), en="en", ru="russian"),))
    with pytest.raises(InputError, match=r"dataset .*nowhere, split train: "):
        load(tmp_path, datasets=(DatasetSettings(str(tmp_path / "nowhere"), en="en", ru="ru"),))


@pytest.mark.parametrize(
    ("en", "ru", "flaw"),
    [
        ("A cat sleeps.", "Кот спит.", None),
        ("42", "сорок два", "no English"),
        ("A cat sleeps.", "A cat sleeps!", "no Russian"),
        ("Файл VLAN", "Файл VLAN", "not translated"),
        ("Cat. " * 21, "Кот. " * 20, "over 20 words"),
        ("A cat.", "Кот " * 15, "lengths too different"),
    ],
)
def test_flaws_of_a_pair(en: str, ru: str, flaw: str | None) -> None:
    assert find_misfit(key_row(Row(en, ru, "here"), min_words=3), max_words=20) == flaw


def test_key_ignores_case_punctuation_white_space_and_compatibility_forms() -> None:
    assert comparison_key("The  ﬁle, saved!") == comparison_key("the file SAVED") == "the file saved"


def test_words_are_what_is_left_in_the_key() -> None:
    two = key_row(Row("Don't - stop!", "Не - стой!", "here"), min_words=3)
    three = key_row(Row("Don't ever stop!", "Никогда не стой!", "here"), min_words=3)
    assert (two.paired, three.paired) == (False, True)


def test_long_pairs_are_dropped_and_short_ones_serve_as_two_sentences(tmp_path: Path) -> None:
    short, long = ("Save", "Сохранить"), ("word " * 70 + ".", "слово " * 70 + ".")
    corpus = load(tmp_path, write_table(tmp_path / "a.tsv", [*PAIRS, short, long]))
    assert everything(corpus) == {*PAIRS, short}
    assert corpus.train.paired[corpus.train.en.index("Save")] is False
    assert sum(corpus.train.paired) == len(corpus.train) - 1
    assert all(corpus.held_out.paired)


def test_duplicates_by_key_are_kept_once_in_their_original_spelling(tmp_path: Path) -> None:
    shouted = [(en.upper(), f"{ru}  ") for en, ru in PAIRS]
    corpus = load(tmp_path, write_table(tmp_path / "a.tsv", [*PAIRS, *shouted]))
    assert len(corpus.train) + len(corpus.held_out) == len(PAIRS)


def test_pair_never_changes_side_and_order_of_files_is_of_no_account(tmp_path: Path) -> None:
    first = write_table(tmp_path / "a.tsv", PAIRS[:25])
    second = write_table(tmp_path / "b.tsv", PAIRS[25:])
    alone, both, turned = load(tmp_path, first), load(tmp_path, first, second), load(tmp_path, second, first)
    assert set(rows_of(alone.held_out)) <= set(rows_of(both.held_out))
    assert set(rows_of(alone.train)) <= set(rows_of(both.train))
    assert both == turned


def test_no_sentence_is_on_both_sides(tmp_path: Path) -> None:
    held_en, held_ru = rows_of(load(tmp_path, write_table(tmp_path / "a.tsv", PAIRS)).held_out)[0]
    leaks = [("Another English sentence altogether.", held_ru), ("One more of these.", held_ru.upper())]
    retranslated = (held_en, "Совсем другой перевод этого.")
    corpus = load(tmp_path, write_table(tmp_path / "b.tsv", [*PAIRS, *leaks, retranslated]))

    for side in ("en", "ru"):
        train, held_out = (
            {comparison_key(text) for text in getattr(part, side)} for part in (corpus.train, corpus.held_out)
        )
        assert not train & held_out
        assert len(held_out) == len(corpus.held_out), "a sentence is in the pool twice"


def test_held_out_share_is_about_what_was_asked(tmp_path: Path) -> None:
    rows = [(f"The cat number {n} sleeps.", f"Спит кот под номером {n}.") for n in range(2000)]
    corpus = load(tmp_path, write_table(tmp_path / "a.tsv", rows), held_out=0.1)
    assert len(corpus.held_out) == pytest.approx(200, abs=45)  # 3.4 standard deviations
    assert len(corpus.held_out) + len(corpus.train) == 2000


def test_cap_keeps_a_fixed_part_of_a_source_and_leaves_others_alone(tmp_path: Path) -> None:
    rows = [(*pair, "tame" if number % 2 else "wild") for number, pair in enumerate(PAIRS)]
    path = write_table(tmp_path / "a.tsv", rows)
    ten, fifteen = (load(tmp_path, path, max_per_source={"wild": count}) for count in (10, 15))
    for corpus, count in ((ten, 10), (fifteen, 15)):
        assert (corpus.train.source + corpus.held_out.source).count("wild") == count
        assert (corpus.train.source + corpus.held_out.source).count("tame") == 21
    assert everything(ten) <= everything(fifteen)
    with pytest.raises(InputError, match=r"max_per_source: no source wolves; there are tame, wild"):
        load(tmp_path, path, max_per_source={"wolves": 3})


def test_an_asterisk_caps_every_source_not_named(tmp_path: Path) -> None:
    counts = {"big": 40, "named": 30, "small": 3}
    rows = [
        (f"a {name} sentence {n}", f"{name} предложение {n} тут", name) for name, k in counts.items() for n in range(k)
    ]
    corpus = load(tmp_path, write_table(tmp_path / "pairs.tsv", rows), max_per_source={"*": 10, "named": 20})
    kept = Counter([*corpus.train.source, *corpus.held_out.source])
    assert kept == {"big": 10, "named": 20, "small": 3}


def test_frequent_words_are_rows_that_are_no_pairs(tmp_path: Path) -> None:
    pytest.importorskip("wordfreq", reason="the optional package wordfreq is not installed")
    rows = [(f"the cat number {n}", f"кошка номер {n} тут", "cats") for n in range(40)]
    corpus = load(tmp_path, write_table(tmp_path / "pairs.tsv", rows), words=50, min_words=1, max_per_source={"*": 30})
    words = [row for row in zip(*vars(corpus.train).values(), strict=True) if row[2] == "wordfreq"]
    assert len(words) == 50
    assert not any(paired for *_, paired in words)
    assert {"the", "и"} <= {word for en, ru, *_ in words for word in (en, ru)}
    assert not any(" " in word for row in words for word in row[:2])


def test_row_over_its_cap_does_not_hide_the_same_row_of_another_source(tmp_path: Path) -> None:
    rows = [(*pair, source) for pair in PAIRS for source in ("a", "b")]
    corpus = load(tmp_path, write_table(tmp_path / "a.tsv", rows), max_per_source={"a": 0})
    assert everything(corpus) == set(PAIRS)
    assert set(corpus.train.source) == {"b"}


@pytest.mark.skipif(not REAL.exists(), reason="the development pairs are not beside the repository")
def test_real_pairs_survive_cleaning(tmp_path: Path) -> None:
    with gzip.open(REAL, "rt", encoding="utf-8") as lines:
        (tmp_path / "real.tsv").write_text("".join(itertools.islice(lines, 20_000)), encoding="utf-8")
    corpus = load(tmp_path, str(tmp_path / "real.tsv"), held_out=0.05)
    assert 900 < len(corpus.held_out) < 1100
    assert len(corpus.train) + len(corpus.held_out) > 19_800


def test_texts_are_all_rows_but_lists_of_words() -> None:
    pairs = Pairs(["a b", "cat", "c d"], ["а б", "кот", "в г"], ["x", FREQUENT, "y"], [True, False, False])
    assert pairs.texts == Pairs(["a b", "c d"], ["а б", "в г"], ["x", "y"], [True, False])


def test_rows_are_drawn_as_often_as_their_source_weighs() -> None:
    letters, sources = [*"abcdefgh"], [*"xxxxyyzz"]
    pairs = Pairs(letters, letters, sources, [True] * 8)
    drawn = pairs.draw(6, {"x": 0.5, "y": 2, "z": 0})  # of the weight 6, x has 2 and y 4
    assert Counter(drawn.source) == {"x": 2, "y": 4}
    assert Counter(drawn.en)["e"] == Counter(drawn.en)["f"] == 2
    assert pairs.draw(3, {}) == pairs.take([0, 1, 2])
    assert len(pairs.draw(100, {"x": 0})) == 4
    assert pairs.draw(8, {"x": 0.01, "y": 0.01, "z": 0.01}) == pairs  # shares count, not their sum


def test_translations_are_the_paired_rows() -> None:
    pairs = Pairs(["a", "b", "c"], ["а", "б", "в"], ["x"] * 3, [True, False, True])
    assert pairs.translations == pairs.take([0, 2])


def test_a_log_says_what_was_left_out_and_nothing_of_what_was_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        load(tmp_path, write_table(tmp_path / "clean.tsv", PAIRS))
    assert "left out" not in caplog.text
    assert not re.search(r"\b0 |\{\}", caplog.text)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load(tmp_path, write_table(tmp_path / "twice.tsv", [*PAIRS, PAIRS[0], ("42", "сорок два")]))
    assert "left out: no English in 1" in caplog.text
    assert "42 rows kept; left out: 1 duplicate" in caplog.messages
    assert any(re.fullmatch(r'held out: \d+ pairs, \d+ sentences; from "twice": \d+ rows', each)
               for each in caplog.messages)  # fmt: skip


def test_a_log_counts_one_as_one_and_names_no_unit_by_a_source(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_left_out(1, "training pair", "a held-out pair")
        log_left_out(1200, "training pair", "a held-out pair")
        log_left_out(0, "training pair", "a held-out pair")
        log_pairs("held out", Pairs(["a b"], ["а б"], ["pairs"], [True]))
        log_pairs("for training and fitting", Pairs(["a"], ["а"], ["words"], [False]))
    assert caplog.messages == [
        "1 training pair left out, as it shares a sentence with a held-out pair",
        "1,200 training pairs left out, as they share a sentence with a held-out pair",
        'held out: 1 pair, 2 sentences; from "pairs": 1 row',
        'for training and fitting: 0 pairs and 1 row too short to be a pair, 2 sentences; from "words": 1 row',
    ]


def test_few_held_out_pairs_are_said_without_a_key_that_prune_has_not(caplog: pytest.LogCaptureFixture) -> None:
    pairs = Pairs(["A cat sleeps."], ["Кошка спит."], ["here"], [True])
    with caplog.at_level(logging.INFO):
        hold_out(ParallelCorpus(pairs, pairs), ValidationSettings(), lambda texts: np.eye(len(texts)))
    assert [record.getMessage() for record in caplog.records] == [
        "the scores rest on 1 held-out pair; more pairs make them steadier"
    ]
