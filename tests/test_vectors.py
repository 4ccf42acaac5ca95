"""`secateur vectors`: a saved model's forms are what was measured, on sentences that were not fitted on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings
from test_cli import refuse

import secateur
from secateur.cli import main
from secateur.data.cleaning import comparison_key
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.evaluation.similarities import measure_shift
from secateur.runs.vectors import split_sentences

TEXTS = [f"{a} {b}" for a, _ in SENTENCES for b, _ in SENTENCES[:4]]


@pytest.fixture
def texts(place: Path) -> Path:
    (place / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return place / "texts.txt"


def read_table(said: str) -> dict[str, list[float]]:
    """Return the numbers of each row of a table by the form of its vectors."""
    rows = re.findall(r"^((?:float32|int8|binary) \d+)  (.*)$", said, flags=re.MULTILINE)
    return {form: [float(cell.replace(",", "").replace("-", "nan")) for cell in rest.split()] for form, rest in rows}


def test_what_is_saved_is_what_was_measured(
    place: Path, texts: Path, teacher: TorchEncoder, sentences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["vectors", "teacher", "--texts", "texts.txt", "--dimensions", "8,16", "--pairs", "pairs.tsv"]
    assert main([*words, "--out", "short"]) == 0
    said = capsys.readouterr()
    assert "0 failed" in said.err
    rows = read_table(said.out)
    assert [form for form in rows if form.startswith("int8")] == ["int8 32", "int8 16", "int8 8"]
    assert [numbers[0] for numbers in rows.values()] == [128, 64, 32, 32, 16, 8, 4, 2, 1]
    assert rows["float32 32"][1:4] == [0.0, 1.0, 1.0]
    assert rows["float32 16"][1] < rows["float32 8"][1]
    en, ru = (secateur.Encoder("short").encode([pair[side] for pair in SENTENCES], dimensions=8) for side in (0, 1))
    assert rows["float32 8"][4] == pytest.approx(((en @ ru.T).argmax(axis=1) == np.arange(len(en))).mean(), abs=1e-4)

    old, new = embed(teacher, sentences), secateur.Encoder("short").encode(sentences)
    np.testing.assert_allclose(new @ new.T, old @ old.T, atol=3e-6)
    assert "128" not in (place / "short" / "README.md").read_text(encoding="utf-8").split("```text")[0]
    stock = SentenceTransformer("short", truncate_dim=8).encode(sentences, normalize_embeddings=True)
    lengths = json.loads((place / "short" / "config_vectors.json").read_text(encoding="utf-8"))["lengths"]
    ranges, centres = (np.array(lengths["8"][name], np.float32) for name in ("ranges", "centres"))
    codes = secateur.Encoder("short").encode(sentences, dimensions=8, output="int8")
    assert np.abs(codes.astype(int) - quantize_embeddings(stock, "int8", ranges=ranges)).max() <= 1  # by rounding
    bits = secateur.Encoder("short").encode(sentences, dimensions=8, output="ubinary")
    assert (bits == quantize_embeddings(stock - centres, "ubinary")).mean() > 0.95


def test_nothing_is_saved_where_no_folder_is_named(place: Path, texts: Path) -> None:
    before = sorted(path.name for path in place.iterdir())
    assert main(["vectors", "teacher", "--texts", "texts.txt", "--dimensions", "32"]) == 0
    assert sorted(path.name for path in place.iterdir()) == before


def test_what_judges_is_not_fitted_on(texts: Path) -> None:
    split = split_sentences([texts], 1_000, besides=[TEXTS[5].upper()])
    fitted, judged = ({comparison_key(text) for text in side} for side in (split.fitted, split.judged))
    assert not fitted & judged
    assert comparison_key(TEXTS[5]) not in fitted
    assert len(fitted | judged) >= len(TEXTS) - 1
    assert 0.1 < len(judged) / len(TEXTS) < 0.3


def test_a_sentence_stays_on_its_side_whatever_else_is_read(texts: Path, place: Path) -> None:
    (place / "more.txt").write_text("\n".join([*TEXTS[::-1], *(text * 2 for text in TEXTS)]), encoding="utf-8")
    one, other = (split_sentences([path], 1_000, besides=[]) for path in (texts, place / "more.txt"))
    assert set(one.fitted) <= set(other.fitted)
    assert set(one.judged) <= set(other.judged)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["teacher", "--dimensions", "33"], "dimensions: 33 is not in 1 to 32, the length of the vectors of teacher"),
        (["teacher", "--dimensions", "0"], "--dimensions: '0' is not a list of lengths such as 128,64"),
        (["teacher", "--dimensions", "8,,4"], "--dimensions: '8,,4' is not a list of lengths"),
        (["teacher", "--dimensions", "-8"], "--dimensions"),
        (["teacher", "--dimensions", "8", "--sentences", "30"], "to fit on, fewer than the 32 dimensions of teacher"),
        (["teacher", "--dimensions", "8", "--sentences", "0"], "--sentences: 0 is not positive"),
        (["teacher", "--dimensions", "8", "--sentences", "45"], "sentences to judge by, 12 are needed"),
        (["teacher", "--dimensions", "8", "--texts", "empty.txt"], "empty.txt: empty"),
        (["teacher", "--dimensions", "8", "--texts", "dots.txt"], "texts: 0 sentences to fit on"),
        (["teacher", "--dimensions", "8", "--texts", "nowhere.txt"], "nowhere.txt: no such file"),
        (["teacher", "--dimensions", "8", "--pairs", "nowhere.tsv"], "nowhere.tsv: no such file"),
        (["teacher", "--dimensions", "8", "--out", "teacher"], "--out: teacher is the model itself"),
        (["teacher", "--dimensions", "8", "--out", "notes"], "notes is there already and is not a model folder"),
        (["./nowhere"], "./nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, texts: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    (place / "empty.txt").touch()
    (place / "dots.txt").write_text("...\n!\n", encoding="utf-8")
    (place / "notes").mkdir()
    (place / "notes" / "mine.txt").write_text("keep me", encoding="utf-8")
    before = sorted(path.name for path in place.iterdir())
    given = words if "--texts" in words else [*words, "--texts", "texts.txt"]
    assert complaint in refuse(
        capsys, "vectors", given[0], *(f"{a}={b}" for a, b in zip(given[1::2], given[2::2], strict=True))
    )
    assert sorted(path.name for path in place.iterdir() if path.name != "cache") == [n for n in before if n != "cache"]


# How far similarities moved


def test_the_same_vectors_do_not_move(teacher: TorchEncoder, sentences: list[str]) -> None:
    vectors = embed(teacher, sentences)
    shift = measure_shift(vectors, vectors)
    assert (shift.difference, shift.neighbours) == (0.0, 1.0)
    assert shift.spearman == pytest.approx(1)


def test_a_shift_by_hand() -> None:
    angles = np.radians([0, 10, 30, 90])
    before = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    after = before[[1, 0, 2, 3]]  # the first two change places: pairs with one of them swap similarities
    shift = measure_shift(before, after)
    cos = np.cos(np.radians([10, 30, 90, 20, 80, 60]))  # of the pairs 01, 02, 03, 12, 13, 23
    new = cos[[0, 3, 4, 1, 2, 5]]
    assert shift.difference == pytest.approx(np.abs(new - cos).mean())
    ranks = np.array([[5, 3, 0, 4, 1, 2], [5, 4, 1, 3, 0, 2]])
    assert shift.spearman == pytest.approx(1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (6 * 35))
    # two nearest others: 0: 1 2, 1: 0 2, 2: 1 0, 3: 2 1; after it 3: 2 0
    assert shift.neighbours == pytest.approx(7 / 8)
    assert measure_shift(before, after, on_one_scale=False).difference is None
