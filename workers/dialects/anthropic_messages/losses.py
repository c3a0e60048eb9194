"""Keeps the list of parameters that a request had to do without, by their OpenAI names."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.errors import InferenceError


@dataclass(slots=True)
class Losses:
    """What was left out because Claude cannot take it."""

    names: dict[str, None] = field(default_factory=dict)  # a set that keeps its order

    def drop(self, name: str) -> None:
        """Notes that a parameter is left out."""
        self.names[name] = None

    def refuse(self) -> None:
        """Raises `InferenceError` unsupported_parameter if anything was left out."""
        if self.names:
            names = ", ".join(self.names)
            raise InferenceError(
                "unsupported_parameter",
                f"This model does not take: {names}. Leave it out, or set drop_params to true.",
                param=next(iter(self.names)),
            )
