"""Queries, documents and judgements in every layout, and one line for whatever is wrong in them."""

import gzip
import json
import runpy
from pathlib import Path

import pytest
from conftest import ROOT, SENTENCES

from secateur.config.errors import InputError
from secateur.data.relevance import RelevanceSet, find_beir, read_relevance_set

QUERIES = [("q1", "Who sleeps on the roof?"), ("q2", "Кто режет яблоню?")]
DOCUMENTS = [("d1", "Cats", "They sleep on warm roofs."), ("d2", "", "Садовник режет яблоню."), ("d3", "", "Snow.")]
JUDGEMENTS = [("q1", "d1", "2"), ("q2", "d2", "1"), ("q1", "d3", "0")]
EXPECTED = RelevanceSet(
    dict(QUERIES),
    {"d1": "Cats They sleep on warm roofs.", "d2": "Садовник режет яблоню.", "d3": "Snow."},
    {"q1": {"d1": 2.0}, "q2": {"d2": 1.0}},
)


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_beir(folder: Path, *, packed: str = "") -> Path:
    queries = [json.dumps({"_id": name, "text": text, "metadata": {}}) for name, text in QUERIES]
    documents = [json.dumps({"_id": name, "title": title, "text": text}) for name, title, text in DOCUMENTS]
    write(folder / f"queries.jsonl{packed}", queries)
    write(folder / f"corpus.jsonl{packed}", documents)
    write(
        folder / "qrels" / f"test.tsv{packed}", ["query-id\tcorpus-id\tscore", *("\t".join(row) for row in JUDGEMENTS)]
    )
    return folder


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_folder_of_beir_packed_or_not(tmp_path: Path, packed: str) -> None:
    assert read_relevance_set(*find_beir(write_beir(tmp_path, packed=packed), "test")) == EXPECTED


@pytest.mark.parametrize("header", [False, True])
def test_tables_say_the_same(tmp_path: Path, header: bool) -> None:
    queries = write(tmp_path / "q.tsv", ["id\ttext"] * header + ["\t".join(row) for row in QUERIES])
    documents = write(tmp_path / "d.tsv.gz", [f"{name}\t{title} {text}" for name, title, text in DOCUMENTS])
    relevant = write(tmp_path / "r.tsv", ["\t".join(row) for row in JUDGEMENTS])
    assert read_relevance_set(queries, documents, relevant) == EXPECTED


def test_without_a_relevance_a_judgement_says_that_the_document_is_relevant(tmp_path: Path) -> None:
    relevant = write(tmp_path / "r.tsv", ["q1\td1", "q2\td2"])
    folder = write_beir(tmp_path)
    test = read_relevance_set(folder / "queries.jsonl", folder / "corpus.jsonl", relevant)
    assert test.relevance == {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}}


def test_a_number_in_json_is_the_id_that_a_table_calls_so(tmp_path: Path) -> None:
    queries = write(tmp_path / "q.jsonl", ['{"_id": 7, "text": "Who?"}'])
    documents = write(tmp_path / "d.jsonl", ['{"_id": "a", "title": null, "text": "She."}'])
    test = read_relevance_set(queries, documents, write(tmp_path / "r.tsv", ["7\ta\t1"]))
    assert (test.queries, test.documents) == ({"7": "Who?"}, {"a": "She."})


def test_what_is_odd_is_counted_and_said(tmp_path: Path) -> None:
    queries = write(tmp_path / "q.tsv", ["q1\tone", "q2\ttwo", "q3\tthree"])
    documents = write(tmp_path / "d.tsv", ["d1\tone", "d2\t"])
    relevant = write(tmp_path / "r.tsv", ["q1\td1\t1", "q1\td8\t1", "q1\td9\t2", "q2\td1\t0", "q5\td1\t1"])
    test = read_relevance_set(queries, documents, relevant)
    assert test.queries == {"q1": "one"}
    assert test.relevance == {"q1": {"d1": 1.0, "d8": 1.0, "d9": 2.0}}
    assert test.notes == (
        "queries without a relevant document, which are not asked: 2, the first is 'q2'",
        "judged queries that are not in q.tsv: 1, the first is 'q5'",
        "relevant documents that are not in d.tsv, so that nothing finds them: 2, the first is 'd8'",
        "documents of d.tsv without text: 1, the first is 'd2'",
    )


