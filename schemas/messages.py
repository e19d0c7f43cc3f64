"""A request or an answer as handlers see it: properties and named contents, DJL's `Input` and `Output` (DJL §2.2, §2.7)."""

from __future__ import annotations

from typing import Literal, TypeAlias

Pairs: TypeAlias = tuple[tuple[str, str], ...]
Contents: TypeAlias = tuple[tuple[str | None, bytes], ...]
#: Whose handlers a model's are, and so what they take and give; empty for a model that takes and gives values.
Handlers: TypeAlias = Literal["", "djl", "torchserve", "mms"]

#: The content that is meant where nobody says which.
DATA = "data"
#: What TorchServe and MMS call the body of a request that is no form.
BODY = "body"
#: The property that tells the id of a request.
REQUEST_ID = "requestId"


class Message:
    """Properties and contents; for an answer, a status too.

    Attributes:
        code: HTTP status of an answer.
        reason: What the handler says about the status.
        properties: Names as written, and values; an answer's become response headers.
        contents: Named bytes in order; a name may come more than once, and an answer's may be absent.
        types: Content types of the contents, in order, each empty where it is not known; empty as a whole where nobody asks.
    """

    # A plain class: msgspec would write a Struct or a dataclass that is nested in a value as if it were a list or a mapping.
    __slots__ = ("code", "contents", "properties", "reason", "types")

    def __init__(
        self, code: int = 200, reason: str = "OK", properties: Pairs = (), contents: Contents = (), types: tuple[str, ...] = ()
    ) -> None:
        self.code = code
        self.reason = reason
        self.properties = properties
        self.contents = contents
        self.types = types

    @property
    def data(self) -> bytes:
        """The content called `data`, else the first one, else nothing (DJL §2.2)."""
        for name, content in self.contents:
            if name == DATA:
                return content
        return self.contents[0][1] if self.contents else b""

    @property
    def content_type(self) -> str:
        """What the message says of its body; else what is known of its first content."""
        return self.get("content-type") or (self.types[0] if self.types else "")

    @property
    def is_failure(self) -> bool:
        """Whether it says that something went wrong."""
        return self.code >= 400

    def get(self, name: str, default: str = "") -> str:
        """The property of a name in any case; of several the last, as DJL's map has it."""
        wanted = name.lower()
        found = [value for key, value in self.properties if key.lower() == wanted]
        return found[-1] if found else default

    def content(self, name: str) -> bytes | None:
        """The first content of a name."""
        return next((content for key, content in self.contents if key == name), None)

    def __eq__(self, other: object) -> bool:
        """Whether all parts are equal."""
        if not isinstance(other, Message):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        """Of all parts."""
        return hash(self._parts())

    def __repr__(self) -> str:
        """Shows the parts."""
        types = f", {self.types!r}" if self.types else ""
        return f"Message({self.code}, {self.reason!r}, {self.properties!r}, {self.contents!r}{types})"

    def _parts(self) -> tuple[int, str, Pairs, Contents, tuple[str, ...]]:
        return self.code, self.reason, self.properties, self.contents, self.types
