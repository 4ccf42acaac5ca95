"""A rotation that changes no cosine, and whose first coordinates stand for all."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import FAMILIES, MakeEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from secateur.encoders import rotation
from secateur.encoders.encoder import TorchEncoder, embed, pad_rows, tokenize
from secateur.encoders.onnx_graph import build_graph
from secateur.encoders.rotation import fit_rotation, rotate_encoder
from secateur.encoders.saving import save_encoder
from secateur.encoders.surgery import rebuild
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

WIDTH = 32


def draw_vectors(count: int, *, mean: float = 0.0, decay: float = 0.8, seed: int = 0) -> np.ndarray:
    """Return unit vectors [count, 32] around a mean; along each of their oblique axes they vary less than the last."""
    generator = np.random.default_rng(seed)
    oblique = np.linalg.qr(np.random.default_rng(99).standard_normal((WIDTH, WIDTH)))[0]
    rows = generator.standard_normal((count, WIDTH)) * decay ** np.arange(WIDTH) @ oblique
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return scale(rows + mean * np.ones(WIDTH) / WIDTH**0.5)


def scale(rows: np.ndarray) -> np.ndarray:
    units: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def cosines(rows: np.ndarray) -> np.ndarray:
    units = scale(rows)
    return np.asarray(units @ units.T)[np.triu_indices(len(rows), 1)]


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("dimensions", [[], [1], [4, 12], [31]])
def test_all_coordinates_give_the_cosines_of_before(dimensions: list[int], mean: float) -> None:
    vectors = draw_vectors(200, mean=mean)
    found = fit_rotation(vectors, dimensions)
    np.testing.assert_allclose(found.T @ found, np.eye(WIDTH), atol=1e-12)
    np.testing.assert_allclose(cosines(vectors @ found), cosines(vectors), atol=1e-12)


def test_without_a_mean_the_first_coordinates_keep_the_most_of_all_products_that_any_can() -> None:
    """Eckart & Young 1936: the error of rank d is the root of the sum of the other eigenvalues' squares."""
    half = draw_vectors(200)
    vectors = np.concatenate([half, -half])
    first = vectors @ fit_rotation(vectors, [5, 12])[:, :12]
    values = np.linalg.svd(vectors, compute_uv=False)
    error = np.linalg.norm(first @ first.T - vectors @ vectors.T)
    np.testing.assert_allclose(error, np.sqrt((values[12:] ** 4).sum()), rtol=1e-9)


def test_high_cosines_stay_in_place_where_plain_principal_axes_lift_them() -> None:
    fitted, others = draw_vectors(2000, mean=2.0, decay=0.95), draw_vectors(300, mean=2.0, decay=0.95, seed=1)
    plain = np.linalg.svd(fitted)[2].T[:, :8]
    whole = cosines(others).mean()
    lifted = cosines(others @ plain).mean() - whole
    ours = cosines(others @ fit_rotation(fitted, [8])[:, :8]).mean() - whole
    assert lifted > 0.02
    assert abs(ours) < 0.2 * lifted


def test_the_first_coordinates_hold_as_much_of_the_mean_as_of_the_variance() -> None:
    vectors = draw_vectors(2000, mean=2.0)
    found = fit_rotation(vectors, [4, 8])
    mean = scale(vectors.mean(axis=0, keepdims=True))[0]
    variance = (vectors @ found).var(axis=0)
    for length in (4, 8):
        held = ((found[:, :length].T @ mean) ** 2).sum()
        assert abs(held - variance[:length].sum() / variance.sum()) < 0.01