GOOD = {"q.tsv": ["q1\tone", "q2\ttwo"], "d.tsv": ["d1\tone", "d2\ttwo"], "r.tsv": ["q1\td1\t1", "q2\td2\t1"]}


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("q.tsv", ["q1\tone", "q1\ttwo"], "q.tsv: line 2 has the id 'q1', which an earlier line has too"),
        ("d.tsv", ["d1\tone", "d2"], "d.tsv: line 2 has 1 tab-separated column, not 2 (id, text)"),
        ("d.tsv", ["d1\ta title\ta text"], "d.tsv: line 1 has 3 tab-separated columns, not 2 (id, text)"),
        ("d.tsv", ["\tone"], "d.tsv: line 1: an id is empty"),
        ("d.tsv", ["d1\t", "d2\t "], "d.tsv: holds no text"),
        ("d.tsv", [], "d.tsv: empty"),
        ("q.tsv", ["q1\tone", "q2\t"], "q.tsv: query 'q2' has no text"),
        ("r.tsv", ["query-id\tcorpus-id\tscore"], "r.tsv: holds no judgement"),
        ("r.tsv", ["q1\td1\t1", "q2"], "r.tsv: line 2 has 1 tab-separated column, not 2 or 3 (query id, document id"),
        ("r.tsv", ["q1\t0\td1\t1"], "r.tsv: line 1 has 4 tab-separated columns"),
        ("r.tsv", ["q1\t\t1"], "r.tsv: line 1: an id is empty"),
        ("r.tsv", ["q1\td1\tyes"], "r.tsv: line 1: the relevance 'yes' is not a number"),
        ("r.tsv", ["q1\td1\tinf"], "r.tsv: line 1: the relevance 'inf' is not a number"),
        ("r.tsv", ["q1\td1\t1", "q1\td1\t2"], "r.tsv: line 2 judges 'd1' for 'q1' otherwise than an earlier line"),
        ("r.tsv", ["q8\td1\t1"], "q.tsv has a relevant document in it"),
        ("r.tsv", ["q1\td1\t0"], "q.tsv has a relevant document in it"),
        ("r.tsv", ["q1\td8\t1"], "none of its relevant documents is in"),
    ],
)
def test_what_is_wrong_is_said_by_its_line(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    files = [write(tmp_path / each, lines if each == name else content) for each, content in GOOD.items()]
    with pytest.raises(InputError) as error:
        read_relevance_set(*files)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is list, not a JSON object with _id and text"),
        ('{"text": "one"}', "has no _id"),
        ('{"_id": "d1"}', "has no text"),
        ('{"_id": "d1", "text": 7}', "text is 7, not a text"),
        ('{"_id": "d1", "text": false}', "text is False, not a text"),
        ('{"_id": true, "text": "one"}', "_id is True, not a text"),
        ('{"_id": "d1", "title": [], "text": "one"}', "title is [], not a text"),
        ('{"_id": null, "text": "one"}', "an id is empty"),
        ('{"_id": "d1", "text": "\\ud800"}', "has half of a surrogate pair"),
    ],
)
def test_a_record_that_is_none_is_said_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    good = '{"_id": "d0", "text": "none"}'
    path = write(tmp_path / "d.jsonl", [good, line])
    queries, relevant = (write(tmp_path / name, GOOD[name]) for name in ("q.tsv", "r.tsv"))
    with pytest.raises(InputError) as error:
        read_relevance_set(queries, path, relevant)
    assert str(error.value).startswith(f"{path}: line 2")
    assert message in str(error.value)


def test_a_file_that_a_folder_lacks_is_named(tmp_path: Path) -> None:
    folder = write_beir(tmp_path)
    with pytest.raises(InputError, match=r"qrels/dev.tsv: no such file; a folder in BEIR's layout has queries.jsonl"):
        find_beir(folder, "dev")
    with pytest.raises(InputError, match=r"nowhere/queries.jsonl: no such file"):
        find_beir(tmp_path / "nowhere", "test")


@pytest.mark.parametrize("sides", [("en", "en"), ("ru", "en")], ids=str)
def test_a_set_made_of_text_hides_a_sentence_from_its_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: tuple[str, str]
) -> None:
    pairs = write(tmp_path / "pairs.tsv", ["\t".join(pair) for pair in SENTENCES])
    out = tmp_path / "set"
    words = [str(pairs), str(out), "--query-side", sides[0], "--document-side", sides[1], "--lines", "5"]
    monkeypatch.setattr("sys.argv", ["make_retrieval_set.py", *words])
    runpy.run_path(str(ROOT / "experiments" / "make_retrieval_set.py"), run_name="__main__")
    test = read_relevance_set(*find_beir(out, "test"))
    query_side, document_side = ([pair[side == "ru"] for pair in SENTENCES] for side in sides)
    assert len(test.documents) == 32 // 5
    assert 3 < len(test.queries) <= 12
    for name, text in test.queries.items():
        place = query_side.index(text)
        (document,) = (test.documents[each] for each in test.relevance[name])
        assert document_side[place] not in document
        assert document_side[place - 1] in document
        assert document_side[place + 1] in document
        assert len(text.split()) >= 5
