"""What makes a model folder sound: weights there and finite, tokens that have vectors, a tokenizer that reads as its
file says, a length that can be read. `load_encoder` raises what is found here; `secateur check` lists it.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.config.choices import Dtype
from secateur.config.errors import InputError, say_error
from secateur.encoders.modeling import count_positions

log = logging.getLogger(__name__)

DTYPES: dict[str, Dtype] = {"F16": "float16", "BF16": "bfloat16"}  # as safetensors calls them; every other: float32
# Plain words in many scripts, with digits and punctuation: what any two readings of one tokenizer agree on.
SCRIPTS = {
    "Latin": "The gardener cut the old apple tree, and it bore fruit again in 2 years.",
    "Cyrillic": "Садовник обрезал старую яблоню, и через 2 года она снова дала урожай.",
    "Greek": "Ο κηπουρός κλάδεψε τη μηλιά.",
    "Arabic": "البستاني يقلم شجرة التفاح",
    "Chinese": "园丁修剪了老苹果树。",
}
PLAIN = (*SCRIPTS.values(), "Der Gärtner schnitt den alten Apfelbaum.", "El jardinero podó el viejo manzano.")
RARE = ("naïve café — 50 % off!", "👩‍🌾 🇷🇺 🍎", "x² ≤ √9", "  two  blanks ", "tab\there", "zero\u200bwidth", "ﬁne ½")


def list_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that a transformers folder's weights lie in."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / file for file in dict.fromkeys(files)]
    return [path for path in [folder / "model.safetensors"] if path.is_file()]


def read_header(files: Iterable[Path]) -> dict[str, tuple[str, int]]:
    """Return each weight's number format, as safetensors names it, and how many numbers it holds."""
    header = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    part = file.get_slice(name)
                    header[name] = (part.get_dtype(), int(torch.Size(part.get_shape()).numel()))
        except SafetensorError as error:
            raise InputError(f"{path}: damaged, or cut off: {error}") from None
    return header


def find_dtype(header: dict[str, tuple[str, int]]) -> Dtype:
    """Return the number format that most of the numbers have."""
    counts = Counter[str]()
    for dtype, count in header.values():
        counts[dtype] += count
    return DTYPES.get(counts.most_common(1)[0][0], "float32") if counts else "float32"


def find_absent(model: PreTrainedModel, header: dict[str, tuple[str, int]]) -> list[str]:
    """Return the weights of a model that a file does not hold under the names that transformers gives them.

    Empty is proof that nothing was drawn at random; older names that transformers still reads are listed as absent.
    """
    prefix = f"{model.base_model_prefix}."
    there = {name.removeprefix(prefix) for name in header}
    there |= {name.replace("LayerNorm.gamma", "LayerNorm.weight") for name in there}
    there |= {name.replace("LayerNorm.beta", "LayerNorm.bias") for name in there}
    return sorted(name for name, _ in model.named_parameters() if name not in there)


def check_finite(model: nn.Module, *, origin: str) -> None:
    """Raise InputError naming the first weight that holds a number that is not finite."""
    for name, values in model.named_parameters():
        if not torch.isfinite(values).all():
            count = int((~torch.isfinite(values)).sum())
            named = name.removeprefix("0.model.")  # as its file calls it
            raise InputError(
                f"{origin}: {count:,} of the {values.numel():,} numbers of the weight {named} are not finite"
            )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, transformer: PreTrainedModel, *, origin: str) -> None:
    """Raise InputError for a token without a vector, a tokenizer without a padding token, or one that knows nothing."""
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{origin}: its tokenizer has no padding token; name one as pad_token in tokenizer_config.json"
        )
    rows = cast(nn.Embedding, transformer.get_input_embeddings()).num_embeddings
    token, number = max(tokenizer.get_vocab().items(), key=lambda each: each[1])
    if number >= rows:
        raise InputError(
            f"{origin}: the tokenizer's token {token!r} has the number {number}, but the model has vectors for the "
            f"numbers 0 to {rows - 1} alone"
        )
    read = [cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"]) for text in PLAIN]
    if all(piece == tokenizer.unk_token_id for pieces in read for piece in pieces):
        raise InputError(f"{origin}: its tokenizer knows no word or letter; are its files there?")


def read_length(tokenizer: PreTrainedTokenizerBase, transformer: PreTrainedModel, *, origin: str) -> int:
    """Return how many tokens of a sentence a model reads: what its tokenizer says, at most its positions."""
    said, positions = tokenizer.model_max_length, count_positions(transformer)
    if isinstance(said, bool) or not isinstance(said, int | float) or not said > 0:
        raise InputError(f"{origin}: its maximal length is {said!r}, not a number of tokens")
    if positions < 1:
        raise InputError(f"{origin}: its position embeddings reach {positions} tokens")
    return int(min(said, positions))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, path: Path, *, lowercase: bool, origin: str) -> None:
    """Raise InputError if the loaded tokenizer reads plain words as other tokens than its tokenizer.json.

    transformers rebuilds a tokenizer from the class that tokenizer_config.json names; without one it may end with
    a vocabulary alone, and every word is unknown. Another reading of rare signs is said in a warning. `lowercase`: the
    model asks for small letters besides what the file does.
    """
    try:
        stored = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"{path}: cannot be read as a tokenizer: {say_error(error, 200)}") from None
    flaw = find_template_flaw(json.loads(stored.to_str()).get("post_processor"))
    if flaw:
        raise InputError(f"{path}: its post_processor puts the token {flaw!r:.60} around a sentence, and names no such")
    stored.no_padding()
    stored.no_truncation()
    for text in (*PLAIN, *RARE):
        expected = stored.encode(text.lower() if lowercase else text).ids
        found = cast(list[int], tokenizer(text)["input_ids"])
        if found == expected:
            continue
        if text in RARE:
            log.warning("%s: tokenizer.json reads %r as other tokens than transformers does", origin, text)
            return
        raise InputError(
            f"{origin}: transformers reads {text!r} as {len(found)} tokens, {say_unknown(tokenizer, found)}, and "
            f"tokenizer.json as {len(expected)}; in tokenizer_config.json name the tokenizer_class that the model was "
            'trained with, or "PreTrainedTokenizerFast" to read as tokenizer.json does'
        )


def find_template_flaw(processor: Any) -> str:
    """Return a special token of a template that its table lacks, or nothing: the tokenizers library panics there."""
    parts = (processor or {}).get("processors", [processor])
    for part in parts:
        if part and part.get("type") == "TemplateProcessing":
            pieces = [
                piece["SpecialToken"]["id"] for piece in (*part["single"], *part["pair"]) if "SpecialToken" in piece
            ]
            for name in (name for name in pieces if name not in part["special_tokens"]):
                return str(name)
    return ""


def say_unknown(tokenizer: PreTrainedTokenizerBase, pieces: list[int]) -> str:
    unknown = pieces.count(cast(Any, tokenizer.unk_token_id))
    return f"{unknown} of them unknown" if unknown else "none of them unknown"
