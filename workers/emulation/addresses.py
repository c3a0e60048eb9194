"""Whether an address belongs to the public internet."""

from __future__ import annotations

import ipaddress

# IPv6 that stands for an IPv4 address, which a gateway on the way may turn it into.
_MAPPED = ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
_TRANSLATED = [ipaddress.IPv6Network(network) for network in _MAPPED]


def is_public(text: str) -> bool:
    """False for loopback, private, link-local, shared, multicast and translated addresses."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (
        address.scope_id or any(address in network for network in _TRANSLATED)
    ):
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )
