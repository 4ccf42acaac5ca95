"""The page to try a student on: what it computes, what it refuses, and all of it in a real browser."""

import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import PHONE, open_page
from conftest import MakeEncoder

from secateur import cli
from secateur.config.errors import InputError
from secateur.encoders.encoder import embed
from secateur.reports import demo
from secateur.reports.demo import Contender, PageError, compare_sentences, find_neighbours, list_sentences, read_list

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="Gradio is not installed: secateur[demo]")
TEXT = "The cat sleeps.\n\nКошка спит.\n <b>bold</b>\n"
LIST = ["Bread and milk are on the table.", "Хлеб и молоко на столе.", "He forgot the key."]


@pytest.fixture(scope="module")
def contenders(make_encoder: MakeEncoder) -> list[Contender]:
    return [Contender("teacher", "large", make_encoder(seed=0)), Contender("student", "small", make_encoder(seed=1))]


def test_the_matrix_holds_the_cosines_of_both(contenders: list[Contender]) -> None:
    shown = compare_sentences(contenders, TEXT)
    assert shown.count("<tr>") == 2 * 4
    for each in contenders:
        one, other = embed(each.encoder, ["The cat sleeps.", "Кошка спит."])
        assert f"{one @ other:.2f}" in shown
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown


def test_the_nearest_stands_first(contenders: list[Contender]) -> None:
    listed = list_sentences(contenders, LIST, "three")
    shown = find_neighbours(contenders, listed, LIST[1])
    assert shown.count("1.000") == 2  # a sentence is its own nearest neighbour
    for side in shown.split('class="card"')[1:]:
        places = [side.index(sentence) for sentence in LIST]
        assert places[1] == min(places)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Type or paste a few sentences first."),
        (" \n\n", "Type or paste a few sentences first."),
        ("x" * 1_048_576, "That is 1,048,576 characters; this box takes 20,000 at most."),
        ("a\n" * 25, "That is 25 sentences; this box takes 24 at most"),
        ("a \ud800", "The text has half of a surrogate pair, which is no character."),
        ("a\0", "The text has zero bytes"),
    ],
)
def test_a_text_of_no_use_is_said(contenders: list[Contender], text: str, words: str) -> None:
    with pytest.raises(PageError, match=words):
        compare_sentences(contenders, text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "list.txt: is UTF-16, not UTF-8"),
        (b"\xe4", "list.txt: line 1 is not UTF-8"),
        ("кот".encode("utf-16-le"), "line 1 has zero bytes or control characters: it looks like UTF-16"),
        (b"a\0b", "it looks like UTF-16 or no text"),
        (b" \n", "no sentences"),
        (b"a" * 2_000_001, "2,000,001 bytes"),
        ("\n".join(map(str, range(5_001))).encode(), "5,001 sentences"),
    ],
)
def test_a_file_of_no_use_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(PageError, match=words):
        read_list(tmp_path / "list.txt")


def test_a_list_is_read_without_blanks_and_repeats(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("\ufeffодин\r\n\r\n два  три \nодин\n".encode())
    assert read_list(tmp_path / "list.txt") == ["один", "два три"]


def test_encoders_of_different_lengths_have_no_cosine_between_them() -> None:
    assert demo.own_cosines(np.eye(2), np.eye(3)) is None
    assert demo.own_cosines(np.eye(2), np.eye(2)) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("127.0.0.1", 70_000, "--port 70000: not a port"), ("no.such.host.invalid", 80, "--host no.such.host.invalid")],
)
def test_an_address_of_no_use_is_said(host: str, port: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        demo.check_address(host, port)


@needs_gradio
def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert cli.main(["demo", "--teacher", "t", "--student", "s", "--port", str(port)]) == 2
    assert capsys.readouterr().err == f"secateur: --port {port}: in use; name another port\n"


@needs_gradio
def test_no_run_and_no_teacher_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs", str(tmp_path), "--models", str(tmp_path), "--port", "0"]
    assert cli.main(["demo", *where]) == 2
    assert "no run has ended yet" in capsys.readouterr().err
    assert cli.main(["demo", "--student", "s", *where]) == 2
    assert "--teacher: no run in" in capsys.readouterr().err


def test_without_gradio_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    assert "pip install 'secateur[demo]'" in capsys.readouterr().err


@pytest.fixture
def address(contenders: list[Contender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page, served."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = demo.open_page(contenders, list_sentences(contenders, LIST, "three"), host="127.0.0.1", port=port)
    yield f"http://127.0.0.1:{port}/"
    page.close()


@needs_gradio
def test_in_a_browser_sentences_are_compared_and_neighbours_found(address: str, tmp_path: Path) -> None:
    with open_page(address) as watched:
        page = watched.page
        box = page.get_by_label("Sentences, one a line")
        box.fill(TEXT)
        page.get_by_role("button", name="Compare").click()
        page.locator("table.matrix[data-role=student]").wait_for()
        assert page.locator("table.matrix[data-role=teacher] tbody tr").count() == 3
        diagonal = page.locator("table.matrix[data-role=student] tbody tr").nth(1).locator("td").nth(1)
        assert diagonal.inner_text() == "1.00"
        watched.keep_screenshot("demo-similarity")
        box.fill("x" * 1_048_576)
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("That is 1,048,576 characters").wait_for()
        box.fill("Снова.")
        page.get_by_role("button", name="Compare").click()  # the server is still there
        page.locator("table.matrix").first.wait_for()
        page.get_by_role("tab", name="Nearest neighbours").click()
        (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfd")
        page.locator("input[type=file]").set_input_files(tmp_path / "bad.txt")
        page.get_by_text("bad.txt is not a UTF-8 text file.").wait_for()
        page.get_by_role("button", name="Find its neighbours").click()
        page.get_by_text("in 3 sentences (three)").wait_for()
        page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
        (tmp_path / "good.txt").write_text("Раз.\nДва.\n", encoding="utf-8")
        page.locator("input[type=file]").set_input_files(tmp_path / "good.txt")
        page.get_by_text("Searching 2 sentences: good.txt.").wait_for()
        page.get_by_role("button", name="Find its neighbours").click()
        page.get_by_text("in 2 sentences (good.txt)").wait_for()
        assert page.locator("table.neighbours[data-role=teacher] tbody tr").count() == 2
        watched.keep_screenshot("demo-neighbours")
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        watched.keep_screenshot("demo-phone")
        elsewhere = [url for url in watched.requests if not url.startswith((address, "data:", "blob:"))]
        assert elsewhere == []
        assert watched.errors == []
