"""Bytes that should be UTF-8 text: what is another encoding, or no text at all, is said by its line."""

import re

from secateur.config.errors import InputError

CONTROL = re.compile("[\x00-\x08\x0e-\x1f]")  # characters that no sentence has; UTF-16 read as UTF-8 is full of them
CONTROL_BYTES = bytes(range(9)) + bytes(range(14, 32))
MOST_CONTROL = 0.3  # of a text's characters; in UTF-16 half of the bytes are such
SURROGATE = re.compile("[\ud800-\udfff]")


def decode_text(content: bytes, origin: str) -> str:
    """Return a UTF-8 text without its byte order mark.

    Raises InputError, by the line: it is not UTF-8; or it is, but looks like UTF-16 or no text (see `find_strange`).
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{origin}: is UTF-16, not UTF-8; save it as UTF-8") from None
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{origin}: line {line} is not UTF-8 (byte {content[error.start]:#04x})") from None
    # of bytes, counting is quick; a whole corpus is searched only where there is something to find
    flaw = find_strange(text) if len(content.translate(None, CONTROL_BYTES)) < len(content) else ""
    if flaw:
        line = text.count("\n", 0, max(text.find("\0"), 0)) + 1
        raise InputError(f"{origin}: line {line} {flaw}")
    return text


def find_strange(text: str) -> str:
    """Return why what was read as UTF-8 cannot be text, or nothing.

    UTF-16 without a mark is valid UTF-8 where its letters are English or Russian: every other byte is 0 or 4.
    """
    if "\0" in text or len(CONTROL.findall(text)) > MOST_CONTROL * len(text):
        return "has zero bytes or control characters: it looks like UTF-16 or no text; save it as UTF-8"
    return "has half of a surrogate pair, which is no character" if SURROGATE.search(text) else ""
