"""What the READMEs and docs/ say holds: links lead somewhere, commands are read as they stand, both languages agree.

A page of a command that this version does not have is skipped: there is nothing to hold it against.
"""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from browser import PHONE, open_page
from conftest import ROOT, SENTENCES
from ruamel.yaml import YAML

import secateur
from secateur import cli
from secateur.config.errors import InputError
from secateur.config.places import default_cache
from secateur.config.pruning import BudgetSettings
from secateur.config.reading import build_recipe, build_settings, load_recipe, read_yaml
from secateur.config.teacher import Wheel
from secateur.data.catalogs import find_kept
from secateur.data.files import write_json
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import save_encoder

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README.ru.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RECIPES = sorted((ROOT / "experiments").glob("*.yaml"))
STAGES = ("teacher", "corpus", "saliency", "budget", "repair", "distillation", "validation", "encodechka", "tracking")


def say(path: Path) -> str:
    return str(path.relative_to(ROOT))


def load_script(name: str) -> ModuleType:
    """Return docs/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read_page(path: Path) -> str:
    """Return a page's Markdown; of a notebook that of its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


class Block(NamedTuple):
    """A fenced code block."""

    language: str
    title: str
    text: str


def read_blocks(markdown: str) -> list[Block]:
    found = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)
    return [Block(language, "".join(re.findall('title="(.*)"', rest)), text) for language, rest, text in found]


def read_inline(markdown: str) -> list[str]:
    """Return what stands between single backticks in prose and tables."""
    prose = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.replace("\\|", "|").split()) for code in re.findall("`([^`]+)`", prose)]


def has_command(path: Path) -> bool:
    """Whether a page is of no command, or of one that this version has."""
    return path.parent.name != "guide" or path.stem in ("index", *cli.COMMANDS)


def skip_later(path: Path) -> None:
    if not has_command(path):
        pytest.skip(f"this version has no command {path.stem}")


# Links


