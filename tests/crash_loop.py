"""Kill every command at random moments, go on, and compare what it leaves with what one never killed left.

    python tests/crash_loop.py --kills 100 --seed 1

Each kill is a SIGKILL or a SIGTERM at a moment drawn from the time that the command takes; the command is then resumed
(`train --resume`) or run again, and may be killed again. In the end every file must be the same to the byte, but for
times, and nothing else may lie there. Besides: two processes at one run, one folder, one cache; a disk that is full at
any size; places that cannot be written. Processes are forks of this one, which has imported everything.
"""

import argparse
import fcntl
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip

import torch
import transformers
from toys import SENTENCES, build_tokenizer, make_transformer

from secateur import cli
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import embed
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder

WARM = {  # what a fork of a command finds imported
    "plain": "runs.train", "gradual": "runs.train", "made": "runs.create", "prune": "runs.prune",
    "vocabulary": "runs.prune", "export": "export.export", "encode": "runs.encode",
}  # fmt: skip
LIMIT = 300.0  # seconds that a command may take
NOWHERE = "/sys/secateur"  # nobody can write there

DISTILLATION = {"batch_size": 8, "learning_rate": 1e-3, "w_similarity": 0.1, "w_output": 1.0, "evaluate_every": 6}
COMMON: dict[str, Any] = {
    "teacher": {"model": "teacher"},
    "corpus": {"files": ["pairs.tsv"], "held_out": 0.3, "min_words": 2},
    "validation": {"pairs": 16},
    "encodechka": {"tasks": []},
    "tracking": {"to": "none"},
    "device": "cpu",
}
PRUNING = {"saliency": {"pairs": 8, "batch_size": 4}, "repair": {"sentences": 16}}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {
        **COMMON, **PRUNING, "budget": {"heads": 0.5, "neurons": 0.5}, "distillation": DISTILLATION | {"steps": 30},
    },
    "gradual": {
        **COMMON, **PRUNING, "budget": {"heads": 0.5, "neurons": 0.5, "rounds": 3, "gradual_steps": 12},
        "distillation": DISTILLATION | {"steps": 18},
    },
    "made": {
        **COMMON,
        "student": {"shape": {"layers": 2, "heads": 2, "hidden": 24, "neurons": 32}, "vocabulary": {"size": 150}},
        "distillation": DISTILLATION | {"steps": 30},
    },
}  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    **{name: ["train", f"runs/{name}.yaml", "--no-check"] for name in RECIPES},
    "prune": [
        "prune", "teacher", "--no-check", "--pairs", "pairs.tsv", "--held-out", "0.3", "--keep-heads", "0.5",
        "--keep-neurons", "0.5",
    ],
    "vocabulary": [
        "vocabulary", "teacher", "--no-check", "--corpus", "en=en.txt", "--corpus", "ru=ru.txt", "--size", "150",
    ],
    "export": ["export", "teacher", "--no-check", "--max-retrieval-loss", "1", "--threads", "1"],
    "encode": ["encode", "teacher", "--input", "long.txt"],
}  # fmt: skip
OUT = {"prune": "out/pruned", "vocabulary": "out/words", "export": "out/exported", "encode": "out/vectors.npy"}


def words_of(name: str) -> list[str]:
    out = ["--out", OUT[name]] if name in OUT else []
    return [*COMMANDS[name], *out, "--cache", "cache"]


def build_bench(folder: Path) -> None:
    """Write a toy teacher, pairs, texts and recipes."""
    tokenizer = build_tokenizer()
    model = make_transformer("bert", vocabulary=len(tokenizer), layers=3, heads=4, hidden=32, neurons=48, seed=0)
    model.save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")
    teacher = load_encoder(TeacherSettings(model=str(folder / "bare"), max_length=64))
    save_encoder(teacher, folder / "teacher")
    shutil.rmtree(folder / "bare")
    embed(teacher, ["what is imported late is imported now"])
    (folder / "pairs.tsv").write_text("".join(f"{en}\t{ru}\n" for en, ru in SENTENCES), encoding="utf-8")
    for side, name in enumerate(("en", "ru")):
        (folder / f"{name}.txt").write_text("".join(f"{pair[side]}\n" for pair in SENTENCES), encoding="utf-8")
    (folder / "long.txt").write_text((folder / "en.txt").read_text(encoding="utf-8") * 200, encoding="utf-8")
    (folder / "runs").mkdir()
    for name, recipe in RECIPES.items():
        (folder / "runs" / f"{name}.yaml").write_text(json.dumps(recipe), encoding="utf-8")


