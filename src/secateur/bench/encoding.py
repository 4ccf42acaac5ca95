"""Rows of the embedded teacher at work: sentences encoded in bulk, a benchmark's tasks."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from secateur.bench.comparisons import LONG_ROUNDS, Comparison, Workshop, counting, padding_share, timed
from secateur.config.quality import QualitySettings
from secateur.encoders.encoder import TorchEncoder, embed, encode, pad, tokenize
from secateur.encoders.inference import Encoder, run_rows
from secateur.evaluation.encodechka import list_sentences, score_examples
from secateur.evaluation.probe import FOLDER, read_parts
from secateur.export.export import export


def compare_encoding(shop: Workshop) -> list[Comparison]:
    """Encoder.encode against SentenceTransformer.encode: the same weights, sentences of mixed length."""
    sentences = shop.sentences()
    warmup = sentences[: len(sentences) // 10]
    ours, theirs = Encoder(shop.model), SentenceTransformer(shop.model, device="cpu")
    counts = np.zeros(2, np.int64)
    with counting(theirs[0], counts):
        theirs.encode(warmup)
    ours.encode(warmup)
    rows = ours.read_pieces(sentences)
    padded = np.zeros(2, np.int64)

    def count(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        padded[:] += [int(mask.sum()), mask.size]
        return np.zeros((len(ids), 1), np.float32)

    for _ in run_rows(count, rows, ours.pad_id):
        pass
    return [
        Comparison(
            "encode in bulk",
            {
                "Encoder.encode": timed(lambda: ours.encode(sentences), len(sentences)),
                "SentenceTransformer.encode": timed(lambda: theirs.encode(sentences), len(sentences)),
            },
            aims={"SentenceTransformer.encode": 1.3},
            conditions={
                "sentences": len(sentences),
                "mean tokens": round(float(np.mean([len(row) for row in rows])), 1),
                "batch": f"{ours.batch_tokens} tokens; 32 sentences",
                "padding": f"{padding_share(padded)}; {padding_share(counts)} (of a tenth)",
                "dtype": "float32",
                "threads": torch.get_num_threads(),
            },
            warmup=0,
            rounds=LONG_ROUNDS,
        )
    ]


def compare_file(shop: Workshop, backend: Literal["onnx", "openvino"]) -> list[Comparison]:
    """Encoder.encode of an exported float file against SentenceTransformer.encode with a backend of its own.

    Raises ImportError where sentence-transformers cannot have that backend.
    """
    folder = shop.folder / "exported"
    if not folder.exists():
        export(shop.model, QualitySettings(), out=folder, int8=False)
    try:
        theirs = SentenceTransformer(str(folder), backend=backend, device="cpu")
    except Exception as error:  # what sentence-transformers raises where a package is missing
        raise ImportError(f"sentence-transformers cannot have {backend}: {error}") from error
    ours = Encoder(str(folder), backend="onnx")
    sentences = shop.sentences()
    for encoder in (ours, theirs):
        encoder.encode(sentences[: len(sentences) // 10])
    return [
        Comparison(
            f"encode in bulk, {backend}",
            {
                "Encoder, onnx": timed(lambda: ours.encode(sentences), len(sentences)),
                f"SentenceTransformer, {backend}": timed(lambda: theirs.encode(sentences), len(sentences)),
            },
            conditions={
                "sentences": len(sentences),
                "batch": f"{ours.batch_tokens} tokens; 32 sentences",
                "dtype": "float32",
                "threads": torch.get_num_threads(),
            },
            warmup=0,
            rounds=LONG_ROUNDS,
        )
    ]


class OneAtATime:
    """An encoder as the original benchmark runs it: each sentence in a batch of its own."""

    def __init__(self, encoder: TorchEncoder) -> None:
        self.encoder = encoder

    def poolings(self, sentences: Sequence[str], *, batch_size: int, progress: str) -> dict[str, np.ndarray]:
        vectors = []
        for sentence in sentences:
            with torch.inference_mode():
                inputs = pad(self.encoder, tokenize(self.encoder, [sentence]))
                vectors.append(encode(self.encoder, inputs).vectors.cpu().numpy()[0])
        return {"own": np.stack(vectors)}


def compare_benchmark(shop: Workshop) -> list[Comparison]:
    """A benchmark's eight tasks, the probe's texts: embedding alone, and the whole, against one sentence at a time."""
    encoder = shop.load()
    parts = {task: read_parts(FOLDER, task) for task in shop.sizes.tasks}
    sentences = list_sentences(parts)
    single = OneAtATime(encoder)
    conditions = {"sentences": len(sentences), "dtype": "float32", "threads": torch.get_num_threads()}
    embedding = {
        "in batches": timed(lambda: embed(encoder, sentences)),
        "one at a time": timed(lambda: single.poolings(sentences, batch_size=1, progress="")),
    }
    whole = {
        "in batches": timed(lambda: score_examples(encoder, parts, own_only=True)),
        "one at a time": timed(lambda: score_examples(single, parts, own_only=True)),
    }
    return [
        Comparison("eight tasks, embedding", embedding, {"one at a time": 2.5}, conditions),
        Comparison("eight tasks, whole", whole, {"one at a time": 2.0}, conditions),
    ]
