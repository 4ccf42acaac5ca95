"""Tokenizers with fewer tokens, numbered anew."""

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import WORDS, count_heads, count_neurons
from secateur.encoders.surgery import fill_model, replace_tokenizer, replace_transformer, resize_config


def fast_tokenizer(encoder: TorchEncoder) -> PreTrainedTokenizerFast:
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"vocabulary: a {type(tokenizer).__name__} cannot be trimmed: it is not a fast tokenizer")
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str], step: int = 4_096
) -> Iterable[list[list[int]]]:
    """Yield the tokens of sentences, whole and without special tokens, some thousand sentences at a time."""
    backend = deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    for start in range(0, len(sentences), step):
        encoded = backend.encode_batch(list(sentences[start : start + step]), add_special_tokens=False)
        yield [row.ids for row in encoded]


def replace_pieces(encoder: TorchEncoder, kept: Sequence[int], rows: Tensor) -> TorchEncoder:
    """Return a new encoder that reads with these tokens of its vocabulary, with these vectors [kept, D]."""
    transformer = encoder.transformer
    tokenizer = cut_tokenizer(fast_tokenizer(encoder), kept)
    shape = resize_config(
        transformer.config,
        count_heads(transformer),
        count_neurons(transformer),
        has_pooler=encoder.uses_pooler,
        pieces=len(kept),
    )
    for role in ("pad", "bos", "eos"):
        number = getattr(shape, f"{role}_token_id", None)
        if isinstance(number, int) and number in kept:
            setattr(shape, f"{role}_token_id", list(kept).index(number))
    if shape.pad_token_id != transformer.config.pad_token_id:
        raise InputError("vocabulary: the padding token is not among the first tokens; its number cannot change")
    weights = dict(transformer.state_dict())
    name = f"{WORDS}.weight"
    weights[name] = rows.to(weights[name])
    trimmed = fill_model(shape, weights, has_pooler=encoder.uses_pooler, like=transformer)
    return replace_tokenizer(replace_transformer(encoder, trimmed), tokenizer)


def cut_tokenizer(tokenizer: PreTrainedTokenizerFast, kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the same class with these tokens alone, numbered anew in their old order."""
    place = {number: row for row, number in enumerate(kept)}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"] = cut_model(content["model"], tokenizer.get_vocab(), place)
    content["added_tokens"] = [token | {"id": place[token["id"]]} for token in content["added_tokens"]]
    content["post_processor"] = renumber(content["post_processor"], place)
    content["truncation"], content["padding"] = None, None
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for old in ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model"):
            (Path(folder) / old).unlink(missing_ok=True)
        path = Path(folder) / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in settings:
            tokens = settings["added_tokens_decoder"].items()
            settings["added_tokens_decoder"] = {str(place[int(number)]): token for number, token in tokens}
            path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        (Path(folder) / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        cut = AutoTokenizer.from_pretrained(folder)
    assert isinstance(cut, PreTrainedTokenizerFast), "what it was saved from is a fast one"
    expected = Tokenizer.from_str(json.dumps(content))
    if cut.get_vocab() != expected.get_vocab(with_added_tokens=True):
        raise InputError(f"vocabulary: a {type(tokenizer).__name__} cannot be trimmed: it changes what it reads back")
    cut.name_or_path = tokenizer.name_or_path
    return cut


def cut_model(model: dict[str, Any], numbers: Mapping[str, int], place: Mapping[int, int]) -> dict[str, Any]:
    """Return the JSON of a WordPiece or Unigram model with the kept tokens alone."""
    if model["type"] == "WordPiece":
        vocabulary = {text: place[number] for text, number in model["vocab"].items() if number in place}
        return model | {"vocab": vocabulary}
    listed = [(text, score) for text, score in model["vocab"] if numbers[text] in place]
    unknown = None if model["unk_id"] is None else place[model["unk_id"]]
    return model | {"vocab": listed, "unk_id": unknown}


def renumber(processor: Any, place: Mapping[int, int]) -> Any:
    """Return the JSON of a post-processor with the special tokens' new numbers, whatever its type."""
    if isinstance(processor, dict):
        changed = {key: renumber(value, place) for key, value in processor.items()}
        if "ids" in changed:  # a template's special token
            changed["ids"] = [place[number] for number in processor["ids"]]
        return changed
    if isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            return [processor[0], place[processor[1]]]  # ["[SEP]", 102] of the older types
        return [renumber(value, place) for value in processor]
    return processor
