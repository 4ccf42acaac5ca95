"""Malformed inputs by the thousand: each must end in one clear line and exit code 2, or in a right result.

    python tests/fuzz.py --cases 10000 --seed 1

A case is a copy of a small shelf of good files (a model folder with exports, pairs, a recipe, catalogs, a run's record,
vectors, a benchmark's file), one of them damaged, and a command that reads it; or a command with odd words; or odd
sentences. `--only N` runs one case again and keeps its folder. What would take minutes is stopped where its inputs are
read: `train` reads its recipe, its pairs and its record.
"""

import argparse
import faulthandler
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import numpy as np
from conftest import SENTENCES, build_tokenizer, make_transformer

from secateur import Encoder, cli
from secateur.commands.options import Parser
from secateur.config.errors import InputError
from secateur.config.recipe import Recipe
from secateur.config.teacher import TeacherSettings, Wheel
from secateur.data.corpus import load_corpus
from secateur.data.wheels import UnavailableError
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.runs.bookkeeping import Places
from secateur.runs.start import open_run

SECONDS = 30  # of a case; what takes longer hangs
LONGEST = 500  # characters of a line
MOST_LINES = 12  # of standard error: our own words before the error

RECIPE: dict[str, Any] = {
    "teacher": {"model": "teacher"},
    "corpus": {"files": ["pairs.tsv"], "held_out": 0.3, "min_words": 2},
    "saliency": {"pairs": 8},
    "budget": {"heads": 0.5, "neurons": 0.5},
    "repair": {"sentences": 8},
    "distillation": {"steps": 0, "batch_size": 4},
    "validation": {"pairs": 8},
    "encodechka": {"tasks": []},
    "tracking": {"to": "none"},
}

WILD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1e308, float("inf"), float("nan"), 2**31, 2**63, 10**30, "", "x", " ",
    "no", "null", "кот", "a\0b", "../../x", "/", "x" * 600, "\ud800", "\u202e", "-1", "bert", [], {}, [[]], [1], ["x"],
    {"x": 1}, {"": ""}, [None], "__import__('os')", "{{7*7}}", "%s%n",
)  # fmt: skip
WORDS = (
    "", "x", "-1", "0", "1", "3", "0.5", "1.5", "nan", "inf", "-inf", "1e400", "9" * 20, "9" * 5000, "x" * 600, "--",
    "-", "кот", "a\0b", "\udcff", "../..", "/", ".", "/dev/null", "/no/such/folder", "teacher", "pairs.tsv", "run.yaml",
    "runs", "runs/toy", "a=b", "ru=ru.txt", "ru=", "=", "x=y=z", "1,2", "0.5,0.7", "12M", "12MB", "{", "*", "\x1b[2J",
    "[", "a\nb", "teacher/config.json", "en.txt", "data", "catalogs.yaml", "me/toy", "hub/model", "https://x.example/y",
    "file:///etc",
)  # fmt: skip


class Outcome(NamedTuple):
    """How a case ended: ok, refused, or what is wrong with it."""

    verdict: str
    detail: str = ""


class Hang(BaseException):
    """A case took too long."""


# The shelf: small and good.


