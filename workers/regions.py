"""Finds the host of an AWS region: the operator's, the caller's, or the one of an ARN; pure."""

from __future__ import annotations

import re

from broker.errors import InferenceError
from broker.routing.places import called

REGION = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-\d{1,2}")
# Hosts of the service itself, with the region to replace; any other is a host of the operator's.
_HOST = re.compile(r"(https://bedrock-runtime(?:-fips)?\.)[a-z0-9-]+(\.[a-z.]+)")
# Those that have other services of AWS beside them.
_BESIDE = re.compile(r"https://bedrock-runtime((?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?)")
_CHINA = "cn-"


def host_of(region: str) -> str:
    """The base URL of a region; ValueError for what is no region's name."""
    if not REGION.fullmatch(region):
        raise ValueError(f"the option region is no name of an AWS region: {region!r}")
    suffix = "amazonaws.com.cn" if region.startswith(_CHINA) else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{suffix}"


def beside(base_url: str, service: str) -> str:
    """The address of another service in the region of Bedrock's; "" for one of the operator's."""
    found = _BESIDE.fullmatch(base_url.rstrip("/"))
    return f"https://{service}{found[1]}" if found else ""


def base_url_for(model: str, wanted: str, base_url: str) -> str:
    """The base URL to call in place of the provider's; "" where that is the one.

    An ARN is only known in its own region. Raises `InferenceError` for a wanted region that is no
    region's name: it would name a host.
    """
    if wanted and not REGION.fullmatch(wanted):
        raise InferenceError(
            "invalid_request", "Not the name of an AWS region, such as eu-west-1.", param="region"
        )
    named = called(model, wanted)
    region = named if REGION.fullmatch(named) else wanted
    parts = _HOST.fullmatch(base_url.rstrip("/"))
    if not region or parts is None:
        return ""
    there = f"{parts[1]}{region}{parts[2]}"
    return "" if there == base_url.rstrip("/") else there
