"""How a model reads a sentence: what is put before it, where it is cut off, what the model's files ask for beside its
tokenizer.json. An export records it, so that the exported files read as the model does."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Sequence

from secateur.config.choices import MOST
from secateur.config.errors import InputError, say_error

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from secateur.encoders.encoder import TorchEncoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How sentences become tokens, as `SentenceTransformer.encode` has it."""

    max_length: int  # tokens
    pad_id: int
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    pools_prompt: bool  # False: the prompt's tokens are left out of the sentence vector
    truncation: Literal["left", "right"]  # the side of a long sentence that is cut off
    lowercase: bool  # besides what tokenizer.json does

    def __post_init__(self) -> None:
        """Raise ValueError where a record of an export holds something else."""
        texts = (*self.prompts, *self.prompts.values()) if isinstance(self.prompts, Mapping) else (None,)
        right = {
            "max_length": type(self.max_length) is int and 1 <= self.max_length <= MOST,
            "pad_id": type(self.pad_id) is int and 0 <= self.pad_id <= MOST,
            "prompts": all(isinstance(text, str) for text in texts),
            "default_prompt_name": isinstance(self.default_prompt_name, str | None),
            "pools_prompt": isinstance(self.pools_prompt, bool),
            "truncation": self.truncation in ("left", "right"),
            "lowercase": isinstance(self.lowercase, bool),
        }
        for name in (name for name, is_right in right.items() if not is_right):
            raise ValueError(f"{name} is {getattr(self, name)!r:.60}")

    def find_prompt(self, prompt: str | None = None, prompt_name: str | None = None) -> str:
        """Return what is put before a sentence: `prompt`, the one named, the default one, or nothing.

        Raises InputError: no prompt has this name.
        """
        for key, value in (("prompt", prompt), ("prompt_name", prompt_name)):
            if value is not None and not isinstance(value, str):
                raise InputError(f"{key}: {value!r:.60} is not a text")
        if prompt is not None:
            if prompt_name is not None:
                log.warning("prompt and prompt_name are both given; prompt counts")
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise InputError(f"prompt_name: {name} is none of the model's prompts: {', '.join(self.prompts)}")
        return self.prompts[name]


def describe_reading(encoder: "TorchEncoder") -> Reading:
    """Return how a loaded model reads. Raises InputError: in a way that secateur does not know."""
    from secateur.encoders.modeling import count_positions

    first: Any = encoder.model[0]
    tokenizer = encoder.tokenizer
    unknown = {name: value for name, value in (first.processing_kwargs or {}).items() if value}
    if unknown:
        raise InputError(f"sentence_bert_config.json: processing_kwargs: {next(iter(unknown))} is not supported")
    types = tokenizer("a").get("token_type_ids", [0])
    if any(types):
        raise InputError("tokenizer.json: gives a sentence's tokens another type than 0, which is not supported")
    return Reading(
        max_length=min(encoder.max_length, count_positions(encoder.transformer)),
        pad_id=cast(int, tokenizer.pad_token_id),
        prompts={name: text or "" for name, text in encoder.model.prompts.items()},
        default_prompt_name=encoder.model.default_prompt_name,
        pools_prompt=all(getattr(module, "include_prompt", True) for module in encoder.model),
        truncation="left" if tokenizer.truncation_side == "left" else "right",
        lowercase=bool(first.do_lower_case),
    )


def open_tokenizer(path: Path, reading: Reading) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, which truncates and lowercases as the model does and does not pad."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"{path}: cannot be read as a tokenizer: {error}") from None
    if reading.lowercase:
        add_lowercase(tokenizer)
    return set_length(tokenizer, reading, reading.max_length)


def add_lowercase(tokenizer: Any) -> None:
    """Have a tokenizer lowercase first, as sentence-transformers does for do_lower_case; one that does so stays."""
    found = tokenizer.normalizer
    steps = list(cast(Any, found)) if isinstance(found, Sequence) else [found] if found is not None else []
    if not any(isinstance(step, Lowercase) for step in steps):
        tokenizer.normalizer = Sequence([Lowercase(), *steps])


def set_length(tokenizer: Tokenizer, reading: Reading, max_length: int) -> Tokenizer:
    tokenizer.enable_truncation(max_length, direction=reading.truncation)
    tokenizer.no_padding()
    return tokenizer


def copy_backend(tokenizer: "PreTrainedTokenizerBase") -> Tokenizer:
    """Return a copy of what the tokenizer reads with, which neither truncates nor pads.

    Raises InputError: a part of it is made of Python code, which no file can hold.
    """
    try:
        backend: Tokenizer = deepcopy(tokenizer.backend_tokenizer)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"the tokenizer cannot be copied or saved: {say_error(error, 200)}") from None
    backend.no_truncation()
    backend.no_padding()
    return backend
