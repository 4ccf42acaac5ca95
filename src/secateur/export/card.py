"""A model folder's card, its README.md, in the Hugging Face format: metadata on top, text below.

`make_card` writes the card of a new model. `update_card` adds what an export measured: a section between two marks,
which the next export replaces, and scores in the metadata. Whatever else stands on a card stays.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

HELD_OUT_KEY = "secateur"  # of a card's metadata: what export has to know of how the model was trained
BEGIN, END = "<!-- secateur export: begin -->", "<!-- secateur export: end -->"
LIBRARY, PIPELINE = "sentence-transformers", "sentence-similarity"
TAGS = ("sentence-transformers", "feature-extraction")
DIRECTIONS = {"en_ru": "English to Russian", "ru_en": "Russian to English"}
BENCHMARKS = {"encodechka": "https://github.com/avidale/encodechka", "probe": "secateur-probe"}


def make_card(
    name: str,
    text: str,
    *,
    tags: Sequence[str],
    results: Sequence[EvalResult] = (),
    metadata: Mapping[str, Any],
) -> str:
    """Return the card of a new sentence encoder; `text` goes below the heading, `name`.

    `metadata`: what else is known of it, by the hub's keys: language, license, base_model, ...
    """
    data = ModelCardData(
        library_name=LIBRARY, pipeline_tag=PIPELINE, tags=[*TAGS, *tags], model_name=name if results else None,
        eval_results=list(results) or None, **metadata,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n# {name}\n\n{text.strip()}\n"


def update_card(card: str, record: Mapping[str, Any], *, name: str) -> str:
    """Return a card with an export's record on it; `card` is the one there is, or empty."""
    found = read_card(card)
    data = found.data
    assert isinstance(data, ModelCardData), "a model's card"
    data.library_name = data.library_name or LIBRARY
    data.pipeline_tag = data.pipeline_tag or PIPELINE
    data.tags = list(dict.fromkeys([*(data.tags or ()), *TAGS, "onnx"]))
    data.eval_results = merge_results(data.eval_results or (), list_results(record)) or None
    data.model_name = (data.model_name or name) if data.eval_results else None
    text = found.text or f"# {name}\n\nA sentence encoder.\n"
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n?", "\n", text, flags=re.DOTALL).rstrip("\n")
    found.text = f"{text}\n\n{BEGIN}\n{describe(record)}\n{END}\n"
    return str(found)


def read_card(card: str) -> ModelCard:
    """Return a card read; metadata that is no YAML mapping counts as text."""
    if card.startswith("---"):
        try:
            return ModelCard(card, ignore_metadata_errors=True)
        except (YAMLError, ValueError, TypeError):
            pass
    return ModelCard(f"---\n{{}}\n---\n{card}")


def read_held_out(card: str) -> float | None:
    """Return the share of the pairs that the run which made a model held out, as its card says; None: it does not."""
    said = read_card(card).data.get(HELD_OUT_KEY)
    share = said.get("held_out") if isinstance(said, dict) else None
    return float(share) if isinstance(share, int | float) and 0 < share <= 1 else None


def merge_results(old: Iterable[EvalResult], new: Iterable[EvalResult]) -> list[EvalResult]:
    """Return the old results, then the new ones; of the same metric on the same data the new one alone."""
    results = {(*each.unique_identifier, each.metric_type, each.metric_name): each for each in (*old, *new)}
    return list(results.values())


def list_results(record: Mapping[str, Any]) -> list[EvalResult]:
    """Return an export's scores of the torch model, as metadata holds them."""
    torch = record["artefacts"]["torch"]
    tasks = {"Mean S": torch.get("mean_s"), **torch.get("encodechka", {})}
    return [
        *retrieval_results(torch.get("retrieval", {}), pairs=record["judged_by"]),
        *benchmark_results(tasks, benchmark="encodechka"),
    ]


def retrieval_results(accuracies: Mapping[str, float], *, pairs: str) -> list[EvalResult]:
    """Return retrieval accuracy@1, by direction, as metadata holds it; `pairs` says which pairs it was measured on."""
    return [
        EvalResult(
            task_type="translation-retrieval", task_name="Translation Retrieval", dataset_type="parallel-sentences",
            dataset_name="held-out English-Russian pairs", dataset_config=pairs, metric_type="accuracy",
            metric_name=f"retrieval accuracy@1, {DIRECTIONS[way]}", metric_value=round(value, 4),
        )
        for way, value in accuracies.items()
    ]  # fmt: skip


