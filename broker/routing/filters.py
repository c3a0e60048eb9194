"""What a candidate has to be: a condition per row, and what to say when nobody is so; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from broker import operations
from broker.errors import InferenceError
from broker.routing.candidates import Candidate
from broker.routing.countries import covers
from broker.routing.names import Limit
from broker.routing.places import called, places
from broker.routing.preferences import named
from broker.routing.world import Ask, World

# What workers do with the help of another operation, where a provider does not.
_STAND_IN = {
    operations.COMPLETE: operations.GENERATE,
    operations.COUNT_TOKENS: operations.GENERATE,
}
# What a model that is made for chat may do as well, by what it is able to.
_ABLE = {operations.TRANSCRIBE: "audio_input"}
NO_WORKER = "no_worker"
AWAY = "no worker is running"
_MEASURED = frozenset({"itl", "ttft", "speed"})
# Of the value of a metric for a candidate: None when it is not known.
_METRIC: dict[str, Callable[[Candidate], float | None]] = {
    "input_cost": lambda c: c.usd("input_tokens"),
    "output_cost": lambda c: c.usd("output_tokens"),
    "itl": lambda c: c.live.token_ms or None,
    "ttft": lambda c: c.live.first_ms or None,
    "speed": lambda c: c.live.per_second or None,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`why` gives the reason to leave a candidate out, or an empty string.

    It is for requests that have `asked` for it. Where nobody is left, the caller is told `reason`;
    a soft condition is then dropped instead.
    """

    why: Callable[[Candidate, Ask, World], str]
    asked: Callable[[Ask], object]
    reason: str = "no_matching_provider"
    soft: bool = False


def metric(candidate: Candidate, name: str) -> float | None:
    """A measured or priced figure of a candidate, as `names.METRICS` says."""
    return _METRIC[name](candidate)


def _offered(candidate: Candidate, ask: Ask, _world: World) -> str:
    offer = candidate.offer
    if offer is None or operations.COMPLETE in offer.operations:
        return ""
    if {ask.operation, _STAND_IN.get(ask.operation)} & set(offer.operations):
        return ""
    if _ABLE.get(ask.operation) in offer.abilities:
        return ""
    words = operations.WORDS
    known = ", ".join(words.get(operation, operation) for operation in offer.operations)
    return f"does not offer {words.get(ask.operation, ask.operation)}, but {known}"


def _only(candidate: Candidate, ask: Ask, _world: World) -> str:
    only = ask.preferences.only
    return "not in provider.only" if only and candidate.provider not in named(only) else ""


def _ignored(candidate: Candidate, ask: Ask, _world: World) -> str:
    return "in provider.ignore" if candidate.provider in named(ask.preferences.ignore) else ""


def _ordered(candidate: Candidate, ask: Ask, _world: World) -> str:
    """Without fallbacks the order is all there is."""
    order = ask.preferences.order
    if not order or ask.preferences.allow_fallbacks is not False:
        return ""
    return "" if candidate.provider in named(order) else "not in provider.order"


def _compliant(candidate: Candidate, ask: Ask, _world: World) -> str:
    claim = candidate.claim
    certified = claim.regions if claim is not None else frozenset()
    wanted = ask.preferences.regions
    missing = [code for code in wanted if not covers(certified, code)]
    if not missing:
        region = called(candidate.target.model, ask.region)
        outside = [code for code in wanted if region and not covers(places(region), code)]
        return f"region {region!r} is not known to be in {', '.join(outside)}" if outside else ""
    known = f"it is for {claim}" if claim is not None else "nobody says that it is for any region"
    return f"not certified for {', '.join(missing)}: {known}"


def _private(candidate: Candidate, ask: Ask, world: World) -> str:
    asked = ask.preferences.zdr or ask.preferences.data_collection == "deny"
    return "may keep data" if asked and candidate.provider not in world.rules.private else ""


def _quantized(candidate: Candidate, ask: Ask, world: World) -> str:
    wanted = ask.preferences.quantizations
    if not wanted:
        return ""
    known = world.rules.quantizations.get(candidate.provider, "unknown")
    return "" if known in wanted else f"quantization is {known}"


def _able(candidate: Candidate, ask: Ask, _world: World) -> str:
    """What the catalogue knows; a parameter that is lacking beside it is the worker's to refuse."""
    if not ask.preferences.require_parameters or candidate.offer is None:
        return ""
    lacking = sorted(ask.needs - candidate.offer.abilities) if candidate.offer.abilities else ()
    return f"lacks {', '.join(lacking)}" if lacking else ""


def _affordable(candidate: Candidate, ask: Ask, _world: World) -> str:
    limits = ask.preferences.max_price
    if limits is None:
        return ""
    for name, (words, price_of) in _PRICES.items():
        limit = getattr(limits, name)
        if limit is None:
            continue
        price = price_of(candidate, ask)
        if price is None or price > limit:
            shown = "unknown" if price is None else f"{price:g}"
            return f"{words.format(shown)}, over {limit:g}"
    return ""


