"""Addresses (URLs) as people and servers write them -> validated parts, and a form that is safe to show.

No message, log line or row holds the user or password of an address: code that shows one calls `shown` for an address
and `masked` for other people's text.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_VISIBLE = re.compile(r"[\x21-\x7e]+")
# A name, or an IPv4 address; labels have at most 63 characters, or the resolver's codec fails on them.
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
MAX_PORT = 65_535
# Amazon's instance metadata service on IPv6 networks; the other metadata services are at link-local addresses.
_METADATA_SERVICE = ipaddress.ip_address("fd00:ec2::254")


class MalformedAddressError(ValueError):
    """Text is not an address. The message says what is wrong with it without quoting it."""


def split_address(address: str) -> SplitResult:
    """Split an address and validate its host (if it has one) and port.

    `urlsplit` alone fails later, when the port is first read, or not at all. Raises MalformedAddressError.
    """
    if not _VISIBLE.fullmatch(address):
        raise MalformedAddressError("expected visible ASCII characters")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise MalformedAddressError("its host is malformed") from None
    host = parts.hostname or ""
    is_bracketed = "[" in parts.netloc.rpartition("@")[2]
    if parts.netloc and (not is_host(host) or is_bracketed != (":" in host)):
        raise MalformedAddressError("its host is malformed")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise MalformedAddressError(f"its port is not a number from 1 to {MAX_PORT}")
    return parts


def is_host(text: str) -> bool:
    """Tell whether text is the name or the IP address (IPv6 without brackets) of a host."""
    return bool(_HOST_NAME.fullmatch(text)) or _ip(text) is not None


def shown(address: str) -> str:
    """Return an address for messages and logs: no user, no password, no query string, no fragment. Never fails."""
    if "://" not in address:
        return address
    return re.split(r"[?#]", masked(address), maxsplit=1)[0]


def masked(text: str) -> str:
    """Return text in which no address has a user or a password."""
    return re.sub(r"(?<=://)\S+", lambda found: _without_user(found[0]), text)


def _without_user(rest: str) -> str:
    """Remove everything before the @ of an authority. `rest` is what follows "://"."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return rest[authority.rindex("@") + 1 :]
    port = authority.rpartition(":")[2] if ":" in authority else "0"
    # A password with an unescaped slash: what looks like a port is not one.
    if "@" in rest and not port.isdecimal():
        return rest.rpartition("@")[2]
    return rest


def has_user(address: str) -> bool:
    """Tell whether an address names a user or a password."""
    return masked(address) != address


def never_asked(ip_address: str) -> str | None:
    """Return the kind of an address at which no archive can be; None for any other address.

    169.254.169.254 and its kin give a cloud machine's credentials to any process on it.
    """
    ip = _ip(ip_address)
    if ip is None:
        return None
    inner = [ip.ipv4_mapped, ip.sixtofour] if isinstance(ip, ipaddress.IPv6Address) else []
    for each in (ip, *(one for one in inner if one is not None)):
        if each.is_link_local or each == _METADATA_SERVICE:
            return "link-local"
        if each.is_multicast:
            return "multicast"
        if each.is_unspecified:
            return "unspecified"
    return None


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
