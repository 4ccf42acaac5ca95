"""secateur retrieve: how often models find a sentence's translation, or the documents that answer a query."""

import argparse
import json
from pathlib import Path

from secateur.commands.options import USE, Parser, add_backend, check_positive, new_command
from secateur.config.errors import InputError

HELP = "Measure how often models find a sentence's translation, or the documents that answer a query."
BY_LENGTH = (32, 128, 512)  # tokens: a sentence, a paragraph, what most encoders read at most


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser,
        f"{HELP}\nWith --pairs: accuracy@1 among all translations in the file, both ways.\n"
        "With queries and documents: nDCG@10, accuracy@1, recall@10 and MRR@10 among all documents.",
        "secateur retrieve models/teacher-mini-en-ru models/mini-en-ru --pairs tatoeba1000.tsv.gz",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="model folders or hub names")
    parser.add_argument("--pairs", nargs="+", type=Path, metavar="FILE", help=".tsv files of test pairs")
    parser.add_argument(
        "--queries", type=Path, metavar="FILE", help="queries: .jsonl with _id and text, or .tsv of id and text"
    )
    parser.add_argument("--documents", type=Path, metavar="FILE", help="the documents that are searched: the same")
    parser.add_argument(
        "--relevant", type=Path, metavar="FILE", help="a .tsv of query id, document id and perhaps relevance"
    )
    parser.add_argument(
        "--beir", type=Path, metavar="FOLDER", help="or all three: queries.jsonl, corpus.jsonl, qrels/SPLIT.tsv"
    )
    parser.add_argument("--split", metavar="SPLIT", help="which judgements of that folder (test)")
    parser.add_argument(
        "--max-length", type=int, nargs="+", metavar="N",
        help="how many tokens of a document are read, a row for each number (as many as the model reads)",
    )  # fmt: skip
    parser.add_argument(
        "--by-length", dest="max_length", action="store_const", const=BY_LENGTH,
        help=f"short for --max-length {' '.join(map(str, BY_LENGTH))}",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what was found for the queries as JSON")
    parser.add_argument("--use", action="store_true", help=f"with --pairs: {USE}")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bf16"),
        help="torch's number format; auto: bf16 where the processor computes in it (%(default)s)",
    )  # fmt: skip
    add_backend(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    check_options(options)
    if options.pairs:
        print(find_translations(options))
        return
    from secateur.data.relevance import find_beir, read_relevance_set

    given = options.queries, options.documents, options.relevant
    test = read_relevance_set(*(find_beir(options.beir, options.split or "test") if options.beir else given))
    from secateur.runs.retrieve import Running, dump_searches, format_searches, search_models

    running = Running(options.backend, options.threads, options.precision, options.device)
    scores = search_models(options.models, test, running, max_lengths=options.max_length or ())
    if options.json:
        print(json.dumps(dump_searches(scores, test), ensure_ascii=False, indent=2))
    else:
        print(format_searches(scores, test))


def check_options(options: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together, before anything is loaded."""
    files = {"--queries": options.queries, "--documents": options.documents, "--relevant": options.relevant}
    missing = [name for name, path in files.items() if path is None]
    by_files = len(missing) < len(files)
    if sum([options.pairs is not None, options.beir is not None, by_files]) != 1:
        raise InputError("retrieve: give --pairs; or --queries, --documents and --relevant; or --beir")
    if by_files and missing:
        raise InputError(f"retrieve: {' and '.join(missing)}: not given; queries, documents and judgements go together")
    useless = {
        "--use": options.use and not options.pairs,
        "--split": options.split and not options.beir,
        "--max-length": options.max_length and options.pairs,
        "--json": options.json and options.pairs,
    }
    for option in (option for option, is_useless in useless.items() if is_useless):
        raise InputError(f"{option} does not go with {'--pairs' if options.pairs else 'queries and documents'}")
    check_positive("threads", options.threads)
    for length in options.max_length or ():
        check_positive("max-length", length)


def find_translations(options: argparse.Namespace) -> str:
    """Return the table of a file of pairs."""
    from secateur.runs.infer import retrieve

    return retrieve(
        options.models, options.pairs, use=options.use, precision=options.precision, device=options.device,
        backend=options.backend, threads=options.threads,
    )  # fmt: skip