def build_shelf(folder: Path) -> None:
    """Write every kind of file that secateur reads, small: a BERT of one layer, 8 wide."""
    tokenizer = build_tokenizer()
    shape = {"layers": 1, "heads": 2, "hidden": 8, "neurons": 12, "seed": 0}
    with tempfile.TemporaryDirectory() as bare:
        make_transformer("bert", vocabulary=len(tokenizer), **shape).save_pretrained(bare)
        tokenizer.save_pretrained(bare)
        save_encoder(load_encoder(TeacherSettings(model=bare)), folder / "teacher")
    put_text(folder / "pairs.tsv", [f"{en}\t{ru}" for en, ru in SENTENCES])
    for language, side in zip(("en", "ru"), zip(*SENTENCES, strict=True), strict=True):
        put_text(folder / f"{language}.txt", side)
    put_text(folder / "run.yaml", [json.dumps(RECIPE, indent=1)])
    russian = [ru for _, ru in SENTENCES]
    rows = [f'"{one}","{two}",{number % 6}.0' for number, (one, two) in enumerate(pairwise(russian))]
    (folder / "data").mkdir()
    put_text(folder / "data" / "stsb_dev.csv", ["sentence1,sentence2,similarity_score", *rows])
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(len(russian), 8)).astype(np.float32))
    put_text(folder / "creation.yaml", [json.dumps(describe_creation(), indent=1)])
    put_wheel_and_list(folder)
    with inside(folder), captured():
        assert cli.main(["export", "teacher", "--no-check"]) in (0, 1)
        assert cli.main(["train", "run.yaml", "name=toy", "--models", "models", "--cache", "cache", "--no-check"]) == 0
    (folder / "runs").mkdir()
    (folder / "toy").rename(folder / "runs" / "toy")
    shutil.rmtree(folder / "models")
    shutil.rmtree(folder / "cache" / "targets", ignore_errors=True)


def describe_creation() -> dict[str, Any]:
    kept = ("corpus", "distillation", "validation", "encodechka", "tracking")
    return {key: RECIPE[key] for key in kept} | {
        "teacher": [{"vectors": "v.npy", "sentences": "ru.txt"}],
        "student": {"body": {"model": "teacher"}, "max_length": 32},
    }


