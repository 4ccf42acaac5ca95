"""What users and files may hold by accident or on purpose: short texts, quick answers, one line."""

import errno
import gzip
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SENTENCES, MakeEncoder
from huggingface_hub import HfApi

from secateur import cli
from secateur.commands import push as push_command
from secateur.config.corpus import CorpusSettings
from secateur.config.errors import LONGEST, InputError, one_line, say_system_error
from secateur.config.reading import build_recipe, load_recipe, parse_yaml, read_yaml
from secateur.config.teacher import Wheel
from secateur.config.values import LONGEST as LONGEST_NAME
from secateur.data import catalogs, sources
from secateur.data.files import write_json
from secateur.data.sources import read_aligned, read_given, read_lines, read_table
from secateur.data.texts import decode_text, find_strange
from secateur.data.wheels import UnavailableError
from secateur.distillation.vector_files import load_vectors
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import save_encoder
from secateur.export.publish import list_files, push

RUSSIAN = [ru for _, ru in SENTENCES]
GOOD: dict[str, Any] = {
    "name": "toy",
    "teacher": {"model": "x"},
    "corpus": {"files": ["pairs.tsv"]},
    "saliency": {"pairs": 8},
    "budget": {"heads": 0.5},
    "repair": {"sentences": 8},
    "distillation": {"steps": 0},
}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: !!int abc", "a value that cannot be read: invalid literal for int"),
        ("a: !!float x", "a value that cannot be read"),
        ("a: 2001-99-99", "a value that cannot be read: month must be in 1..12"),
        ("a: " + "9" * 5000, "a value that cannot be read: Exceeds the limit"),
        ("a: " + "{" * 3000, "over 40 brackets inside each other"),
        ("a: " + "[ " * 100_000, "over 40 brackets inside each other"),
        ("a: " + "{a: " * 3000, "nested too deeply"),
        ("a:\n  " + "- " * 3000 + "x", "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: 1\na: 2", 'line 2: found duplicate key "a"'),
        ("a:\n\t- b", "line 2: found character '\\t' that cannot start any token"),
        ("a: b\0", "unacceptable character #x0000"),
        ("a: !!python/object/apply:os.system [id]", "line 1: could not determine a constructor"),
        ("{{a: b}: c}", "found unhashable key"),
        ("a: 1\n---\nb: 2", "found another document"),
        ("k" * 5000 + ": 1", "mapping values are not allowed here"),
        ("- a", "a recipe is a mapping of keys, this is list"),
        ("", "a recipe is a mapping of keys, this is NoneType"),
        ("a: " + "x" * 1_000_000, "over 1,000,000 bytes"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_of_no_use_is_one_short_line_at_once(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    started = time.monotonic()
    with pytest.raises(InputError) as raised:
        read_yaml(path)
    said = str(raised.value).removeprefix(f"{path}: ")
    assert complaint in said
    assert len(said) < 160
    assert "\n" not in said
    assert time.monotonic() - started < 5


def test_aliases_that_stand_for_a_million_laughs_are_refused(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join(['*' + old] * 8)}]" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    with pytest.raises(InputError, match="nested too deeply, or over 100,000 values"):
        parse_yaml("\n".join(lines))
    assert parse_yaml("a: &a [x]\nb: *a") == {"a": ["x"], "b": ["x"]}  # an alias is no fault


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_bytes(json.dumps(GOOD).encode("utf-8-sig"))
    assert load_recipe(path).teacher.model == "x"  # type: ignore[union-attr]
    path.write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(InputError, match="not a UTF-8 text file"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("stage", "key", "value", "complaint"),
    [
        ("teacher", "model", "x" * 5000, "has 5000 characters, a name has at most 4096"),
        ("teacher", "model", "a\0b", "teacher.model: has a character that no name has"),
        ("teacher", "model", "\ud800", "half of a surrogate pair"),
        ("teacher", "model", 7, "teacher.model: should be a valid string, not 7"),
        ("saliency", "pairs", 10**20, "saliency.pairs: should be at most 2147483647"),
        ("saliency", "pairs", 2**31, "saliency.pairs: should be at most 2147483647, not 2147483648"),
        ("saliency", "criterion", "x" * 5000, "(5,002 characters)"),
        ("budget", "heads", float("nan"), "budget.heads: "),
        ("x" * 5000, "", None, "(5,000 characters): is not a known key"),
    ],
)
def test_a_value_of_no_use_is_named_with_its_beginning(stage: str, key: str, value: Any, complaint: str) -> None:
    data = {**GOOD, stage: {**GOOD.get(stage, {}), key: value}}
    with pytest.raises(InputError) as raised:
        build_recipe(data, origin="run.yaml")
    assert complaint in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_name_of_the_longest_that_there_may_be_is_taken() -> None:
    assert len(CorpusSettings(files=("x" * LONGEST_NAME,)).files[0]) == LONGEST_NAME


def test_prune_goes_on_without_a_package_only_if_asked_to(
    tmp_path: Path, make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch_nothing(wheel: Wheel, folder: Path) -> Path:
        raise UnavailableError("no network")

    monkeypatch.setattr(catalogs, "fetch_wheel", fetch_nothing)
    monkeypatch.chdir(tmp_path)
    save_encoder(make_encoder(), tmp_path / "teacher")
    there, absent = (Wheel(name, "1.0", "0" * 64) for name in ("there", "absent"))
    write_json(catalogs.find_kept(there, tmp_path / "cache"), SENTENCES)
    write_json(tmp_path / "c.yaml", {"wheels": [asdict(there), asdict(absent)]})
    words = ["prune", "teacher", "--keep-heads", "0.5", "--held-out", "0.3", "--pairs", "c.yaml", "--cache", "cache"]
    assert cli.main([*words, "--dry-run"]) == 2
    said = "--allow-missing: not given, and 1 of 2 wheels cannot be had: absent 1.0 (absent 1.0: no network); with it"
    assert said in capsys.readouterr().err
    assert cli.main([*words, "--dry-run", "--allow-missing"]) == 0


# The command line.


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must be refused; return its one line."""
    try:
        code = cli.main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(line) <= 500
    return line


LONG, MANY = "x" * 600, "9" * 20


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("prune", "t", "--keep-heads", "0.5", "--pairs", "p.tsv", "--out", ""), "--out: an argument is empty"),
        (("prune", "t", "--keep-heads", "0.5", "--pairs", "p.tsv", "--out="), "--out: an argument is empty"),
        (("encode", ""), "an argument is empty"),
        (("encode", "a\0b"), "an argument that is not UTF-8 text"),
        (("encode", "a", "--out", "\udcff"), "an argument that is not UTF-8 text"),
        (("encode", LONG, "--out", "v.npy"), "no such folder"),
        (("train", LONG), "no such|too long"),
        (("train", f"{LONG}.yaml"), "no such|too long"),
        (("report", LONG), "no such|too long|no run"),
        (("push", LONG, "a/b"), "too long|not a model folder"),
        ((LONG,), "invalid choice"),
        (("cost", f"--{LONG}", "x"), "unrecognized arguments"),
        (("retrieve", "9" * 5000, "--pairs", "p.tsv"), "an argument of 5,000 characters"),
        (("prune", "t", "--keep-heads", "0.5", "--pairs", "p", "--dry-run", "--seed", MANY), f"--seed: .*not {MANY}"),
        (("prune", "t", "--keep-heads", "nan", "--pairs", "p", "--dry-run"), "--keep-heads: "),
        (("prune", "t", "--max-mb", "inf", "--pairs", "p", "--dry-run"), "--max-mb: should be a finite number"),
        (("prune", "t", "--max-ms", "1e999", "--pairs", "p", "--dry-run"), "--max-ms: should be a finite number"),
        (("prune", "t", "--layers", MANY, "--pairs", "p", "--dry-run"), "--layers: "),
        (
            ("prune", "/no/such/folder", "--keep-heads", "0.5", "--pairs", "p", "--dry-run"),
            "/no/such/folder: no such folder",
        ),
        (("train", "a\x1b[2J.yaml"), r"a\\x1b\[2J.yaml: no such recipe"),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, tuple) else "",
)
def test_words_of_no_use_are_one_short_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
    complaint: str,
) -> None:  # fmt: skip
    import re

    monkeypatch.chdir(tmp_path)
    assert re.search(complaint, refuse(capsys, *words))
    assert list(tmp_path.iterdir()) == []


def test_a_long_message_keeps_its_two_ends() -> None:
    assert one_line("a\n b") == "a b"
    long = one_line("begin " + "x" * 5000 + " end")
    assert len(long) < LONGEST + 10
    assert long.startswith("begin ")
    assert long.endswith(" end")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.tsv"), "a.tsv: no permission"),
        (
            OSError(errno.ENOSPC, "No space left on device", "m"),
            "m: the disk is full; what was being written is not kept",
        ),
        (OSError(errno.EROFS, "Read-only file system", "m"), "m: the disk is read-only"),
        (OSError(errno.EFBIG, "File too large", "m"), "m: larger than a file may be here"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 700), "a name too long for a file"),
        (OSError(errno.EIO, "Input/output error"), "secateur: Input/output error"),
        (FileExistsError(errno.EEXIST, "File exists", "a", None, "b"), "a -> b: File exists"),
        (MemoryError(), "out of memory"),
        (RuntimeError("Symlink loop from 'a'"), "Symlink loop from 'a'"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "whoever read the output is gone"),
    ],
    ids=lambda error: type(error).__name__ if isinstance(error, Exception) else "",
)
def test_what_the_machine_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    def fail(options: object) -> None:
        raise error

    monkeypatch.setattr(push_command, "run", fail)
    assert words in refuse(capsys, "push", "x", "a/b")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(push_command, "run", fail)
    with pytest.raises(KeyError, match="ours"):
        cli.main(["push", "x", "a/b"])


def test_an_error_without_a_file_is_its_reason() -> None:
    assert say_system_error(OSError(errno.ENOENT, "No such file or directory")) == "no such file or folder"


def test_a_reader_that_is_gone_is_one_line() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from secateur import cli; from secateur.commands import push; "
    code += "push.run = lambda _: print('x' * 9**6)"
    words = [sys.executable, "-c", f"{code}; sys.exit(cli.main(['push', 'a', 'b/c']))"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 2
    assert done.stderr == "secateur: whoever read the output is gone\n"


# Texts.


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32"])
@pytest.mark.parametrize("lines", [RUSSIAN, ["Кошка"], ["The cat sleeps."], ["кошка\tcat"] * 9])
def test_text_in_utf16_is_never_taken_for_utf8(tmp_path: Path, encoding: str, lines: list[str]) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes("\n".join(lines).encode(encoding))
    vectors = tmp_path / "v.npy"
    np.save(vectors, np.ones((len(lines), 2), np.float32))
    readers: list[Callable[[], object]] = [
        lambda: read_lines(path),
        lambda: read_table(path, 1.0),
        lambda: read_aligned(path, path),
        lambda: load_vectors(vectors, path),
    ]
    for read in readers:
        with pytest.raises(InputError, match=r"t\.tsv: .*UTF-(8|16)"):
            read()


def test_real_text_is_text_whatever_it_holds() -> None:
    odd = "A tab\tand\x0bold\x0cbreaks, a \x1f stray, emoji 👩‍👩‍👧, \u202eright to left\u202c, ёлка, 中文 \ufffd\n" * 3
    assert decode_text(odd.encode(), "x") == odd
    assert decode_text(b"", "x") == ""
    assert find_strange("") == ""


def test_the_line_of_a_zero_byte_is_named() -> None:
    with pytest.raises(InputError, match=r"^x: line 3 has zero bytes"):
        decode_text(b"one\ntwo\nth\0ree\n", "x")


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.tsv.gz"
    path.write_bytes(gzip.compress(b"one\ttwo\n" * 10**6))
    assert len(read_lines(path)) == 10**6
    monkeypatch.setattr(sources, "SMALL", 1000)
    with pytest.raises(InputError, match=r"bomb.tsv.gz: unpacks to over [\d,]+ bytes, which is no text"):
        read_lines(path)


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_pairs_in_memory_are_text_too(text: str) -> None:
    with pytest.raises(InputError, match=r"^pairs: item 1 has (half of a surrogate pair|zero bytes)"):
        read_given([("one", "раз"), (text, "два")])


# What goes to a hub.


@pytest.fixture
def model(tmp_path: Path, make_encoder: MakeEncoder) -> Path:
    save_encoder(make_encoder(layers=1), tmp_path / "model", card="A card.")
    return tmp_path / "model"


def test_only_what_a_model_consists_of_is_pushed(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    more = (
        "onnx/model.onnx", "onnx/model_qint8.onnx", "parity.json", "LICENSE", "vocab.txt", "sentencepiece.bpe.model",
        "2_Dense/model.safetensors", "2_Dense/config.json", "model-00001-of-00002.safetensors", "modeling.py",
    )  # fmt: skip
    not_ours = (
        "optimizer.pt", "notes.txt", "training_args.bin", "pytorch_model.bin", ".env", "id_rsa", "evil.py", "data.tsv",
        "checkpoint-10/model.safetensors", "checkpoint-10/optimizer.pt", "onnx/notes.txt", ".git/config",
        "1_Pooling/key.pem", "optimizer.safetensors", "trainer_state.json", "secrets.json",
    )  # fmt: skip
    for name in (*more, *not_ours):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("x")
    files, others = list_files(model)
    assert set(files) == own | set(more)
    assert set(others) == set(not_ours)
    sent: dict[str, Any] = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **words: sent.update(words, said=caplog.text))
    with caplog.at_level(logging.INFO):
        push(model, "me/toy", dry_run=False, private=True)
    assert set(sent["allow_patterns"]) == own | set(more)
    assert all(name in sent["said"] for name in files)  # before anything goes
    assert "no part of a model, left out: .env, .git/config, " in sent["said"]


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_a_file(model: Path, tmp_path: Path) -> None:
    (model / "LICENSE").symlink_to("README.md")
    assert list_files(model)[0]["LICENSE"] == len("A card.")
    (tmp_path / "secret").write_text("secret")
    (model / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"vocab.txt: a link out of the folder"):
        push(model, "me/toy", dry_run=True, private=True)
    (model / "vocab.txt").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("secret")
    (model / "2_Dense").symlink_to(tmp_path / "elsewhere")
    assert "2_Dense/config.json" not in list_files(model)[0]


@pytest.mark.parametrize("name", ["-a/b", "a/-b", "../b", "a/..", "a/b/c", "a b/c", "a/b\n", "https://x.example/a", ""])
def test_a_repository_has_an_owner_and_a_name(model: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"REPO: .* is not of the form OWNER/NAME"):
        push(model, name, dry_run=True, private=True)


def test_what_a_library_prints_does_not_spoil_vectors_on_standard_output(teacher: TorchEncoder, tmp_path: Path) -> None:
    """Its Rust code writes to the file descriptor, not to sys.stdout."""
    save_encoder(teacher, tmp_path / "model")
    code = (
        "import os, sys; from secateur import cli; import secateur.encoders.inference as inference\n"
        "first = inference.Encoder.__init__\n"
        "inference.Encoder.__init__ = lambda *a, **k: (os.write(1, b'Ignored unknown option\\n'), first(*a, **k))[1]\n"
        f"sys.exit(cli.main(['encode', {str(tmp_path / 'model')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"one\ntwo\n", capture_output=True, check=True)
    assert np.load(io.BytesIO(done.stdout), allow_pickle=False).shape == (2, teacher.dimension)
    assert b"Ignored" in done.stderr
