"""The pictures of a run's record, a module a kind."""