def put_wheel_and_list(folder: Path) -> None:
    """Write a wheel where a fetched one lies, and a list that names it."""
    wheels = folder / "cache" / "wheels"
    wheels.mkdir(parents=True)
    entries = "".join(f'msgid "{en}"\nmsgstr "{ru}"\n\n' for en, ru in SENTENCES)
    sides = [json.dumps({str(number): pair[side] for number, pair in enumerate(SENTENCES)}) for side in (0, 1)]
    with zipfile.ZipFile(wheels / "new.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"toy/ru.po": entries, "toy/i/en.json": sides[0], "toy/i/ru.json": sides[1]}.items():
            archive.writestr(name, text)
    pin = sha256((wheels / "new.whl").read_bytes()).hexdigest()
    (wheels / "new.whl").rename(wheels / f"{pin}.whl")
    put_text(folder / "catalogs.yaml", ["wheels:", f'  - {{name: toy, version: "1.0", sha256: {pin}}}'])


def put_text(path: Path, lines: Any) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# What damages a file.


def damage(path: Path, draw: random.Random) -> str:
    """Damage one file, or what stands at its place; return what was done."""
    structured = path.suffix == ".json" and draw.random() < 0.7
    change = draw.choice((change_json,) if structured else (change_bytes, change_bytes, change_text, change_place))
    return change(path, draw)


def change_bytes(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    where = draw.randrange(len(content) + 1)
    early = min(where, draw.randrange(200))  # where headers are
    kind = draw.choice(("cut", "flip", "insert", "empty", "append", "zeros", "early", "double", "digits", "noise"))
    if kind == "cut":
        del content[where:]
    elif kind == "flip" and content:
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "early" and content:
        content[min(early, len(content) - 1)] = draw.randrange(256)
    elif kind == "insert":
        content[where:where] = draw.randbytes(draw.randint(1, 40))
    elif kind == "digits":
        content = bytearray(
            re.sub(rb"\d+", lambda found: draw.choice((found[0], b"9" * 20, b"-1", b"0")), bytes(content))
        )
    else:
        content = {
            "empty": bytearray(), "append": content + draw.randbytes(20), "zeros": bytearray(len(content)),
            "double": content * 2, "noise": bytearray(draw.randbytes(200)),
        }.get(kind, content)  # fmt: skip
    path.write_bytes(content)
    return f"bytes: {kind}"


def change_text(path: Path, draw: random.Random) -> str:
    """Damage a file as a text: another encoding, odd lines, nesting."""
    text = path.read_bytes().decode("utf-8", "replace")
    lines = text.split("\n")
    where = draw.randrange(len(lines))
    kind = draw.choice(
        ("utf-16", "utf-16-le", "utf-32", "cp1251", "utf-8-sig", "line", "swap", "deep", "long", "tabs", "brace")
    )
    odd = draw.choice(
        ("\0", "\x1b[2J", "\ud800", "\u2028", "\t\t\t", "x" * 10_000, "&a [*a]", "!!int abc", "<<: 3", ": : :")
    )
    if kind == "line":
        lines.insert(where, odd)
    elif kind == "swap":
        draw.shuffle(lines)
    elif kind == "tabs":
        lines = [line.replace(" ", "\t") for line in lines]
    elif kind == "brace":
        lines[where] += draw.choice("[]{}\"':,")
    elif kind == "deep":
        lines = [draw.choice(("[", "{", '{"a":', "- ", "a: {")) * draw.choice((50, 3000))]
    elif kind == "long":
        lines[where] *= draw.choice((2, 1000))
    encoding = kind if kind in ("utf-16", "utf-16-le", "utf-32", "cp1251", "utf-8-sig") else "utf-8"
    errors = "surrogatepass" if encoding.startswith("utf") else "replace"
    path.write_bytes("\n".join(lines).encode(encoding, errors))
    return f"text: {kind} {odd[:10]!r}"


def change_json(path: Path, draw: random.Random) -> str:
    """Change one value or key of a JSON file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return change_bytes(path, draw)
    inside_of = list(walk(data))
    if not inside_of:
        return change_bytes(path, draw)
    holder, key = draw.choice(inside_of)
    value = draw.choice(WILD)
    kind = draw.choice(("value", "value", "value", "delete", "rename", "number", "whole", "deep"))
    if kind == "value":
        holder[key] = value
    elif kind == "delete":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[str(value)] = holder.pop(key)
    elif kind == "number":
        holder[key] = holder[key] * draw.choice((-1, 0, 2, 1000)) if isinstance(holder[key], int | float) else value
    elif kind == "whole":
        data = value
    elif kind == "deep":
        holder[key] = "DEEP"
    text = json.dumps(data).replace('"DEEP"', "[" * 3000 + "]" * 3000)
    path.write_text(text, encoding="utf-8")
    return f"json: {kind} {str(key)[:30]!r} {str(value)[:20]!r}"


def walk(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every holder and key inside; of long lists and mappings the first few."""
    keys = list(data)[:12] if isinstance(data, dict) else range(min(len(data), 4)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from walk(data[key])


def change_place(path: Path, draw: random.Random) -> str:
    """Remove or rename a file, or put something else at its place."""
    kind = draw.choice(("delete", "rename", "folder", "loop", "dangling", "null", "other"))
    others = sorted(each for each in path.parent.iterdir() if each.is_file() and each != path)
    content = path.read_bytes()
    path.unlink()
    if kind == "rename":
        path.with_name(f"{path.name}.old").write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "null":
        path.symlink_to("/dev/null")
    elif kind == "other" and others:
        shutil.copyfile(draw.choice(others), path)
    return f"place: {kind}"


# The kinds of cases. Each takes a fresh copy of the shelf, which is the current folder, and returns what was done to it
# and what is run.

Run = Callable[[], int]
Case = tuple[str, Run]


def pick(folder: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def damage_some(folder: Path, draw: random.Random) -> str:
    """Damage one file below a folder, now and then a second one."""
    told = []
    for _ in range(draw.choice((1, 1, 1, 2))):
        path = pick(folder, draw)
        told.append(f"{path}: {damage(path, draw)}")
        if not path.is_file() or path.is_symlink():
            break
    return "; ".join(told)


def command(*words: str) -> Run:
    return lambda: cli.main(list(words))


PRUNE = (
    "prune",
    "teacher",
    "--keep-neurons",
    "0.5",
    "--held-out",
    "0.3",
    "--saliency-pairs",
    "8",
    "--dry-run",
    "--cache",
    "cache",
)


def fuzz_model(draw: random.Random) -> Case:
    commands = (
        ("encode", "teacher", "--input", "ru.txt", "--out", "out.npy"),
        ("encode", "teacher", "--input", "ru.txt", "--out", "out.npy", "--backend", "onnx"),
        ("retrieve", "teacher", "--pairs", "pairs.tsv"),
        ("cost", "teacher", "--length", "4", "--repeats", "1", "--warmup", "0", "--threads", "1"),
        (*PRUNE, "--pairs", "pairs.tsv"),
        ("push", "teacher", "me/toy", "--dry-run"),
    )
    words = draw.choice(commands) if draw.random() < 0.96 else ("check", "teacher")
    return damage_some(Path("teacher"), draw), command(*words)


def fuzz_parity(draw: random.Random) -> Case:
    words = (
        "encode",
        "teacher",
        "--input",
        "en.txt",
        "--out",
        "out.npy",
        "--backend",
        draw.choice(("onnx", "onnx-int8")),
    )
    path = Path("teacher/parity.json")
    return damage(path, draw), command(*words)


def fuzz_pairs(draw: random.Random) -> Case:
    path = Path(draw.choice(("pairs.tsv", "en.txt", "ru.txt")))
    told = damage(path, draw)
    pairs = ("pairs.tsv",) if path.name == "pairs.tsv" else ("en.txt", "ru.txt")
    if draw.random() < 0.5:
        return f"{path}: {told}", command(*PRUNE, "--pairs", *pairs)
    if path.name == "pairs.tsv":
        return f"{path}: {told}", command("retrieve", "teacher", "--pairs", "pairs.tsv")
    return f"{path}: {told}", command("encode", "teacher", "--input", path.name, "--out", "out.npy")


def fuzz_recipe(draw: random.Random) -> Case:
    path = Path(draw.choice(("run.yaml", "creation.yaml")))
    recipe = path.with_suffix(".json")
    shutil.copyfile(path, recipe)
    told = damage(recipe, draw)  # JSON is YAML: values change by their type
    if recipe.is_file():
        recipe.replace(path)
    elif path.exists():
        path.unlink()
    return told, command("train", path.name, "--cache", "cache")


def fuzz_override(draw: random.Random) -> Case:
    keys = [f"{stage}.{key}" for stage, inner in RECIPE.items() for key in inner] + [
        "seed",
        "name",
        "device",
        "x.y",
        *RECIPE,
    ]
    key = draw.choice(keys)
    value = draw.choice((*WORDS, *(json.dumps(value) for value in WILD)))
    return f"{key}={value[:40]}", command("train", "run.yaml", f"{key}={value}", "--cache", "cache")


def fuzz_catalogs(draw: random.Random) -> Case:
    (wheel,) = Path("cache/wheels").iterdir()
    if draw.random() < 0.5:
        told = damage(Path("catalogs.yaml"), draw)
    else:
        told = damage_wheel(wheel, draw)
    return told, command("train", "run.yaml", "corpus.files=[]", "corpus.catalogs=catalogs.yaml", "--cache", "cache")


def damage_wheel(path: Path, draw: random.Random) -> str:
    """Damage a wheel or what is in it; its pin is taken for right."""
    if draw.random() < 0.5:
        return damage(path, draw)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(sorted(files))
    inner = Path("inner.json" if name.endswith("json") else "inner.po")
    inner.write_bytes(files[name])
    told = damage(inner, draw)
    files[name] = inner.read_bytes() if inner.is_file() and not inner.is_symlink() else b""
    path.unlink()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in files.items():
            archive.writestr(each, content)
    return f"{name}: {told}"


def fuzz_run(draw: random.Random) -> Case:
    told = damage_some(Path("runs/toy"), draw)
    commands = (
        ("report", "toy", "--runs", "runs"),
        ("report", "toy", "toy", "--runs", "runs"),
        ("infer", "--runs", "runs", "--tasks", "STS", "--data", "data"),
        ("train", "run.yaml", "name=runs/toy", "--resume", "--cache", "cache"),
        ("train", "run.yaml", "name=toy", "--resume", "--cache", "cache"),
    )
    words = draw.choice(commands)
    if words[-3:-2] == ("--resume",):
        Path("runs/toy").rename("toy")
    return told, command(*words)


def fuzz_benchmark(draw: random.Random) -> Case:
    words = ("infer", "teacher", "--data", "data", "--tasks", "STS", "--runs", "runs")
    return damage(Path("data/stsb_dev.csv"), draw), command(*words)


def fuzz_vectors(draw: random.Random) -> Case:
    from secateur.distillation.vector_files import load_vectors

    path = Path(draw.choice(("v.npy", "ru.txt")))
    told = damage(path, draw)

    def run() -> int:
        try:
            load_vectors(Path("v.npy"), Path("ru.txt"))
        except InputError as error:
            return cli.fail(str(error))
        return 0

    return f"{path}: {told}", run


def fuzz_sentences(draw: random.Random) -> Case:
    texts: tuple[Any, ...] = (
        "кот", "", " ", "a" * 20_000, "\ud800", "a\udfffb", "\0", "\u202e", "🦊" * 300, None, 1, b"x", ["x"],
        float("nan"), "[CLS] [SEP] [PAD]", "\x1b[2J", "e\u0301" * 900, "\u200d" * 50, True, {"a": 1},
    )  # fmt: skip
    chosen = [draw.choice(texts) for _ in range(draw.randint(0, 6))]
    given: Any = draw.choice(
        (chosen, chosen, tuple(chosen), iter(chosen), {"a": "b"}, None, 3, b"x", np.array(["a", "b"]))
    )
    backend = draw.choice(("torch", "onnx"))

    def run() -> int:
        try:
            vectors = load_warm(backend).encode(given)
        except InputError as error:
            return cli.fail(str(error))
        assert np.isfinite(vectors).all(), "vectors that are not finite"
        return 0

    return f"{backend} {str(chosen)[:80]!r}", run


WARM: dict[str, Encoder] = {}


def load_warm(backend: str) -> Encoder:
    if backend not in WARM:
        WARM[backend] = Encoder("teacher", backend=backend, threads=1)
    return WARM[backend]


QUIET = {"-h", "--help", "--version"}
LASTING = {"--repeats", "--warmup", "--batch-tokens", "--host", "--port", "--repair-sentences", "--rounds", "--threads"}
GOOD = {
    "train": ("run.yaml",), "prune": ("teacher", "--dry-run", "--pairs", "pairs.tsv"), "infer": ("nowhere",),
    "encode": ("teacher", "--input", "ru.txt", "--out", "out.npy"), "export": ("nowhere",), "check": ("nowhere",),
    "cost": ("teacher", "--repeats", "1", "--warmup", "0", "--length", "4", "--threads", "1"), "report": ("runs/toy",),
    "retrieve": ("teacher", "--pairs", "pairs.tsv"), "rank": ("nowhere",), "demo": ("--student", "nowhere"),
    "vocabulary": ("teacher", "--corpus", "ru=ru.txt", "--size", "90", "--out", "small"),
    "vectors": ("teacher", "--texts", "ru.txt", "--out", "shorter"), "push": ("teacher", "me/toy", "--dry-run"),
}  # fmt: skip


def fuzz_options(draw: random.Random) -> Case:
    """Run a command with odd words for some of its options, or in place of some of its words."""
    name = draw.choice(list(cli.COMMANDS))
    words = [name, *GOOD.get(name, ())]
    parser = cli.build_parser(name)[1][name]
    for _ in range(draw.randint(1, 3)):
        flags = [flag for flag in list_flags(parser) if flag not in QUIET | LASTING]
        kind = draw.choice(("option", "option", "option", "word", "drop", "flag"))
        if kind == "option":
            words += [draw.choice(flags), draw.choice(WORDS)]
        elif kind == "flag":
            words.append(draw.choice(flags))
        elif kind == "word" and name != "push" and len(words) > 1:
            words[draw.randrange(1, len(words))] = draw.choice(WORDS)
        elif kind == "drop" and name not in ("push", "cost") and len(words) > 1:
            del words[draw.randrange(1, len(words))]
    if name == "push" and "--dry-run" not in words:
        words.append("--dry-run")
    return " ".join(word[:40] for word in words), command(*words)


def list_flags(parser: Parser) -> list[str]:
    return sorted(flag for flag in parser._option_string_actions if flag.startswith("--"))


KINDS: dict[str, tuple[int, Callable[[random.Random], Case]]] = {  # how often each comes
    "model": (30, fuzz_model), "parity": (6, fuzz_parity), "pairs": (10, fuzz_pairs), "recipe": (14, fuzz_recipe),
    "override": (8, fuzz_override), "catalogs": (8, fuzz_catalogs), "run": (10, fuzz_run),
    "benchmark": (3, fuzz_benchmark), "vectors": (4, fuzz_vectors), "sentences": (5, fuzz_sentences),
    "options": (18, fuzz_options),
}  # fmt: skip


# A case, run and judged.


@dataclass
class Fuzz:
    """A shelf, and the folder that cases are run in."""

    shelf: Path
    work: Path
    seed: int

    def run_case(self, number: int) -> tuple[str, str, Outcome]:
        """Run one case; return its kind, what was done and how it ended."""
        draw = random.Random(f"{self.seed}:{number}")
        kind = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        place = self.work / f"case{number}"
        shutil.copytree(self.shelf, place)
        with inside(place):
            told, run = KINDS[kind][1](draw)
            outcome = judge(run)
            left = [str(path) for path in Path().rglob("*.partial")] + [
                str(path) for path in Path().rglob("*.old") if path.is_dir()
            ]
            if outcome.verdict == "ok":
                outcome = judge_vectors(Path("out.npy"))
        if left and outcome.verdict in ("ok", "refused"):
            outcome = Outcome("leftovers", ", ".join(left))
        return kind, told, outcome


def judge(run: Run) -> Outcome:
    """Run something; say whether it ended in a right result or in one clear line."""
    with captured() as said:
        try:
            with timed(SECONDS):
                code = run()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Hang:
            return Outcome("hang", f"over {SECONDS} s")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            import traceback

            where = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in where if "/secateur/" in frame.filename] or where
            at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            return Outcome("traceback", f"{type(error).__name__} at {at}: {' '.join(str(error).split())[:300]}")
    out, err = said
    lines = [line for line in err.splitlines() if line.strip()]
    if "Traceback" in err or "panicked at" in err:
        return Outcome("library's words", err[-400:])
    if code == 0:
        return Outcome("not finite", out[-300:]) if re.search(r"\b(nan|inf)\b", out) else Outcome("ok")
    if code not in (1, 2):
        return Outcome("exit code", str(code))
    wrong = [line for line in lines if len(line) > LONGEST or re.match(r"\S+Warning:|\S+Error:", line)]
    if not lines or not lines[-1].startswith("secateur") or wrong or len(lines) > MOST_LINES:
        return Outcome("not one line", err[:600])
    if sum(line.startswith("secateur") for line in lines) != 1:
        return Outcome("several errors", err[:600])
    return Outcome("refused", lines[-1])


def judge_vectors(path: Path) -> Outcome:
    """Say whether vectors that a command wrote, if it did, are unit vectors."""
    if not path.is_file():
        return Outcome("ok")
    lengths = np.linalg.norm(np.load(path), axis=1)
    return Outcome("ok" if np.allclose(lengths, 1, atol=1e-3) else "no unit vectors", str(lengths[:5]))


@contextmanager
def captured() -> Iterator[list[str]]:
    """Catch what is printed, by Python and by the libraries below it: in the end the list holds output and errors."""
    with tempfile.TemporaryFile() as below:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
        saved = os.dup(2)
        logging.getLogger().handlers.clear()

        texts: list[str] = []
        os.dup2(below.fileno(), 2)
        try:
            with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())):
                yield texts
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            below.seek(0)
            texts += [out.buffer.getvalue().decode("utf-8", "replace")]  # type: ignore[attr-defined]
            texts += [(below.read() + err.buffer.getvalue()).decode("utf-8", "replace")]  # type: ignore[attr-defined]
            logging.getLogger().handlers.clear()


@contextmanager
def timed(seconds: int) -> Iterator[None]:
    """Raise Hang in the block after so many seconds; end the process with its stack where even that is not heard."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(6 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def read_only_inputs(recipe: Recipe, places: Places, *, resume: bool = False) -> None:
    """Stand in for `train`: check the run and read its pairs, and stop."""
    with open_run(recipe, places, resume=resume):
        load_corpus(recipe.corpus, places.cache)


def fetch_only_cached(wheel: Wheel, folder: Path) -> Path:
    """Stand in for `fetch_wheel`: without a network; a wheel that was damaged is taken for the one that was pinned."""
    assert re.fullmatch(r"[\w.-]+", wheel.name + wheel.version.replace("+", "").replace("!", ""))
    path = folder / f"{wheel.sha256}.whl"
    if not path.is_file():
        raise UnavailableError("the package index cannot be reached")
    return path


@contextmanager
def quick(work: Path, seed: int) -> Iterator[Fuzz]:
    """Yield a built shelf, with what takes minutes or a network replaced by stand-ins."""
    warnings.simplefilter("ignore")
    shelf = work / "shelf"
    shelf.mkdir(parents=True)
    WARM.clear()
    build_shelf(shelf)
    stand_ins = {
        "secateur.runs.train.train": read_only_inputs,
        "secateur.runs.create.create": read_only_inputs,
        "secateur.data.catalogs.fetch_wheel": fetch_only_cached,
        "secateur.encoders.cost.measure_memory": lambda *_: None,
    }
    with patch.multiple("os", environ={**os.environ}):
        replaced = [patch(name, with_) for name, with_ in stand_ins.items()]
        for each in replaced:
            each.start()
        try:
            yield Fuzz(shelf, work, seed)
        finally:
            for each in replaced:
                each.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--first", type=int, default=0, help="the number of the first case (%(default)s)")
    parser.add_argument("--only", type=int, help="run this one case again, and keep its folder")
    parser.add_argument("--all", action="store_true", help="print how every case ended")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    started, counts, failed = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder, quick(Path(folder), options.seed) as fuzz:
        numbers = range(options.first, options.first + options.cases) if options.only is None else [options.only]
        for number in numbers:
            kind, told, (verdict, detail) = fuzz.run_case(number)
            counts[f"{kind}: {verdict}"] += 1
            if verdict not in ("ok", "refused") or options.only is not None or options.all:
                failed += verdict not in ("ok", "refused")
                print(ascii(f"case {number} {kind} [{told}] {verdict}: {detail}")[1:-1], flush=True)
            if options.only is not None:
                shutil.copytree(fuzz.work / f"case{number}", f"case{number}", symlinks=True)
            shutil.rmtree(fuzz.work / f"case{number}", ignore_errors=True)
            if (number + 1) % 500 == 0:
                print(f"{number + 1} cases, {failed} failed, {time.monotonic() - started:.0f} s", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    print(f"{sum(counts.values()) - failed} of {sum(counts.values())} cases, seed {options.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
