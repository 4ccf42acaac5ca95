"""What a tokenizer does not know of a text."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from secateur.config.errors import InputError, say_error
from secateur.encoders.reading import copy_backend

log = logging.getLogger(__name__)

STEP = 4_096  # sentences at a time
SAMPLE = 10_000  # of each language that are looked at, evenly over its text
MANY = 0.05  # share of a text whose letters are lost in unknown tokens: said from here on ...
MOST = 0.5  # ... and refused from here on


def check_known(tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, Sequence[str]]) -> None:
    """Warn of each language of whose text the tokenizer does not know over 5%: one line for a language.

    Raises InputError: it knows less than half of a language's text, or finds nothing to read in it.
    """
    for language, sentences in texts.items():
        if not has_tokens(tokenizer, sentences):
            raise InputError(f"language {language}: the tokenizer finds nothing to read in its text")
        share = share_unknown(tokenizer, sentences[:: -(-len(sentences) // SAMPLE)])
        if share > MOST:
            raise InputError(
                f"language {language}: the model's tokenizer does not know {share:.1%} of its text: the model was not "
                f"made for it, or the tokenizer is not the model's own"
            )
        if share > MANY:
            log.warning("language %s: the model's tokenizer does not know %.1f%% of its text", language, 100 * share)


def share_unknown(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> float:
    """Return the share of the sentences' letters and signs that the tokenizer reads as unknown tokens.

    Spaces are not counted. An unknown token counts with all the letters that it stands for: WordPiece loses a whole
    word to one unknown letter. 0 of no text, and of a tokenizer that has no unknown token. One that is not a fast
    tokenizer does not say what its tokens stand for: there it is the share of the tokens.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        words = [word for sentence in sentences for word in tokenizer.tokenize(sentence)]
        return words.count(tokenizer.unk_token) / max(len(words), 1)
    unknown, backend = unknown_number(tokenizer), copy_backend(tokenizer)
    letters = sum(len(word) for sentence in sentences for word in sentence.split())
    if unknown is None or not letters:
        return 0.0
    lost = 0
    for start in range(0, len(sentences), STEP):
        block = sentences[start : start + STEP]
        rows = encode(backend, block)
        lost += sum(len(find_lost(row, sentence, unknown)) for row, sentence in zip(rows, block, strict=True))
    return lost / letters


def find_lost(row: Any, sentence: str, unknown: int) -> set[int]:
    """Return the places in a sentence of the letters and signs that unknown tokens stand for."""
    if unknown not in row.ids:
        return set()
    spans = [span for number, span in zip(row.ids, row.offsets, strict=True) if number == unknown]
    return {place for start, end in spans for place in range(start, end) if not sentence[place].isspace()}


def has_tokens(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> bool:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return any(tokenizer.tokenize(sentence) for sentence in sentences)
    backend, blocks = copy_backend(tokenizer), (sentences[at : at + STEP] for at in range(0, len(sentences), STEP))
    return any(row.ids for block in blocks for row in encode(backend, block))


def unknown_number(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the number that the tokenizer's model gives to what it does not know; None: it has no such token."""
    backend = tokenizer.backend_tokenizer
    name = getattr(backend.model, "unk_token", None)
    if name is None and type(backend.model).__name__ == "Unigram":
        number = json.loads(backend.model.__getstate__())["unk_id"]
        return None if number is None else int(number)
    found = None if name is None else backend.token_to_id(name)
    return None if found is None else int(found)


def encode(backend: Tokenizer, sentences: Sequence[str]) -> list[Any]:
    """Return the encodings of sentences, without special tokens.

    Raises InputError: the tokenizer meets something that it does not know, and has no token for that.
    """
    try:
        rows: list[Any] = backend.encode_batch(list(sentences), add_special_tokens=False)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"the tokenizer cannot read the texts: {say_error(error, 200)}") from None
    return rows
