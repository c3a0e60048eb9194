"""What the worker does around a dialect where a provider lacks something; pure.

`plan_of` says what a request needs at a provider: nothing for nearly all of them, and that costs
one look at four fields. Otherwise the plan has the request as the dialect gets it, how many calls
it takes, and the steps that the events of each call go through: text is cut at stop sequences, a
JSON answer is freed of code fences and checked, and the events of several calls become one answer.
More inputs than a provider makes vectors of in one call are asked for in several, and prompts are
completed through chat where a provider completes none.
"""

from __future__ import annotations

from broker.usage import total
from workers.emulation.completions import Prompts
from workers.emulation.plan import Plan, plan_of
from workers.emulation.split import Split
from workers.emulation.steps import Stepped

__all__ = ["AnyPlan", "Plan", "Prompts", "Split", "Stepped", "plan_of", "total"]

AnyPlan = Plan | Split | Prompts
