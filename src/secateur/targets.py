"""The teacher's vector of every sentence, computed once: float16 shards on disk, memory-mapped.

A vector is filed under the content of its teacher (weights, tokenizer, what follows the transformer) and of its
sentence, so corpora that share sentences share the work, and a run that was stopped goes on where it was.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from secateur.encoder import Encoder, embed
from secateur.files import whole_folder

log = logging.getLogger(__name__)

SHARD = 4_096  # sentences; 3 MiB of vectors at 384 dimensions


@dataclass(frozen=True)
class Targets:
    """One teacher vector per sentence, in the order asked for; rows are read from disk as they are needed."""

    shards: tuple[np.ndarray, ...]  # memory-mapped float16 [n, D]
    places: np.ndarray  # [sentences, 2]: shard, row

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 vectors [len(rows), D] of unit length up to the rounding of float16."""
        return np.stack([self.shards[shard][row] for shard, row in self.places[rows]]).astype(np.float32)


def embed_corpus(
    teacher: Encoder,
    sentences: Sequence[str],
    cache: Path,
    *,
    batch_size: int = 64,
    precision: str = "float32",
    progress: str = "",
) -> Targets:
    """Return the teacher's vectors of these sentences, embedding only those the cache lacks.

    Each finished shard is written whole; an interrupted call loses at most one shard of work.
    """
    folder = cache / f"{fingerprint(teacher)}-{precision}"
    keys = sentence_keys(sentences)
    known = read_keys(folder)
    missing = list({key: row for row, key in enumerate(keys) if key not in known}.values())
    if missing:
        log.info("targets: %d of %d sentences to embed, into %s", len(missing), len(sentences), folder)
    with tqdm(total=len(missing), desc=progress, unit=" sentences", disable=not progress) as bar:
        for start in range(0, len(missing), SHARD):
            rows = missing[start : start + SHARD]
            vectors = embed(teacher, [sentences[row] for row in rows], batch_size=batch_size, precision=precision)
            write_shard(folder, [keys[row] for row in rows], vectors)
            bar.update(len(rows))
    return open_targets(folder, keys)


def fingerprint(teacher: Encoder) -> str:
    """Return a hash of everything a sentence vector depends on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    settings = teacher.transformer.config.to_diff_dict()
    tokenizer = json.loads(teacher.tokenizer.backend_tokenizer.to_str())
    modules = [repr(module) for module in list(teacher.model)[1:]]
    content = [without(settings, PROVENANCE), without(tokenizer, LAST_CALL), modules]
    digest.update(json.dumps([*content, teacher.max_length, teacher.uses_pooler], sort_keys=True).encode())
    return digest.hexdigest()[:32]


PROVENANCE = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")  # of a config
LAST_CALL = ("truncation", "padding")  # of a tokenizer: what it was last called with


def without(data: dict[str, object], keys: Sequence[str]) -> dict[str, object]:
    return {key: value for key, value in data.items() if key not in keys}


def sentence_keys(sentences: Sequence[str]) -> list[bytes]:
    return [hashlib.blake2b(sentence.encode(), digest_size=16).digest() for sentence in sentences]


def read_keys(folder: Path) -> dict[bytes, tuple[int, int]]:
    """Return, for each sentence key on disk, its shard (in order of name) and its row."""
    places: dict[bytes, tuple[int, int]] = {}
    for number, shard in enumerate(shard_folders(folder)):
        for row, key in enumerate(np.load(shard / "keys.npy")):
            places[key.tobytes()] = (number, row)
    return places


def shard_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9a-f]*") if (path / "keys.npy").is_file())


def write_shard(folder: Path, keys: list[bytes], vectors: np.ndarray) -> None:
    name = hashlib.blake2b(b"".join(keys), digest_size=12).hexdigest()
    with whole_folder(folder / name) as temporary:
        np.save(temporary / "vectors.npy", vectors.astype(np.float16))
        np.save(temporary / "keys.npy", np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 16))


def open_targets(folder: Path, keys: list[bytes]) -> Targets:
    known = read_keys(folder)
    shards = tuple(np.load(shard / "vectors.npy", mmap_mode="r") for shard in shard_folders(folder))
    return Targets(shards=shards, places=np.array([known[key] for key in keys], np.int64).reshape(-1, 2))