@dataclass
class Child:
    """A command in a fork of this process; its standard error waits in a pipe, which no limit on files is for."""

    pid: int
    words: list[str]
    said: int  # the pipe's end that is read
    code: int | None = None  # minus the signal that killed it

    def wait(self, seconds: float = LIMIT) -> int | None:
        """Return the exit code, or None if the process lives on after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                return None
            else:
                time.sleep(0.002)
        return self.code

    def kill(self, number: signal.Signals) -> int | None:
        os.kill(self.pid, number)
        return self.wait()

    @cached_property
    def lines(self) -> list[str]:
        """What a command that has ended wrote to standard error."""
        with os.fdopen(self.said, "rb") as said:
            return said.read().decode("utf-8", errors="replace").splitlines()


def start(folder: Path, words: Sequence[str], *, file_size: int | None = None) -> Child:
    """Fork a process that runs one command in `folder`; `file_size` bytes are the most it can write into a file."""
    said, output = os.pipe()
    fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 2**20)
    pid = os.fork()
    if pid:
        os.close(output)
        return Child(pid, list(words), said)
    code = 99
    try:
        os.chdir(folder)
        os.dup2(output, 2)
        os.close(output)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # not the parent's, which know another file
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        code = cli.main(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run(folder: Path, words: Sequence[str]) -> float:
    """Run a command to its end, which must be good; return the seconds it took."""
    started = time.monotonic()
    child = start(folder, words)
    code = child.wait()
    assert code == 0, f"{' '.join(words)}: exit code {code}: {child.lines[-25:]}"
    return time.monotonic() - started


def refused(child: Child, what: str) -> str:
    """Return the line with which a command must have been refused."""
    code = child.wait()
    assert code in (1, 2), f"{what}: {' '.join(child.words)}: exit code {code}: {child.lines[-25:]}"
    said = [line for line in child.lines if line.startswith("secateur")]
    assert len(said) == 1, f"{what}: {child.lines[-25:]}"
    assert "Traceback" not in "".join(child.lines), child.lines
    assert ".partial" not in said[0], said
    return said[0]


TIMES = re.compile(rb'"(seconds|ms|milliseconds|[a-z_]*runtime|[a-z_]*per_second)": *[-+.\de]+,?|: \d+\.\d+ s')
WITH_TIMES = ("README.md", "table.txt", "report.html", "trainer_state.json", "parity.json")
HOW_OFTEN = ("models.json", "scheduler.pt", "rng_state.pth", "optimizer.pt", "training_args.bin")  # pickles of torch
UNLIKE = {*WITH_TIMES, *HOW_OFTEN}


def read_tree(folder: Path) -> dict[str, str]:
    """Return each file's hash without times, by its path; of files that are full of times only that they are there.

    What the commands are given is left out. Every file must have the mode that the umask asks for.
    """
    tree: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            tree[f"{name}/"] = ""
            continue
        mode = path.stat().st_mode & 0o777
        assert mode == 0o644, f"{name}: mode {mode:o}"
        content = b"" if path.name in UNLIKE else TIMES.sub(b"", path.read_bytes())
        tree[name] = sha256(content).hexdigest()[:12]
    return tree


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    names = sorted(found.keys() | expected.keys())
    words = {(True, False): "is left over", (False, True): "is missing", (True, True): "differs"}
    return [
        f"{name} {words[name in found, name in expected]}" for name in names if found.get(name) != expected.get(name)
    ]


@dataclass
class Loop:
    """One series of trials, and what they found."""

    folder: Path
    draw: random.Random
    whole: dict[str, dict[str, str]] = field(default_factory=dict)  # of each command, what it leaves
    takes: dict[str, float] = field(default_factory=dict)  # seconds
    kills: int = 0
    number: int = 0

    def bench(self) -> Path:
        """Return a new folder with what the commands are given."""
        self.number += 1
        folder = self.folder / f"bench-{self.number}"
        shutil.copytree(self.folder / "given", folder)
        return folder

    def learn(self, names: Sequence[str]) -> None:
        """Run each command unkilled."""
        for name in names:
            folder = self.bench()
            self.takes[name] = run(folder, words_of(name))
            self.whole[name] = read_tree(folder)
            print(f"{name}: {self.takes[name]:.1f} s, {len(self.whole[name])} files", flush=True)
            shutil.rmtree(folder)

    def check(self, name: str, folder: Path, what: str) -> None:
        found = differences(read_tree(folder), self.whole[name])
        found = [each for each in found if not re.fullmatch(r"cache/\S+ is missing", each)]  # it only saves work
        assert not found, f"{name}, {what}, in {folder}: {'; '.join(found[:12])}"
        shutil.rmtree(folder)

    def kill_and_go_on(self, name: str, most: int) -> None:
        """Kill a command up to four times, at most `most`, go on, and check what it leaves."""
        folder, moments = self.bench(), []
        again = 4
        while again and len(moments) < most:
            moment, number = self.draw.uniform(0, self.takes[name]), self.draw.choice(SIGNALS)
            child = start(folder, self.next_words(name, folder))
            if child.wait(moment) is not None:
                assert child.code == 0, f"{name} after kills at {moments}: {child.code}: {child.lines[-25:]}"
            elif child.kill(number) != 0:
                moments.append(f"{number.name} at {moment:.2f} s")
            again = again - 1 if self.draw.random() < 0.75 else 0
        self.kills += len(moments)
        run(folder, self.next_words(name, folder))
        self.check(name, folder, f"killed by {', '.join(moments)}")

    def next_words(self, name: str, folder: Path) -> list[str]:
        begun = name in RECIPES and (folder / "runs" / name / "recipe.json").exists()
        return [*words_of(name), *(["--resume"] if begun else [])]

    def loop(self, names: Sequence[str], kills: int) -> None:
        while self.kills < kills:
            name = self.draw.choices(names, [3 if name in RECIPES else 1 for name in names])[0]
            self.kill_and_go_on(name, kills - self.kills)
            print(f"{self.kills} of {kills} kills: the same", flush=True)

    def two_at_one_run(self) -> None:
        folder = self.bench()
        first = start(folder, words_of("plain"))
        wait_for(lambda: (folder / "runs" / ".plain.lock").exists(), first)
        for extra in ([], ["--resume"]):
            line = refused(start(folder, [*words_of("plain"), *extra]), "two at one run")
            assert f"process {first.pid} is at work on it" in line, line
        assert first.wait() == 0, first.lines[-25:]
        self.check("plain", folder, "started twice")

    def two_at_one_folder(self) -> None:
        for name in OUT:
            folder = self.bench()
            both = [start(folder, words_of(name)) for _ in range(2)]
            codes = [child.wait() for child in both]
            assert 0 in codes, (name, [child.lines[-25:] for child in both])
            for child in both:
                if child.code:
                    refused(child, "two at one folder")
            self.check(name, folder, "two at one folder")

    def two_at_one_cache(self) -> None:
        folders = [self.bench(), self.bench()]
        for folder in folders:
            (folder / "cache").symlink_to(self.folder / "shared")
        (self.folder / "shared").mkdir()
        both = [start(folder, words_of("plain")) for folder in folders]
        assert [child.wait() for child in both] == [0, 0], [child.lines[-25:] for child in both]
        for folder in folders:
            weights = [read_tree(folder)[f"models/plain{end}/model.safetensors"] for end in ("", "-pruned")]
            expected = [self.whole["plain"][f"models/plain{end}/model.safetensors"] for end in ("", "-pruned")]
            assert weights == expected, f"two at one cache: {folder}"
            shutil.rmtree(folder)
        shutil.rmtree(self.folder / "shared")

    def full_disk(self, name: str, size: int) -> bool:
        """Run a command where no file may have more than `size` bytes; return whether that stopped it."""
        folder = self.bench()
        child = start(folder, words_of(name), file_size=size)
        if child.wait() == 0:
            self.check(name, folder, f"at most {size} bytes a file")
            return False
        line = refused(child, f"{name}, at most {size} bytes a file")
        assert "large" in line or "disk" in line or "written" in line, line
        run(folder, self.next_words(name, folder))
        self.check(name, folder, f"after a disk full at {size} bytes")
        return True

    def read_only(self) -> None:
        folder = self.bench()
        before = read_tree(folder)
        trials = [[*COMMANDS[name], "--out", f"{NOWHERE}/{name}", "--cache", "cache"] for name in OUT]
        trials += [[*COMMANDS[name], "--models", NOWHERE, "--cache", "cache"] for name in RECIPES]
        trials += [[*COMMANDS[name], "--cache", NOWHERE] for name in RECIPES]
        for words in trials:
            line = refused(start(folder, words), "read only")
            assert NOWHERE in line, line
        found = [each for each in differences(read_tree(folder), before) if not each.startswith("cache")]
        assert not found, f"read only: {found}"
        shutil.rmtree(folder)


SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
SIZES = (200, 2_000, 6_000, 20_000, 60_000, 120_000, 160_000)  # bytes


def wait_for(ready: Callable[[], bool], child: Child) -> None:
    while not ready():
        assert child.wait(0.002) is None, child.lines[-25:]


def main() -> int:
    """Run the loop as told; the exit code is 0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--short", action="store_true", help="kills alone")
    parser.add_argument("--full-disk", action="store_true", help="no kills, a full disk alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.commands:
        importlib.import_module(f"secateur.{WARM[name]}")
    transformers.utils.logging.disable_progress_bar()
    os.umask(0o022)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="crash-loop-") as temporary:
        loop = Loop(Path(temporary), random.Random(options.seed))
        (loop.folder / "given").mkdir()
        build_bench(loop.folder / "given")
        loop.learn(options.commands)
        if not options.full_disk:
            loop.loop(options.commands, options.kills)
            print(f"{loop.kills} of {options.kills} kills: the same bytes, nothing left over", flush=True)
        if options.short:
            return 0
        if not options.full_disk:
            loop.two_at_one_run()
            loop.two_at_one_folder()
            loop.two_at_one_cache()
            print("two at one run, one folder, one cache: held", flush=True)
        stopped = [loop.full_disk(name, size) for name in options.commands for size in SIZES]
        print(f"disk full: {sum(stopped)} of {len(stopped)} commands stopped, in one line; all went on", flush=True)
        loop.read_only()
        print("places that cannot be written: said in one line", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
