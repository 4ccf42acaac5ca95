"""Make queries, documents and judgements from text that nobody has judged: a sentence has to find its paragraph.

    python experiments/make_retrieval_set.py dev.tsv.gz /tmp/retrieval/ru-en --query-side ru --document-side en
    python experiments/make_retrieval_set.py news.txt /tmp/retrieval/news
    secateur retrieve models/teacher-mini-en-ru --beir /tmp/retrieval/ru-en --by-length

Two sentences are taken out of each paragraph. Each of them is a query, and what is left of the paragraph is the one
document that is relevant to it (the inverse cloze task, Lee et al. 2019). Nothing is copied from the one to the other:
what they share is the subject. Such a set tells models apart; how well they answer people's questions it does not say.

A .tsv holds pairs (English, Russian) in the order of the texts that they come from, as FLORES does, and so many lines
in a row make a paragraph. Nothing marks where an article of FLORES ends, so a paragraph may hold the end of one and the
beginning of another; but both neighbours of a sentence that is taken out stay, and where articles have two sentences or
more, one of these is of its own article. A .txt holds a document on each line, cut into sentences here.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from razdel import sentenize

from secateur.data.files import whole_folder
from secateur.data.sources import read_lines, read_table

SIDES = ("en", "ru")
FEWEST_SENTENCES, FEWEST_WORDS = 5, 5  # of a paragraph, of a query

Sentence = tuple[str, str]  # as a query has it, and as a document has it


def main() -> None:
    """Write a folder in BEIR's layout."""
    parser = argparse.ArgumentParser(description="Make a retrieval set: a sentence has to find its paragraph.")
    parser.add_argument("file", type=Path, help="a .tsv of pairs in the order of their texts, or a .txt of documents")
    parser.add_argument("out", type=Path, help="the folder of queries.jsonl, corpus.jsonl and qrels/test.tsv")
    parser.add_argument("--query-side", choices=SIDES, default="en", help="of a .tsv (%(default)s)")
    parser.add_argument("--document-side", choices=SIDES, default="en", help="of a .tsv (%(default)s)")
    parser.add_argument("--lines", type=int, default=7, help="how many lines of a .tsv are a paragraph (%(default)s)")
    options = parser.parse_args()
    if options.file.name.removesuffix(".gz").endswith(".tsv"):
        paragraphs = read_paragraphs(options.file, options.query_side, options.document_side, options.lines)
    else:
        paragraphs = read_documents(options.file)
    with whole_folder(options.out) as folder:
        queries, documents = write_set(paragraphs, folder)
    print(f"{options.out}: {queries} queries, {documents} documents")


def read_paragraphs(path: Path, query_side: str, document_side: str, lines: int) -> list[list[Sentence]]:
    """Return every `lines` lines in a row of a table of pairs; a last paragraph that is shorter is left out."""
    rows = read_table(path, 0.0)
    sides = [(getattr(row, query_side), getattr(row, document_side)) for row in rows]
    return [sides[start : start + lines] for start in range(0, len(sides) - lines + 1, lines)]


def read_documents(path: Path) -> list[list[Sentence]]:
    """Return the sentences of each line of a text."""
    return [[(each.text, each.text) for each in sentenize(line)] for line in read_lines(path) if line.strip()]


def write_set(paragraphs: Sequence[Sequence[Sentence]], folder: Path) -> tuple[int, int]:
    """Write what can be asked of paragraphs that are long enough; return how many queries and documents there are."""
    queries, documents, judgements = [], [], ["query-id\tcorpus-id\tscore"]
    for number, sentences in enumerate(paragraphs):
        if len(sentences) < FEWEST_SENTENCES:
            continue
        name = f"d{number}"
        taken = set(choose_taken(sentences))
        rest = [document for place, (_, document) in enumerate(sentences) if place not in taken]
        documents.append({"_id": name, "title": "", "text": " ".join(rest)})
        for place in sorted(taken):
            queries.append({"_id": f"q{number}-{place}", "text": sentences[place][0]})
            judgements.append(f"q{number}-{place}\t{name}\t1")
    (folder / "qrels").mkdir()
    for file, records in {"queries.jsonl": queries, "corpus.jsonl": documents}.items():
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / file).write_text("".join(lines), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join([*judgements, ""]), encoding="utf-8")
    return len(queries), len(documents)


def choose_taken(sentences: Sequence[Sentence]) -> Iterator[int]:
    """Yield the places, a third and two thirds into a paragraph, of sentences that are long enough to be queries."""
    for place in (len(sentences) // 3, 2 * len(sentences) // 3):
        if len(sentences[place][0].split()) >= FEWEST_WORDS:
            yield place


if __name__ == "__main__":
    main()
