"""Low-rank word embeddings: exact where the rank allows it, the best by weight elsewhere, saved and loaded as stock."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder
from sentence_transformers import SentenceTransformer

from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.modeling import LowRankEmbedding
from secateur.encoders.saving import save_encoder
from secateur.encoders.surgery import fill_model, replace_transformer
from secateur.pruning.lowrank import factorise_words


def lower(encoder: TorchEncoder, rank: int) -> TorchEncoder:
    """Return an encoder whose word vectors lie in a space of `rank` dimensions around their mean."""
    transformer = deepcopy(encoder.transformer)
    weight = transformer.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        narrow = torch.randn(len(weight), rank, generator=generator) @ torch.randn(rank, 32, generator=generator)
        weight.copy_(torch.randn(32, generator=generator) + narrow / 5)
    return replace_transformer(encoder, transformer)


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_of_the_rank_asked_for_are_kept_and_reload_in_stock_classes(
    make_encoder: MakeEncoder, sentences: list[str], tmp_path: Path, family: str
) -> None:
    teacher = lower(make_encoder(family), 5)
    weights = np.random.default_rng(0).random(len(teacher.tokenizer))
    student = factorise_words(teacher, 5, weights)
    words = student.transformer.get_input_embeddings()
    assert isinstance(words, LowRankEmbedding)
    assert words.weight.shape == (len(teacher.tokenizer), 5)
    np.testing.assert_allclose(embed(student, sentences), embed(teacher, sentences), atol=1e-4)
    save_encoder(student, tmp_path / "student")
    stock = SentenceTransformer(str(tmp_path / "student"), device="cpu", model_kwargs={"attn_implementation": "eager"})
    assert np.array_equal(stock.encode(sentences), student.model.encode(sentences))


def test_frequent_pieces_are_kept_best(teacher: TorchEncoder) -> None:
    weights = np.full(len(teacher.tokenizer), 1e-6)
    weights[40:46] = 1.0  # six tokens around their mean: five dimensions
    student = factorise_words(teacher, 5, weights)
    old, new = (each.transformer.embeddings for each in (teacher, student))
    ids = torch.arange(len(weights))
    with torch.no_grad():
        one = old.word_embeddings(ids) + old.position_embeddings.weight[0]
        other = new.word_embeddings(ids) + new.position_embeddings.weight[0]
    torch.testing.assert_close(other[40:46], one[40:46], rtol=0, atol=1e-2)
    assert (other - one).abs().max() > 0.1


def test_rows_that_stand_for_no_token_do_not_matter(teacher: TorchEncoder, sentences: list[str]) -> None:
    """As of multilingual-e5-small: 250,037 rows of word embeddings, 250,002 tokens."""
    lowered, count = lower(teacher, 5), len(teacher.tokenizer)
    weights = np.random.default_rng(0).random(count)
    shape = deepcopy(lowered.transformer.config)
    shape.vocab_size = count + 7
    state = dict(lowered.transformer.state_dict())
    words = "embeddings.word_embeddings.weight"
    state[words] = torch.cat([state[words], torch.full((7, 32), 50.0)])
    filled = fill_model(shape, state, has_pooler=False, like=lowered.transformer)
    student = factorise_words(replace_transformer(lowered, filled), 5, weights)
    np.testing.assert_allclose(embed(student, sentences), embed(lowered, sentences), atol=1e-4)


def test_a_rank_that_saves_nothing_is_refused(teacher: TorchEncoder) -> None:
    weights = np.ones(len(teacher.tokenizer))
    with pytest.raises(ValueError, match="rank 32 is not between 1 and 31"):
        factorise_words(teacher, 32, weights)
    with pytest.raises(ValueError, match="low rank already"):
        factorise_words(factorise_words(teacher, 8, weights), 4, weights)
