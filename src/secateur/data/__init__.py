"""Sentence pairs in, whole files out: reading, fetching, cleaning and splitting."""
