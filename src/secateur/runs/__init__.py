"""From a recipe to a student: the stages in order, their record on disk, experiment tracking."""
