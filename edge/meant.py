"""Which models are meant for an operation; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from broker import operations
from broker.errors import InferenceError


class Meant(Protocol):
    """A model that says what it is for."""

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of operations; () = not known."""
        ...


_MOST = (operations.GENERATE,)
# What is made of something else where a model does not have it.
_SERVED_BY = {operations.COUNT_TOKENS: _MOST, operations.COMPLETE: _MOST}
_Model = TypeVar("_Model", bound=Meant)


def meant_for(models: Iterable[_Model], operation: str | None) -> list[_Model]:
    """The models that are for an operation, all where none is named.

    One of which it is not known counts as one that generates, which most do. Raises
    `InferenceError` for a word that is no operation.
    """
    if not operation:
        return list(models)
    if operation not in operations.ALL:
        known = ", ".join(f"'{name}'" for name in operations.ALL)
        raise InferenceError(
            "invalid_request",
            f"Invalid value: {operation!r:.60}. Supported values are: {known}.",
            param="operation",
            code="invalid_value",
        )
    serving = {operation, *_SERVED_BY.get(operation, ())}
    return [model for model in models if not serving.isdisjoint(model.operations or _MOST)]
