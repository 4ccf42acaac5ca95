"""What a student is worth: held-out pairs, encodechka, the probe."""
