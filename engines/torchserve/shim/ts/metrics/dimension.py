"""Dimensions of metrics."""


class Dimension:
    """A name and a value."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {"Name": self.name, "Value": self.value}
