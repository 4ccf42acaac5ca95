"""Counts in words, as logs and cards say them."""


def say_count(count: int, noun: str) -> str:
    """Return a count with its noun, in the singular or the plural: 1 pair, 3,808 pairs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
