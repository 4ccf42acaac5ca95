"""A local page to try a student on: the teacher beside it, their similarities, nearest neighbours and milliseconds.

The page is Gradio's, an optional extra; nothing leaves the machine: no analytics, no fonts or scripts from elsewhere.
Requests of other sites are refused, unless the page is served to other machines on purpose (--host).
What is pasted or uploaded may be anything: what the page cannot use it says, and goes on.
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.config.errors import InputError, require
from secateur.config.teacher import TeacherSettings
from secateur.data.texts import decode_text, find_strange
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.loading import load_encoder
from secateur.reports.local import LocalRequests, is_loopback
from secateur.reports.render import render

if TYPE_CHECKING:
    from gradio import Blocks

log = logging.getLogger(__name__)

MOST_CHARACTERS = 20_000  # of a pasted text
MOST_COMPARED = 24  # sentences in a matrix
MOST_LISTED = 5_000  # sentences in a list
MOST_BYTES = 2_000_000  # of a file
SHOWN = 8  # neighbours
REPEATS = 5  # of a sentence; its time is their median

EXAMPLE = """The cat sleeps on the warm roof.
Кошка спит на тёплой крыше.
Where can I change money?
Где можно обменять деньги?
The printer is out of paper."""

LISTED = """I would like to book a table for two.
Я хочу заказать столик на двоих.
How do I reset my password?
Как сменить пароль?
The parcel has not arrived yet.
Посылка ещё не пришла.
What will the weather be like tomorrow?
Какая завтра будет погода?
Please call me back after lunch.
Перезвоните мне, пожалуйста, после обеда.
The train to the airport leaves every half hour.
Поезд в аэропорт ходит каждые полчаса.
My card was declined at the shop.
Моя карта не прошла в магазине.
Turn the light off in the kitchen.
Выключи свет на кухне.
The museum is closed on Mondays.
По понедельникам музей закрыт.
Add milk and eggs to the shopping list.
Добавь в список покупок молоко и яйца.
The lecture was long, but very interesting.
Лекция была длинной, но очень интересной.
He plays the guitar in a small band.
Он играет на гитаре в небольшой группе.
The roof leaks when it rains.
Когда идёт дождь, крыша протекает.
We moved to a new flat in spring.
Весной мы переехали в новую квартиру.""".splitlines()


class PageError(Exception):
    """What was pasted or uploaded cannot be used; the message is for the page."""


@dataclass(frozen=True)
class Contender:
    """An encoder on the page."""

    role: str  # teacher or student
    name: str
    encoder: TorchEncoder


@dataclass(frozen=True)
class Listed:
    """The list that neighbours are looked for in, and each contender's unit vectors of it."""

    origin: str
    sentences: tuple[str, ...]
    vectors: tuple[np.ndarray, ...]


def load_contenders(teacher: TeacherSettings, student: str, *, device: str) -> list[Contender]:
    """Load the two encoders. Raises InputError: not a model."""
    settings = {"teacher": teacher, "student": TeacherSettings(model=student)}
    return [
        Contender(role, Path(each.model).name, load_encoder(each, device=device)) for role, each in settings.items()
    ]


