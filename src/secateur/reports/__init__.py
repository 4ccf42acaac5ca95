"""A run's record as tables, pictures, a page and a demo."""
