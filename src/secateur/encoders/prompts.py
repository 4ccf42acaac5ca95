"""Prompts of a student: kept, folded away, or a token each.

A model that was trained with a prompt, such as "query: ", reads some tokens more for every sentence. `fold` returns an
encoder that reads the bare sentence and `token` one that reads a single token in a prompt's place. Whatever stood
behind the prompt keeps the position embedding that it had, so that only what attention and pooling took from the
prompt's tokens is missing; repair and training bring it back (`pruning.repair` aligns the tokens of both).
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.config.choices import Prompts
from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import POSITIONS, WORDS, count_heads, count_neurons, first_position
from secateur.encoders.soundness import PLAIN
from secateur.encoders.surgery import (
    fill_model,
    replace_length,
    replace_tokenizer,
    replace_transformer,
    resize_config,
)


def count_prompt(encoder: TorchEncoder, prompt: str) -> int:
    """Return how many tokens a prompt puts behind a sentence's first special token.

    Raises InputError: it does not stand apart, a token holds a part of the prompt and of the sentence.
    """
    counts = set()
    for sentence in PLAIN:
        bare, whole = (list(encoder.tokenizer(text)["input_ids"]) for text in (sentence, prompt + sentence))
        count = len(whole) - len(bare)
        if count < 0 or whole[:1] + whole[1 + count :] != bare:
            raise InputError(f"prompts: the tokens of {prompt!r} do not stand apart from a sentence's")
        counts.add(count)
    return counts.pop()


def change_prompts(encoder: TorchEncoder, prompts: Prompts) -> TorchEncoder:
    """Return an encoder that reads with its prompts kept, folded away or as a token each; weights are copied.

    One without prompts, or whose prompts are as short already, is returned as it is. Raises InputError: prompts that do
    not stand apart from the sentence, or that differ in length.
    """
    texts = {name: text for name, text in encoder.model.prompts.items() if text}
    length = {"fold": 0, "token": 1}.get(prompts)
    if length is None or not texts:
        return encoder
    counts = {name: count_prompt(encoder, text) for name, text in texts.items()}
    if max(counts.values()) <= length:
        return encoder
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"prompts: {prompts}: the model's prompts differ in tokens ({said}), so that positions do too")
    shorter = shift_positions(encoder, max(counts.values()) - length)
    return replace_prompts(shorter, {}, None) if prompts == "fold" else add_prompt_tokens(shorter, texts)


def shift_positions(encoder: TorchEncoder, count: int) -> TorchEncoder:
    """Return an encoder without the positions 1 to `count`: what stood behind them moves up, the first token stays."""
    transformer = encoder.transformer
    weights = dict(transformer.state_dict())
    start = first_position(transformer.config) + 1
    name = f"{POSITIONS}.weight"
    weights[name] = torch.cat([weights[name][:start], weights[name][start + count :]])
    shape = deepcopy(transformer.config)
    shape.max_position_embeddings -= count
    shifted = replace_transformer(encoder, fill_model(shape, weights, has_pooler=encoder.uses_pooler, like=transformer))
    shifted = replace_tokenizer(shifted, deepcopy(encoder.tokenizer))  # the length is set on the tokenizer itself
    return replace_length(shifted, encoder.max_length - count)


def replace_prompts(encoder: TorchEncoder, prompts: Mapping[str, str], default: str | None) -> TorchEncoder:
    """Return an encoder with other prompts; it shares everything else."""
    model = encoder.model
    changed = SentenceTransformer(
        modules=list(model), device=str(model.device), prompts=dict(prompts), default_prompt_name=default,
        similarity_fn_name=model.similarity_fn_name,
    )  # fmt: skip
    return replace(encoder, model=changed.eval(), prompt_name=None)


def add_prompt_tokens(encoder: TorchEncoder, prompts: Mapping[str, str]) -> TorchEncoder:
    """Return an encoder that reads a new special token in the place of each prompt, at first the mean of its tokens."""
    tokenizer: PreTrainedTokenizerBase = deepcopy(encoder.tokenizer)
    tokens: dict[str, str] = {}
    for name, text in sorted(prompts.items()):
        tokens.setdefault(text, f"<{name}>")  # two names of one prompt share a token
    read = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in tokens}
    before = len(tokenizer)
    if tokenizer.add_special_tokens({"additional_special_tokens": list(tokens.values())}) != len(tokens):
        raise InputError(f"prompts: token: the tokenizer has one of {', '.join(tokens.values())} already")
    transformer = encoder.transformer
    weights = dict(transformer.state_dict())
    words = f"{WORDS}.weight"
    means = torch.stack([weights[words][list(numbers)].mean(dim=0) for numbers in read.values()])
    weights[words] = put_rows(weights[words], means, before)
    shape = resize_config(
        transformer.config, count_heads(transformer), count_neurons(transformer), has_pooler=encoder.uses_pooler,
        pieces=len(weights[words]),
    )  # fmt: skip
    larger = fill_model(shape, weights, has_pooler=encoder.uses_pooler, like=transformer)
    default = encoder.model.default_prompt_name
    changed = replace_tokenizer(replace_transformer(encoder, larger), tokenizer)
    return replace_prompts(changed, {name: tokens[text] for name, text in prompts.items()}, default)


def put_rows(rows: Tensor, new: Tensor, place: int) -> Tensor:
    """Return rows with new ones from `place` on, over those that stand for no token there."""
    return torch.cat([rows[:place], new, rows[place + len(new) :]])