def check_address(host: str, port: int) -> None:
    """Raise InputError where a server cannot listen: the port is in use or forbidden, the host is not ours."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except socket.gaierror:
        raise InputError(f"--host {host}: no such address") from None
    except OverflowError:
        raise InputError(f"--port {port}: not a port, which is 1 to 65535") from None
    except OSError as error:
        reasons = {errno.EADDRINUSE: "in use; name another port", errno.EACCES: "not allowed; name one above 1023"}
        reasons[errno.EADDRNOTAVAIL] = "not an address of this machine"
        named = f"--host {host}" if error.errno == errno.EADDRNOTAVAIL else f"--port {port}"
        raise InputError(f"{named}: {reasons.get(error.errno or 0, error.strerror)}") from None


def split_sentences(text: str, *, most: int, what: str) -> list[str]:
    """Return the lines that are not blank. Raises PageError: too much text, or none."""
    if len(text) > MOST_CHARACTERS:
        raise PageError(
            f"That is {len(text):,} characters; this box takes {MOST_CHARACTERS:,} at most. Long lists go into a file."
        )
    flaw = find_strange(text)
    if flaw:
        raise PageError(f"The text {flaw}.")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise PageError(f"Type or paste {what} first.")
    if len(lines) > most:
        raise PageError(f"That is {len(lines):,} sentences; this box takes {most:,} at most, a sentence a line.")
    return lines


def read_list(path: Path) -> list[str]:
    """Return the sentences of a text file. Raises PageError: too large, not UTF-8 text, empty."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise PageError(f"{path.name} has {size:,} bytes; a list may have {MOST_BYTES:,}.")
    try:
        text = decode_text(path.read_bytes(), path.name)
    except InputError as error:
        raise PageError(f"{error}.") from None
    lines = list(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    if not lines:
        raise PageError(f"{path.name} has no sentences in it.")
    if len(lines) > MOST_LISTED:
        raise PageError(f"{path.name} has {len(lines):,} sentences; a list may have {MOST_LISTED:,}.")
    return lines


def list_sentences(contenders: Sequence[Contender], sentences: Sequence[str], origin: str) -> Listed:
    """Return a list with everybody's vectors of it."""
    vectors = tuple(embed(each.encoder, list(sentences)) for each in contenders)
    return Listed(origin, tuple(sentences), vectors)


def embed_timed(encoder: TorchEncoder, sentences: Sequence[str]) -> tuple[np.ndarray, list[float]]:
    """Return the sentences' unit vectors [n, D], and each one's milliseconds on its own, tokenisation included."""
    embed(encoder, list(sentences[:1]))  # the first is slow, whatever it is
    vectors, milliseconds = [], []
    for sentence in sentences:
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            vector = embed(encoder, [sentence])[0]
            times.append(1000 * (time.perf_counter() - started))
        vectors.append(vector)
        milliseconds.append(float(np.median(times)))
    return np.stack(vectors), milliseconds


def compare_sentences(contenders: Sequence[Contender], text: str) -> str:
    """Return the similarity matrices of teacher and student as HTML. Raises PageError."""
    sentences = split_sentences(text, most=MOST_COMPARED, what="a few sentences")
    results: list[dict[str, Any]] = []
    for each in contenders:
        vectors, milliseconds = embed_timed(each.encoder, sentences)
        matrix = np.round(vectors @ vectors.T, 4) + 0.0  # no minus before a zero
        results.append({"of": each, "vectors": vectors, "matrix": matrix, "ms": milliseconds})
    first, second = (result["matrix"] for result in results)
    return render(
        "matrix.html", sentences=sentences, results=results,
        median=[float(np.median(result["ms"])) for result in results],
        gap=np.abs(second - first), own=own_cosines(*(result["vectors"] for result in results)),
    )  # fmt: skip


def own_cosines(one: np.ndarray, other: np.ndarray) -> list[float] | None:
    """Return each sentence's cosine between the two encoders, where their vectors have one length."""
    return (one * other).sum(axis=1).tolist() if one.shape == other.shape else None


def find_neighbours(contenders: Sequence[Contender], listed: Listed, text: str) -> str:
    """Return the sentences of a list that lie nearest to one, by teacher and by student, as HTML. Raises PageError."""
    (query,) = split_sentences(text, most=1, what="a sentence")
    results: list[dict[str, Any]] = []
    for each, vectors in zip(contenders, listed.vectors, strict=True):
        own, milliseconds = embed_timed(each.encoder, [query])
        cosines = vectors @ own[0]
        best = np.argsort(-cosines, kind="stable")[:SHOWN]
        rows = [(listed.sentences[row], float(cosines[row])) for row in best]
        results.append({"of": each, "rows": rows, "ms": milliseconds[0]})
    one, other = ({text for text, _ in result["rows"]} for result in results)
    return render("neighbours.html", query=query, listed=listed, results=results, common=one & other)


def say_list(listed: Listed) -> str:
    return f"Searching {len(listed.sentences):,} sentences: {listed.origin}."


def serve(contenders: Sequence[Contender], sentences: Path | None, *, host: str, port: int) -> None:
    """Serve the page until Ctrl-C. Raises InputError: Gradio is missing, the address or the list is of no use."""
    page = open_page(contenders, open_list(contenders, sentences), host=host, port=port)
    log.info("the page is http://%s:%d/; Ctrl-C ends it", f"[{host}]" if ":" in host else host, port)
    page.block_thread()


def open_page(contenders: Sequence[Contender], listed: Listed, *, host: str, port: int) -> "Blocks":
    """Serve the page from a thread; its `close` ends that. Raises InputError: Gradio is missing, a port is in use."""
    prepare_gradio()
    check_address(host, port)
    page = build_page(contenders, listed)
    page.queue(default_concurrency_limit=1)
    guard: dict[str, Any] = (
        {"middleware": [(LocalRequests, (), {})]} if is_loopback(host) else {}
    )  # elsewhere: on purpose
    page.launch(
        app_kwargs=guard, server_name=host, server_port=port, share=False, quiet=True, ssr_mode=False, footer_links=[],
        run_history=False, show_error=True, prevent_thread_lock=True, max_file_size=2 * MOST_BYTES,
        css=(files("secateur.reports") / "templates" / "demo.css").read_text(encoding="utf-8"), theme=make_theme(),
    )  # fmt: skip
    return page


def prepare_gradio() -> None:
    """Switch off everything in Gradio that calls home, before it is imported. Raises InputError: not installed."""
    require("gradio", extra="demo", by="demo")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_RUN_HISTORY": "False"}


def open_list(contenders: Sequence[Contender], path: Path | None) -> Listed:
    if path is None:
        return list_sentences(contenders, LISTED, "the list that comes with the page")
    if not path.is_file():
        raise InputError(f"--sentences: {path}: no such file")
    try:
        return list_sentences(contenders, read_list(path), path.name)
    except PageError as error:
        raise InputError(f"--sentences: {error}") from None


def make_theme() -> Any:
    """Return Gradio's plain theme in this machine's own fonts and the report's green."""
    import gradio

    return gradio.themes.Default(
        primary_hue="green", neutral_hue="slate", font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )  # fmt: skip


def build_page(contenders: Sequence[Contender], listed: Listed) -> "Blocks":
    """Return the page: two tabs, and a word on the page for whatever cannot be used."""
    import gradio

    def say(error: PageError) -> str:
        return render("message.html", text=str(error))

    def compare(text: str | None) -> str:
        try:
            return compare_sentences(contenders, text or "")
        except PageError as error:
            return say(error)

    def find(text: str | None, own: Listed | None) -> str:
        try:
            return find_neighbours(contenders, own or listed, text or "")
        except PageError as error:
            return say(error)

    def replace_list(path: str | None, own: Listed | None) -> tuple[Listed | None, str]:
        if path is None:
            return None, render("list.html", text=say_list(listed))
        try:
            found = list_sentences(contenders, read_list(Path(path)), Path(path).name)
        except PageError as error:
            return own, render("message.html", text=f"{error} {say_list(own or listed)}")
        return found, render("list.html", text=say_list(found))

    teacher, student = contenders
    page: Blocks = gradio.Blocks(
        title="secateur: teacher and student", analytics_enabled=False, delete_cache=(600, 600)
    )
    with page:
        gradio.Markdown(f"# Teacher and student\nteacher **{teacher.name}**, student **{student.name}**")
        with gradio.Tab("Similarity"):
            typed = gradio.Textbox(EXAMPLE, label="Sentences, one a line, Russian and English", lines=6, max_lines=14)
            button = gradio.Button("Compare", variant="primary")
            shown = gradio.HTML(label="Similarity", elem_id="similarity", apply_default_css=False)
            button.click(compare, typed, shown, api_visibility="private")
        with gradio.Tab("Nearest neighbours"):
            query = gradio.Textbox("Закажи стол на двоих", label="A sentence, Russian or English", lines=1)
            find_button = gradio.Button("Find its neighbours", variant="primary")
            found = gradio.HTML(label="Neighbours", elem_id="neighbours", apply_default_css=False)
            own = gradio.State(None)
            about = gradio.HTML(render("list.html", text=say_list(listed)), elem_id="list", apply_default_css=False)
            upload = gradio.File(
                label="Another list: a UTF-8 text file, a sentence a line", type="filepath", height=170
            )
            upload.change(replace_list, [upload, own], [own, about], api_visibility="private")
            gradio.on([find_button.click, query.submit], find, [query, own], found, api_visibility="private")
    return page
