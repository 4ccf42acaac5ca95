"""Students without layers: the fit against least squares, the folder in stock classes, what goes with no layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SENTENCES
from scipy.sparse import csr_array
from sentence_transformers import SentenceTransformer

import secateur
from secateur.cli import main
from secateur.config.errors import InputError
from secateur.config.evaluation import EncodechkaSettings
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.forms import scale_rows
from secateur.encoders.inference import Encoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.rotation import find_axes
from secateur.encoders.static import bare_tokenizer, build_bag, embed_bag, is_static, load_bag, save_bag
from secateur.pruning.bag import count_matrix, fit_affine, fit_bag, solve_ridge
from secateur.runs.infer import infer, retrieve

TEXTS = [*(side for pair in SENTENCES for side in pair), "", "cat cat cat", "the"]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def bag(teacher: TorchEncoder) -> SentenceTransformer:
    """A bag with the toy's tokenizer and random numbers."""
    tokenizer = bare_tokenizer(teacher)
    return build_bag(tokenizer, draw(tokenizer.get_vocab_size(), 5), draw(7, 5, seed=1), draw(7, seed=2))


def test_ridge_regression_is_that_of_numpy() -> None:
    X = draw(40, 12) * (draw(40, 12, seed=1) > 0.5)
    Y, P, ridge = draw(40, 3, seed=2), draw(12, 3, seed=3), 0.3
    rows = np.concatenate([X, np.sqrt(ridge) * np.eye(12)])
    expected = np.linalg.lstsq(rows, np.concatenate([Y, np.sqrt(ridge) * P]), rcond=None)[0]
    np.testing.assert_allclose(solve_ridge(csr_array(X), Y, P, ridge), expected, atol=1e-3)


def test_a_token_that_no_text_has_keeps_what_it_says_alone() -> None:
    X, P = draw(40, 12), draw(12, 3, seed=3)
    X[:, 4] = 0
    np.testing.assert_array_equal(solve_ridge(csr_array(X), draw(40, 3, seed=2), P, 0.3)[4], P[4])


def test_by_hand() -> None:
    """Two sentences of a token each, X = I: E = (d + ridge P) / (1 + ridge)."""
    d, P = np.float32([[1, 0], [0, 1]]), np.float32([[0, 1], [1, 0]])
    np.testing.assert_allclose(solve_ridge(csr_array(np.eye(2, dtype=np.float32)), d, P, 0.5), (d + 0.5 * P) / 1.5)


def test_axes_hold_what_singular_vectors_hold() -> None:
    rows = scale_rows(draw(30, 6))
    axes, energy = find_axes(rows, 2)
    sizes = np.linalg.svd(rows, compute_uv=False) ** 2
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(np.square(rows @ axes).sum(), sizes[:2].sum(), rtol=1e-5)
    assert energy == pytest.approx(sizes[:2].sum() / sizes.sum(), rel=1e-5)


def test_the_dense_is_least_squares() -> None:
    u, y = draw(50, 4), draw(50, 6, seed=1)
    W, b = fit_affine(u, y)
    expected = np.linalg.lstsq(np.c_[u, np.ones(50)], y, rcond=None)[0]
    np.testing.assert_allclose(np.c_[W, b], expected.T, atol=1e-4)


def test_a_teacher_that_is_a_bag_is_found_again(teacher: TorchEncoder, bag: SentenceTransformer) -> None:
    """Where the teacher is such a student, with sentences enough, the student comes to the teacher's vectors."""
    words = np.random.default_rng(0).choice(" ".join(TEXTS).split(), (3000, 6))
    sentences = [" ".join(row) for row in words]
    tokenizer = bare_tokenizer(teacher)
    targets = embed_bag(bag, sentences)
    fitted = fit_bag(count_matrix(tokenizer, sentences), targets, np.zeros((tokenizer.get_vocab_size(), 7)), 7)
    student = build_bag(tokenizer, fitted.vectors, fitted.widen, fitted.shift)
    new = [" ".join(row) for row in np.random.default_rng(1).choice(" ".join(TEXTS).split(), (200, 6))]
    assert (embed_bag(student, new) * embed_bag(bag, new)).sum(axis=1).mean() > 0.98


def test_counts_are_those_of_the_tokenizer(teacher: TorchEncoder) -> None:
    tokenizer = bare_tokenizer(teacher)
    counts = count_matrix(tokenizer, TEXTS).toarray()
    for text, row in zip(TEXTS, counts, strict=True):
        ids = teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
        np.testing.assert_array_equal(row, np.bincount(ids, minlength=len(row)) if ids else np.zeros(len(row)))


