"""Retrieval on the command line, of translations and of documents: what is read and counted, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SENTENCES, MakeEncoder
from sentence_transformers import SentenceTransformer
from sklearn.metrics import ndcg_score

from secateur.cli import main
from secateur.config.quality import QualitySettings
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.reading import Reading
from secateur.encoders.saving import save_encoder
from secateur.evaluation.validation import retrieval
from secateur.runs.retrieve import DOCUMENT_PROMPTS, QUERY_PROMPTS, find_prompt


@pytest.fixture
def model(teacher: TorchEncoder, tmp_path: Path) -> str:
    save_encoder(teacher, tmp_path / "toy")
    return str(tmp_path / "toy")


def test_each_file_has_both_ways_and_a_header_is_no_pair(
    model: str, teacher: TorchEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, some = tmp_path / "whole.tsv", tmp_path / "some.tsv"
    lines = [f"{en}\t{ru}" for en, ru in SENTENCES]
    whole.write_text("\n".join(["en\tru", *lines]), encoding="utf-8")
    some.write_text("\n".join(lines[:5]), encoding="utf-8")
    files = [str(whole), str(some)]
    assert main(["retrieve", model, "--precision", "float32", "--device", "cpu", "--pairs", *files]) == 0
    en, ru = (embed(teacher, [pair[side] for pair in SENTENCES]) for side in (0, 1))
    expected = [retrieval(en, ru), retrieval(ru, en), retrieval(en[:5], ru[:5]), retrieval(ru[:5], en[:5])]
    table = capsys.readouterr().out.splitlines()
    assert table[0].split("  ")[0] == "model"
    assert all(title in table[0] for title in ("whole en→ru", "whole ru→en", "some en→ru", "some ru→en"))
    assert table[-2].split() == ["toy", *(f"{share:.4f}" for share in expected)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\tодин\n", "pairs.tsv: 1 pairs; finding translations takes two or more"),
        ("one\nдва\n", "pairs.tsv: line 1 has 1 tab-separated columns"),
    ],
)
def test_a_file_without_pairs_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "pairs.tsv").write_text(text, encoding="utf-8")
    assert main(["retrieve", model, "--pairs", str(tmp_path / "pairs.tsv")]) == 2
    assert message in capsys.readouterr().err


def test_without_a_model_there_is_nothing_to_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrieve", "--pairs", str(tmp_path / "pairs.tsv")]) == 2
    assert "name a model, or ask for --use" in capsys.readouterr().err


# Documents

QUERIES = [en for en, _ in SENTENCES]
DOCUMENTS = [f"{ru} {SENTENCES[place - 1][1]}" for place, (_, ru) in enumerate(SENTENCES)]
PROMPTS = {"query": "find: ", "passage": "read: "}
FLOAT32 = ("--precision", "float32", "--device", "cpu")


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Queries, documents of two sentences and judgements, of which one document is the best and one is good."""
    tables = {
        "queries": [f"q{row}\t{text}" for row, text in enumerate(QUERIES)],
        "documents": [f"d{row}\t{text}" for row, text in enumerate(DOCUMENTS)],
        "relevant": [f"q{row}\td{row}\t2" for row in range(32)] + [f"q{row}\td{row + 1}\t1" for row in range(31)],
    }
    for name, lines in tables.items():
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return [word for name in tables for word in (f"--{name}", str(tmp_path / f"{name}.tsv"))]


def save_toy(encoder: TorchEncoder, folder: Path, prompts: dict[str, str] | None = None) -> str:
    """Save a toy with prompts of its own; the first is the default one."""
    encoder.model.prompts = dict(prompts or {})
    encoder.model.default_prompt_name = next(iter(prompts)) if prompts else None
    save_encoder(encoder, folder)
    return str(folder)


def expected_ndcg(folder: str, prompts: dict[str, str], max_length: int) -> float:
    """Return the nDCG@10 of a folder by sentence-transformers, a dense product and scikit-learn."""
    model = SentenceTransformer(folder, device="cpu")
    queries = model.encode(QUERIES, prompt=prompts.get("query", ""), normalize_embeddings=True)
    model.max_seq_length = max_length
    documents = model.encode(DOCUMENTS, prompt=prompts.get("passage", ""), normalize_embeddings=True)
    relevance = 2 * np.eye(32) + np.eye(32, k=1)
    return float(ndcg_score(relevance, queries @ documents.T, k=10))


