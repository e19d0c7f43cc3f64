"""What goes into a model and what comes out: names, dtypes and shapes."""

from __future__ import annotations

import msgspec

#: The dtypes a tensor may have, as numpy spells them, and `string`.
DTYPES = frozenset(
    {
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
        "string",
    }
)


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input or output tensor of a model.

    Attributes:
        name: The name the model gives it.
        dtype: numpy's name (`float32`), `string`, or empty when unknown.
        shape: Size per axis; -1 for one that varies. `None` when not even the number of axes is known.
    """

    name: str
    dtype: str = ""
    shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """Renders as `name: float32[?, 3, 224, 224]`."""
        axes = "?" if self.shape is None else ", ".join("?" if size < 0 else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype or 'any'}[{axes}]"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs and outputs of a model, in the model's own order."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
