"""Saved models judged by search: which documents they find for a query, and how much of a document they have to read.

Queries and documents stand behind the prompts that sentence-transformers gives them. A model that learnt from
sentences and is used on paragraphs shows it where documents are cut off after ever more tokens: its measures rise with
what it reads, or they do not.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secateur.config.errors import InputError
from secateur.data.relevance import RelevanceSet
from secateur.encoders.device import computing_in, pick_device
from secateur.encoders.inference import BATCH_TOKENS, WINDOW, Encoder
from secateur.encoders.reading import Reading
from secateur.evaluation.intervals import bootstrap_interval
from secateur.evaluation.search import MEASURES, find_gains, measure, search
from secateur.reports.text import format_columns
from secateur.runs.infer import name_apart

BATCH_TOKENS_GPU = 2**15
QUERY_PROMPTS = ("query",)  # as `encode_query` and `encode_document` of sentence-transformers look for them
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Running:
    """How models are run: `backend`, `threads` and `device` as `Encoder` takes them, `precision` of torch."""

    backend: str
    threads: int | None
    precision: str
    device: str

    def open(self, model: str, max_length: int | None = None) -> Encoder:
        """Load a model, or its exported file, that reads at most so many tokens of a text."""
        on_gpu = self.backend == "torch" and pick_device(self.device) == "cuda"
        return Encoder(
            model, backend=self.backend, threads=self.threads, max_length=max_length, device=self.device,
            batch_tokens=BATCH_TOKENS_GPU if on_gpu else BATCH_TOKENS,
        )  # fmt: skip

    def computing(self) -> AbstractContextManager[Any]:
        """Return a context in which torch computes as told; an exported file has its own number format."""
        if self.backend != "torch":
            return nullcontext()
        return computing_in(self.precision, torch.device(pick_device(self.device)))


@dataclass(frozen=True)
class SearchScore:
    """What a model finds when it reads so many tokens of a document; `longer`: the share of documents that have more.

    measures: by measure, its value for each query, float64 [queries].
    """

    model: str
    max_length: int
    longer: float
    query_prompt: str
    document_prompt: str
    measures: Mapping[str, np.ndarray]


def search_models(
    models: Sequence[str], test: RelevanceSet, running: Running, *, max_lengths: Sequence[int]
) -> list[SearchScore]:
    """Return how well each model finds the relevant documents, for each number of tokens that it reads of them.

    `max_lengths`: those numbers; in place of none, or of one that exceeds what a model reads, its own. Queries are
    always read at the model's own length. Raises InputError: no model, one that cannot be loaded, a length that holds
    no word.
    """
    if not models:
        raise InputError("retrieve: name a model")
    scores = []
    for name, model in zip(name_apart(models), models, strict=True):
        whole = running.open(model)
        lengths = sorted({min(each, whole.max_length) for each in max_lengths or [whole.max_length]})
        whole.check_length(lengths[0])  # before the minutes that the queries take
        query_prompt, document_prompt = (
            find_prompt(whole.loaded.reading, names) for names in (QUERY_PROMPTS, DOCUMENT_PROMPTS)
        )
        with running.computing():
            queries = whole.encode(test.queries.values(), prompt=query_prompt, progress=f"{name}, queries")
        check_finite(queries, name)
        for length in lengths:
            reader = whole if length == whole.max_length else running.open(model, length)
            longer = share_longer(reader, list(test.documents.values()), document_prompt)
            reader.has_truncated = True  # the table says how many are cut off: a warning would say it once more
            with running.computing():
                measures = search_documents(reader, name, queries, test, prompt=document_prompt)
            scores.append(SearchScore(name, length, longer, query_prompt, document_prompt, measures))
    return scores


def find_prompt(reading: Reading, names: Sequence[str]) -> str:
    """Return a model's prompt of the first of these names that it has; its default prompt where it has none of them.

    One that is not empty goes first: sentence-transformers gives every model an empty `document`, also one whose own
    is called `passage`.
    """
    known = [name for name in names if name in reading.prompts]
    filled = [name for name in known if reading.prompts[name]]
    return reading.find_prompt(None, next(iter(filled + known), None))


def share_longer(encoder: Encoder, texts: Sequence[str], prompt: str) -> float:
    """Return the share of texts that have more tokens, behind a prompt, than an encoder reads."""
    windows = (texts[start : start + WINDOW] for start in range(0, len(texts), WINDOW))
    encoded = (encoder.tokenizer.encode_batch_fast([prompt + text for text in window]) for window in windows)
    return sum(bool(each.overflowing) for window in encoded for each in window) / len(texts)


def search_documents(
    reader: Encoder, name: str, queries: np.ndarray, test: RelevanceSet, *, prompt: str
) -> dict[str, np.ndarray]:
    """Return each measure for each query, of documents read behind a prompt; `queries`: unit vectors [queries, D]."""
    progress = f"{name}, {reader.max_length} tokens"
    parts = reader.stream(list(test.documents.values()), prompt=prompt, progress=progress)
    nearest = search(queries, (check_finite(part, name) for part in parts))
    relevance = list(test.relevance.values())
    gains = find_gains(nearest, list(test.documents), relevance)
    return measure(gains, [list(of.values()) for of in relevance])


def check_finite(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return vectors. Raises InputError: one of them is not finite, and would be near to nothing."""
    if not np.isfinite(vectors).all():
        raise InputError(f"{name}: the vector of a text is not finite")
    return vectors