def find_anchors(markdown: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    prose = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall("^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=say)
def test_links_lead_somewhere(path: Path) -> None:
    markdown = read_page(path)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub("`[^`]*`", "", markdown)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target}: no such file"
        if path.is_relative_to(DOCS):
            assert there.is_relative_to(DOCS), f"{target}: the site has pages of docs/ alone"
        if anchor:
            assert anchor in find_anchors(read_page(there)), f"{target}: no such heading"


def test_every_command_has_a_page_and_a_row() -> None:
    pages = {path.stem for path in (DOCS / "guide").glob("*.md")} - {"index"}
    assert set(cli.COMMANDS) <= pages
    index = read_page(DOCS / "guide" / "index.md")
    for name in pages:
        assert f"({name}.md)" in index
        assert f"<!-- options: {name} -->" in read_page(DOCS / "guide" / f"{name}.md")
        for readme in ("README.md", "README.ru.md"):
            assert f"[`secateur {name}`](docs/guide/{name}.md)" in read_page(ROOT / readme)


# Commands


def read_lines(markdown: str) -> Iterator[str]:
    """Yield the lines of shell in a page: its bash blocks, and inline code that calls make or secateur."""
    for block in read_blocks(markdown):
        if block.language == "bash":
            yield from block.text.replace("\\\n", " ").splitlines()
    for code in read_inline(markdown):
        if re.match("(secateur|make) .", code) and not ("…" in code or re.fullmatch(r"secateur \w+", code)):
            yield code


def split_line(line: str) -> list[str]:
    """Return the words of a line of shell, without comment and redirections."""
    words = shlex.split(line, comments=True)
    return words[: min((words.index(sign) for sign in ("<", ">", "|") if sign in words), default=len(words))]


def check_line(words: list[str], titled: dict[str, str], folder: Path) -> None:
    """Raise unless a command is read as it stands, down to the keys and values that it lays over a recipe."""
    if words[0] in ("torchrun", "accelerate"):
        words = ["secateur", *words[words.index("secateur.cli") + 1 :]]
    if words[0] == "make":
        check_make(words[1:], folder)
    elif words == ["secateur", "--version"]:
        return
    elif words[0] == "secateur":
        options = cli.parse(words[1:])
        if words[1] == "train":
            check_recipe(str(options.recipe), options.overrides, titled, folder)
    else:
        assert words == ["source", ".venv/bin/activate"], words


def check_make(words: list[str], folder: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    given = dict(word.split("=", 1) for word in words if "=" in word)
    for target in (word for word in words if "=" not in word):
        assert re.search(f"^{target}:", makefile, flags=re.MULTILINE), f"make {target}: no such target"
        if target in ("train", "teacher"):
            recipe = "teacher-mini-en-ru" if target == "teacher" else given.get("EXPERIMENT", "mini-en-ru")
            check_recipe(f"experiments/{recipe}.yaml", shlex.split(given.get("OVERRIDES", "")), {}, folder)
    for name in given:
        assert re.search(f"^{name} \\?=", makefile, flags=re.MULTILINE), f"make {name}=: no such variable"


def check_recipe(name: str, overrides: list[str], titled: dict[str, str], folder: Path) -> None:
    path = ROOT / name
    if name in titled:
        path = folder / Path(name).name
        path.write_text(titled[name], encoding="utf-8")
        shutil.copytree(ROOT / "experiments" / "catalogs", folder / "catalogs", dirs_exist_ok=True)
    load_recipe(path, overrides)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=say)
def test_commands_are_read_as_they_stand(path: Path, tmp_path: Path) -> None:
    skip_later(path)
    markdown = read_page(path)
    titled = {block.title: block.text for block in read_blocks(markdown) if block.title}
    for line in read_lines(markdown):
        words = split_line(line)
        try:
            if words:
                check_line(words, titled, tmp_path)
        except (SystemExit, InputError) as error:
            pytest.fail(f"{line}: {error}")


def test_recipes_in_comments_are_read_as_they_stand(tmp_path: Path) -> None:
    for recipe in RECIPES:
        for line in re.findall("make (?:train|teacher) [A-Z]+=.*", recipe.read_text(encoding="utf-8")):
            check_line(split_line(line), {}, tmp_path)


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent.name == "guide"], ids=say)
def test_options_in_prose_exist(path: Path) -> None:
    skip_later(path)
    known = {option for name in cli.COMMANDS for option in cli.build_parser(name)[1][name]._option_string_actions}
    for code in read_inline(read_page(path)):
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code):
            assert option in known, f"{option}: no such option"


# Recipes and their keys