def test_stock_classes_load_the_folder_and_give_the_same_vectors(bag: SentenceTransformer, tmp_path: Path) -> None:
    expected = embed_bag(bag, TEXTS)
    save_bag(bag, tmp_path / "bag", card="# bag\n")
    assert is_static(tmp_path / "bag")
    stock = SentenceTransformer(str(tmp_path / "bag"), device="cpu")
    assert [type(module).__name__ for module in stock] == ["StaticEmbedding", "Normalize", "Dense", "Normalize"]
    np.testing.assert_allclose(stock.encode(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(Encoder(tmp_path / "bag").encode(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-5)


def test_a_text_without_tokens_has_the_vector_of_the_shift(bag: SentenceTransformer) -> None:
    shift = bag[2].linear.bias.detach().numpy()
    np.testing.assert_allclose(embed_bag(bag, [""])[0], shift / np.linalg.norm(shift), rtol=1e-5)


def test_what_reads_a_static_model_and_what_does_not(bag: SentenceTransformer, place: Path) -> None:
    save_bag(bag, place / "bag")
    assert "bag" in retrieve(["bag"], [place / "pairs.tsv"], use=False, precision="float32", device="cpu")
    table = infer("bag", EncodechkaSettings(tasks=("STS",)), on=["probe"], cache=place, runs=place, device="cpu")
    assert "bag" in table
    with pytest.raises(InputError, match=r"^bag: a static model, which has no transformer"):
        load_encoder(TeacherSettings(model="bag"))


def test_a_damaged_folder_is_one_line(bag: SentenceTransformer, tmp_path: Path) -> None:
    save_bag(bag, tmp_path / "bag")
    (tmp_path / "bag" / "model.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be loaded as an encoder"):
        load_bag(tmp_path / "bag")
    (tmp_path / "bag" / "modules.json").write_text("[]")
    assert not is_static(tmp_path / "bag")


PRUNE = ("prune", "teacher", "--pairs", "pairs.tsv", "--held-out", "0.3", "--layers", "0")


def test_prune_writes_a_bag_nearer_to_its_teacher_than_one_vector_is(
    place: Path, teacher: TorchEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PRUNE, "--rank", "8", "--out", "bag"]) == 0
    assert "static" in capsys.readouterr().out
    sentences = [side for pair in SENTENCES for side in pair]
    own, found = embed(teacher, sentences), SentenceTransformer("bag", device="cpu").encode(sentences)
    mean = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
    assert (own * found).sum(axis=1).mean() > (own @ mean).mean()
    assert "SentenceTransformer(" in (place / "bag" / "README.md").read_text()
    assert not list(place.glob("bag/*.py"))
    assert "auto_map" not in json.dumps([path.read_text() for path in place.glob("bag/*.json")])
    assert main([*PRUNE, "--rank", "8", "--out", "bag"]) == 0  # which takes the place of the first


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--keep-heads", "0.5", "--out", "bag"], "layers: 0 goes with vocabulary and rank alone, not with heads"),
        (["--max-mb", "3", "--out", "bag"], "not with mb"),
        (["--rank", "33", "--out", "bag"], "--rank: 33 exceeds the 32 dimensions"),
        (["--vocabulary", "100000", "--out", "bag"], "--vocabulary: 100000 asked for"),
        (["--vocabulary", "6", "--out", "bag"], "vocabulary: 6 tokens asked for"),
        (["--dtype", "float16", "--out", "bag"], "--dtype: "),
        (["--repair-sentences", "0", "--out", "bag"], "--repair-sentences: 0"),
        (["--max-length", "32", "--out", "bag"], "--max-length: "),
        (["--prompts", "token", "--out", "bag"], "--prompts: "),
        (["--dry-run"], "--dry-run: "),
    ],
)
def test_what_does_not_go_with_no_layers_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert main([*PRUNE, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert complaint in error[-1]
    assert "Traceback" not in "".join(error)
    assert not (place / "bag").exists()


def test_a_recipe_without_layers_is_not_trained(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe: dict[str, Any] = {
        "teacher": {"model": "teacher"}, "corpus": {"files": ["pairs.tsv"], "held_out": 0.3, "min_words": 2},
        "saliency": {"pairs": 8}, "budget": {"layers": 0}, "repair": {"sentences": 8}, "distillation": {"steps": 0},
        "encodechka": {"tasks": []},
    }  # fmt: skip
    (place / "bag.yaml").write_text(json.dumps(recipe))
    assert main(["train", "bag.yaml"]) == 2
    assert "budget.layers: 0 leaves no transformer" in capsys.readouterr().err
    assert not (place / "experiments" / "bag").exists()
    with pytest.raises(InputError, match=r"^layers: 0 leaves no transformer"):
        secateur.prune("teacher", "pairs.tsv", layers=0, held_out=0.3)
