"""Methods that both clients have, written once: what they send is a value, and each client carries it out in its own way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

import msgspec

from flowyard.platform.client.calls import Call

if TYPE_CHECKING:
    from flowyard.platform.client.asynchronous import AsyncClient
    from flowyard.platform.client.blocking import Client

P = ParamSpec("P")
T = TypeVar("T")


class Pause(msgspec.Struct, frozen=True):
    """Waits for so long."""

    seconds: float


class Item(msgspec.Struct, Generic[T], frozen=True):
    """Gives something to whoever iterates."""

    value: T


#: What several calls do: it is sent the answer of each call that it yields, as the call reads it.
Steps: TypeAlias = Generator[Call[Any] | Pause, Any, T]
#: The same where it gives one thing after the other.
Items: TypeAlias = Generator[Call[Any] | Pause | Item[T], Any, None]


class Method(Generic[P, T]):
    """A method that sends one call and returns what the call reads out of its answer.

    Args:
        make: Makes the call of the method's arguments; its text is the method's.
    """

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make

    @overload
    def __get__(self, client: None, owner: object) -> Callable[P, Call[T]]: ...

    @overload
    def __get__(self, client: Client, owner: object) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: AsyncClient, owner: object) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, client: Any, owner: object) -> Any:
        """The method of a client, or what makes its call."""
        return self._make if client is None else client.sending(self._make)


class Procedure(Generic[P, T]):
    """A method that makes several calls; `make` as in `Method`."""

    def __init__(self, make: Callable[P, Steps[T]]) -> None:
        self._make = make

    @overload
    def __get__(self, client: None, owner: object) -> Callable[P, Steps[T]]: ...

    @overload
    def __get__(self, client: Client, owner: object) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: AsyncClient, owner: object) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, client: Any, owner: object) -> Any:
        """The method of a client, or what makes its steps."""
        return self._make if client is None else client.following(self._make)


class Iteration(Generic[P, T]):
    """A method that gives one thing after the other; `make` as in `Method`."""

    def __init__(self, make: Callable[P, Items[T]]) -> None:
        self._make = make

    @overload
    def __get__(self, client: None, owner: object) -> Callable[P, Items[T]]: ...

    @overload
    def __get__(self, client: Client, owner: object) -> Callable[P, Iterator[T]]: ...

    @overload
    def __get__(self, client: AsyncClient, owner: object) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, client: Any, owner: object) -> Any:
        """The method of a client, or what makes its steps."""
        return self._make if client is None else client.iterating(self._make)
