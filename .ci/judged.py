"""What .ci/replay asks about recorded traffic: how to reach the providers, and what was right.

judged.py settings URL RECORDED...      a line NAME=VALUE for each variable that `millrace up` needs
judged.py aliases                       the judge's --alias
judged.py verdict NAME FILE MINIMUM     figures by provider; exits 1 below MINIMUM percent
"""

# ruff: noqa: INP001, T201  # a script

from __future__ import annotations

import collections
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from broker.providers import canonical
from workers import registry

KNOWN = Path(__file__).parent.parent / "docs" / "replay.md"
# Recorded at servers that are no provider of ours: any OpenAI-compatible one.
COMPATIBLE = "openai_compatible"
OTHERS = ("crusoe", "heroku", "snowflake", "zai")
# What a provider needs besides a key and an address.
MORE = {"vertex_ai": {"VERTEX_AI_PROJECT": "judged"}}
KEYS = {"vertex_ai": "ya29.judged"}
# No answer is compared with what the provider reasoned; it is only told.
INFORMATION = "reasoning"


def name_of(recorded: str) -> str:
    """The provider that speaks to what these recordings come from."""
    return canonical(recorded) or COMPATIBLE


def settings(url: str, *recorded: str) -> None:
    """Each provider at its own path, as on its real host."""
    for name in sorted(set(map(name_of, recorded))):
        path = urlsplit(registry.provider(name).base_url).path
        print(f"{name.upper()}_BASE_URL={url}{path}")
        print(f"{name.upper()}_API_KEY={KEYS.get(name, 'dummy-key')}")
        for variable, value in MORE.get(name, {}).items():
            print(f"{variable}={value}")


def aliases() -> None:
    """Names of recordings that are no spelling of a provider's."""
    print(",".join(f"{recorded}={COMPATIBLE}" for recorded in OTHERS))


def verdict(name: str, path: str, minimum: str) -> None:
    """Compares what was judged with the cases that are known not to be right."""
    cases = json.loads(Path(path).read_text("utf-8"))
    known = set(re.findall(r"\b[0-9a-f]{12}\b", KNOWN.read_text("utf-8")))
    judged: collections.Counter[str] = collections.Counter()
    right: collections.Counter[str] = collections.Counter()
    reasoned: collections.Counter[bool] = collections.Counter()
    surprises = []
    for case in cases:
        if not case["res"]:
            surprises.append((case, str(case["notes"].get("na"))))
            continue
        judged[case["provider"]] += 1
        reasoned[case["res"].get(INFORMATION, True)] += 1
        wrong = list(_wrong(case))
        right[case["provider"]] += not wrong
        if wrong:
            surprises.append((case, "; ".join(wrong)))
    for provider in sorted(judged):
        print(f"replay ({name}): {provider:12} {right[provider]:4} of {judged[provider]:4} right")
    for case, why in surprises:
        if case["id"] not in known:
            print(f"!!! NOT RIGHT AND NOT LISTED: {case['provider']} {case['id']}: {why}")
    mended = known & {case["id"] for case in cases} - {case["id"] for case, _ in surprises}
    if mended:
        print(f"listed in {KNOWN.name} and right now: {' '.join(sorted(mended))}")
    total, good = judged.total(), right.total()
    print(
        f"replay ({name}): {good} of {total} cases right in every dimension, "
        f"{100 * good / max(1, total):.2f} % where {minimum} % are wanted; "
        f"{len(cases) - total} not judged, reasoning differs in {reasoned[False]}"
    )
    if total < 0.98 * len(cases) or 100 * good < float(minimum) * total:
        sys.exit(1)


def _wrong(case: dict[str, Any]) -> Iterator[str]:
    for dimension, right in case["res"].items():
        if not right and dimension != INFORMATION:
            yield f"{dimension}: {case['notes'].get(dimension)}"


if __name__ == "__main__":
    {"settings": settings, "aliases": aliases, "verdict": verdict}[sys.argv[1]](*sys.argv[2:])
