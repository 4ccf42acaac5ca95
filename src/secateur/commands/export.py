"""secateur export: ONNX files, measured before they are kept."""

import argparse
import re
from pathlib import Path

from secateur.commands.check import NO_CHECK, check_saved
from secateur.commands.options import Parser, add_setting, check_positive, new_command
from secateur.config.errors import InputError, require

HELP = "Write a model's ONNX files, float and int8, and measure them."
QUALITY_OPTIONS = ("min_cosine", "min_low_cosine", "max_retrieval_loss", "max_drift", "held_out", "sentences")


def add(parser: Parser) -> None:
    """Add the command's options."""
    from secateur.config.options import spell_flag
    from secateur.config.quality import QualitySettings

    new_command(
        parser, f"{HELP} What is written: MODEL/onnx/,\n"
        "MODEL/parity.json, MODEL/README.md. The int8 file must pass the quality gate; without one the exit code is 1.",
        "secateur export models/mini-en-ru --pairs pairs.tsv",
    )  # fmt: skip
    parser.add_argument("model", help="a model folder, or with --out a hub name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="put a copy of the model there, and the files in it")
    parser.add_argument("--int8", action=argparse.BooleanOptionalAction, default=True, help="the int8 file too (yes)")
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE",
        help="a .tsv of pairs to judge by, those that a run on it holds out (without: texts that come with secateur)",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="encodechka's files: score every file written")
    gate = parser.add_argument_group("quality gate")
    for option in QUALITY_OPTIONS:
        add_setting(gate, spell_flag(option), QualitySettings, option, metavar="N" if option == "sentences" else "X")
    gate.add_argument(
        "--reduce-range", action=argparse.BooleanOptionalAction, default=None,
        help="keep int8 weights up to 63, for x86 processors without VNNI (where this one has none)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="how many threads compute (every core)")
    parser.add_argument("--no-check", action="store_true", help=NO_CHECK)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Export as told and print what the files are worth."""
    from secateur.config.options import spell_flag
    from secateur.config.quality import QualitySettings
    from secateur.config.reading import build_settings
    from secateur.data.files import check_out

    check_positive("threads", options.threads)
    if options.out is not None:
        check_out(options.out)
    named = {name: getattr(options, name) for name in QUALITY_OPTIONS}
    settings: dict[str, object] = {name: value for name, value in named.items() if value is not None}
    settings["exact"] = None if options.reduce_range is None else not options.reduce_range
    try:
        quality = build_settings(QualitySettings, settings, origin="")
    except InputError as error:
        raise InputError(re.sub(r"^(\w+):", lambda name: f"{spell_flag(name[1])}:", str(error))) from None
    require("onnx", extra="train", by="export")
    from secateur.export.export import export
    from secateur.reports.display import ArtefactTable

    rows = export(
        options.model, quality, out=options.out, int8=options.int8, pairs=options.pairs, data=options.data,
        threads=options.threads,
    )  # fmt: skip
    print(ArtefactTable(rows))
    if not options.no_check:
        check_saved(options.out or Path(options.model))
