"""A bag of tokens: an encoder without a layer, that looks a vector up for each token of a sentence.

    u(x) = the mean of the vectors of its tokens, scaled to length 1     StaticEmbedding, Normalize
    s(x) = W u(x) + b, scaled to length 1                                Dense, Normalize

These are modules of sentence-transformers itself: the folder needs nothing of ours, and no code of its own. What is
scaled to length 1 before the Dense makes short and long texts alike: the mean of n vectors shrinks like 1 / sqrt(n).
No prompt and no special token stands before a sentence, and none is truncated. A text without tokens has the vector b.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding
from tokenizers import Tokenizer
from torch import nn

from secateur.config.choices import MOST
from secateur.config.errors import InputError, say_error
from secateur.data.files import whole_folder
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.reading import Reading, add_lowercase, copy_backend
from secateur.encoders.sessions import Run
from secateur.encoders.soundness import check_finite

STATIC = "StaticEmbedding"


def is_static(model: str | Path) -> bool:
    """Return whether a folder holds a model whose first module is a StaticEmbedding: ours, or model2vec's."""
    try:
        modules = json.loads((Path(model) / "modules.json").read_text(encoding="utf-8"))
        return str(modules[0]["type"]).rpartition(".")[2] == STATIC
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def build_bag(tokenizer: Tokenizer, vectors: np.ndarray, widen: np.ndarray, shift: np.ndarray) -> SentenceTransformer:
    """Return the model of token vectors [tokens, rank], W [D, rank] and b [D]."""
    embedding = StaticEmbedding(tokenizer, embedding_weights=as_weights(vectors))
    dense = Dense(
        widen.shape[1], widen.shape[0], activation_function=nn.Identity(),
        init_weight=as_weights(widen), init_bias=as_weights(shift),
    )  # fmt: skip
    return SentenceTransformer(modules=[embedding, Normalize(), dense, Normalize()], device="cpu").eval()


def as_weights(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def bare_tokenizer(encoder: TorchEncoder) -> Tokenizer:
    """Return an encoder's tokenizer, copied, that neither truncates nor pads, and lowercases where the encoder does."""
    tokenizer = copy_backend(encoder.tokenizer)
    if encoder.model[0].do_lower_case:
        add_lowercase(tokenizer)
    return tokenizer


def save_bag(model: SentenceTransformer, folder: Path, *, card: str = "") -> None:
    """Write a sentence-transformers folder, whole or not at all. Raises InputError: a weight that is not finite."""
    check_finite(model, origin=f"{folder}: not saved")
    with whole_folder(folder) as temporary:
        model.save_pretrained(str(temporary), create_model_card=False)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")


def load_bag(model: str | Path, *, device: str = "cpu") -> SentenceTransformer:
    """Load a folder of which `is_static` holds, with stock sentence-transformers and no code of the folder's own.

    Raises InputError: a folder that is damaged, or weights that are not finite.
    """
    try:
        loaded = SentenceTransformer(str(model), device=device, local_files_only=True)
    except Exception as error:  # a broken folder may raise anything in sentence-transformers, tokenizers or torch
        raise InputError(f"{model}: cannot be loaded as an encoder: {say_error(error)}") from error
    check_finite(loaded, origin=str(model))
    return loaded.eval()


def embed_bag(model: SentenceTransformer, sentences: Sequence[str]) -> np.ndarray:
    """Return the unit vectors of sentences, float32 [sentences, D], all at once."""
    return run_modules(model, read_module(model).preprocess(list(sentences)))


def read_module(model: SentenceTransformer) -> StaticEmbedding:
    return cast(StaticEmbedding, model[0])


def run_modules(model: SentenceTransformer, features: dict[str, torch.Tensor]) -> np.ndarray:
    """Return unit vectors [B, D] of what StaticEmbedding reads: the tokens of B sentences and where each begins."""
    features = {name: values.to(model.device) for name, values in features.items()}
    with torch.inference_mode():
        for module in model:
            features = module(features)
        rows = nn.functional.normalize(features["sentence_embedding"].float(), dim=-1)
    vectors: np.ndarray = rows.cpu().numpy()
    return vectors


def open_bag(model: str, device: str) -> tuple[Tokenizer, Reading, Run, int]:
    """Load a static model: its tokenizer, how it reads, what runs a batch of tokens, and the length of a vector."""
    loaded = load_bag(model, device=device)
    tokenizer = Tokenizer.from_str(read_module(loaded).tokenizer.to_str())
    tokenizer.post_processor = None  # StaticEmbedding puts no special tokens around a sentence
    unknown = tokenizer.get_vocab_size()  # no token's number: it stands for the empty text alone

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        real = mask.astype(bool) & (ids < unknown)  # [B, T]
        lengths = torch.from_numpy(real.sum(axis=1))
        return run_modules(loaded, {"input_ids": torch.from_numpy(ids[real]), "offsets": lengths.cumsum(0) - lengths})

    reading = Reading(
        max_length=MOST,
        pad_id=unknown,
        prompts={name: text or "" for name, text in loaded.prompts.items()},
        default_prompt_name=loaded.default_prompt_name,
        pools_prompt=True,
        truncation="right",
        lowercase=False,
    )
    return tokenizer, reading, run, int(loaded.get_embedding_dimension() or 0)