def lay_over(fragment: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with a page's keys laid over the first one that they fit."""
    makes = isinstance(fragment.get("teacher"), list) or "student" in fragment
    base = read_yaml(ROOT / "experiments" / f"{'teacher-' if makes else ''}mini-en-ru.yaml")
    whole = {"name": "page", **base, **fragment}
    whole["corpus"] = {**whole["corpus"], "catalogs": []}
    return whole


@pytest.mark.parametrize("path", PAGES, ids=say)
def test_recipes_are_read_as_they_stand(path: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    for block in read_blocks(read_page(path)):
        if block.language == "yaml":
            build_recipe(lay_over(yaml.load(block.text)), origin=say(path))
    for code in read_inline(read_page(path)):
        if re.match(r"(budget: )?\{\w+: ", code):
            build_settings(BudgetSettings, yaml.load(code.removeprefix("budget: ")), origin=say(path))


def test_every_key_has_a_meaning_and_those_in_prose_exist() -> None:
    generate = load_script("generate")
    for kind in (*generate.RECIPES, *generate.find_places()):
        assert not [key.name for key in generate.list_keys(kind) if not key.meaning], (
            f"{kind}: a description is missing"
        )
    keys = generate.list_dotted_keys()
    for path in PAGES:
        for code in read_inline(read_page(path)):
            dotted = re.fullmatch(r"((\w+)(\.\w+)+)(=.*)?", code)
            if dotted and dotted[2] in STAGES and not code.endswith((".py", ".md", ".yaml")):
                assert dotted[1] in keys, f"{say(path)}: {code}: no such key"


def test_the_configuration_page_has_what_the_dataclasses_have() -> None:
    page = load_script("generate").write_configuration()
    heads = "The share of the kept layers' attention heads that is kept."
    assert f"| `heads` | number from 0 to 1, or nothing | none | {heads} |" in page
    assert "| `steps` | whole number, 0 or more | must be given |" in page
    assert "| `pairs` | whole number, above 0 | `2000` |" in page
    assert "| `params` | count; 12.8M and 85k are read too, or nothing | none |" in page
    assert "`mse` `contrastive`" in page
    assert "## Budget\n" in page
    assert "Annotated" not in page


def test_what_is_generated_is_what_is_committed() -> None:
    for path, text in load_script("generate").write_pages().items():
        committed = read_page(path)
        # Python 3.13 breaks the lines of a usage elsewhere than 3.11.
        assert committed.split() == text.split(), f"{say(path)} is not what the source says: run `make docs`"


# Python


@pytest.mark.parametrize("path", PAGES, ids=say)
def test_python_blocks_compile_and_import_what_there_is(path: Path) -> None:
    skip_later(path)
    for block in read_blocks(read_page(path)):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                assert all(importlib.util.find_spec(alias.name) for alias in node.names)


# Both languages

Skeleton = list[tuple[str, ...]]


def read_skeleton(markdown: str) -> Skeleton:
    """Return a page's headings by level, tables by width and length, code without comments, pictures."""
    parts: Skeleton = []
    for block in re.split(r"\n\n+", re.sub(r"\n(```\w)", r"\n\n\1", markdown)):
        if block.startswith("#"):
            parts.append(("heading", block.partition(" ")[0]))
        elif block.startswith("|"):
            parts.append(("table", *(str(row.count("|")) for row in block.splitlines())))
        elif block.startswith("```"):
            language = block[3:].partition("\n")[0]
            parts.append((language, "" if language == "text" else re.sub(r"\s*# .*", "", block)))
        elif block.startswith("!["):
            parts.append(("picture",))
    return parts


def read_numbers(markdown: str) -> Counter[str]:
    """Return every number of a page, written the English way."""
    text = re.sub(r"(?<=\d)[  ](?=\d{3}\b)", "", markdown)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text) if "По-русски" in markdown[:200] else text.replace("–", " ")
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    return Counter(number.lstrip("0") or "0" for number in re.findall(r"(?:\d*\.)?\d+", text))


def test_both_readmes_say_the_same() -> None:
    english, russian = (read_page(ROOT / name) for name in ("README.md", "README.ru.md"))
    assert read_skeleton(english) == read_skeleton(russian)
    assert read_numbers(english) == read_numbers(russian)


def test_both_quick_starts_say_the_same() -> None:
    english, russian = (read_page(DOCS / name) for name in ("quickstart.md", "quickstart.ru.md"))
    assert read_skeleton(english) == read_skeleton(russian)


@pytest.mark.parametrize("name", ["README.md", "README.ru.md"])
def test_the_tree_has_a_line_for_every_room(name: str) -> None:
    _, tree = re.split(r"^    src/secateur/.*$", read_page(ROOT / name), flags=re.MULTILINE)
    listed = re.findall(r"^      (\w+)/\s+\S", tree, flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.parent.name for path in (ROOT / "src" / "secateur").glob("*/__init__.py")}


# Where things are


def test_where_to_find_things_names_what_is_there() -> None:
    """Every file in a row of where.md exists, and what the row says to look for stands in one of them."""
    rows = [line for line in read_page(DOCS / "where.md").splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 10
    for row in rows:
        codes = read_inline(row)
        files = [code for code in codes if re.fullmatch(r"[\w./-]+\.\w+", code)]
        assert files, row
        for file in files:
            assert (ROOT / file).is_file(), f"{file}: no such file"
        text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        for code in codes:
            if re.fullmatch(r"\w+", code):
                assert re.search(rf"^\s*(def {code}\(|class {code}\b|{code}\b.*=)", text, flags=re.MULTILINE), (
                    f"{code} is in none of {files}"
                )


def test_files_of_the_repository_in_prose_exist() -> None:
    for path in PAGES:
        for code in read_inline(read_page(path)):
            if re.fullmatch(r"(src|tests|notebooks|docs)/[\w./-]+", code):
                assert (ROOT / code).exists(), f"{say(path)}: {code}: no such file"


def test_the_glossary_is_found_and_says_each_word_once() -> None:
    words = re.findall(r"^\| ([^|]+) \| [A-Z]", read_page(DOCS / "glossary.md"), flags=re.MULTILINE)
    assert len(words) == len(set(words))
    assert {"cut", "token", "gate", "quality gate", "probe", "Mean S", "ICX", "retrieval accuracy@1"} <= set(words)
    for page in (DOCS / "guide" / "index.md", DOCS / "where.md"):
        assert "glossary.md)" in read_page(page)


def test_every_room_has_a_section_of_the_api_with_its_own_words() -> None:
    generate, page = load_script("generate"), " ".join(read_page(DOCS / "api" / "index.md").split())
    for room in generate.list_rooms():
        purpose = generate.read_purpose(ROOT / "src" / "secateur" / room / "__init__.py")
        assert f"### {room} {purpose}" in page
    for name in set(secateur.__all__) - {"__version__"}:
        assert f"### secateur.{name} <!-- api: " in page


def test_the_picture_is_what_its_script_draws() -> None:
    pictures = load_script("pictures")
    for name, texts in pictures.TEXTS.items():
        assert (DOCS / name).read_text(encoding="utf-8") == pictures.draw_pipeline(texts)


def test_the_picture_of_sizes_has_every_model_of_its_table() -> None:
    sizes = load_script("sizes")
    drawn = (DOCS / "sizes.svg").read_text(encoding="utf-8")
    rows = sizes.read_rows(ROOT / "experiments" / "sizes.csv")
    assert {row["kind"] for row in rows} <= set(sizes.KINDS)
    for row in rows:
        assert f"{row['model']} {float(row['best']):.3f}".replace(" 0.", " .") in drawn


# The guides, followed


@pytest.fixture
def clone(tmp_path: Path, teacher: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy where the quick start expects a clone: its teacher, its list of catalogs (here read already), sentences."""
    save_encoder(teacher, tmp_path / "models" / "teacher-mini-en-ru")
    pairs = [(f"{a} {c}", f"{b} {d}") for a, b in SENTENCES for c, d in SENTENCES[:12]]
    (tmp_path / "sentences.txt").write_text("".join(f"{ru}\n" for _, ru in SENTENCES), encoding="utf-8")
    wheel = Wheel("toy", "1.0", "0" * 64)
    write_json(tmp_path / "experiments" / "catalogs" / "interfaces.yaml", {"wheels": [asdict(wheel)]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_json(find_kept(wheel, default_cache()), pairs)
    return tmp_path


SMALLER = {  # what is added to a command so that a toy takes seconds
    "prune": ["--saliency-pairs", "16", "--repair-sentences", "32"],
    "export": [
        "--min-cosine", "0", "--min-low-cosine", "0", "--max-retrieval-loss", "1", "--sentences", "16",
        "--threads", "1",
    ],
    "train": [
        "saliency.pairs=16", "repair.sentences=32", "distillation.steps=4", "distillation.batch_size=8",
        "distillation.evaluate_every=2", "distillation.warmup_steps=1", "validation.pairs=16", "encodechka.tasks=[]",
        "tracking.to=none",
    ],
}  # fmt: skip


def test_the_quick_start_reaches_a_student(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}  # blocks of Python go on from each other
    for block in read_blocks(read_page(DOCS / "quickstart.md")):
        if block.language == "python":
            exec(block.text.replace("minutes=10", "steps=2, batch_size=8"), names)
        elif block.title:
            (clone / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = split_line(line)
                if words[0] == "secateur" and words[1] != "--version":
                    words = ["20k" if word == "12M" else word for word in words]
                    assert cli.main([*words[1:], *SMALLER.get(words[1], ())]) == 0, line
    said = capsys.readouterr().out
    for row in ("heads", "repaired", "distilled", "probe, own vector"):
        assert row in said
    assert (clone / "vectors.npy").is_file()
    for name in ("mine", "mine-12m", "trained", "trained-pruned"):
        assert (clone / "models" / name / "modules.json").is_file()


def test_an_encoder_type_added_as_the_guide_says_is_pruned(tmp_path: Path) -> None:
    blocks = read_blocks(read_page(DOCS / "encoder-types.md"))
    code = "".join(block.text for block in blocks if block.language == "python")
    check = Path(__file__).with_name("added_type.py").read_text(encoding="utf-8")
    (tmp_path / "added.py").write_text(f"{code}\n\n{check}", encoding="utf-8")
    words = [sys.executable, str(tmp_path / "added.py"), str(tmp_path / "student")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built strictly: a broken link or a page without a place in the navigation is an error."""
    if not (importlib.util.find_spec("material") and importlib.util.find_spec("mkdocstrings")):
        pytest.skip("mkdocs-material and mkdocstrings are not installed (requirements.txt)")
    folder = tmp_path_factory.mktemp("built") / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_fetches_nothing(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img)[^>]* src="?https?:|<link[^>]* href="?https?:[^>]*stylesheet', text), (
            page
        )
        assert "<!-- keys -->" not in text
        assert "<!-- options:" not in text
        assert "<!-- api:" not in text


def test_the_site_has_the_commands_and_a_page_for_every_room(site: Path) -> None:
    assert "usage: secateur prune" in (site / "guide" / "prune.html").read_text(encoding="utf-8")
    for room in load_script("generate").list_rooms():
        text = (site / "api" / f"{room}.html").read_text(encoding="utf-8")
        for path in (ROOT / "src" / "secateur" / room).glob("*.py"):
            assert path.stem == "__init__" or f"secateur.{room}.{path.stem}" in text
    assert "measure_saliency" in (site / "api" / "pruning.html").read_text(encoding="utf-8")
    front = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in set(secateur.__all__) - {"__version__"}:
        assert f"secateur.{name}" in front
    assert "keep_neurons" in front  # a signature
    assert "what was kept, and why" in front  # an example


def test_the_search_works_in_pages_opened_from_disk(site: Path) -> None:
    """A browser starts no worker and fetches no JSON there: both are scripts of the site."""
    page = (site / "guide" / "prune.html").read_text(encoding="utf-8")
    assert '<script src="../assets/iframe-worker.js">' in page
    assert (site / "assets" / "iframe-worker.js").is_file()
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")
    with open_page(site / "guide" / "prune.html") as watched:
        watched.page.locator("input[data-md-component=search-query]").click()
        watched.page.keyboard.type("saliency")
        watched.page.locator(".md-search-result__link").first.wait_for(state="attached")
        assert all(url.startswith(("file:", "data:", "about:", "blob:")) for url in watched.requests)
        assert not watched.errors


def test_no_code_of_the_site_is_cut_at_the_edge_of_a_phone(site: Path) -> None:
    with open_page(site / "guide" / "prune.html", viewport=PHONE) as watched:
        wide = "[...document.querySelectorAll('pre > code')].filter(code => code.scrollWidth > code.clientWidth + 1)"
        assert watched.page.evaluate(f"{wide}.length") == 0