def _per_request(candidate: Candidate, ask: Ask) -> float | None:
    """What a request costs beside its tokens; nothing where no such price is known of an offer."""
    if candidate.offer is None or not candidate.offer.rates.prices:
        return None
    search = candidate.usd("search_units") if ask.operation == operations.RERANK else None
    return (candidate.usd("requests") or 0.0) + (search or 0.0) / 1e6


def _per_image(candidate: Candidate, ask: Ask) -> float | None:
    """What a picture costs; where it is charged by tokens, nobody knows that of one to be drawn."""
    if candidate.offer is None or not candidate.offer.rates.prices:
        return None
    price = candidate.usd("images")
    return 0.0 if price is None and ask.operation != operations.IMAGE else price


# Field of `max_price` -> how a price is told, and what it is.
_Priced = tuple[str, Callable[[Candidate, Ask], float | None]]
_PRICES: dict[str, _Priced] = {
    "prompt": ("input_tokens cost {} USD per million", lambda c, _: c.usd("input_tokens")),
    "completion": ("output_tokens cost {} USD per million", lambda c, _: c.usd("output_tokens")),
    "request": ("a request costs {} USD", _per_request),
    "image": ("a picture costs {} USD", _per_image),
}


def _priced(candidate: Candidate, _ask: Ask, _world: World) -> str:
    return _over(candidate, measured=False)


def _paced(candidate: Candidate, _ask: Ask, _world: World) -> str:
    return _over(candidate, measured=True)


def _over(candidate: Candidate, *, measured: bool) -> str:
    """Which limits of its name it does not keep: those on what is measured, or those on costs."""
    limits = candidate.wish.limits
    if not limits:
        return ""
    told = (_unmet(candidate, n) for n in limits if (n.metric in _MEASURED) == measured)
    return "; ".join(filter(None, told))


def _unmet(candidate: Candidate, limit: Limit) -> str:
    value = metric(candidate, limit.metric)
    if value is None:
        return f"not {limit}: it is not known"
    met = value >= limit.value if limit.metric == "speed" else value <= limit.value
    return "" if met else f"not {limit}: it is {value:g}"


def _staffed(candidate: Candidate, _ask: Ask, _world: World) -> str:
    return AWAY if candidate.away else ""


def _fits(candidate: Candidate, ask: Ask, _world: World) -> str:
    window = 0 if candidate.offer is None else candidate.offer.max_input
    if not window or ask.input_tokens <= window:
        return ""
    return f"about {ask.input_tokens} tokens do not fit into {window}"


# Those that last while the fleet stays as it is, and those that hang on the moment.
LASTING: tuple[Condition, ...] = (
    Condition(_offered, lambda _: True, "unsupported_operation"),
    Condition(_compliant, lambda ask: ask.preferences.compliance, "no_compliant_provider"),
    Condition(_only, lambda ask: ask.preferences.only),
    Condition(_ignored, lambda ask: ask.preferences.ignore),
    Condition(_ordered, lambda ask: ask.preferences.order),
    Condition(_private, lambda ask: ask.preferences.zdr or ask.preferences.data_collection),
    Condition(_quantized, lambda ask: ask.preferences.quantizations),
    Condition(_able, lambda ask: ask.preferences.require_parameters),
    Condition(_affordable, lambda ask: ask.preferences.max_price),
    Condition(_priced, lambda _: True),
    # Last: what nobody could meet is told as that, and the rest passes when workers are back.
    Condition(_staffed, lambda _: True, NO_WORKER),
)
PASSING: tuple[Condition, ...] = (
    Condition(_paced, lambda _: True),
    # An estimate: the provider's own word counts.
    Condition(_fits, lambda ask: ask.input_tokens, soft=True),
)


def apply(
    conditions: Iterable[Condition], found: Sequence[Candidate], ask: Ask, world: World
) -> list[Candidate]:
    """Those that meet every condition; the others are told why not.

    Raises `InferenceError` of the condition that nobody met.
    """
    left = list(found)
    for condition in conditions:
        if not condition.asked(ask):
            continue
        reasons = [condition.why(candidate, ask, world) for candidate in left]
        if not any(reasons) or (condition.soft and all(reasons)):
            continue
        for candidate, reason in zip(left, reasons, strict=True):
            candidate.excluded = reason
        if all(reasons):
            raise _nobody(condition.reason, ask.model, left)
        left = [candidate for candidate in left if not candidate.excluded]
    return left


def nobody_there(left: Sequence[Candidate]) -> InferenceError:
    """What is told where all that could serve a request are away."""
    names = " or ".join(repr(name) for name in dict.fromkeys(c.provider for c in left))
    why = f"no worker of provider {names} is running"
    return InferenceError(NO_WORKER, why, provider=left[0].provider)


def _nobody(reason: str, model: str, left: Sequence[Candidate]) -> InferenceError:
    if reason == NO_WORKER:
        return nobody_there(left)
    whys = "; ".join(f"{c.provider}: {c.excluded}" for c in left)
    param = "provider.compliance" if reason == "no_compliant_provider" else "model"
    return InferenceError(
        reason, f"No provider of {model!r} meets the request: {whys}", param=param
    )