def test_a_turn_within_blocks_changes_no_cosine_of_the_lengths_named(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = draw_vectors(200, mean=1.0)
    one = vectors @ fit_rotation(vectors, [4, 12])
    monkeypatch.setattr(rotation, "SEED", 1)
    other = vectors @ fit_rotation(vectors, [4, 12])
    assert np.abs(one - other).max() > 0.01
    for length in (4, 12):
        np.testing.assert_allclose(cosines(one[:, :length]), cosines(other[:, :length]), atol=1e-12)


def test_a_turn_evens_out_the_variance_of_a_block() -> None:
    vectors = draw_vectors(2000)
    plain = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    spread = (vectors @ fit_rotation(vectors, [12])).var(axis=0)
    assert spread[:12].max() / spread[:12].min() < 0.5 * plain[0] / plain[11]


# Built into an encoder


def check_rotated(encoder: TorchEncoder, sentences: list[str]) -> TorchEncoder:
    """Rotate an encoder; check that its vectors are the old ones, rotated, and return the new one."""
    before = embed(encoder, sentences)
    found = fit_rotation(before, [8])
    rotated = rotate_encoder(encoder, found)
    np.testing.assert_allclose(embed(rotated, sentences), before @ found, atol=2e-6)
    np.testing.assert_allclose(embed(encoder, sentences), before, atol=1e-7)  # the one given stays as it is
    return rotated


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_gives_its_old_vectors_rotated(
    make_encoder: MakeEncoder, family: str, pooling: str, sentences: list[str]
) -> None:
    check_rotated(make_encoder(family, pooling=pooling), sentences)


def test_a_linear_dense_behind_the_pooling_takes_the_rotation_in(teacher: TorchEncoder, sentences: list[str]) -> None:
    kept = Kept(heads=((0, 1, 2),) * 3, neurons=(tuple(range(48)),) * 3, hidden=tuple(range(24)))
    student = slice_encoder(teacher, kept)
    assert isinstance(student.model[2], Dense)
    assert len(check_rotated(student, sentences).model) == len(student.model)
    once = rotate_encoder(teacher, np.eye(32))
    assert len(check_rotated(once, sentences).model) == len(once.model)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_dense_that_is_not_linear_stays_as_it_is(
    teacher: TorchEncoder, sentences: list[str], *, normalized: bool
) -> None:
    torch.manual_seed(0)
    ends = [Normalize()] if normalized else []
    encoder = rebuild(teacher, [*list(teacher.model)[:2], Dense(32, 40, activation_function=nn.Tanh()), *ends])
    rotated = check_rotated(encoder, sentences)
    assert len(rotated.model) == len(encoder.model) + 1
    assert isinstance(rotated.model[-1], Normalize if normalized else Dense)


def test_a_normalize_within_stays_where_it_is(teacher: TorchEncoder, sentences: list[str]) -> None:
    torch.manual_seed(0)
    dense = Dense(32, 32, activation_function=nn.Identity())
    encoder = rebuild(teacher, [*list(teacher.model)[:2], Normalize(), dense, Normalize()])
    assert len(check_rotated(encoder, sentences).model) == len(encoder.model)


def test_stock_libraries_slice_what_was_saved(teacher: TorchEncoder, sentences: list[str], tmp_path: Path) -> None:
    rotated = check_rotated(teacher, sentences)
    save_encoder(rotated, tmp_path / "saved")
    expected = scale(embed(rotated, sentences)[:, :8])
    stock = SentenceTransformer(str(tmp_path / "saved"), truncate_dim=8)
    np.testing.assert_allclose(stock.encode(sentences, normalize_embeddings=True), expected, atol=2e-6)
    session = onnxruntime.InferenceSession(build_graph(rotated).SerializeToString())
    inputs = {name: values.numpy() for name, values in pad_rows(tokenize(rotated, sentences), 0).items()}
    np.testing.assert_allclose(scale(session.run(None, inputs)[0][:, :8]), expected, atol=1e-5)


def test_a_rotated_encoder_can_be_cut(teacher: TorchEncoder, sentences: list[str]) -> None:
    rotated = check_rotated(teacher, sentences)
    kept = Kept(heads=((0, 1, 2),) * 3, neurons=(tuple(range(48)),) * 3, hidden=tuple(range(24)))
    one, other = slice_encoder(teacher, kept), slice_encoder(rotated, kept)
    found = np.asarray(rotated.model[2].linear.weight.detach()).T
    np.testing.assert_allclose(embed(other, sentences), embed(one, sentences) @ found, atol=2e-6)
