"""What becomes of each OpenAI parameter at each provider: one table, and how it is applied; pure.

A row says what one parameter becomes at one provider for one family of models. A dialect keeps a
`Table`, its provider names it (`Provider.parameters`), docs/providers.md is generated from it, and
tests/workers/parameters asserts every cell of it on the wire. To use it:

1. Write the table. Every name in `COLUMNS` needs a row; families say what differs for them:

    TABLE = Table(
        keep("seed", "stream"),                                  # same name, same value
        rename("top_p", "topP"),                                 # same value under another path
        clamp("temperature", 0, 1, "inferenceConfig.temperature"),   # outside: the nearest bound
        clamp("stop", None, 4, "inferenceConfig.stopSequences"),     # a list: its first 4 items
        words("service_tier", {"default": "standard"}, "tier"),  # value for value, others dropped
        words("reasoning_effort", {"none": At("think", False)}), # a word with a path of its own
        mapped("tools", "toolConfig.tools", note="as toolSpec"), # the dialect's own code
        emulate("response_format=json_schema", note="by a tool"),    # the dialect's own code too
        emulate("n", unless=Action.REJECT),                      # by the worker around the dialect
        drop("logit_bias", "user"),                              # left out and reported
        reject("modalities"),                                    # refused: the answer would differ
        families=(
            family(
                "Nova 2",
                r"nova-2",                                       # searched in the lower-case name
                drop("seed"),
                reasoning=Reasoning.ON_REQUEST,
                while_reasoning=drop("temperature"),            # only while the model reasons
            ),
        ),
    )

2. Apply it. `settle` does what needs no code and returns the rest, keyed by parameter:

    losses = Losses()
    rows = provider.parameters.rows(model, effort)
    rest = settle(rows, asked(request.generate), body, losses)
    if "tools" in rest: ...            # and losses.drop(name) for what cannot go after all
    losses.refuse(request.platform, model)      # raises when the caller set drop_params false
    return Call(..., dropped=losses.names)

`path` is where the value is in the upstream body ("generationConfig.topP", "messages[].role"), in
round brackets where it is not in the body: "(url)", "(headers)". The first match of `families`
wins; a model that none matches gets the table's own rows.

Emulation by the worker around the dialect: it makes the calls without the parameters that
`left_to_worker` names. One that still reaches a dialect is dropped or rejected, as `unless` says.
"""

from __future__ import annotations

from workers.parameters.asked import COLUMNS, asked, base_name
from workers.parameters.settle import Losses, left_to_worker, settle
from workers.parameters.table import (
    Action,
    At,
    Family,
    Reasoning,
    Row,
    Rows,
    Sheet,
    Table,
    clamp,
    drop,
    emulate,
    family,
    keep,
    mapped,
    reject,
    rename,
    words,
)

__all__ = [
    "COLUMNS",
    "Action",
    "At",
    "Family",
    "Losses",
    "Reasoning",
    "Row",
    "Rows",
    "Sheet",
    "Table",
    "asked",
    "base_name",
    "clamp",
    "drop",
    "emulate",
    "family",
    "keep",
    "left_to_worker",
    "mapped",
    "reject",
    "rename",
    "settle",
    "words",
]
