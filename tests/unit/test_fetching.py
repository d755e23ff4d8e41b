"""Images by URL: what is fetched, from where, and above all what is not."""

import asyncio
import gzip
import logging
import time
from ipaddress import ip_address

import pytest

from deployments.errors import ApertureError, BadRequest, BodyTooLarge, ConfigError, FetchFailed, UrlRefused
from deployments.fetching import MAX_URL_CHARACTERS, Fetcher, checked_url, is_public
from deployments.settings import ImageUrls
from tests.awaiting import free_port
from tests.unit.web_site import HERE, MAX_BODY_BYTES, NAME, URL, Visit, allow_here, answer, name_server, ok, visit

PICTURE = b"\x89PNG and so on"
SETTINGS = ImageUrls(allowed_hosts=(NAME, "*.pictures.example.com", "xn--bcher-kva.example"))
PUBLIC = "93.184.215.14"
PRIVATE = "10.0.0.1"


def sentence(outcome: bytes | ApertureError, kind: type[ApertureError]) -> str:
    assert type(outcome) is kind
    assert outcome.message.endswith(".")
    return outcome.message


def request_lines(seen: Visit) -> list[bytes]:
    return [head.split(b"\r\n")[0] for head in seen.heads]


# What is fetched


def test_the_body_of_an_allowed_url_is_fetched_over_tls() -> None:
    seen = visit(ok(PICTURE))
    assert seen.outcome == PICTURE
    assert request_lines(seen) == [b"GET /heart.png HTTP/1.1"]


def test_plain_http_is_fetched_where_the_settings_allow_it() -> None:
    settings = ImageUrls(allowed_hosts=(NAME,), allow_http=True)
    assert visit(ok(PICTURE), f"http://{NAME}/", settings=settings, speaks_tls=False).outcome == PICTURE


def test_path_and_query_are_sent_as_they_stand_and_the_fragment_stays() -> None:
    seen = visit(ok(PICTURE), f"https://{NAME}/a/../b%2Fc;v=1?sig=%41+b%3D&x=[1]#part")
    assert request_lines(seen) == [b"GET /a/../b%2Fc;v=1?sig=%41+b%3D&x=[1] HTTP/1.1"]


def test_a_body_of_unannounced_length_is_fetched() -> None:
    chunked = answer("200 OK", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert visit(chunked).outcome == b"abcde"


def test_a_second_fetch_takes_the_connection_of_the_first() -> None:
    seen = visit(ok(PICTURE), URL, URL)
    assert seen.outcomes == [PICTURE, PICTURE]
    assert (seen.connections, len(seen.lookups)) == (1, 1)


def test_nothing_of_the_environment_goes_along(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w", encoding="utf-8") as file:
        file.write(f"machine {NAME} login someone password secret\n")
    monkeypatch.setenv("NETRC", netrc)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # Nobody listens there.
    seen = visit(ok(PICTURE, "Set-Cookie: session=1; Path=/"), URL, URL)
    assert seen.outcomes == [PICTURE, PICTURE]
    for head in seen.heads:
        names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
        assert names == {b"host", b"accept", b"accept-encoding", b"user-agent"}


def test_nothing_is_fetched_unless_it_is_switched_on() -> None:
    outcome = asyncio.run(Fetcher(None, MAX_BODY_BYTES).fetch(URL))
    assert "fetches no images" in sentence(outcome, UrlRefused)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.9", "192.0.0.192", "192.0.2.1"),
        *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "168.63.129.16"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::10.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8", "100::1"),
        *("64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8"),
        *("2001::1", "2001:20::1", "2001:db8::1", "2002:a00:1::", "2002:808:808::1", "3fff::1", "5f00::1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "2606:2800::1%eth0", "fec0::1", "ff02::1", "ff0e::1"),
    ],
)
def test_an_address_inside_of_some_network_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", [PUBLIC, "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:2800:21f::1", "2a00:1450::1", "64:ff9b::1.1.1.1"]
)
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "addresses",
    [[PRIVATE], [HERE, PRIVATE], [PRIVATE, HERE], ["fe80::1"], [HERE, "::ffff:10.0.0.1"], ["169.254.169.254"]],
)
def test_a_name_with_any_address_that_is_not_public_is_refused(addresses: list[str]) -> None:
    seen = visit(ok(PICTURE), addresses=[addresses])
    assert "not public" in sentence(seen.outcome, UrlRefused)
    assert seen.connections == 0


