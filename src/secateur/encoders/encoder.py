"""The one place where sentences become unit vectors: load an encoder, embed, save.

An encoder is a sentence-transformers model whose first module is a BERT-like transformer. What it computes
after the transformer (pooling, dense layers, normalisation) is the model's own; the result is scaled to unit
length here. A pooler that the sentence vector does not use is removed at loading. A model with a default prompt has
it put before every sentence, as `SentenceTransformer.encode` does.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.config.choices import Dtype
from secateur.data.progress import progress_bar
from secateur.encoders.device import computing_in
from secateur.encoders.modeling import count_positions
from secateur.encoders.padding import pad_rows as pad_arrays

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchEncoder:
    """A sentence-transformers model with a supported transformer inside.

    `dtype`: the number format that its weights are saved in; it computes in float32 whatever that is. `limit`: tokens
    of a sentence that are read, where that is fewer than the model reads. `prompt_name`: which of the model's prompts
    is put before sentences, where it is not the default one.
    """

    model: SentenceTransformer
    dtype: Dtype = "float32"
    limit: int | None = None
    prompt_name: str | None = None

    @property
    def transformer(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.model[0].model)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return cast(PreTrainedTokenizerBase, self.model.tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def max_length(self) -> int:
        """The longest sentence that is read, in tokens; a longer one is truncated."""
        longest = cast(int, self.model[0].max_seq_length)
        return longest if self.limit is None else min(longest, self.limit)

    def limited(self, max_length: int) -> "TorchEncoder":
        """Return the same encoder, weights shared, reading at most so many tokens of a sentence."""
        return replace(self, limit=max_length)

    def prompted(self, name: str | None) -> "TorchEncoder":
        """Return the same encoder, weights shared, with the prompt of this name; its own where it has none such."""
        return self if name not in self.model.prompts else replace(self, prompt_name=name)

    @property
    def prompt(self) -> str:
        """What stands before every sentence; empty where the model names no default prompt."""
        name = self.prompt_name or self.model.default_prompt_name
        return self.model.prompts.get(name) or "" if name is not None else ""

    @property
    def prompt_length(self) -> int:
        """The tokens of the prompt that the pooling leaves out; 0 where it leaves none out."""
        return self.count_left_out(self.prompt)

    def count_left_out(self, prompt: str) -> int:
        """Return how many tokens of some prompt the pooling leaves out."""
        left_out = any(isinstance(module, Pooling) and not module.include_prompt for module in self.model)
        if not prompt or not left_out:
            return 0
        pieces = cast(list[int], self.tokenizer(prompt)["input_ids"])
        closed = bool(pieces) and pieces[-1] in self.tokenizer.all_special_ids
        return len(pieces) - closed

    @property
    def uses_pooler(self) -> bool:
        return self.model[0].module_output_name == "sentence_embedding"

    @property
    def dimension(self) -> int:
        """The length of a sentence vector."""
        return cast(int, self.model.get_embedding_dimension())

    def poolings(self, sentences: Sequence[str], *, batch_size: int = 64, progress: str = "") -> dict[str, np.ndarray]:
        """Return float32 [sentences, dimension] by pooling: own (unit), cls, mean, and pooler if it is used (raw)."""
        rows: dict[str, np.ndarray] = {}
        for where, inputs in batches(self, tokenize(self, sentences), batch_size, progress):
            with torch.inference_mode():
                output = encode(self, inputs)
            pooled = {"own": output.vectors, "cls": output.tokens[:, 0], "mean": mean_pool(output.tokens, inputs)}
            if output.pooler is not None:
                pooled["pooler"] = output.pooler
            for name, values in pooled.items():
                rows.setdefault(name, np.empty((len(sentences), values.shape[1]), np.float32))[where] = (
                    values.float().cpu().numpy()
                )
        return rows

    def word_vectors(
        self, texts: Sequence[Sequence[str]], *, batch_size: int = 64, progress: str = ""
    ) -> list[np.ndarray]:
        """Return one float32 [words, hidden] array a text: each word the mean of its tokens' last hidden states.

        Texts are truncated where the position embeddings end, not at max_length; the vector of a word beyond is zeros.
        No prompt stands before them: a token task labels the words alone.
        """
        encoded = self.tokenizer(
            [list(words) for words in texts],
            is_split_into_words=True,
            truncation=True,
            max_length=count_positions(self.transformer),
        )
        hidden = self.transformer.config.hidden_size
        vectors = [np.zeros((len(words), hidden), np.float32) for words in texts]
        for where, inputs in batches(self, encoded["input_ids"], batch_size, progress):
            with torch.inference_mode():
                tokens = encode(self, inputs).tokens.float().cpu().numpy()  # [B, T, hidden]
            for row, states in zip(where, tokens, strict=True):
                average_pieces(states, encoded.word_ids(row), vectors[row])
        return vectors


def average_pieces(states: np.ndarray, words: Sequence[int | None], out: np.ndarray) -> None:
    """Write into out[w] the mean of the states [T, hidden] whose token belongs to word w."""
    counts = np.zeros(len(out), np.int64)
    for state, word in zip(states, words, strict=False):
        if word is not None:
            out[word] += state
            counts[word] += 1
    out /= np.maximum(counts, 1)[:, None]


@dataclass(frozen=True)
class Encoded:
    """What one batch gives: unit vectors [B, D], last hidden states [B, T, H], raw pooler output [B, H] or None."""

    vectors: Tensor
    tokens: Tensor
    pooler: Tensor | None


def embed(
    encoder: TorchEncoder,
    sentences: Sequence[str],
    *,
    batch_size: int = 64,
    precision: str = "float32",
    progress: str = "",
) -> np.ndarray:
    """Return the unit vector of every sentence, float32 [sentences, dimension], in the order given.

    Sentences run in batches of like length. `precision` bf16 computes matrix products in bfloat16: faster where
    the processor has it, the cosine to the float32 vector about .99999. `progress` names a progress bar; empty: none.
    """
    vectors = np.empty((len(sentences), encoder.dimension), np.float32)
    for where, inputs in batches(encoder, tokenize(encoder, sentences), batch_size, progress):
        with torch.inference_mode(), computing_in(precision, encoder.device):
            vectors[where] = encode(encoder, inputs).vectors.cpu().numpy()
    return vectors


def tokenize(encoder: TorchEncoder, sentences: Sequence[str]) -> list[list[int]]:
    """Return the tokens of every sentence behind the encoder's prompt, special ones included, at most max_length."""
    if not sentences:
        return []
    prompt = encoder.prompt
    texts = [prompt + sentence for sentence in sentences] if prompt else list(sentences)
    encoded = encoder.tokenizer(texts, truncation=True, max_length=encoder.max_length)
    return cast(list[list[int]], encoded["input_ids"])