def find(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["retrieve", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_documents_are_found_as_a_dense_search_finds_them_read_to_each_length(
    make_encoder: MakeEncoder, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [save_toy(make_encoder(seed=seed), tmp_path / name) for seed, name in enumerate(("one", "two"))]
    found = find(capsys, *models, *asked, *FLOAT32, "--max-length", "500", "8", "16")
    assert (found["queries"], found["documents"], found["notes"]) == (32, 32, [])
    rows = {(row["model"], row["max_length"]): row for row in found["scores"]}
    assert list(rows) == [(name, length) for name in ("one", "two") for length in (8, 16, 64)], "it reads 64 at most"
    for (name, length), row in rows.items():
        assert row["ndcg"] == pytest.approx(expected_ndcg(str(tmp_path / name), {}, length), abs=1e-6)
        assert row["ndcg_interval"][0] < row["ndcg"] < row["ndcg_interval"][1]
        if name == "two":
            assert row["difference"] == pytest.approx(row["ndcg"] - rows["one", length]["ndcg"])
            assert row["difference_interval"][0] < row["difference"] < row["difference_interval"][1]
        else:
            assert "difference" not in row
    assert rows["one", 8]["longer"] == 1
    assert rows["one", 64]["longer"] < 1
    assert rows["one", 8]["ndcg"] != rows["one", 64]["ndcg"]


def test_queries_and_documents_stand_behind_prompts_of_their_own(
    make_encoder: MakeEncoder, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_toy(make_encoder(), tmp_path / "toy", PROMPTS)
    (row,) = find(capsys, model, *asked, *FLOAT32)["scores"]
    assert (row["query_prompt"], row["document_prompt"]) == ("find: ", "read: ")
    assert row["ndcg"] == pytest.approx(expected_ndcg(model, PROMPTS, 64), abs=1e-6)
    assert abs(expected_ndcg(model, PROMPTS, 64) - expected_ndcg(model, {}, 64)) > 1e-3
    assert main(["retrieve", model, *asked, *FLOAT32]) == 0
    table = capsys.readouterr().out.splitlines()
    assert f"{row['ndcg']:.4f}" in table[2].split()
    assert "prompts of toy: queries 'find: ', documents 'read: '" in table


@pytest.mark.parametrize(
    ("prompts", "default", "used"),
    [
        ({}, None, ("", "")),
        ({"query": "q: ", "passage": "p: "}, None, ("q: ", "p: ")),
        ({"query": "q: ", "document": "d: ", "passage": "p: "}, None, ("q: ", "d: ")),
        ({"query": "q: ", "document": "", "passage": "p: "}, "query", ("q: ", "p: ")),
        ({"query": "q: ", "document": ""}, "query", ("q: ", "")),
        ({"any": "a: "}, "any", ("a: ", "a: ")),
        ({"any": "a: "}, None, ("", "")),
    ],
)
def test_a_prompt_is_looked_for_by_name(prompts: dict[str, str], default: str | None, used: tuple[str, str]) -> None:
    reading = Reading(64, 0, prompts, default, True, "right", False)
    assert (find_prompt(reading, QUERY_PROMPTS), find_prompt(reading, DOCUMENT_PROMPTS)) == used


def test_an_exported_file_is_judged_as_its_model_is(
    make_encoder: MakeEncoder, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
    from secateur.export.export import export

    model = save_toy(make_encoder(layers=2), tmp_path / "toy", PROMPTS)
    export(model, QualitySettings(min_cosine=0.5, min_low_cosine=0.0, sentences=16), threads=1)
    how = ("--max-length", "12", "64")
    found = [find(capsys, model, *asked, *how, *FLOAT32, "--backend", each) for each in ("torch", "onnx")]
    for own, exported in zip(*(each["scores"] for each in found), strict=True):
        assert exported["max_length"] == own["max_length"]
        assert exported["ndcg"] == pytest.approx(own["ndcg"], abs=1e-6)
    (tmp_path / "pairs.tsv").write_text("\n".join(f"{en}\t{ru}" for en, ru in SENTENCES), encoding="utf-8")
    tables = []
    for backend in ("torch", "onnx"):
        words = ["retrieve", model, "--pairs", str(tmp_path / "pairs.tsv"), *FLOAT32, "--backend", backend]
        assert main(words) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


def test_what_is_odd_in_the_files_stands_below_the_table(
    model: str, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "queries.tsv").open("a", encoding="utf-8") as file:
        file.write("\nidle\tWho asks this?")
    assert main(["retrieve", model, *asked, *FLOAT32]) == 0
    assert "queries without a relevant document, which are not asked: 1, the first is 'idle'" in capsys.readouterr().out


FILES = {"--queries": "q.tsv", "--documents": "d.tsv", "--relevant": "r.tsv"}
THREE = tuple(word for pair in FILES.items() for word in pair)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --pairs; or --queries, --documents and --relevant; or --beir"),
        (("--pairs", "p.tsv", *THREE), "give --pairs; or"),
        (("--pairs", "p.tsv", "--beir", "folder"), "give --pairs; or"),
        ((*THREE, "--beir", "folder"), "give --pairs; or"),
        (THREE[:2], "--documents and --relevant: not given; queries, documents and judgements go together"),
        (THREE[:4], "--relevant: not given"),
        ((*THREE, "--use"), "--use does not go with queries and documents"),
        ((*THREE, "--split", "dev"), "--split does not go with queries and documents"),
        (("--pairs", "p.tsv", "--json"), "--json does not go with --pairs"),
        (("--pairs", "p.tsv", "--by-length"), "--max-length does not go with --pairs"),
        ((*THREE, "--max-length", "64", "0"), "--max-length: 0 is not positive"),
        ((*THREE, "--threads", "0"), "--threads: 0 is not positive"),
        (("--beir", "nowhere"), "nowhere/queries.jsonl: no such file"),
        (THREE, "q.tsv: no such file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrieve", "toy", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "retrieve: name a model"),
        (("nowhere",), "nowhere: no such folder"),
        (("toy", "toy"), "the same model is named twice"),
        (("toy", "--max-length", "2"), "max_length: 2 holds no more than the 2 special tokens"),
        (("toy", "--backend", "onnx"), "onnx/model.onnx: no such file; `secateur export"),
    ],
)
def test_models_that_cannot_be_asked_are_refused(
    model: str,
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [word for word in words[:2] if not word.startswith("--")]
    assert main(["retrieve", *named, *asked, *words[len(named) :]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