def test_the_services_own_machine_is_not_public_by_default() -> None:
    seen = visit(ok(PICTURE), is_allowed_address=is_public)
    sentence(seen.outcome, UrlRefused)
    assert seen.connections == 0


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    seen = visit(ok(PICTURE), addresses=[[HERE], [PRIVATE]])
    assert seen.outcome == PICTURE
    assert seen.lookups == [f"{NAME}."]  # One lookup, of the absolute name.


def test_a_name_that_turns_private_is_refused_at_its_next_connection() -> None:
    last = ok(PICTURE, "Connection: close")
    seen = visit(last, URL, URL, addresses=[[HERE], [PRIVATE]])
    assert seen.outcomes[0] == PICTURE
    sentence(seen.outcomes[1], UrlRefused)
    assert seen.connections == 1


def test_a_name_that_does_not_resolve_is_said_to() -> None:
    assert "does not resolve" in sentence(visit(ok(PICTURE), addresses=[[]]).outcome, FetchFailed)


# TLS


def test_a_certificate_for_another_name_is_refused() -> None:
    seen = visit(ok(PICTURE), certified="other.example.org")
    assert "certificate" in sentence(seen.outcome, FetchFailed)
    assert seen.heads == []


def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    assert "certificate" in sentence(visit(ok(PICTURE), trusted=False).outcome, FetchFailed)


def test_nothing_is_sent_to_a_server_that_speaks_no_tls() -> None:
    seen = visit(ok(PICTURE), speaks_tls=False, settings=ImageUrls(allowed_hosts=(NAME,), timeout_s=2.0))
    sentence(seen.outcome, FetchFailed)
    assert (seen.connections, seen.heads) == (1, [])


# Answers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_redirects_are_not_followed(status: int) -> None:
    seen = visit(answer(f"{status} Moved", f"Location: https://{NAME}/elsewhere", "Content-Length: 0"))
    assert f"redirects with the status {status}" in sentence(seen.outcome, FetchFailed)
    assert len(seen.heads) == 1


@pytest.mark.parametrize("status", [201, 204, 206, 400, 401, 404, 418, 500, 503])
def test_any_other_status_than_200_is_a_failure_without_the_body(status: int) -> None:
    body = b"" if status == 204 else b"internal secret"
    seen = visit(answer(f"{status} Whatever secret", f"Content-Length: {len(body)}", body=body))
    message = sentence(seen.outcome, FetchFailed)
    assert str(status) in message
    assert "secret" not in message


def test_a_body_at_the_limit_is_fetched_and_one_byte_more_is_refused() -> None:
    assert visit(ok(bytes(MAX_BODY_BYTES))).outcome == bytes(MAX_BODY_BYTES)
    assert str(MAX_BODY_BYTES) in sentence(visit(ok(bytes(MAX_BODY_BYTES + 1))).outcome, BodyTooLarge)


def test_an_announced_length_above_the_limit_is_refused_before_any_of_it_comes() -> None:
    async def announce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", f"Content-Length: {10**15}"))
        await reader.read()  # Until the client hangs up.

    sentence(visit(announce).outcome, BodyTooLarge)


def test_a_body_without_end_is_cut_off_at_the_limit() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", "Transfer-Encoding: chunked"))
        while True:  # Until the client hangs up.
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    sentence(visit(flood).outcome, BodyTooLarge)


def test_a_body_shorter_than_announced_is_a_failure() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", "Content-Length: 100", body=PICTURE))

    assert "incomplete" in sentence(visit(break_off).outcome, FetchFailed)


