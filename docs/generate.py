"""Writes docs/providers.md from the registry and the parameter tables; --check only compares.

python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from broker import operations
from broker.providers import REGISTRY, Entry
from workers import registry
from workers.parameters import COLUMNS, Action, At, Reasoning, Row, base_name
from workers.parameters.asked import SEED_COLUMNS
from workers.parameters.table import Sheet
from workers.provider import Provider

PAGE = Path(__file__).parent / "providers.md"
# How many of its columns the public parameter table ticks, by provider.
SEED_TICKS = {
    "anthropic": 12,
    "openai": 21,
    "azure": 21,
    "xai": 17,
    "cohere": 8,
    "vertex_ai": 7,
    "bedrock": 7,
    "together_ai": 10,
    "groq": 14,
    "mistral": 11,
}
_NEVER = Reasoning.NEVER
# Whether these reason is not up to the caller.
_SETTLED = (Reasoning.NEVER, Reasoning.ALWAYS)
_HEAD = """\
# Providers

Written by `python docs/generate.py` from the tables that translate requests; do not edit it.

A provider is on when its key is set: `GROQ_API_KEY` for `groq`. `GROQ_BASE_URL` replaces its
address, and `GROQ_MODELS`, `GROQ_SLOTS` and `GROQ_POOL` its other settings; examples/millrace.yaml
shows them all. Names of models start with the name of the provider, or any other spelling of it:
`groq/llama-3.3-70b-versatile`. A model that is not listed is passed on as it is named.
"""
# Where a provider has no such call, something else stands in.
_EVERYWHERE = frozenset({operations.GENERATE, operations.COUNT_TOKENS, operations.COMPLETE})
_BESIDE_CHAT = """\
## Beside chat

Anything else is refused with `unsupported_operation`. Which models can do it is for the provider
to say.
"""
_LEGEND = """\
## What becomes of a parameter

| Word | Meaning |
|---|---|
| pass | goes out under its own name |
| → `path` | goes out at this place of the provider's body |
| *a* to *b* | a value outside goes out as the nearest bound, of a list the first items |
| `x` as `y` | goes out as the provider's word for it; a value without a word is dropped |
| emulated | the provider has no such thing, and it is done in another way |
| dropped | left out, and named in the answer's `x-dropped-params` header; with \
`drop_params: false` the request is refused with `unsupported_parameter` |
| refused | 400 `unsupported_parameter`: without it the answer would be another one than asked for |

A value that asks for what happens anyway (`presence_penalty` 0, `n` 1, `store` false) is never
reported. Fields that OpenAI's API does not have (`top_k`, `thinking`, `safety_settings`,
`cache_control`) go on to providers that have them.
"""

# When a second format is used.
_SECOND = {
    "Responses": "For requests that chat cannot carry, such as those with encrypted reasoning or "
    "for models that speak nothing else; and, unless it says otherwise above, for those that came "
    "in this format.",
    "Messages": "For Claude, asked in its own format: on Vertex AI always, on Bedrock by "
    "InvokeModel when the request came in this format.",
}


def page() -> str:
    """The whole page."""
    providers = {name: registry.provider(name) for name in REGISTRY}
    parts = [_HEAD, _overview(providers), _offers(providers), _LEGEND, _support(providers)]
    parts += [_provider(name, provider) for name, provider in providers.items()]
    return "\n".join(parts)


def supported(provider: Provider) -> int:
    """How many columns of the public table some model of the provider supports."""
    return sum(
        any(
            _is_supported(sheet.rows[column])
            for sheet in provider.parameters.sheets
            for column in COLUMNS
            if base_name(column) == name
        )
        for name in SEED_COLUMNS
    )


def cells(provider: Provider) -> int:
    """How many cells its table has; two where a model that may reason is different when it does."""
    return sum(
        1 + (sheet.reasoning not in _SETTLED and _differs(sheet, column))
        for form in provider.formats
        for sheet in form.parameters.sheets
        for column in COLUMNS
    )


def _is_supported(row: Row) -> bool:
    # What the caller's stream looks like is arranged by the edge; usage always comes.
    return row.parameter == "stream_options" or (row.action not in (Action.DROP, Action.REJECT))


def _overview(providers: Mapping[str, Provider]) -> str:
    lines = [
        "| Name | Other spellings | Address | Switched on by |",
        "|---|---|---|---|",
    ]
    for name, provider in providers.items():
        entry = REGISTRY[name]
        spellings = ", ".join(f"`{alias}`" for alias in entry.aliases)
        address = f"`{provider.base_url}`" if provider.base_url else "the operator's"
        lines.append(f"| `{name}` | {spellings} | {address} | {_variables(name, entry)} |")
    return "\n".join(lines) + "\n"


def _variables(name: str, entry: Entry) -> str:
    prefix = name.upper()
    if entry.keyless:
        return f"`{prefix}_BASE_URL`; a key is not needed"
    needed = f"`{prefix}_API_KEY`"
    if not entry.addressed:
        needed += f" and `{prefix}_BASE_URL`"
    if entry.ambient:
        needed += f", or `{prefix}_{entry.ambient.upper()}` with the machine's credentials"
    options = [f"`{prefix}_{option.upper()}`" for option in entry.options]
    return needed + (f"; options {', '.join(options)}" if options else "")


def _offers(providers: Mapping[str, Provider]) -> str:
    names = [name for name in operations.WORDS if name not in _EVERYWHERE]
    heads = [operations.WORDS[name] for name in names]
    lines = [_BESIDE_CHAT, f"| Provider | {' | '.join(heads)} |", "|---" * (len(names) + 1) + "|"]
    for provider, declared in providers.items():
        marks = ["✓" if name in declared.operations else "" for name in names]
        if any(marks):
            lines.append(f"| `{provider}` | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def _support(providers: Mapping[str, Provider]) -> str:
    lines = [
        "## How much is supported",
        "",
        f"Of the {len(SEED_COLUMNS)} parameters of the public table, by some model at least.",
        "A cell is a parameter for a family of models, while it reasons or not; each has a test.",
        "",
        "| Provider | Public table | Supported here | Families | Cells |",
        "|---|---|---|---|---|",
    ]
    for name, provider in providers.items():
        ticks = SEED_TICKS.get(name, "-")
        families = sum(len(form.parameters.sheets) for form in provider.formats)
        row = (f"`{name}`", ticks, supported(provider), families, cells(provider))
        lines.append("| " + " | ".join(map(str, row)) + " |")
    total = sum(map(cells, providers.values()))
    lines.append(f"| all | | | | {total} |")
    return "\n".join(lines) + "\n"


def _provider(name: str, provider: Provider) -> str:
    summary = (provider_doc(name) or "").strip()
    lines = [f"## {name}", "", summary, "", *_table(provider)]
    for second in provider.formats[1:]:
        api = provider.second_api
        lines += ["", f"### {name}, by the {api} API", "", _SECOND[api], "", *_table(second)]
    return "\n".join(lines) + "\n"


def _table(provider: Provider) -> list[str]:
    *families, others = provider.parameters.sheets
    lines = []
    passed = [column for column in COLUMNS if _is_plain(others.rows[column])]
    if passed:
        lines += ["Pass: " + ", ".join(f"`{column}`" for column in passed) + ".", ""]
    lines += ["| Parameter | What becomes of it |", "|---|---|"]
    lines += [
        f"| `{column}` | {_cell(others, column)} |"
        for column in COLUMNS
        if column not in passed or _differs(others, column)
    ]
    for sheet in families:
        rows = [column for column in COLUMNS if _cell(sheet, column) != _cell(others, column)]
        reasoning = f" (reasons {sheet.reasoning.value})" if sheet.reasoning is not _NEVER else ""
        lines += ["", f"**{sheet.name}**{reasoning}, names with `{sheet.models}`:", ""]
        if not rows:
            lines.append("No difference.")
            continue
        lines += ["| Parameter | What becomes of it |", "|---|---|"]
        lines += [f"| `{column}` | {_cell(sheet, column)} |" for column in rows]
    return lines + _defaults(provider.parameters.sheets)


def provider_doc(name: str) -> str | None:
    """The first paragraph of the provider's own file."""
    doc = sys.modules[f"workers.providers.{name}"].__doc__
    return doc.partition("\n\n")[0].replace("\n", " ") if doc else None


