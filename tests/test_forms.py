"""Vectors cut short and turned into codes: by definition, by hand, and as sentence-transformers does it."""

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

import secateur
from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.forms import (
    CALIBRATION,
    Calibration,
    as_rows,
    calibrate,
    make_codes,
    open_form,
    read_calibrations,
    shorten,
    write_calibrations,
)
from secateur.encoders.saving import save_encoder


@pytest.fixture
def units() -> np.ndarray:
    """Unit vectors [400, 20] with a mean, coordinates of different spread."""
    rows = np.random.default_rng(0).standard_normal((400, 20)) * 0.9 ** np.arange(20) + 0.5
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("length", [20, 12, 7])
def test_codes_are_those_of_sentence_transformers(units: np.ndarray, length: int) -> None:
    short = shorten(units, length)
    found = calibrate(short[:200])
    codes = {output: make_codes(units, calibration=found, output=output) for output in ("int8", "binary", "ubinary")}
    reference = quantize_embeddings(short, "int8", ranges=found.ranges)
    np.testing.assert_array_equal(codes["int8"], reference)
    assert codes["int8"].dtype == reference.dtype
    for name in ("binary", "ubinary"):
        reference = quantize_embeddings(short - found.centres, name)
        np.testing.assert_array_equal(codes[name], reference)
        assert codes[name].dtype == reference.dtype


def test_ranges_of_its_own_for_each_coordinate_are_read_as_sentence_transformers_reads_them(units: np.ndarray) -> None:
    ranges = np.stack([units.min(axis=0), units.max(axis=0)])
    own = Calibration(ranges, units.mean(axis=0))
    reference = quantize_embeddings(units, "int8", calibration_embeddings=units)
    np.testing.assert_array_equal(make_codes(units, calibration=own, output="int8"), reference)


def test_an_int8_code_is_the_nearest_multiple_of_one_step(units: np.ndarray) -> None:
    found = calibrate(units)
    step = (found.ranges[1, 0] - found.ranges[0, 0]) / 255
    codes = make_codes(units, calibration=found, output="int8").astype(np.float64)
    kept = np.abs(codes) < 127  # not clipped
    assert kept.mean() > 0.999
    assert np.abs(units - step * codes)[kept].max() <= step / 2 * 1.0001
    rows = as_rows(codes.astype(np.int8), "int8", 20)
    assert np.abs(rows @ rows.T - units @ units.T).max() < 3 * step


def test_bits_by_hand() -> None:
    found = Calibration(np.array([[-1.0] * 3, [1.0] * 3], np.float32), np.array([0.0, 0.5, -0.5], np.float32))
    unit = np.array([[0.6, 0.0, 0.8], [-0.6, 0.8, 0.0]], np.float32)  # 101, 011
    assert make_codes(unit, calibration=found, output="ubinary").tolist() == [[0b10100000], [0b01100000]]
    assert make_codes(unit, calibration=found, output="binary").tolist() == [[160 - 128], [96 - 128]]
    for output in ("binary", "ubinary"):
        rows = as_rows(make_codes(unit, calibration=found, output=output), output, 3)
        assert (rows @ rows.T).tolist() == [[3, -1], [-1, 3]]  # of three bits one is equal, two are not


def test_a_short_vector_is_the_first_coordinates_at_unit_length() -> None:
    unit = np.array([[0.48, 0.36, 0.8]], np.float32)
    np.testing.assert_allclose(shorten(unit, 2), [[0.8, 0.6]], atol=1e-7)
    np.testing.assert_array_equal(shorten(unit, 3), unit)
    assert np.isfinite(shorten(np.array([[0.0, 1.0]]), 1)).all()


