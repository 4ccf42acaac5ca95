"""A model card in the Hugging Face format: what a run wrote of its own stays, what an export measured is added.

The metadata block gets a model-index of measured scores; the text gets a section between two marks, which the next
export replaces.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

BEGIN, END = "<!-- secateur export: begin -->", "<!-- secateur export: end -->"
METADATA = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
TAGS = ("sentence-transformers", "feature-extraction", "onnx")
YAML_SETTINGS = {"default_flow_style": False, "allow_unicode": True, "sort_base_mapping_type_on_output": False}
ENCODECHKA = "https://github.com/avidale/encodechka"


def update_card(card: str, record: Mapping[str, Any], *, name: str) -> str:
    """Return a README.md with an export's record in it; `card` is the one there is, or empty."""
    metadata, text = split_card(card)
    metadata = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity", **metadata}
    metadata["tags"] = [*dict.fromkeys([*metadata.get("tags", ()), *TAGS])]
    index = index_scores(record, name)
    metadata.pop("model-index", None)
    metadata |= {"model-index": index} if index else {}
    text = text or f"# {name}\n\nA sentence encoder.\n"
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n?", "\n", text, flags=re.DOTALL).rstrip("\n")
    return f"---\n{dump(metadata)}---\n{text}\n\n{BEGIN}\n{describe(record)}\n{END}\n"


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Return the metadata and the text; metadata that is no YAML mapping counts as text."""
    found = METADATA.match(card)
    if not found:
        return {}, card
    try:
        metadata = YAML(typ="safe", pure=True).load(found[1])
    except YAMLError:
        return {}, card
    return (metadata, card[found.end() :]) if isinstance(metadata, dict) else ({}, card)


def dump(metadata: Mapping[str, Any]) -> str:
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    for setting, value in YAML_SETTINGS.items():
        setattr(yaml, setting, value)
    yaml.dump(dict(metadata), out)
    return out.getvalue()


def index_scores(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the model-index: translation retrieval and encodechka's tasks, of the torch model, as measured."""
    torch = record["artefacts"]["torch"]
    results = []
    ways = {"en_ru": "English to Russian", "ru_en": "Russian to English"}
    for way, value in torch.get("retrieval", {}).items():
        data = {"name": f"held-out pairs ({record['judged_by']})", "type": "parallel-sentences"}
        metric = {"type": "accuracy", "name": f"{ways[way]}, nearest is the translation", "value": round(value, 4)}
        results.append(result("translation-retrieval", "Translation Retrieval", data, metric))
    data = {"name": "encodechka", "type": ENCODECHKA}
    tasks = {"Mean S": torch.get("mean_s"), **torch.get("encodechka", {})}
    for task, value in tasks.items():
        if value is not None:
            metric = {"type": "score", "name": f"{task}, own vector", "value": round(value, 4)}
            results.append(result("sentence-similarity", "Sentence Similarity", data, metric))
    return [{"name": name, "results": results}] if results else []


def result(kind: str, title: str, data: Mapping[str, str], metric: Mapping[str, Any]) -> dict[str, Any]:
    return {"task": {"type": kind, "name": title}, "dataset": dict(data), "metrics": [dict(metric)]}


def describe(record: Mapping[str, Any]) -> str:
    """Return the section: every artefact with what was measured of it, and how each is used."""
    artefacts = record["artefacts"]
    rows = ["| artefact | MB | largest difference | cosine | first percentile | en→ru | ru→en | Mean S |",
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
        f"{model['parameters']:,} parameters, vectors of {model['dimension']} dimensions. Beside the torch model, on "
        f"{record['judged_by']}; {processor['name']} ({instructions}).",
        "\n".join(rows),
        "`parity.json` has the hash of every file and the versions. An int8 file's numbers are this processor's: "
        "others may round otherwise.",
        SENTENCE_TRANSFORMERS,
        TRANSFORMERS,
        ONNX.format(file=best_file(artefacts), **record["input"]),
        SECATEUR,
    ]
    return "\n\n".join(parts)


def best_file(artefacts: Mapping[str, Any]) -> str:
    return next(name for name in ("onnx/model_qint8.onnx", "onnx/model.onnx") if name in artefacts)


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
tokenizer.enable_truncation({max_length})
tokenizer.enable_padding(pad_id={pad_id})
batch = tokenizer.encode_batch(["Hello, world", "Привет, мир"])
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
