"""Passages: neighbours of a source joined, both sides alike, nothing held out among them."""

import pytest

from secateur.config.corpus import CorpusSettings
from secateur.config.errors import InputError
from secateur.data.cleaning import key_row
from secateur.data.corpus import load_corpus
from secateur.data.passages import LEAST_WORDS, join_passages
from secateur.data.sources import Row


def rows(count: int, source: str = "book") -> list[Row]:
    return [Row(f"sentence number w{n} of the {source}", f"предложение номер w{n} книги {source}", source)
            for n in range(count)]  # fmt: skip


def keyed(found: list[Row]):
    return [key_row(row, 3, number=number) for number, row in enumerate(found)]


def test_a_passage_is_neighbours_in_the_order_of_their_file_and_translated_part_by_part() -> None:
    shuffled = sorted(keyed(rows(200)))
    for passage in join_passages(shuffled, 5, max_words=100):
        en = [int(word[1:]) for word in passage.row.en.split() if word[0] == "w"]
        ru = [int(word[1:]) for word in passage.row.ru.split() if word[0] == "w"]
        assert en == ru == list(range(en[0], en[0] + len(en)))
        assert LEAST_WORDS <= passage.row.en.count(" ") + 1 <= 100
        assert passage.row.source == "passages"
        assert passage.paired


def test_each_source_has_its_turn_and_no_sentence_comes_twice() -> None:
    found = join_passages(keyed([*rows(300, "book"), *rows(60, "news")]), 8, max_words=60)
    assert {"book" in each.row.en for each in found} == {True, False}
    assert sum("news" in each.row.en for each in found) == 4
    sentences = [part for each in found for part in each.row.en.split("sentence")[1:]]
    assert len(set(sentences)) == len(sentences)


def test_words_alone_make_no_passage() -> None:
    single = [key_row(Row("cat", "кот", "words", translated=False), 1)] * 100
    with pytest.raises(InputError, match=r"corpus\.passages: no source has translations enough"):
        join_passages(single, 5, max_words=100)
    with pytest.raises(InputError, match=r"corpus\.passage_words: 20 is less than the 40"):
        join_passages(keyed(rows(100)), 5, max_words=20)


def test_a_corpus_holds_no_passage_out_and_none_with_a_held_out_sentence(tmp_path) -> None:
    file = tmp_path / "book.tsv"
    file.write_text("".join(f"{row.en}\t{row.ru}\n" for row in rows(400)), encoding="utf-8")
    corpus = load_corpus(CorpusSettings(files=(str(file),), passages=10, held_out=0.1), tmp_path)
    joined = [en for en, source in zip(corpus.train.en, corpus.train.source, strict=True) if source == "passages"]
    assert len(joined) == 10
    assert "passages" not in corpus.held_out.source
    for held in corpus.held_out.en:
        assert not any(f"{held} " in f"{passage} " for passage in joined)
    alone = load_corpus(CorpusSettings(files=(str(file),), held_out=0.1), tmp_path)
    assert corpus.held_out == alone.held_out


def test_texts_that_are_no_translations_become_single_sentences_of_like_length(tmp_path) -> None:
    files = [str(tmp_path / name) for name in ("pairs.tsv", "everyday.en.txt", "everyday.ru.txt")]
    (tmp_path / "pairs.tsv").write_text("".join(f"{r.en}\t{r.ru}\n" for r in rows(100)), encoding="utf-8")
    english = [f"an english sentence {'very ' * n}long {n}" for n in range(6)]
    russian = [f"русское {'очень ' * n}предложение {n}" for n in range(4)]
    (tmp_path / "everyday.en.txt").write_text("\n".join(english[::-1]), encoding="utf-8")
    (tmp_path / "everyday.ru.txt").write_text("\n".join(russian), encoding="utf-8")
    train = load_corpus(CorpusSettings(files=(files[0],), texts=((files[1], files[2]),)), tmp_path).train
    found = [(en, ru, paired) for en, ru, source, paired in zip(train.en, train.ru, train.source, train.paired,
             strict=True) if source == "everyday.en"]  # fmt: skip
    assert sorted(en for en, _, _ in found) == sorted(english)
    assert {ru for _, ru, _ in found} == set(russian)
    assert not any(paired for *_, paired in found)
    order = {ru: english.index(en) for en, ru, _ in found}
    assert sorted(russian, key=lambda ru: order[ru]) == russian
