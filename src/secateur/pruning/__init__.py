"""Measure what matters, choose what is kept, cut the rest away, repair what is left."""
