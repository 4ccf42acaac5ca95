"""An offline probe of Russian: encodechka's eight kinds of sentence task, on texts written for it and shipped with us.

Its numbers are not encodechka's; it ranks encoders as encodechka does (experiments/LOG.md). The texts, how they were
written and their limits: probe_data/README.md. They were frozen before any encoder was scored on them; SHA256 says so.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secateur.config.errors import InputError
from secateur.data.files import hash_file
from secateur.encoders.vectors import VectorSource
from secateur.evaluation.benchmark_data import Examples, Part, read_examples
from secateur.evaluation.encodechka import SentenceEncoder, bootstrap, score_examples, take_scores
from secateur.evaluation.leaderboard import SENTENCE_TASKS, Scores, mean_draws

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "probe_data"
PAIR = ("sentence1", "sentence2")


def split(name: str, *labels: str) -> tuple[Part, Part]:
    """Return the two parts of a task with a classifier; of two labels the second is the one looked for, 1."""
    places = {label: number for number, label in enumerate(labels)}
    read = places.__getitem__ if len(labels) == 2 else str
    train, test = (Part(f"{name}_{side}.csv", ("text",), "label", read, labels) for side in ("train", "test"))
    return train, test


HELPER = (
    "add_reminder", "adjust_temperature", "buy_tickets", "calculate", "calendar_add", "calendar_query", "check_traffic",
    "control_lights", "define_word", "find_recipe", "get_weather", "make_call", "order_food", "play_music",
    "run_appliance", "send_message", "set_alarm", "set_timer", "stop_media", "translate",
)  # fmt: skip
SERVICE = (
    "bill_too_high", "book_appointment", "cancel_order", "card_blocked", "card_lost", "change_address",
    "complaint_staff", "discount_question", "internet_down", "loan_terms", "medical_certificate", "meter_readings",
    "opening_hours", "parcel_status", "password_reset", "product_defect", "refund_request", "tariff_change",
    "transfer_pending", "wrong_item",
)  # fmt: skip
PARTS: dict[str, tuple[Part, ...]] = {
    "STS": (Part("sts.csv", PAIR, "score", float, tuple(f"{half / 2:g}" for half in range(11))),),
    "PI": (Part("paraphrase.csv", PAIR, "label", int, ("-1", "0", "1")),),
    "NLI": (Part("nli.csv", ("premise", "hypothesis"), "label", str, ("entailment", "neutral", "contradiction")),),
    "SA": split("sentiment", "negative", "neutral", "positive"),
    "TI": split("toxicity", "normal", "toxic"),
    "IA": split("inappropriateness", "appropriate", "inappropriate"),
    "IC": split("intents", *HELPER),
    "ICX": split("intents_crosslingual", *SERVICE),
}
SHA256 = {
    "inappropriateness_test.csv": "68d7f4641c4b2659210cdad2da3f047bf8351d368dd54fa02a5436be83e13fb3",
    "inappropriateness_train.csv": "30a49028ce1367df1179645b7774cbb0d7da7b2c81db2ed16af00abc382764a9",
    "intents_crosslingual_test.csv": "8a234cb1f97f6dc03d3ad3eedd8025e499d90af1b6e24e26cc697056a6266c55",
    "intents_crosslingual_train.csv": "3f27adde95446ffa84d56dd55f447fe3671124da594fc76308a5f565eaef57cf",
    "intents_test.csv": "21596ea3dfe99196ae1b766277786d79d9e08e34eb2fe553afd709d0b3e9c4fa",
    "intents_train.csv": "0c5b9d381b842220af4b861a3a766ba8185a9625a6a845a252fceebd5961ee48",
    "nli.csv": "4e51979152ca7a08b3bd8317a593a6477a88ab0016660e852a5a67e65268d392",
    "paraphrase.csv": "8381a98fa550759baf489f3b2e3962c22187fb56a6999f523f70583ce7b575b1",
    "sentiment_test.csv": "78d0f0ded8ba9f9c9441f09bd4b0c90c55ecdf518e9aa5e37c740d670b27dc62",
    "sentiment_train.csv": "30d92da4071ae9da2d4f58b5afc7b986c0b32c99ea7d0e7a087837ebc9c56fdc",
    "sts.csv": "60e8f97a99272aec5ee8ee9f8c7f3c9d182cea19b65780d11fddf9b1bb356e05",
    "toxicity_test.csv": "2ae32f8560870069e985c8ef78b1c9f29009cd12b0a9846dd40b6abb1d9d63b6",
    "toxicity_train.csv": "b3a9c9af58113977567f7330ee9555eb21cc6c0cec31d10264bde2f211d894e4",
}


def score_probe(
    encoder: SentenceEncoder | VectorSource,
    *,
    folder: Path = FOLDER,
    tasks: Sequence[str] = SENTENCE_TASKS,
    own_only: bool = False,
    batch_size: int = 64,
    progress: str = "",
) -> Scores:
    """Score an encoder on the probe's texts as `score_encodechka` does on encodechka's; the mean has a 95% interval.

    Raises InputError: a file of `folder` is missing or damaged; the line and the column are named.
    """
    started = time.monotonic()
    parts = {task: read_parts(folder, task) for task in tasks if task in PARTS}
    outcomes = score_examples(encoder, parts, own_only=own_only, batch_size=batch_size, progress=progress)
    draws = bootstrap(outcomes)
    log.info("probe: %d tasks in %.0f s", len(outcomes), time.monotonic() - started)
    interval = None
    means = mean_draws(draws) if draws else np.empty(0)  # word tasks alone leave none
    known = means[np.isfinite(means)]
    if len(known) and 2 * len(known) >= len(means):  # an undefined task leaves no mean
        low, high = np.quantile(known, [0.025, 0.975])
        interval = float(low), float(high)
    return Scores(take_scores(outcomes), benchmark="probe", interval=interval, draws=draws)


def read_parts(folder: Path, task: str) -> list[Examples]:
    """Read one task's files; what differs from the frozen text is said."""
    for part in PARTS[task]:
        path = folder / part.file
        if not path.is_file():
            raise InputError(f"{path}: no such file; the probe needs it")
        if hash_file(path) != SHA256[part.file]:
            log.warning("%s differs from the text that was frozen: its scores do not compare with others", path)
    return [read_examples(folder, part) for part in PARTS[task]]
