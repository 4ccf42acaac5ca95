"""Every claim of speed beside its peer: `python -m secateur.bench`."""
