"""Access: closed by default, one token, guessed slowly, nothing from another site's page, names never run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from openmsi_streams.config.settings import WebSettings
from openmsi_streams.errors import ConfigurationError
from openmsi_streams.tables.rows import State
from openmsi_streams.web import names, security
from openmsi_streams.web.fake import FakeServer, FakeSource, make_row
from openmsi_streams.web.routes import ROUTES

Serve = Callable[..., FakeServer]
Ask = Callable[..., Any]
TOKEN = "correct-horse-battery-staple"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def source() -> FakeSource:
    found = FakeSource("lab")
    found.put(make_row("known.csv", State.QUARANTINED, reason="expired"))
    return found


def quarantined(server: FakeServer) -> str:
    return next(iter(server.source.rows))


def test_the_worker_does_not_start_open_to_others() -> None:
    for host in ("0.0.0.0", "192.168.1.4", "::", "lab-server"):
        with pytest.raises(ConfigurationError, match=r"web\.token"):
            security.check_bind(WebSettings(host=host))
        security.check_bind(WebSettings(host=host, token=TOKEN))
        security.check_bind(WebSettings(host=host, behind_proxy=True))
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        security.check_bind(WebSettings(host=host))
    with pytest.raises(ConfigurationError, match="guessed"):
        security.check_bind(WebSettings(token="secret"))


def test_with_a_token_nothing_is_shown_without_it(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source, web={"token": TOKEN})
    for route in ROUTES:
        path = route.path.replace("{file_id}", quarantined(server))
        if path in ("/login", "/health/live", "/health/ready"):
            continue
        for accept in ("text/html", "application/json"):
            reply = ask(server, path, route.method, Accept=accept)
            assert reply.status in (401, 303), path
            assert "known.csv" not in reply.text
            if reply.status == 303:
                assert reply.headers["location"].startswith("/login")
    assert server.source.replayed == []
    for path in ("/table/", "/router/", "/graph", "/stats", "/table/files/x/"):
        assert ask(server, path).status == 401


def test_the_right_token_lets_in(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source, web={"token": TOKEN})
    assert ask(server, "/api/v1/files", Authorization=f"Bearer {TOKEN}").status == 200
    assert ask(server, "/api/v1/files", Authorization=f"Bearer {TOKEN}x").status == 401
    assert ask(server, "/api/v1/files", Authorization=f"Basic {TOKEN}").status == 401
    assert ask(server, f"/api/v1/files?token={TOKEN}").status == 401


def test_wrong_tokens_are_slowed_down(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source, web={"token": TOKEN})
    statuses = [ask(server, "/api/v1/files", Authorization=f"Bearer {n}").status for n in range(8)]
    assert statuses == [401] * security.TRIES + [429] * 3
    reply = ask(server, "/api/v1/files", Authorization=f"Bearer {TOKEN}")
    assert reply.status == 429 and int(reply.headers["retry-after"]) > 0
    form = urlencode({"token": TOKEN}).encode()
    assert ask(server, "/login", "POST", form, Content_Type=FORM).status == 429


def test_a_limiter_forgives_in_time_and_stays_small() -> None:
    now = [0.0]
    limiter = security.Limiter(lambda: now[0])
    for _ in range(security.TRIES):
        limiter.wrong("a")
    with pytest.raises(Exception, match="Too many"):
        limiter.check("a")
    limiter.check("b")
    now[0] = security.TRY_SECONDS + 1
    limiter.check("a")
    for number in range(10_000):
        limiter.wrong(str(number))
    assert len(limiter._wrong) <= 4096


def log_in(ask: Ask, server: FakeServer, to: str = "/files/") -> tuple[Any, str]:
    reply = ask(server, "/login", "POST", urlencode({"token": TOKEN, "next": to}).encode(), Content_Type=FORM)
    return reply, reply.headers.get("set-cookie", "").partition(";")[0]


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_cannot_use(
    serve: Serve, ask: Ask, source: FakeSource
) -> None:
    server = serve(source, web={"token": TOKEN})
    reply, cookie = log_in(ask, server)
    assert reply.status == 303 and reply.headers["location"] == "/files/"
    flags = reply.headers["set-cookie"]
    assert "HttpOnly" in flags and "SameSite=Strict" in flags and TOKEN not in flags
    page = ask(server, "/files/", Accept="text/html", Cookie=cookie)
    assert page.status == 200 and "known.csv" in page.text
    until, nonce, signature = cookie.partition("=")[2].split(".")
    for forged in (
        f"{int(until) + 9}.{nonce}.{signature}",
        f"{until}.{nonce}.{'0' * 64}",
        "1.1.1",
        "..",
        "x",
        f"{until}.{nonce}.{signature[:-1]}é".encode().decode("latin-1"),
    ):
        assert ask(server, "/api/v1/files", Cookie=f"openmsi_streams={forged}").status == 401
    wrong = ask(server, "/login", "POST", urlencode({"token": "wrong"}).encode(), Content_Type=FORM)
    assert wrong.status == 401 and "set-cookie" not in wrong.headers


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\nb", ""])
def test_a_login_leads_nowhere_else(serve: Serve, ask: Ask, source: FakeSource, to: str) -> None:
    reply, _ = log_in(ask, serve(source, web={"token": TOKEN}), to)
    assert reply.headers["location"] == "/"


def test_a_post_from_elsewhere_is_refused(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source, web={"token": TOKEN})
    path = f"/files/{quarantined(server)}/replay"
    _, cookie = log_in(ask, server)
    page = ask(server, f"/files/{quarantined(server)}", Accept="text/html", Cookie=cookie).text
    csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert csrf is not None
    form = urlencode({"csrf": csrf.group(1)}).encode()
    ours = {"Cookie": cookie, "Content_Type": FORM, "Accept": "text/html"}
    assert ask(server, path, "POST", **ours).status == 403
    assert ask(server, path, "POST", b"csrf=" + b"0" * 64, **ours).status == 403
    assert ask(server, path, "POST", form, Origin="https://evil.example", **ours).status == 403
    assert ask(server, path, "POST", form, Sec_Fetch_Site="cross-site", **ours).status == 403
    assert ask(server, path, "POST", form, Content_Type=FORM).status == 401
    other = ask(server, "/login", "POST", urlencode({"token": TOKEN}).encode(), Content_Type=FORM)
    foreign = {**ours, "Cookie": other.headers["set-cookie"].partition(";")[0]}
    assert ask(server, path, "POST", form, **foreign).status == 403
    assert server.source.replayed == []
    done = ask(server, path, "POST", form, Origin=server.url, Sec_Fetch_Site="same-origin", **ours)
    assert done.status == 303 and server.source.replayed == [quarantined(server)]


def test_without_a_token_a_post_needs_our_page_or_a_header(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source)
    path = f"/files/{quarantined(server)}/replay"
    assert ask(server, path, "POST").status == 403
    assert ask(server, path, "POST", Content_Type="text/plain", Origin="null").status == 403
    page = ask(server, f"/files/{quarantined(server)}", Accept="text/html")
    cookie = page.headers["set-cookie"].partition(";")[0]
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page.text)
    assert found is not None
    form = urlencode({"csrf": found.group(1)}).encode()
    assert ask(server, path, "POST", form, Cookie=cookie, Content_Type=FORM, Accept="text/html").status == 303


def test_without_a_token_other_names_and_addresses_see_nothing(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source)
    # A page of another site whose name was made to point here (DNS rebinding).
    reply = ask(server, "/api/v1/files", Host="evil.example")
    assert reply.status == 403 and "known" not in reply.text
    assert ask(server, "/api/v1/files", Host="localhost:6066").status == 200
    assert ask(serve(source, web={"behind_proxy": True}), "/api/v1/files", Host="lab.example").status == 200


def test_health_without_the_token_is_one_word(serve: Serve, ask: Ask, source: FakeSource) -> None:
    source.status["stores"] = {"main": "bucket secret-bucket is missing"}
    server = serve(source, web={"token": TOKEN})
    reply = ask(server, "/health/ready")
    assert reply.status == 503 and "secret-bucket" not in reply.text
    assert "secret-bucket" in ask(server, "/health/ready", Authorization=f"Bearer {TOKEN}").text
    assert ask(server, "/health/live").status == 200


def test_every_answer_carries_the_strict_headers(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source)
    for path in ("/", "/files/", "/api/v1/files", "/nothing", "/static/style.css", "/metrics", "/login"):
        headers = ask(server, path, Accept="text/html").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers


HOSTILE = [
    "<script>alert(1)</script>.csv",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "a\u202egpj.exe",
    "tab\tand\nline",
    "x" * 4000,
    "é/ü/日本.trc",
    "' onmouseover='alert(1)",
    "</title><script>",
]


def names_of(page: str) -> str:
    return " ".join(re.findall(r"<bdi>(.*?)</bdi>", page))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_messages_are_shown_and_never_run(serve: Serve, ask: Ask, name: str) -> None:
    source = FakeSource(name)
    file_id = source.put(
        make_row(name, State.QUARANTINED, topic=name, reason=name, message=name, headers={name: name}, flags=(name,))
    )
    server = serve(source, worker=name)
    pages = [
        *(
            "/",
            "/files/",
            "/quarantine/",
            f"/files/{file_id}",
            f"/files/?prefix={quote(name[:800])}",
            "/pdv/",
            "/gemd/",
        ),
        f"/files/?topic={quote(name[:800])}",
    ]
    for path in pages:
        reply = ask(server, path, Accept="text/html")
        assert reply.status == 200, path
        inside = reply.text.replace('<script src="/static/live.js" defer></script>', "")
        assert "<script" not in inside and "<img src=x" not in inside and "onmouseover='" not in inside
        assert "\u202e" not in re.sub(r"<[^>]*>", "", inside)
        assert "49" not in names_of(inside)
    assert ask(server, f"/api/v1/files/{file_id}").json()["item"]["path"] == name
    assert ask(server, "/metrics").status == 200


def test_visible_names_keep_ordinary_text() -> None:
    assert names.visible("Prüfung 日本 é") == "Prüfung 日本 é"
    assert names.visible("a\u202eb\x00") == "a\\u202eb\\u0000"
    assert len(names.short("x" * 4000)) < 200


def test_no_view_shows_a_secret(serve: Serve, ask: Ask, source: FakeSource) -> None:
    server = serve(source, web={"token": TOKEN})
    server.site.settings.broker.options = {"sasl.password": "p4ssw0rd-of-kafka"}
    for route in ROUTES:
        path = route.path.replace("{file_id}", quarantined(server))
        for accept in ("text/html", "application/json"):
            reply = ask(server, path, Accept=accept, Authorization=f"Bearer {TOKEN}")
            assert TOKEN not in reply.text if reply.headers.get("content-type", "").startswith("text") else True
            assert b"p4ssw0rd" not in reply.body
