"""Finds where a location of Google Cloud is called: its host, and what owns models there; pure."""

from __future__ import annotations

import re
from dataclasses import replace

from broker.errors import InferenceError
from workers.provider import Provider

GLOBAL = "global"
# Where several regions answer together. Source: the official SDK (google-genai 3.4).
HOSTS = {
    GLOBAL: "aiplatform.googleapis.com",
    "us": "aiplatform.us.rep.googleapis.com",
    "eu": "aiplatform.eu.rep.googleapis.com",
}
_REGION = re.compile(r"[a-z]{2,20}-[a-z]{2,20}\d{1,2}")
# Hosts of the service itself; any other is the operator's, and stands before all locations.
_SERVICE = re.compile(r"https://([a-z0-9-]+-)?aiplatform\.([a-z]+\.rep\.)?googleapis\.com/?")


def is_service(base_url: str) -> bool:
    """Whether an address is Google's own."""
    return _SERVICE.fullmatch(base_url) is not None


def at(provider: Provider, project: str, location: str) -> Provider:
    """A provider that is called there; without a project its models belong to none."""
    host = HOSTS.get(location, f"{location}-{HOSTS[GLOBAL]}")
    parent = f"projects/{project}/locations/{location}/" if project else ""
    quirks = {**provider.quirks, "parent": parent}
    return replace(provider, base_url=f"https://{host}", quirks=quirks)


def located(provider: Provider, model: str, wanted: str) -> Provider:
    """The provider, where it has locations, as it is called in the wanted one.

    A model with a project of its own stays where its name says. Raises `InferenceError` for what is
    no location's name: it would name a host.
    """
    if not wanted or "parent" not in provider.quirks or model.startswith("projects/"):
        return provider
    if wanted not in HOSTS and not _REGION.fullmatch(wanted):
        raise InferenceError(
            "invalid_request",
            "Not the name of a location of Google Cloud, such as europe-west4, eu or global.",
            param="region",
        )
    project = provider.quirks.get("project", "")
    if not project:
        raise InferenceError(
            "invalid_request",
            f"A region is one of a project's: set {provider.name.upper()}_PROJECT.",
            param="region",
        )
    there = at(provider, project, wanted)
    return there if is_service(provider.base_url) else replace(there, base_url=provider.base_url)


def base_url_for(there: Provider, provider: Provider) -> str:
    """The base URL to call in place of the provider's; "" where that is the one."""
    return "" if there.base_url == provider.base_url else there.base_url