def test_a_calibration_comes_back_as_it_was_written(units: np.ndarray, tmp_path: Path) -> None:
    written = {length: calibrate(shorten(units, length)) for length in (20, 8)}
    write_calibrations(written, tmp_path, sentences=400)
    read = read_calibrations(tmp_path, 20)
    assert list(read) == [20, 8]
    for length, each in written.items():
        np.testing.assert_array_equal(read[length].ranges, each.ranges)
        np.testing.assert_array_equal(read[length].centres, each.centres)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "no such file"),
        ("", "not a calibration"),
        ("[]", "not a calibration"),
        ('{"lengths": {"few": {}}}', "not a calibration"),
        ('{"lengths": {"2": {"ranges": [[0, 0], [1, 1]], "centres": [0]}}}', "not a calibration"),
        ('{"lengths": {"2": {"ranges": [[0, 1], [1, 1]], "centres": [0, 0]}}}', "not a calibration"),
        ('{"lengths": {"2": {"ranges": [[0, 0], [1, NaN]], "centres": [0, 0]}}}', "not a calibration"),
        ('{"lengths": {"3": {"ranges": [[0, 0, 0], [1, 1, 1]], "centres": [0, 0, 0]}}}', "is not of this model"),
    ],
)
def test_a_calibration_that_is_none_is_one_line(tmp_path: Path, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / CALIBRATION).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=complaint) as error:
        open_form(tmp_path, 2, None, "int8")
    assert str(tmp_path / CALIBRATION) in str(error.value)
    assert open_form(tmp_path, 2, 1, "float32")(np.eye(2, dtype=np.float32)).shape == (2, 1)


@pytest.mark.parametrize(
    ("dimensions", "output", "complaint"),
    [
        (0, "float32", "dimensions: 0 is not in 1 to 32"),
        (33, "float32", "dimensions: 33 is not in 1 to 32"),
        (True, "float32", "dimensions: True is not a whole number"),
        ("8", "float32", "dimensions: '8' is not a whole number"),
        (None, "int4", "output: 'int4' is none of float32, int8, binary, ubinary"),
        (None, ["int8"], "output: .* is none of"),
        (12, "int8", "is for vectors of 32, 8 numbers, not of 12"),
    ],
)
def test_a_form_that_there_is_not_is_one_line(tmp_path: Path, dimensions: int, output: str, complaint: str) -> None:
    units = np.random.default_rng(0).standard_normal((50, 32))
    write_calibrations({length: calibrate(shorten(units, length)) for length in (32, 8)}, tmp_path, sentences=50)
    with pytest.raises(InputError, match=complaint):
        open_form(tmp_path, 32, dimensions, output)


def test_an_encoder_gives_every_form(teacher: TorchEncoder, sentences: list[str], tmp_path: Path) -> None:
    save_encoder(teacher, tmp_path / "saved")
    encoder = secateur.Encoder(tmp_path / "saved", threads=1)
    whole = encoder.encode(sentences)
    with pytest.raises(InputError, match="no such file, so its vectors have no int8 or binary form"):
        encoder.encode(sentences, output="int8")
    calibrations = {length: calibrate(shorten(whole, length)) for length in (32, 12)}
    write_calibrations(calibrations, tmp_path / "saved", sentences=len(sentences))
    stock = SentenceTransformer(str(tmp_path / "saved"), truncate_dim=12).encode(sentences, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(sentences, dimensions=12), stock, atol=2e-6)
    for output, width in {"float32": 12, "int8": 12, "binary": 2, "ubinary": 2}.items():
        codes = encoder.encode(sentences, dimensions=12, output=output)
        expected = open_form(tmp_path / "saved", 32, 12, output)(whole)
        np.testing.assert_array_equal(codes, expected)
        assert codes.dtype == expected.dtype
        empty = encoder.encode([], dimensions=12, output=output)
        assert (empty.shape, empty.dtype) == ((0, width), expected.dtype)
        assert encoder.encode(sentences[0], dimensions=12, output=output).shape == (width,)
    said = json.loads((tmp_path / "saved" / CALIBRATION).read_text(encoding="utf-8"))
    assert said["sentences"] == len(sentences)