_NUMBERS = ("temperature", "top_p")


def _is_plain(row: Row) -> bool:
    return row.action is Action.KEEP and not row.note and not row.unless_moot


def _differs(sheet: Sheet, column: str) -> bool:
    return sheet.rows[column] != sheet.rows_while_reasoning[column]


def _cell(sheet: Sheet, column: str) -> str:
    row, reasoning = sheet.rows[column], sheet.rows_while_reasoning[column]
    if row == reasoning:
        return _row(row)
    if sheet.reasoning is Reasoning.ALWAYS:
        return _row(reasoning)
    return f"{_row(row)}; while the model reasons: {_row(reasoning)}"


def _row(row: Row) -> str:
    text = _done(row)
    note = row.note
    return _escaped(f"{text} ({note})" if note else text)


def _done(row: Row) -> str:
    where = "" if row.path == row.parameter else _where(row.path)
    if row.action is Action.KEEP:
        return "pass, unless it changes nothing" if row.unless_moot else "pass"
    if row.action is Action.RENAME:
        return where
    if row.action is Action.CLAMP:
        low = "" if row.low is None else f"{row.low:g} "
        return f"{low}to {row.high:.10g} {where}".strip()
    if row.words is not None:
        only = "only " if len(row.words) == 1 and row.parameter in _NUMBERS else ""
        return f"{only}{', '.join(_words(row))} {where}".strip()
    if row.action is Action.MAP:
        return f"in another form {_where(row.path)}"
    if row.action is Action.EMULATE:
        return f"emulated {_where(row.path)}".strip()
    return {Action.DROP: "dropped", Action.REJECT: "refused"}[row.action]


def _words(row: Row) -> Iterator[str]:
    for word, sent in (row.words or {}).items():
        if isinstance(sent, At):
            yield f"`{word}` as `{sent.path}` = `{orjson.dumps(sent.value).decode()}`"
        else:
            yield f"`{word}`" if sent == word else f"`{word}` as {_sent(sent)}"


def _sent(sent: Any) -> str:
    return "nothing" if sent is None else f"`{sent}`"


def _where(path: str) -> str:
    if not path:
        return ""
    return f"→ {path[1:-1]}" if path.startswith("(") else f"→ `{path}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _defaults(sheets: Iterable[Sheet]) -> list[str]:
    lines = []
    for sheet in sheets:
        if sheet.defaults:
            fields = ", ".join(
                f"`{name}` = `{orjson.dumps(value).decode()}`"
                for name, value in sheet.defaults.items()
            )
            lines.append(f"- {sheet.name or 'models that no family names'}: {fields}")
    return ["", "Sent unless the caller says otherwise:", "", *lines] if lines else []


def main() -> int:
    """Write the page, or say that it is out of date."""
    wanted = page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.is_file() and PAGE.read_text("utf-8") == wanted:
            return 0
        print(f"{PAGE} is out of date: run python docs/generate.py")
        return 1
    PAGE.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