def batches(
    encoder: TorchEncoder, pieces: list[list[int]], batch_size: int, progress: str = ""
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield (row numbers, padded inputs) from the longest sentences to the shortest."""
    lengths = np.array([len(row) for row in pieces], np.int64)
    order = np.argsort(-lengths, kind="stable")
    with progress_bar(progress, total=int(lengths.sum()), unit="tokens") as bar:  # batches shrink: sentences mislead
        for start in range(0, len(order), batch_size):
            where = order[start : start + batch_size]
            yield where, pad(encoder, [pieces[row] for row in where])
            bar.update(int(lengths[where].sum()))


def pad(encoder: TorchEncoder, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return input_ids and attention_mask [B, T] on the encoder's device, padded on the right."""
    return {name: values.to(encoder.device) for name, values in pad_rows(rows, encoder.tokenizer.pad_token_id).items()}


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    ids, mask = pad_arrays(rows, pad_id)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def encode(encoder: TorchEncoder, inputs: dict[str, Tensor], *, prompt_length: int | None = None) -> Encoded:
    """Run one padded batch through the transformer and the modules behind it, with gradients if they are on.

    `prompt_length`: the tokens at the start that the pooling leaves out (as many as the encoder's own prompt has).
    """
    output = encoder.transformer(**inputs)
    pooler = output.pooler_output if encoder.uses_pooler else None
    features: dict[str, Any] = {
        "token_embeddings": output.last_hidden_state,
        "attention_mask": inputs["attention_mask"],
        "sentence_embedding": pooler,
    }
    left_out = encoder.prompt_length if prompt_length is None else prompt_length
    if left_out:
        features["prompt_length"] = left_out
    for module in list(encoder.model)[1:]:
        features = module(features)
    pooled = features["sentence_embedding"]
    vectors = normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=-1)
    return Encoded(vectors=vectors, tokens=output.last_hidden_state, pooler=pooler)


def mean_pool(tokens: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    mask = inputs["attention_mask"].unsqueeze(-1).to(tokens.dtype)  # [B, T, 1]
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
