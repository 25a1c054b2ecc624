"""A host is read only where the list names it, and only at addresses that are public or named too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecor.storage.web.allowed_hosts import check_hosts, find_hosts, is_web_address, parse_host

PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e")
PRIVATE = (
    *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "fd00::1", "fe80::1", "fec0::1", "ff02::1"),
    *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1"),
)


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_allowed"),
    [
        ("images.example.org", "images.example.org", 443, True),
        ("images.example.org", "images.example.org", 80, True),
        ("Images.Example.org", "images.example.org", 443, True),
        ("images.example.org", "images.example.org", 8080, False),
        ("images.example.org:8080", "images.example.org", 8080, True),
        ("images.example.org:8080", "images.example.org", 443, False),
        ("images.example.org", "evil-images.example.org", 443, False),
        ("images.example.org", "images.example.org.evil.net", 443, False),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "evilexample.org", 443, False),
        ("10.0.3.7", "10.0.3.7", 80, True),
        ("[fd00::1]:8080", "fd00::1", 8080, True),
    ],
)
def test_a_host_is_allowed_by_its_whole_name_and_port(entry, host, port, is_allowed):
    assert bool(find_hosts(host, port=port, allowed=["other.net", entry])) == is_allowed


@pytest.mark.parametrize("address", PUBLIC)
def test_a_name_may_have_public_addresses(address):
    assert parse_host("images.example.org").may_have(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_may_have_no_other_address_unless_its_network_is_named(address):
    assert not parse_host("*.example.org").may_have(address)
    assert not parse_host("images.lan=192.168.77.0/24").may_have(address)
    whole = "::/0" if ":" in address else "0.0.0.0/0"
    assert parse_host(f"images.lan={whole}").may_have(address)


def test_a_literal_address_is_that_address_only_and_a_network_excludes_public_ones():
    assert parse_host("127.0.0.1:8080").may_have("127.0.0.1") and not parse_host("127.0.0.1").may_have("127.0.0.2")
    assert parse_host("[::1]").may_have("::1")
    assert parse_host("images.lan=10.0.0.0/8").may_have("::ffff:10.1.2.3")
    assert not parse_host("images.lan=10.0.0.0/8").may_have(PUBLIC[0])


@pytest.mark.parametrize(
    "entry",
    [
        *(
            "",
            "*",
            "http://a.org",
            "a.org/path",
            "u@a.org",
            "a b",
            "*.1",
            "127.1",
            "2130706433",
            "a.org:0",
            "a.org:99999",
        ),
        *("a.org=10.0.0.1/8", "a.org=lan", "::1", "[::g]", "ä.org", "a..org", "-a.org", "*a.org", "a.*.org"),
    ],
)
def test_an_entry_of_another_form_is_refused(entry):
    with pytest.raises(ValueError, match="allow_http"):
        check_hosts(["a.org", entry])


@given(text=st.text(max_size=20))
def test_no_text_is_read_in_another_way(text):
    try:
        found = parse_host(text)
    except ValueError as error:
        assert "allow_http" in str(error)
    else:
        assert found.name and not find_hosts("elsewhere.example.org", port=443, allowed=[text])


def test_web_addresses_are_those_of_two_schemes():
    assert is_web_address("http://a/b") and is_web_address("HTTPS://a/b")
    assert not any(map(is_web_address, ("s3://a/b", "a/http://b", "file:///a", "https:/a")))
