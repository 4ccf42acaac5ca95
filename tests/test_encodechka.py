"""encodechka: the public leaderboard's rows, cases solved by hand, bad files, the download."""

import csv
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from secateur.config.errors import InputError
from secateur.config.evaluation import EncodechkaSettings
from secateur.distillation.teachers import ModelSource
from secateur.evaluation import benchmark_data
from secateur.evaluation.benchmark_data import SHA256, DownloadError, fetch, find_data, list_files
from secateur.evaluation.encodechka import label_words, score_encodechka
from secateur.evaluation.leaderboard import (
    PUBLISHED,
    SENTENCE_TASKS,
    WORD_TASKS,
    Scores,
    dump_scores,
    load_scores,
    mean_s,
    say_passed,
)


@pytest.fixture(scope="session")
def original() -> Path:
    """The benchmark's original files: a folder named by SECATEUR_ENCODECHKA, or one beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "encodechka"
    folder = Path(os.environ.get("SECATEUR_ENCODECHKA", beside))
    if not folder.is_dir():
        pytest.skip(f"no encodechka data: set SECATEUR_ENCODECHKA to a folder that holds it (looked in {folder})")
    return folder


class Hashing:
    def __init__(self, features: int) -> None:
        self.vectorizer = HashingVectorizer(n_features=features, dtype=np.float32)

    def poolings(self, sentences: Sequence[str], *, batch_size: int, progress: str) -> dict[str, np.ndarray]:
        return {"own": self.vectorizer.transform(sentences).toarray()}


class HashingWords(Hashing):
    def word_vectors(self, texts: Sequence[Sequence[str]], *, batch_size: int, progress: str) -> list[np.ndarray]:
        return [self.vectorizer.transform(words).toarray() for words in texts]


class Given:
    """An encoder whose vectors are written down: "3 4" is [3, 4]."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def poolings(self, sentences: Sequence[str], *, batch_size: int, progress: str) -> dict[str, np.ndarray]:
        self.seen.extend(sentences)
        raw = np.array([[float(number) for number in sentence.split()] for sentence in sentences], np.float32)
        return {"own": raw / np.linalg.norm(raw, axis=1, keepdims=True), "mean": raw}