def benchmark_results(scores: Mapping[str, float | None], *, benchmark: str) -> list[EvalResult]:
    """Return a benchmark's scores of the model's own vector as metadata holds them; None: not scored."""
    return [
        EvalResult(
            task_type="sentence-similarity", task_name="Sentence Similarity", dataset_type=BENCHMARKS[benchmark],
            dataset_name=benchmark, metric_type="score", metric_name=f"{task}, own vector",
            metric_value=round(value, 4),
        )
        for task, value in scores.items()
        if value is not None
    ]  # fmt: skip


def describe(record: Mapping[str, Any]) -> str:
    """Return the section: every exported file with what was measured of it, and how each is used."""
    artefacts = record["artefacts"]
    rows = ["| file | MB | largest difference | mean cosine | 1st percentile | en→ru | ru→en | Mean S |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, each in artefacts.items():
        ways = each.get("retrieval", {})
        scores = [ways.get("en_ru"), ways.get("ru_en"), each.get("mean_s")]
        cells = [name, f"{each['bytes'] / 1e6:.1f}", f"{each['max_difference']:.1e}"]
        cells += [f"{each['cosine']:.5f}", f"{each['low_cosine']:.5f}"]
        cells += ["-" if score is None else f"{score:.4f}" for score in scores]
        rows.append(f"| {' | '.join(cells)} |")
    model, processor = record["model"], record["processor"]
    instructions = ", ".join(processor["instructions"]) or "instructions unknown"
    parts = [
        "## Exported files",
        f"{model['parameters']:,} parameters, vectors of {model['dimension']} dimensions. Measured on "
        f"{record['judged_by']}; processor: {processor['name']} ({instructions}).",
        "\n".join(rows),
        COLUMNS,
        "`parity.json` has the hash of every file and the versions. An int8 file's numbers are this processor's: "
        "others may round otherwise.",
        SENTENCE_TRANSFORMERS,
        TRANSFORMERS,
        ONNX.format(file=best_file(artefacts), texts=spell_texts(record["input"]), **record["input"]),
        SECATEUR,
    ]
    return "\n\n".join(parts)


def spell_texts(reading: Mapping[str, Any]) -> str:
    """Return two texts as Python, behind the prompt and in small letters where the model reads them so."""
    texts = '["Hello, world", "Привет, мир"]'
    prompt = reading["prompts"].get(reading["default_prompt_name"], "")
    each = " + ".join([*([repr(prompt)] if prompt else []), "text.lower()" if reading["lowercase"] else "text"])
    return texts if each == "text" else f"[{each} for text in {texts}]"


def best_file(artefacts: Mapping[str, Any]) -> str:
    return next(name for name in ("onnx/model_qint8.onnx", "onnx/model.onnx") if name in artefacts)


COLUMNS = """Difference and cosines: each file's vectors beside those of the torch model. en→ru, ru→en: retrieval
accuracy@1, the share of sentences whose nearest neighbour among all translations is their own. Mean S: the mean of
encodechka's eight sentence tasks."""
SENTENCE_TRANSFORMERS = """### sentence-transformers

```python
import secateur  # registers pruned model types; without it pass trust_remote_code=True
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("PATH").encode(["Hello, world", "Привет, мир"])
```"""
TRANSFORMERS = """### transformers

```python
import secateur  # as above
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("PATH"), AutoModel.from_pretrained("PATH")
states = model(**tokenizer(["Hello, world"], padding=True, return_tensors="pt")).last_hidden_state
# what follows, pooling and on, stands in modules.json
```"""
ONNX = """### ONNX Runtime

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("PATH/tokenizer.json")
tokenizer.enable_truncation({max_length}, direction="{truncation}")
tokenizer.enable_padding(pad_id={pad_id})
batch = tokenizer.encode_batch({texts})
inputs = {{
    "input_ids": np.array([each.ids for each in batch]),
    "attention_mask": np.array([each.attention_mask for each in batch]),
}}
vectors = onnxruntime.InferenceSession("PATH/{file}").run(["sentence_embedding"], inputs)[0]
```"""
SECATEUR = """### secateur

```python
import secateur

vectors = secateur.Encoder("PATH", backend="onnx").encode(["Hello, world", "Привет, мир"])
```"""