COLUMNS = {
    "model": ("model", "{}"),
    "max_length": ("tokens read", "{}"),
    "longer": ("cut off", "{:.0%}"),
    "ndcg": (MEASURES["ndcg"], "{:.4f}"),
    "ndcg_interval": ("95%", "{0[0]:.3f} to {0[1]:.3f}"),
    "accuracy": (MEASURES["accuracy"], "{:.4f}"),
    "recall": (MEASURES["recall"], "{:.4f}"),
    "mrr": (MEASURES["mrr"], "{:.4f}"),
    "difference": ("over first", "{:+.4f}"),
    "difference_interval": ("95%", "{0[0]:+.3f} to {0[1]:+.3f}"),
}
NOTE = (
    "tokens read: of a document; cut off: documents that have more; nDCG@10, recall@10, MRR@10: of the ten most "
    "similar documents; accuracy@1: how often the most similar one is relevant; 95%: over queries drawn anew"
)
FIRST_NOTE = "; over first: nDCG@10 less the first model's, which read as many tokens or as many as it can"


def format_searches(scores: Sequence[SearchScore], test: RelevanceSet) -> str:
    """Return the scores as a table, then the prompts that were used and what is odd in the files, a line each."""
    rows = tabulate_searches(scores)
    first = FIRST_NOTE if any("difference" in row for row in rows) else ""
    prompts = {each.model: f"queries {each.query_prompt!r}, documents {each.document_prompt!r}" for each in scores}
    lines = [
        f"{len(test.queries):,} queries, {len(test.documents):,} documents; {NOTE}{first}",
        *(f"prompts of {name}: {used}" for name, used in prompts.items()),
        *test.notes,
    ]
    return "\n".join([format_columns(rows, COLUMNS), *lines])


def dump_searches(scores: Sequence[SearchScore], test: RelevanceSet) -> dict[str, Any]:
    """Return what `format_searches` says as values for JSON."""
    prompts = [{"query_prompt": each.query_prompt, "document_prompt": each.document_prompt} for each in scores]
    rows = [row | used for row, used in zip(tabulate_searches(scores), prompts, strict=True)]
    return {"queries": len(test.queries), "documents": len(test.documents), "notes": list(test.notes), "scores": rows}


def tabulate_searches(scores: Sequence[SearchScore]) -> list[dict[str, Any]]:
    """Return a row a score: the means, the 95% interval of nDCG@10, and by how much it exceeds the first model's.

    That one has read as many tokens, or as many below it as it was measured with, or else the fewest.
    """
    first = {each.max_length: each.measures["ndcg"] for each in scores if each.model == scores[0].model}
    rows: list[dict[str, Any]] = []
    for each in scores:
        row: dict[str, Any] = {"model": each.model, "max_length": each.max_length, "longer": each.longer}
        row |= {name: float(values.mean()) for name, values in each.measures.items()}
        row["ndcg_interval"] = bootstrap_interval(each.measures["ndcg"])
        if each.model != scores[0].model:
            nearest = max((length for length in first if length <= each.max_length), default=min(first))
            difference = each.measures["ndcg"] - first[nearest]
            row |= {"difference": float(difference.mean()), "difference_interval": bootstrap_interval(difference)}
        rows.append(row)
    return rows
