"""secateur demo: a local page to try a student on."""

import argparse
from pathlib import Path

from secateur.commands.options import MODELS, RUNS, Parser, new_command
from secateur.config.errors import InputError

HELP = "Serve a local page with teacher and student side by side: similarities, neighbours, ms."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(parser, HELP, "secateur demo --student models/mini-en-ru --sentences sentences.txt")
    parser.add_argument("--student", metavar="MODEL", help="a model folder or a hub name (the model of the last run)")
    parser.add_argument("--teacher", metavar="MODEL", help="another one (the teacher of the student's run)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="the port to listen on (%(default)s)")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="UTF-8 text to find neighbours in")
    parser.add_argument("--models", type=Path, default=Path("models"), metavar="DIR", help=MODELS)
    parser.add_argument("--runs", type=Path, default=Path("experiments"), metavar="DIR", help=RUNS)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    from secateur.config.teacher import TeacherSettings
    from secateur.encoders.device import pick_device
    from secateur.reports.demo import check_address, load_contenders, prepare_gradio, serve
    from secateur.runs.infer import find_teacher, last_model

    prepare_gradio()
    check_address(options.host, options.port)
    student = options.student or last_model(options.runs, options.models)
    named = TeacherSettings(model=options.teacher) if options.teacher else None
    teacher = named or find_teacher(student, options.runs)
    if teacher is None:
        raise InputError(f"--teacher: no run in {options.runs} says what the teacher of {student} is; name it")
    contenders = load_contenders(teacher, student, device=pick_device(options.device))
    serve(contenders, options.sentences, host=options.host, port=options.port)