def write_table(folder: Path, file: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with (folder / file).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


def write_similarity(folder: Path, rows: Sequence[Sequence[object]]) -> None:
    write_table(folder, "stsb_dev.csv", ("sentence1", "sentence2", "similarity_score"), rows)


PAIRS = [("1 0", "0 1", 0.0), ("1 0", "1 1", 2.5), ("1 0", "1 0", 5.0)]


# Of the README's leaderboard at github.com/avidale/encodechka: hashing_300 and hashing_1000.
@pytest.mark.parametrize(
    ("features", "row", "mean"),
    [
        (300, (0.61, 0.48, 0.40, 0.64, 0.71, 0.54, 0.50, 0.05), 0.491),
        (1000, (0.63, 0.49, 0.39, 0.66, 0.77, 0.55, 0.57, 0.05), 0.513),
    ],
)
def test_hashing_reproduces_the_public_leaderboard(
    original: Path, features: int, row: tuple[float, ...], mean: float
) -> None:
    scores = score_encodechka(Hashing(features), original, own_only=True)
    assert scores.own == pytest.approx(dict(zip(SENTENCE_TASKS, row, strict=True)), abs=0.01)
    assert mean_s(scores.own) == pytest.approx(mean, abs=0.002)


def test_hashing_reproduces_a_word_task(original: Path) -> None:
    scores = score_encodechka(HashingWords(300), original, tasks=["NE1"])
    assert scores.own == pytest.approx({"NE1": 0.02}, abs=0.01)


def test_given_files_are_the_original_ones(original: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    settings = EncodechkaSettings(data=str(original))
    with caplog.at_level(logging.WARNING):
        assert find_data(settings, tmp_path) == original
    assert not caplog.records


def test_similarity_is_the_rank_correlation_of_the_dot_product(tmp_path: Path) -> None:
    write_similarity(tmp_path, PAIRS)
    assert score_encodechka(Given(), tmp_path, tasks=["STS"]).own["STS"] == pytest.approx(1)
    write_similarity(tmp_path, [(one, other, -label) for one, other, label in PAIRS])
    assert score_encodechka(Given(), tmp_path, tasks=["STS"]).own["STS"] == pytest.approx(-1)


def test_best_vector_may_be_a_raw_one(tmp_path: Path) -> None:
    # By angle all three pairs are equal or misplaced; by dot product 1 < 4 < 9 they are in order.
    write_similarity(tmp_path, [("1 0", "1 0", 1), ("2 0", "2 1", 2), ("3 0", "3 0", 3)])
    scores = score_encodechka(Given(), tmp_path, tasks=["STS"])
    assert scores.best_vector == {"STS": "mean"}
    assert scores.best["STS"] == pytest.approx(1)
    assert scores.own["STS"] == scores.tasks["STS"]["mean_norm"] < 0.5


def test_own_only_scores_nothing_else(tmp_path: Path) -> None:
    write_similarity(tmp_path, PAIRS)
    assert list(score_encodechka(Given(), tmp_path, tasks=["STS"], own_only=True).tasks["STS"]) == ["own"]


def test_a_source_of_vectors_is_scored_at_unit_length_and_has_no_word_tasks(tmp_path: Path) -> None:
    class Raw:
        def encode(self, sentences: list[str]) -> np.ndarray:
            return Given().poolings(sentences, batch_size=1, progress="")["mean"]

    write_similarity(tmp_path, [("1 0", "1 0", 1), ("2 0", "2 1", 2), ("3 0", "3 0", 3)])
    scores = score_encodechka(ModelSource(Raw(), name="raw", dimension=2), tmp_path, tasks=["STS", "NE1"])
    assert scores.tasks == {"STS": {"own": score_encodechka(Given(), tmp_path, tasks=["STS"]).own["STS"]}}


def test_each_sentence_is_embedded_once(tmp_path: Path) -> None:
    write_similarity(tmp_path, PAIRS)
    write_table(tmp_path, "para_gold.csv", ("text_1", "text_2", "class"), [("1 0", "1 1", 1), ("1 0", "0 1", -1)])
    encoder = Given()
    score_encodechka(encoder, tmp_path, tasks=["STS", "PI"])
    assert sorted(encoder.seen) == ["0 1", "1 0", "1 1"]


def test_equal_similarities_have_no_score(tmp_path: Path) -> None:
    write_similarity(tmp_path, [("1 0", "1 0", 1), ("0 1", "0 1", 2)])
    scores = score_encodechka(Given(), tmp_path, tasks=["STS"])
    plain = dump_scores(scores)
    assert plain["tasks"]["STS"]["own"] is None
    assert np.isnan(load_scores(json.loads(json.dumps(plain))).own["STS"])


def test_accuracy_is_the_better_of_regression_and_neighbours(tmp_path: Path) -> None:
    # B lies between two A: no line parts them, a nearest neighbour does.
    rows = [("1 0", "A"), ("1 1", "B"), ("0 1", "A")]
    for file in ("SentiRuEval2016_small_train.csv", "SentiRuEval2016_small_test.csv"):
        write_table(tmp_path, file, ("text", "answer"), rows)
    assert score_encodechka(Given(), tmp_path, tasks=["SA"]).own["SA"] == 1


def test_toxicity_is_the_area_under_the_curve(tmp_path: Path) -> None:
    columns = ("text", "toxic")
    write_table(tmp_path, "toxic_train.csv", columns, [("1 0", 0), ("0 1", 1)])
    # Toxicity grows with the second coordinate: of 2 x 2 pairs of a 0 and a 1, one is in the wrong order.
    write_table(tmp_path, "toxic_test.csv", columns, [("9 1", 0), ("8 2", 1), ("7 3", 0), ("6 4", 1)])
    assert score_encodechka(Given(), tmp_path, tasks=["TI"]).own["TI"] == 0.75


def test_cross_lingual_intents_learn_on_english(tmp_path: Path) -> None:
    columns = ("answer", "text", "label")
    # The Russian column of the training file would teach the opposite.
    rows = [("1 0", "0 1", "A"), ("0 1", "1 0", "B")]
    write_table(tmp_path, "intents_train.csv", columns, rows * 2)
    write_table(tmp_path, "intents_test.csv", columns, [("0 1", "1 0", "A"), ("1 0", "0 1", "B")])
    assert score_encodechka(Given(), tmp_path, tasks=["ICX", "IC"]).own == {"ICX": 1, "IC": 0}


def test_inference_is_cross_validated_on_the_dot_product(tmp_path: Path) -> None:
    rows = [("5 0", "5 0", "entailment"), ("5 0", "-5 0", "contradiction")] * 6
    write_table(tmp_path, "xnli_ru.csv", ("sentence1", "sentence2", "gold_label"), rows)
    assert score_encodechka(Given(), tmp_path, tasks=["NLI"]).own == {"NLI": 1}


def test_words_are_labelled_as_the_original_does() -> None:
    text = "Анна видела Анну Петрову в Москве."
    entities = [("Person", 0, 4), ("Person", 12, 24), ("Place", 27, 33), ("City", 17, 33)]
    words, labels = label_words(text, entities)
    assert words == ["Анна", "видела", "Анну", "Петрову", "в", "Москве", "."]
    assert labels == ["O", "O", "B-Person", "I-Person", "B-City", "B-Place", "O"]


def test_telling_words_find_every_entity(tmp_path: Path) -> None:
    class OneHot(Given):
        def word_vectors(self, texts: Sequence[Sequence[str]], *, batch_size: int, progress: str) -> list[np.ndarray]:
            columns = ["там", "Анна", "Омск"]
            return [np.array([[word == column for column in columns] for word in words], float) for words in texts]

    texts = ["там Анна", "там Омск"] * 8
    labels = [[["Person", 4, 8]], [["Place", 4, 8]]] * 8
    (tmp_path / "factru.json").write_text(json.dumps({"texts": texts, "labels": labels}), encoding="utf-8")
    assert score_encodechka(OneHot(), tmp_path, tasks=["NE1"]).own == {"NE1": 1}
    assert score_encodechka(Given(), tmp_path, tasks=["NE1"]).own == {}


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_similarity(tmp_path, [("nan 0", "1 0", 1), ("1 0", "1 0", 2)])
    with pytest.raises(ValueError, match="own vectors are not finite"):
        score_encodechka(Given(), tmp_path, tasks=["STS"])


def test_mean_s_needs_all_eight() -> None:
    row = dict.fromkeys(SENTENCE_TASKS, 0.5)
    assert mean_s(row | {"NE1": 0.0}) == 0.5
    assert mean_s({task: score for task, score in row.items() if task != "ICX"}) is None
    assert mean_s(row | {"STS": float("nan")}) is None
    assert say_passed(None) == "Mean S needs all eight sentence tasks"


def test_scores_survive_json() -> None:
    scores = Scores({"STS": {"own": 0.5, "mean": 0.6}, "NE1": {"own": 0.25}})
    plain = dump_scores(scores)
    assert load_scores(json.loads(json.dumps(plain))) == scores
    assert plain["best_vector"] == {"STS": "mean", "NE1": "own"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_agree_with_their_mean(name: str) -> None:
    assert mean_s(PUBLISHED[name]) == pytest.approx(PUBLISHED[name]["Mean S"], abs=0.005)  # tasks have two decimals


def test_passed_rows_are_named() -> None:
    passed, ahead = say_passed(0.72).split(";")
    assert "rubert-tiny2 (0.704)" in passed
    assert "LaBSE-en-ru (0.739)" in ahead


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b" \n", "empty"),
        ("sentence1,sentence2,similarity_score\nа,б,1\n".encode("cp1251"), "not UTF-8"),
        (b"sentence1,similarity_score\na,1\n", "no column sentence2"),
        (b"sentence1,sentence2,similarity_score\na,b,1\na\n", "line 3 has too few columns"),
        (b"sentence1,sentence2,similarity_score\na,b,high\n", "line 2: similarity_score is 'high', not a number"),
        (b'sentence1,sentence2,similarity_score\n"a,b,1\n', "not CSV"),
        (b"sentence1,sentence2,similarity_score\n", "needs two different values, 0 rows"),
    ],
)
def test_bad_table_is_named_in_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "stsb_dev.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        find_data(EncodechkaSettings(data=str(tmp_path), tasks=("STS",)), tmp_path)
    assert str(tmp_path / "stsb_dev.csv") in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected texts and labels"),
        ('{"texts": ["a", "b"], "labels": [[["Person", 0]], []]}', "expected texts and labels"),
        ('{"texts": ["a", "b"], "labels": [[]]}', "2 texts and 1 lists"),
        ('{"texts": ["a", "b"], "labels": [[], [["Person", 0, 2]]]}', "text 1 has an entity outside it"),
    ],
)
def test_bad_entities_are_named(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "rudrec.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"rudrec\.json: " + reason):
        find_data(EncodechkaSettings(data=str(tmp_path), tasks=("NE2",)), tmp_path)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder to read encodechka"):
        find_data(EncodechkaSettings(data=str(tmp_path / "absent")), tmp_path)


def test_changed_file_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_similarity(tmp_path, PAIRS)
    assert find_data(EncodechkaSettings(data=str(tmp_path), tasks=("STS",)), tmp_path) == tmp_path
    assert "stsb_dev.csv differs from the original" in caplog.text


def test_every_file_of_every_task_has_a_checksum() -> None:
    assert set(list_files(SENTENCE_TASKS + WORD_TASKS)) == set(SHA256)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder with one small data file, and the loopback address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    write_similarity(folder, PAIRS)
    digest = hashlib.sha256((folder / "stsb_dev.csv").read_bytes()).hexdigest()
    monkeypatch.setitem(benchmark_data.SHA256, "stsb_dev.csv", digest)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_data_is_downloaded_once(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    settings = EncodechkaSettings(tasks=("STS",))
    found = find_data(settings, tmp_path / "cache", source=address)
    assert (found / "stsb_dev.csv").read_bytes() == (folder / "stsb_dev.csv").read_bytes()
    (folder / "stsb_dev.csv").unlink()
    assert find_data(settings, tmp_path / "cache", source=address) == found


def test_damaged_cache_is_fetched_again(served: tuple[Path, str], tmp_path: Path) -> None:
    settings = EncodechkaSettings(tasks=("STS",))
    file = find_data(settings, tmp_path / "cache", source=served[1]) / "stsb_dev.csv"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    find_data(settings, tmp_path / "cache", source=served[1])
    assert file.read_bytes() == whole


def test_tampered_download_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    (folder / "stsb_dev.csv").write_text("tampered", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"stsb_dev\.csv: not the expected file"):
        find_data(EncodechkaSettings(tasks=("STS",)), tmp_path / "cache", source=address)
    assert not list((tmp_path / "cache").rglob("*.csv"))


def test_missing_download_is_one_line(served: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"para_gold\.csv: cannot be downloaded: .*404") as error:
        find_data(EncodechkaSettings(tasks=("PI",)), tmp_path / "cache", source=served[1])
    assert "\n" not in str(error.value)


def test_silent_host_is_given_up_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # the connection is taken, and never answered
        started = time.monotonic()
        with pytest.raises(DownloadError, match="cannot be downloaded"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/stsb_dev.csv", seconds=0.3)
        assert time.monotonic() - started < 3


def test_stuck_name_lookup_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(*_: object, **__: object) -> None:
        time.sleep(2)
        raise OSError("name lookup failed")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"no answer in 0\.2 s"):
        fetch("http://host.invalid/stsb_dev.csv", seconds=0.2)
    assert time.monotonic() - started < 1.5
