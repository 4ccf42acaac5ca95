"""Asking another machine, and giving up on it in time."""

from collections.abc import Callable
from queue import Empty, Queue
from threading import Thread
from typing import TypeVar

Answer = TypeVar("Answer")


def answer_within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Return what `ask` returns, or raise what it raises; raise TimeoutError when `seconds` have passed.

    It runs in a thread of its own: the timeouts of urllib and requests cover neither the look-up of a name nor a
    second address that is tried, so a silent network would hold the program up for minutes.
    """
    answers: Queue[tuple[Answer | None, Exception | None]] = Queue()

    def run() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    Thread(target=run, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]
