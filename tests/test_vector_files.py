"""Vectors computed elsewhere: found by their sentence, filed under their content, refused in one line."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WriteVectors

from secateur.config.errors import InputError
from secateur.distillation.targets import embed_corpus
from secateur.distillation.vector_files import load_vectors


def test_stored_vectors_are_found_by_their_sentence(write_vectors: WriteVectors, tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [0, 2], [3, 4], [5, 0]], np.float16)
    source = load_vectors(*write_vectors(vectors, "one\r\ntwo  words\nthree\none\n"))
    assert isinstance(source.vectors, np.memmap)
    made = embed_corpus(source, ["three", "two words", "one", "three"], tmp_path / "cache")
    np.testing.assert_allclose(made[range(4)], [[0.6, 0.8], [0, 1], [1, 0], [0.6, 0.8]], atol=2**-11)


def test_stored_vectors_are_filed_under_their_content(write_vectors: WriteVectors) -> None:
    vectors = np.eye(3, dtype=np.float32)
    prints = {load_vectors(*write_vectors(vectors)).fingerprint, load_vectors(*write_vectors(vectors)).fingerprint}
    assert len(prints) == 1
    prints.add(load_vectors(*write_vectors(vectors[::-1])).fingerprint)
    prints.add(load_vectors(*write_vectors(vectors, "one\nthree\ntwo")).fingerprint)
    assert len(prints) == 3


OBJECTS = np.array([{"a": 1}], object)


@pytest.mark.parametrize(
    ("vectors", "text", "complaint"),
    [
        (np.eye(2), "one\ntwo\nthree\n", r"v\.npy: 2 vectors, but .*s\.txt has 3 sentences"),
        (
            np.array([[1.0], [np.nan], [1.0]]),
            "one\ntwo\nthree\n",
            r"row 1, counted from 0, is not finite; line 2 of .*s\.",
        ),
        (np.array([[1.0], [1.0], [0.0]]), "one\ntwo\nthree\n", r"v\.npy: row 2, counted from 0, is all zeros; line 3"),
        (np.ones(3), "one\ntwo\nthree\n", r"v\.npy: an array of shape \(3,\), not \[sentences, dimension\]"),
        (np.ones((3, 0)), "one\ntwo\nthree\n", r"v\.npy: an array of shape \(3, 0\)"),
        (np.ones((3, 2), int), "one\ntwo\nthree\n", r"v\.npy: an array of int64, not of floating-point"),
        (OBJECTS, "one\n", r"v\.npy: not a whole \.npy file of numbers"),
        (pickle.dumps([1.0]), "one\n", r"v\.npy: not a whole \.npy file of numbers"),
        (b"", "one\n", r"v\.npy: not a whole \.npy file of numbers"),
        (b"PK\x03\x04 not an archive", "one\n", r"v\.npy: not a whole \.npy file of numbers"),
        (None, "one\n", r"v\.npy: no such file"),
        (np.eye(2), b"one\ntw\xff\n", r"s\.txt: line 2 is not UTF-8"),
        (np.eye(2), "", r"s\.txt: empty"),
    ],
)
def test_files_that_are_no_vectors_are_refused_in_one_line(
    vectors: Any, text: str | bytes, complaint: str, write_vectors: WriteVectors
) -> None:
    with pytest.raises(InputError, match=complaint) as refused:
        load_vectors(*write_vectors(vectors, text))
    assert "\n" not in str(refused.value)


def test_a_cut_off_file_and_a_folder_are_refused(write_vectors: WriteVectors, tmp_path: Path) -> None:
    vectors, sentences = write_vectors(np.eye(3))
    vectors.write_bytes(vectors.read_bytes()[:-8])
    with pytest.raises(InputError, match="not a whole"):
        load_vectors(vectors, sentences)
    with pytest.raises(InputError, match="Is a directory"):
        load_vectors(tmp_path, sentences)
    with pytest.raises(InputError, match=r"nowhere\.txt: no such file"):
        load_vectors(vectors, tmp_path / "nowhere.txt")


def with_head(text: str) -> bytes:
    """Return an .npy file of format 1 with this head before six numbers."""
    head = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + np.ones(6, np.float32).tobytes()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("'<f4'", "(True, 2)"), ("'<f4'", "(9223372036854775808, 2)"), ("'<f4'", "(3, 4611686018427387904)"),
        ("'<f4'", "(-3, 2)"), ("'<f4'", "(" * 200 + ")" * 200), ("'<c8'", "(3, 1)"), ("'|O'", "(3, 2)"),
        ("[('a', '<f4')]", "(3, 2)"), ("'<f4'", "(3, 2"), ("__import__('os')", "(3, 2)"),
    ],
)  # fmt: skip
def test_heads_that_say_what_cannot_be_are_refused_in_one_short_line(
    kind: str, shape: str, write_vectors: WriteVectors
) -> None:
    given = with_head(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}")
    with pytest.raises(InputError, match=r"v\.npy: ") as refused:
        load_vectors(*write_vectors(given))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_head_as_it_should_be_is_read(write_vectors: WriteVectors) -> None:
    given = with_head("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }")
    assert load_vectors(*write_vectors(given)).encode(["two"]).tolist() == [[1, 1]]


def test_pipes_and_devices_are_not_waited_for(write_vectors: WriteVectors, tmp_path: Path) -> None:
    vectors, sentences = write_vectors(np.eye(3))
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", Path("/dev/zero")):
        for files in ((other, sentences), (vectors, other)):
            with pytest.raises(InputError, match=r"(pipe|zero): is not a file"):
                load_vectors(*files)
