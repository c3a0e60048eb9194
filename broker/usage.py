"""Sums what several calls used, where one answer is made of them; pure."""

from __future__ import annotations

from collections.abc import Iterable

from broker.v1 import event_pb2


def total(usages: Iterable[event_pb2.Usage]) -> event_pb2.Usage:
    """The sum of what several calls used: the provider bills the prompt of each."""
    summed = event_pb2.Usage()
    for usage in usages:
        for field, value in usage.ListFields():
            if field.name == "estimated":
                summed.estimated = True
            elif field.name == "tool_calls":
                for tool, count in value.items():
                    summed.tool_calls[tool] += count
            else:
                setattr(summed, field.name, getattr(summed, field.name) + value)
    return summed
