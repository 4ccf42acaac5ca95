"""Tokenizers with fewer tokens, numbered anew."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import WORDS, count_heads, count_neurons, first_position
from secateur.encoders.surgery import fill_model, replace_tokenizer, replace_transformer, resize_config


def fast_tokenizer(encoder: TorchEncoder) -> PreTrainedTokenizerFast:
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"vocabulary: a {type(tokenizer).__name__} cannot be trimmed: it is not a fast tokenizer")
    return tokenizer


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
    for key, value in renumber_roles(shape.to_dict(), kept).items():
        setattr(shape, key, value)
    if first_position(shape) != first_position(transformer.config):
        raise InputError("vocabulary: the padding token is not among the first tokens; its number cannot change")
    weights = dict(transformer.state_dict())
    name = f"{WORDS}.weight"
    weights[name] = rows.to(weights[name])
    trimmed = fill_model(shape, weights, has_pooler=encoder.uses_pooler, like=transformer)
    return replace_tokenizer(replace_transformer(encoder, trimmed), tokenizer)


def renumber_roles(settings: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return the settings that name tokens by number (pad_token_id, ...) with new numbers; None: there is no such token
    any more."""
    place = {number: row for row, number in enumerate(kept)}
    changed: dict[str, Any] = {}
    for key, value in settings.items():
        if key.endswith("_token_id") and isinstance(value, list):
            changed[key] = [place[number] for number in value if number in place] or None
        elif key.endswith("_token_id") and value is not None:
            changed[key] = place.get(value)
    return changed


def named_numbers(settings: Mapping[str, Any], pieces: int) -> set[int]:
    """Return the tokens, of so many, that settings name by number."""
    named = renumber_roles(settings, range(pieces)).values()
    return {
        number for value in named if value is not None for number in (value if isinstance(value, list) else [value])
    }


def cut_tokenizer(tokenizer: PreTrainedTokenizerFast, kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the same class with these tokens alone, numbered anew in their old order.

    It neither truncates nor pads until it is told to. Raises InputError: stock transformers would read something else
    from its files than what was written.
    """
    place = {number: row for row, number in enumerate(kept)}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"] = cut_model(content["model"], tokenizer.get_vocab(), place)
    content["added_tokens"] = [token | {"id": place[token["id"]]} for token in content["added_tokens"]]
    content["post_processor"] = renumber(content["post_processor"], place)
    content["truncation"], content["padding"] = None, None
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in Path(folder).iterdir():
            if path.suffix != ".jinja" and path.name not in WRITTEN:  # other forms of the old vocabulary
                path.unlink()
        path = Path(folder) / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings |= renumber_roles(settings, kept)
        if "added_tokens_decoder" in settings:
            tokens = settings["added_tokens_decoder"].items()
            settings["added_tokens_decoder"] = {str(place[int(number)]): token for number, token in tokens}
        path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        (Path(folder) / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        cut = AutoTokenizer.from_pretrained(folder)
    assert isinstance(cut, PreTrainedTokenizerFast), "what it was saved from is a fast one"
    check_read_back(cut, Tokenizer.from_str(json.dumps(content)), type(tokenizer).__name__)
    cut.name_or_path = tokenizer.name_or_path
    return cut


WRITTEN = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def check_read_back(cut: PreTrainedTokenizerFast, expected: Tokenizer, kind: str) -> None:
    """Raise InputError if what stock transformers reads differs from what was written, and name the part."""
    read, written = json.loads(cut.backend_tokenizer.to_str()), json.loads(expected.to_str())
    parts = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor")
    changed = [part for part in parts if read[part] != written[part]]
    if cut.get_vocab() != expected.get_vocab(with_added_tokens=True) or changed:
        raise InputError(
            f"vocabulary: a {kind} cannot be trimmed: it changes its {', '.join(changed) or 'vocabulary'} when it is "
            f"read back"
        )


def cut_model(model: dict[str, Any], numbers: Mapping[str, int], place: Mapping[int, int]) -> dict[str, Any]:
    """Return the JSON of a WordPiece or Unigram model with the kept tokens alone."""
    if model["type"] == "WordPiece":
        vocabulary = {text: place[number] for text, number in model["vocab"].items() if number in place}
        return model | {"vocab": vocabulary}
    listed = [(text, score) for text, score in model["vocab"] if numbers[text] in place]
    unknown = None if model["unk_id"] is None else place[model["unk_id"]]
    return model | {"vocab": listed, "unk_id": unknown}


def renumber(processor: dict[str, Any] | None, place: Mapping[int, int]) -> dict[str, Any] | None:
    """Return the JSON of a post-processor with the special tokens' new numbers."""
    if processor is None:
        return None
    changed = dict(processor)
    if "processors" in processor:
        changed["processors"] = [renumber(part, place) for part in processor["processors"]]
    for role in ("cls", "sep"):  # ["[SEP]", 102] of the types for one model
        if role in processor:
            changed[role] = [processor[role][0], place[processor[role][1]]]
    if processor["type"] == "TemplateProcessing":
        tokens = processor["special_tokens"].items()
        changed["special_tokens"] = {
            name: token | {"ids": [place[number] for number in token["ids"]]} for name, token in tokens
        }
    return changed
