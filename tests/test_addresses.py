"""Addresses are taken apart without surprises, and nobody's password is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.addresses import MalformedAddressError, masked, never_asked, shown, split_address


@pytest.mark.parametrize(
    "address",
    [
        "http://h:99999/",
        "http://h:0/",
        "http://h:-1/",
        "http://h:port/",
        "http://h:/",
        "http://[::1",
        "http://[::1/",
        "http://[v1.x]/",
        "http://:80/",
        "http://a b/",
        "http://a/\n",
        "http://" + "a" * 64 + ".example/",
        "http://h..example/",
        "http://-/",
        "http://exämple/",
        "",
    ],
)
def test_a_malformed_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(MalformedAddressError) as refused:
        split_address(address)
    assert not address or address not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["http://h/", "https://u:p@h.example:8443/a?b#c", "http://[::1]:80/", "s3://b/p"]
)
def test_a_sound_address_is_split(address: str) -> None:
    assert split_address(address).geturl() == address


@given(st.text(max_size=40) | st.text(max_size=40).map("http://{}".format))
def test_any_text_is_an_address_or_refused_and_can_be_shown(text: str) -> None:
    shown(text)
    masked(text)
    try:
        parts = split_address(text)
    except MalformedAddressError:
        return
    assert parts.port is None or 0 < parts.port < 65_536


PASSWORDS = ("secret", "sec/ret", "sec@ret", "sec:ret", "sec?ret", "sec#ret", "sec[ret", "%73ecret")


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "place", ["https://{}@host:8443/a", "postgresql+psycopg2://{}@host/db", "s3://{}@bucket/a"]
)
def test_neither_user_nor_password_is_shown_whatever_stands_in_it(place: str, password: str) -> None:
    address = place.format(f"somebody:{password}")
    for text in (shown(address), masked(address), masked(f"Could not connect to {address!r}, sorry")):
        assert not any(word in text for word in ("somebody", "sec", "ret")), text
        assert place.partition("@")[2].split("/")[0] in text


@pytest.mark.parametrize("kind", [UnusableInputError, UnavailableError])
def test_no_error_shows_a_password_or_a_page_whatever_it_quotes(kind: type[Exception]) -> None:
    told = str(kind(f"mirror 'https://somebody:secret@host/a': {'x' * 10_000}, expected y"))
    assert told.startswith("mirror 'https://host/a': xxx")
    assert told.endswith("xxx, expected y")
    assert len(told) < 1_500


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://user:secret@host:8443/a/b?c=d#e", "https://host:8443/a/b"),
        ("http://token@host/a@b", "http://host/a@b"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("http://[::1]:80/a?Signature=x", "http://[::1]:80/a"),
        ("http://h:99999/a?b", "http://h:99999/a"),
        ("/a/folder@home", "/a/folder@home"),
    ],
)
def test_what_identifies_a_place_is_kept(address: str, expected: str) -> None:
    assert shown(address) == expected


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("2002:a9fe:a9fe::", "link-local"),
        ("fd00:ec2::254", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),  # noqa: S104 - nothing is bound
        ("::", "unspecified"),
        ("127.0.0.1", None),
        ("10.0.0.8", None),
        ("::1", None),
        ("8.8.8.8", None),
        ("a.host.example", None),
    ],
)
def test_addresses_where_no_archive_can_be_are_known(address: str, kind: str | None) -> None:
    assert never_asked(address) == kind
