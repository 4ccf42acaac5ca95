"""One run that makes a new encoder: a body and a vocabulary, distilled from the vectors of other encoders.

What a run leaves: experiments/NAME/ (recipe.json, metrics.jsonl, checkpoints/, scores.json, table.txt) and
models/NAME/.
"""
