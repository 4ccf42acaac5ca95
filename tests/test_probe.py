"""The probe's texts: as frozen, balanced, nobody's copies; damaged files are named by line; a toy is scored on them."""

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from sklearn.feature_extraction.text import CountVectorizer

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.evaluation.benchmark_data import SENTENCE_PARTS, Examples, read_examples
from secateur.evaluation.leaderboard import SENTENCE_TASKS
from secateur.evaluation.probe import FOLDER, SHA256, read_parts, score_probe

ENCODECHKA = ROOT / "../shared/data/encodechka"
NEAR = 0.7  # share of words in common from which a text is a near copy


def all_texts(parts: list[Examples]) -> list[str]:
    return [text for part in parts for column in part.texts for text in column]


@pytest.fixture(scope="module")
def parts() -> dict[str, list[Examples]]:
    return {task: read_parts(FOLDER, task) for task in SENTENCE_TASKS}


def test_the_texts_are_those_that_were_frozen(caplog: pytest.LogCaptureFixture) -> None:
    assert {path.name for path in FOLDER.glob("*.csv")} == set(SHA256)
    for task in SENTENCE_TASKS:
        read_parts(FOLDER, task)
    assert not caplog.messages


@pytest.mark.parametrize("task", SENTENCE_TASKS)
def test_a_task_has_150_to_400_items_with_labels_in_balance_and_no_text_twice(
    parts: dict[str, list[Examples]], task: str
) -> None:
    assert 150 <= sum(len(part.labels) for part in parts[task]) <= 400
    for part in parts[task]:
        counts = Counter(min(int(label), 5) if task == "STS" else label for label in part.labels)
        assert max(counts.values()) == min(counts.values())
    texts = [" ".join(re.findall(r"\w+", text.casefold())) for text in all_texts(parts[task])]
    assert len(set(texts)) == len(texts)


def test_a_label_is_not_given_away_by_the_length_of_the_text(parts: dict[str, list[Examples]]) -> None:
    for task in ("SA", "TI", "IA"):
        lengths = {}
        for part in parts[task]:
            for text, label in zip(part.texts[0], part.labels, strict=True):
                lengths.setdefault(label, []).append(len(text.split()))
        means = [np.mean(each) for each in lengths.values()]
        assert max(means) < 1.25 * min(means)


@pytest.mark.skipif(not ENCODECHKA.is_dir(), reason="encodechka's files are not here")
def test_no_text_is_one_of_encodechkas_or_nearly_so(parts: dict[str, list[Examples]]) -> None:
    theirs = {
        text
        for files in SENTENCE_PARTS.values()
        for part in files
        for text in all_texts([read_examples(ENCODECHKA, part)])
    }
    ours = [text for task in parts.values() for text in all_texts(task)]
    counter = CountVectorizer(binary=True, token_pattern=r"\w+", dtype=np.int32)
    one, other = counter.fit_transform(ours), counter.transform(sorted(theirs))
    shared = (one @ other.T).tocoo()
    words = (
        np.asarray(one.sum(axis=1)).ravel(),
        np.array([len(set(re.findall(r"\w+", t.lower()))) for t in sorted(theirs)]),
    )
    union = words[0][shared.row] + words[1][shared.col] - shared.data
    assert not [ours[row] for row in shared.row[shared.data >= NEAR * union]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "probe"))


@pytest.mark.parametrize(
    ("file", "task", "old", "new", "message"),
    [
        ("sts.csv", "STS", "sentence1,sentence2,score", "sentence1,sentence3,score", "has no column sentence2"),
        ("toxicity_test.csv", "TI", ",toxic\n", ",rude\n", r"line \d+: label is 'rude', not one of normal, toxic"),
        ("intents_train.csv", "IC", ",get_weather\n", ",\n", r"line \d+: label is empty"),
        ("nli.csv", "NLI", ",label\n", ",label\n  ,Да.,neutral\n", "line 2: premise is empty"),
        ("paraphrase.csv", "PI", ",label\n", ",label\nОдно.\n", "line 2 has too few columns"),
    ],
)  # fmt: skip
def test_a_file_edited_by_hand_is_named_with_its_line(
    copy: Path, file: str, task: str, old: str, new: str, message: str
) -> None:
    text = (copy / file).read_text(encoding="utf-8")
    (copy / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=rf"{re.escape(file)}: {message}"):
        read_parts(copy, task)
    (copy / file).unlink()
    with pytest.raises(InputError, match="no such file"):
        read_parts(copy, task)


def test_a_changed_text_is_said(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = list(csv.reader((copy / "sts.csv").open(encoding="utf-8")))
    with (copy / "sts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows[:-1])
    read_parts(copy, "STS")
    assert "differs from the text that was frozen" in caplog.text


def test_an_encoder_is_scored_on_all_eight(teacher: TorchEncoder) -> None:
    scores = score_probe(teacher, own_only=True)
    assert tuple(scores.own) == SENTENCE_TASKS
    assert all(-1 <= score <= 1 for score in scores.own.values())
