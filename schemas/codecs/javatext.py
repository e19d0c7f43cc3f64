"""Java's modified UTF-8: NUL takes two bytes, and a character beyond the basic plane is a pair of surrogates."""

from __future__ import annotations

_NUL = b"\xc0\x80"


def from_java(raw: bytes) -> str:
    """Reads modified UTF-8, and plain UTF-8 too: DJL's Python client writes that.

    Args:
        raw: The text.

    Returns:
        The text.

    Raises:
        UnicodeDecodeError: It is neither.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        units = raw.replace(_NUL, b"\x00").decode("utf-8", "surrogatepass")
        return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def to_java(text: str) -> bytes:
    """Writes modified UTF-8.

    Args:
        text: Any text.

    Returns:
        The text as Java reads it.
    """
    if text.isascii() and "\0" not in text:
        return text.encode()
    paired = "".join(char if char <= "\uffff" else _pair(ord(char) - 0x10000) for char in text)
    return paired.encode("utf-8", "surrogatepass").replace(b"\x00", _NUL)


def _pair(code: int) -> str:
    return chr(0xD800 + (code >> 10)) + chr(0xDC00 + (code & 0x3FF))
