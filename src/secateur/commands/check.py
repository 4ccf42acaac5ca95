"""secateur check: whether a model folder does what it says."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.commands.options import Parser, new_command

if TYPE_CHECKING:
    from secateur.export.findings import Finding

log = logging.getLogger(__name__)

DECIDED = ("length", "card")  # what the command that saves a folder has itself decided, and said
NO_CHECK = "do not check the folder that was saved"
HELP = "Check a folder of any sentence encoder: weights, tokenizer, length, prompts, pooling, vectors, exported files."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, f"{HELP}\nExit code 1 if a check fails; no code from the folder is run.",
        "secateur check models/teacher-mini-en-ru --pairs pairs.tsv",
    )  # fmt: skip
    parser.add_argument("model", help="a model folder")
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="a .tsv of pairs whose texts are read besides the built-in ones"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print what was found."""
    from secateur.config.errors import QualityError
    from secateur.export.check import check_model, count_failed, dump_findings
    from secateur.reports.display import FindingTable

    findings = check_model(options.model, pairs=options.pairs)
    print(dump_findings(options.model, findings) if options.json else FindingTable(findings))
    if count_failed(findings):
        raise QualityError(f"{options.model}: {count_failed(findings)} of {len(findings)} checks failed")


def is_news(finding: "Finding") -> bool:
    return finding.status == "warn" and finding.check not in DECIDED


def check_saved(folder: Path) -> None:
    """Check a folder that a command has saved, and say what is not well. Raises QualityError: a check failed."""
    from secateur.config.errors import QualityError
    from secateur.export.check import check_model, count_failed
    from secateur.reports.display import FindingTable

    log.info("checking %s", folder)
    findings = check_model(folder)
    unwell = FindingTable([each for each in findings if each.status == "fail" or is_news(each)])
    print(f"\ncheck of {folder}: {FindingTable(findings).note()}", *unwell.lines(), sep="\n", file=sys.stderr)
    if count_failed(findings):
        raise QualityError(f"{folder}: {count_failed(findings)} of {len(findings)} checks failed; it is saved as it is")