def test_a_body_longer_than_announced_is_a_failure() -> None:
    async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", "Content-Length: 4", body=PICTURE))

    sentence(visit(go_on).outcome, FetchFailed)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip"])
def test_a_compressed_answer_is_refused_and_not_inflated(coding: str) -> None:
    seen = visit(ok(gzip.compress(bytes(10_000_000)), f"Content-Encoding: {coding}"))
    assert "compressed" in sentence(seen.outcome, FetchFailed)


@pytest.mark.parametrize(
    "talk",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"",
    ],
    ids=["noise", "negative length", "two lengths", "bad chunk", "huge header", "long status", "nothing"],
)
def test_what_is_not_http_is_a_failure(talk: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(talk)

    sentence(visit(say).outcome, FetchFailed)


@pytest.mark.parametrize("head", [b"", answer("200 OK", "Content-Length: 100000")], ids=["head", "body"])
def test_an_answer_that_drips_ends_with_the_time(head: bytes) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head or b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:  # Until the client hangs up.
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.05)

    started = time.monotonic()
    seen = visit(drip, settings=ImageUrls(allowed_hosts=(NAME,), timeout_s=2.0))
    assert "within 2 s" in sentence(seen.outcome, FetchFailed)
    assert time.monotonic() - started < 15


def test_a_server_that_is_not_there_is_a_failure() -> None:
    async def fetch() -> bytes | ApertureError:
        fetcher = Fetcher(SETTINGS, MAX_BODY_BYTES, allow_here)
        with name_server([], [[HERE]], free_port()):
            outcome = await fetcher.fetch(URL)
        await fetcher.close()
        return outcome

    assert "no connection" in sentence(asyncio.run(fetch()), FetchFailed)


def test_neither_log_nor_error_has_the_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    urls = [f"https://{host}/?token=secret" for host in (NAME, "elsewhere.example.org", f"user:secret@{NAME}")]

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", "Content-Length: 100"))

    seen = visit(break_off, *urls)
    seen.outcomes += visit(ok(b""), urls[0], certified="other.example.org").outcomes
    assert [type(outcome) for outcome in seen.outcomes] == [FetchFailed, UrlRefused, BadRequest, FetchFailed]
    assert "secret" not in caplog.text + "".join(map(str, seen.outcomes))


# URLs


