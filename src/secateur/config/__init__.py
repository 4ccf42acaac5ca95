"""What a recipe may say: frozen dataclasses, one a stage, read from YAML and `key=value`; no torch."""
