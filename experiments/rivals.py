"""Other tools' students of the same teacher, text, minutes and size, to stand beside ours.

    python experiments/rivals.py layers experiments/e5-small-en-ru.yaml --minutes 30 --out models/rival-layers
    python experiments/rivals.py easy experiments/e5-small-en-ru.yaml --minutes 30 --out models/rival-easy
    secateur infer models/rival-layers models/rival-easy --data FOLDER

`layers` is what sentence-transformers' documentation shows: whole layers are dropped, the rest is trained with
EmbedDistillLoss or MSELoss on the teacher's vectors; as it has no way to drop tokens, ours does that for it. `easy`
calls EasySmallEmbeddingModel 0.1.0 (Apache-2.0): evenly spaced layers, tokens kept by frequency, a training loop of its
own; `pip install easysmallembeddingmodel==0.1.0 --no-deps` first. Three layers and 16,000 tokens are 11.8M parameters
of multilingual-e5-small. The text is what the recipe's
corpus gives for training; the teacher's vectors, which only `layers` takes from the cache, are not counted in the
minutes, as they are not in those of our own recipes. Random and magnitude choices and students from scratch need no
script: `saliency.criterion=random`, `saliency.criterion=magnitude`, `budget.initialization=scratch`.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import EmbedDistillLoss, MSELoss

from secateur.config.places import default_cache
from secateur.config.reading import load_recipe
from secateur.config.recipe import PruningRecipe
from secateur.data.corpus import load_corpus
from secateur.data.files import whole_folder
from secateur.data.pairs import Pairs
from secateur.encoders.device import pick_precision
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.encoders.students import choose_layers
from secateur.encoders.surgery import replace_transformer
from secateur.pruning.trimming import trim_vocabulary
from secateur.runs.training import embed_targets

LOSSES = {"cosine": EmbedDistillLoss, "mse": MSELoss}
TRIAL_STEPS = 12  # timed, to know how many fit in the minutes


def main() -> None:
    """Make one rival's student."""
    parser = argparse.ArgumentParser(description="Make a student as another tool does.")
    parser.add_argument("rival", choices=["layers", "easy"])
    parser.add_argument("recipe", type=Path, help="whose teacher and corpus are used")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30, help="of training (%(default)s)")
    parser.add_argument("--layers", type=int, default=3, help="how many, evenly spaced (%(default)s)")
    parser.add_argument("--tokens", type=int, default=16_000, help="how many, of the vocabulary (%(default)s)")
    parser.add_argument("--loss", choices=LOSSES, default="cosine", help="of `layers` (%(default)s)")
    parser.add_argument("--rate", type=float, help="the learning rate (the tool's own: 1e-4, 2e-5)")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    assert isinstance(recipe, PruningRecipe)
    rows = load_corpus(recipe.corpus, default_cache()).train
    with whole_folder(options.out) as folder:
        {"layers": drop_layers, "easy": call_easy}[options.rival](recipe, rows, options, folder)
    student = SentenceTransformer(str(options.out))
    print(f"{options.out}: {sum(weight.numel() for weight in student.parameters()):,} parameters")


def space_evenly(count: int, whole: int) -> list[int]:
    """Return `count` of `whole` layers, the first and the last among them."""
    return [round(place) for place in np.linspace(0, whole - 1, count)]


def drop_layers(recipe: PruningRecipe, rows: Pairs, options: argparse.Namespace, folder: Path) -> None:
    """Drop layers and tokens, then train as sentence-transformers' page on model distillation does."""
    teacher = load_encoder(recipe.teacher)
    targets = embed_targets(teacher, rows, recipe.distillation, default_cache())
    assert targets is not None
    layers = space_evenly(options.layers, teacher.transformer.config.num_hidden_layers)
    shallow = replace_transformer(teacher, choose_layers(teacher.transformer, layers))
    fewer = trim_vocabulary(shallow, {"en": rows.en, "ru": rows.ru}, options.tokens, fold=False)
    save_encoder(fewer.encoder, folder / "start")
    model = SentenceTransformer(str(folder / "start"))
    model.max_seq_length = recipe.distillation.max_length
    order = np.random.default_rng(0).permutation(len(targets))
    sentences = [*rows.en, *rows.ru]
    data = Dataset.from_dict(
        {"sentence": [teacher.prompt + sentences[row] for row in order], "label": [targets[[row]][0] for row in order]}
    )
    seconds = run_trainer(model, data, options, TRIAL_STEPS, folder) / TRIAL_STEPS
    steps = int(options.minutes * 60 / seconds)
    model = SentenceTransformer(str(folder / "start"))
    model.max_seq_length = recipe.distillation.max_length
    took = run_trainer(model, data, options, steps, folder)
    print(f"{steps} steps of {BATCH} sentences in {took / 60:.1f} minutes")
    model.max_seq_length = teacher.max_length
    model.save(str(folder))


BATCH = 64


def run_trainer(
    model: SentenceTransformer, data: Dataset, options: argparse.Namespace, steps: int, folder: Path
) -> float:
    """Train for so many steps and return the seconds that it took."""
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=BATCH,
        learning_rate=options.rate or 1e-4, warmup_steps=steps // 10, use_cpu=True, report_to=[], save_strategy="no",
        bf16=pick_precision("auto", torch.device("cpu")) == "bf16", logging_steps=50,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=LOSSES[options.loss](model)
    )
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def call_easy(recipe: PruningRecipe, rows: Pairs, options: argparse.Namespace, folder: Path) -> None:
    """Prune and distil with EasySmallEmbeddingModel, whose epochs are cut to what fits in the minutes."""
    from smallmodel import arch, distill

    texts = [text for text in dict.fromkeys([*rows.en, *rows.ru]) if text.strip()]
    texts = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]
    layers = space_evenly(options.layers, 12)
    model, tokenizer = arch.create_pruned_student(recipe.teacher.model, layers)
    kept = arch.collect_corpus_tokens(tokenizer, texts=texts, max_vocab=options.tokens)
    pruned = folder / "pruned"
    model = arch.prune_tokenizer_and_embeddings(model, tokenizer, kept, str(pruned))
    start = folder / "start"
    arch.save_as_sentence_transformer(model, type(tokenizer).from_pretrained(pruned), str(start))
    settings: dict[str, Any] = {"epochs": 1, "lr": options.rate or 2e-5, "device": "cpu"}
    trial = 32 * TRIAL_STEPS
    begun = time.perf_counter()
    distill.distill(recipe.teacher.model, str(start), texts[:trial], suffix="-trial", **settings)
    count = int(trial * options.minutes * 60 / (time.perf_counter() - begun))
    begun = time.perf_counter()
    epochs = max(1, round(count / len(texts)))
    chosen = texts[: count // epochs]
    distill.distill(recipe.teacher.model, str(start), chosen, **(settings | {"epochs": epochs}))
    print(f"{epochs} epochs of {len(chosen):,} sentences in {(time.perf_counter() - begun) / 60:.1f} minutes")
    SentenceTransformer(f"{start}_distilled").save(str(folder))


if __name__ == "__main__":
    main()