@pytest.mark.parametrize(
    ("url", "fetched"),
    [
        (f"https://{NAME}", f"https://{NAME}/"),
        (f"HTTPS://{NAME.upper()}/A", f"https://{NAME}/A"),
        (f"https://{NAME}./a", f"https://{NAME}/a"),
        (f"https://{NAME}:443/a", f"https://{NAME}/a"),
        (f"https://{NAME}?x=1", f"https://{NAME}/?x=1"),
        ("https://images。example。org/a", f"https://{NAME}/a"),
        ("https://\uff49mages.example.org/a", f"https://{NAME}/a"),
        ("https://bücher.example/a", "https://xn--bcher-kva.example/a"),
        ("https://BÜCHER.example/a", "https://xn--bcher-kva.example/a"),
        ("https://a.b.pictures.example.com/", "https://a.b.pictures.example.com/"),
        (f"https://{NAME}/@evil.example/", f"https://{NAME}/@evil.example/"),
        (f"https://{NAME}/?@evil.example/", f"https://{NAME}/?@evil.example/"),
    ],
)
def test_an_allowed_host_is_known_however_it_is_written(url: str, fetched: str) -> None:
    assert str(checked_url(url, SETTINGS)) == fetched


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.example/", "https://example.org/", "https://pictures.example.com/"),
        *(f"https://{NAME}.evil.example/", f"https://evil{NAME}/", "https://evilpictures.example.com/"),
        *("https://.pictures.example.com/", "https://a..pictures.example.com/", "https://-a.pictures.example.com/"),
        *(f"https://evil.example#.{NAME}/", f"https://evil.example?.{NAME}/", f"https://evil.example/.{NAME}"),
        *("https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/", "https://127.1/", "https://localhost/"),
        *(
            "https://\uff11\uff12\uff17.0.0.1/",
            "https://im\u0430ges.example.org/",
            f"https://{'a' * 64}.pictures.example.com/",
        ),
        *(f"https://{'a.' * 120}pictures.example.com/", f"https://{'é' * 1000}.pictures.example.com/"),
        "http://images.example.org/",
        *(f"https://{NAME}:80/", f"https://{NAME}:8443/", f"https://{NAME}:0/", f"https://{NAME}:99999/"),
    ],
)
def test_any_other_host_scheme_or_port_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        checked_url(url, SETTINGS)
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    "url",
    [
        *("", NAME, f"//{NAME}/", f"https:{NAME}/", f"https:///{NAME}/", "https://", "https://:443/"),
        *(
            f"ftp://{NAME}/",
            f"file://{NAME}/etc/passwd",
            f"data://{NAME}/",
            f"http\u017f://{NAME}/",
            "javascript:alert(1)",
        ),
        *(f"https://{NAME}@evil.example/", f"https://user@{NAME}/", f"https://user:pass@{NAME}/", f"https://@{NAME}/"),
        *(f"https://{NAME}\\@evil.example/", f"https:\\\\{NAME}/", f"https://evil.example\\.{NAME}/"),
        *(f"https://{NAME}/a\\b", f"https://{NAME}/?a\\b"),
        *(f"https://{NAME}%2eevil.example/", "https://%69mages.example.org/", f"https://{NAME}%00.evil.example/"),
        *(f"https://{NAME}\x00.evil.example/", f"https://{NAME}/\x00", f"https://{NAME}/a\r\nHost: evil.example"),
        *(f" {URL}", f"{URL} ", f"{URL}\n", f"https://{NAME}/a b", f"https://{NAME}\t/", f"https://{NAME}/ü", "\ud800"),
        *("https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[fe80::1%25eth0]/", f"https://[{NAME}]/"),
        *(f"https://{NAME}:/", f"https://{NAME}:x/", f"https://{NAME}:-1/", f"https://{NAME}:443:443/"),
        *(f"https://{NAME}:٤٤٣/", f"https://{NAME}/{'a' * MAX_URL_CHARACTERS}"),
    ],
)
def test_what_parsers_might_read_differently_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        checked_url(url, SETTINGS)
    assert type(caught.value) is BadRequest  # By its form, before the host is looked at.
    assert len(caught.value.message) < 250


# Settings


@pytest.mark.parametrize(
    "host", [NAME, "Images.Example.Org", "*.example.org", "a_b.example.org", "xn--bcher-kva.example"]
)
def test_names_and_wildcards_may_be_allowed(host: str) -> None:
    assert ImageUrls(allowed_hosts=(host,)).allowed_hosts == (host,)


@pytest.mark.parametrize(
    "host",
    [
        *("", "*", "*.", "*.org", "localhost", "*.*.example.org", "a.*.example.org", "*example.org", "example.org."),
        *("93.184.215.14", "[::1]", "::1", "https://example.org", "example.org/a", "example.org:443", "u@example.org"),
        *("bücher.example", "a..example.org", "-a.example.org", ".example.org", "exa mple.org", "example.org\n"),
    ],
)
def test_what_is_no_name_cannot_be_allowed(host: str) -> None:
    with pytest.raises(ConfigError, match="allowed_hosts"):
        ImageUrls(allowed_hosts=(host,))


def test_hosts_in_the_settings_may_have_capitals() -> None:
    settings = ImageUrls(allowed_hosts=("Images.Example.ORG", "*.Pictures.example.com"))
    assert str(checked_url(URL, settings)) == URL
    assert str(checked_url("https://a.pictures.example.com/", settings)) == "https://a.pictures.example.com/"
