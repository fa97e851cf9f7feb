"""Who may see and do what: token, login cookie, CSRF guard, rate limit, strict content security policy.

Closed by default. Without a token the views answer on a loopback address only, and only under a loopback name, so that
a web page elsewhere cannot reach them through the viewer's browser (DNS rebinding). With a token every request needs
it, as ``Authorization: Bearer``, as the cookie of a login, or, between workers, as a signature made with it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import web

from openmsi_streams.config.settings import WebSettings
from openmsi_streams.errors import ConfigurationError
from openmsi_streams.web.problem import Problem

COOKIE = "openmsi_streams"
PEER_HEADER = "X-OpenMSI-Streams-Peer"
GUARD_HEADER = "X-OpenMSI-Streams"
"""Any value; a page of another origin cannot send it without our leave, which is never given."""
# A working day.
SESSION_SECONDS = 12 * 3600
# Clocks of workers may differ by so much.
PEER_SECONDS = 60
# Wrong tokens from one address before it has to wait, and for how long; a person mistypes less often, and a guesser
# gets 7,200 tries a day of 2^128 or more.
TRIES = 5
TRY_SECONDS = 60.0
# Addresses remembered; above it the oldest is forgotten, so that memory stays bounded.
_ADDRESSES = 4096

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

PUBLIC = ("/login", "/health/live", "/health/ready", "/static/")
"""Answered without a token: the login itself, its looks, and health as one word."""


def is_loopback(host: str) -> bool:
    """Say whether a host name or address stays on this machine."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_bind(settings: WebSettings) -> None:
    """Refuse to start where anyone could see everything.

    Raises:
        ConfigurationError: for an address that is not loopback, without a token and without a declared proxy.
    """
    if not is_loopback(settings.host) and not settings.token and not settings.behind_proxy:
        raise ConfigurationError(
            f"The web views would be open to everyone on {settings.host}. Set web.token (or "
            "OPENMSI_STREAMS__WEB__TOKEN), or web.behind_proxy = true if a reverse proxy checks who comes in, or "
            "leave web.host at 127.0.0.1."
        )
    # 16 characters of a random token are at least 64 bits; a word is guessed in a day.
    if settings.token and len(settings.token) < 16:
        raise ConfigurationError(
            "The setting web.token is shorter than 16 characters and could be guessed. Make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


class Limiter:
    """Counts wrong tokens per address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise Problem 429 if this address has to wait."""
        recent = self._recent(address)
        if len(recent) >= TRIES:
            wait = max(1, int(TRY_SECONDS - (self._clock() - recent[0])) + 1)
            raise Problem(
                429,
                "Too many wrong tokens came from this address.",
                f"Wait {wait} s, then try again with the token of web.token.",
                {"Retry-After": str(wait)},
            )

    def wrong(self, address: str) -> None:
        """Note a wrong token."""
        self._wrong[address] = [*self._recent(address), self._clock()][-TRIES:]
        self._wrong.move_to_end(address)
        while len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        return [when for when in self._wrong.get(address, ()) if self._clock() - when < TRY_SECONDS]


class Guard:
    """Decides about requests."""

    def __init__(self, settings: WebSettings, clock: Callable[[], float] = time.time) -> None:
        self.token = settings.token
        self.behind_proxy = settings.behind_proxy
        self.limiter = Limiter()
        self._clock = clock
        # Without a token a session only serves the CSRF guard, so a key of this process will do.
        self._key = hashlib.sha256((settings.token or secrets.token_hex(32)).encode()).digest()

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    def address(self, request: web.Request) -> str:
        """Return the address that asks; behind the declared proxy, the one that the proxy saw."""
        if self.behind_proxy:
            forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
            if forwarded:
                return forwarded[:64]
        return request.remote or ""

    def is_token(self, given: str) -> bool:
        """Compare in constant time."""
        return bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())

    def new_session(self) -> str:
        """Return the value of a login's cookie."""
        until = str(int(self._clock()) + SESSION_SECONDS)
        nonce = secrets.token_hex(16)
        return f"{until}.{nonce}.{self._sign('session', until, nonce)}"

    def session(self, request: web.Request) -> str:
        """Return the request's cookie if it is a session of ours, else an empty text."""
        value = request.cookies.get(COOKIE, "")
        until, _, rest = value.partition(".")
        nonce, _, signature = rest.partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12 or int(until) < self._clock():
            return ""
        return value if hmac.compare_digest(signature.encode(), self._sign("session", until, nonce).encode()) else ""

    def csrf(self, session: str) -> str:
        """Return the form token that belongs to a session."""
        return self._sign("csrf", session) if session else ""

    def peer_header(self, method: str, path_and_query: str) -> dict[str, str]:
        """Return the header by which a worker shows another that it knows the token, without sending it."""
        if not self.token:
            return {}
        when = str(int(self._clock()))
        return {PEER_HEADER: f"{when}.{self._sign('peer', when, method, path_and_query)}"}

    def _is_peer(self, request: web.Request) -> bool:
        when, _, signature = request.headers.get(PEER_HEADER, "").partition(".")
        if not self.token or not when.isascii() or not when.isdigit() or len(when) > 12:
            return False
        if abs(self._clock() - int(when)) > PEER_SECONDS:
            return False
        expected = self._sign("peer", when, request.method, request.raw_path)
        return hmac.compare_digest(signature.encode(), expected.encode())

    def is_ambient(self, request: web.Request) -> bool:
        """Say whether what lets this request in is sent by a browser on its own (cookie, address)."""
        return "Authorization" not in request.headers and PEER_HEADER not in request.headers

    def check(self, request: web.Request) -> None:
        """Let the request in or raise the Problem that says why not.

        Raises:
            Problem: 401 without or with a wrong token, 403 on an open address without one, 429 after many wrong ones.
        """
        if not self.token:
            self._check_open(request)
            return
        if self.session(request):
            return
        address = self.address(request)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and given:
            self.limiter.check(address)
            if self.is_token(given.strip()):
                return
            self.limiter.wrong(address)
            raise Problem(401, "The token is wrong.", "Use the token of the worker's web.token.", _BEARER)
        if PEER_HEADER in request.headers:
            self.limiter.check(address)
            if self._is_peer(request):
                return
            self.limiter.wrong(address)
            raise Problem(
                401, "The worker's signature is wrong.", "Give all workers one web.token and set their clocks.", _BEARER
            )
        raise Problem(
            401,
            "A token is needed.",
            "Send it as 'Authorization: Bearer TOKEN', or log in at /login.",
            _BEARER,
        )

    def _check_open(self, request: web.Request) -> None:
        if self.behind_proxy:
            return
        name = request.transport.get_extra_info("sockname") if request.transport else None
        # A Unix socket has no address; its file's mode says who may connect.
        if isinstance(name, tuple) and not is_loopback(str(name[0])):
            raise Problem(403, "Nothing is shown on this address without a token.", "Set web.token on the worker.")
        host = urlsplit(f"//{request.host}").hostname or ""
        if not is_loopback(host):
            raise Problem(
                403,
                "Without a token the views answer only to http://127.0.0.1 and http://localhost.",
                "Use that address, or set web.token on the worker.",
            )

    async def check_post(self, request: web.Request) -> None:
        """Refuse a request that changes something unless it comes from our own page or from a program.

        Raises:
            Problem: 403.
        """
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != self._own_host(request):
            raise Problem(403, "This request came from another site's page.", "Use the button on the file's own page.")
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Problem(403, "This request came from another site's page.", "Use the button on the file's own page.")
        if not self.is_ambient(request) or GUARD_HEADER in request.headers:
            return
        given = ""
        if request.content_type == "application/x-www-form-urlencoded":
            field = (await request.post()).get("csrf", "")
            given = field if isinstance(field, str) else ""
        expected = self.csrf(self.session(request))
        if not expected or not hmac.compare_digest(given.encode(), expected.encode()):
            raise Problem(
                403,
                "The form is too old or did not come from this site.",
                f"Load the page again; a program sends the header '{GUARD_HEADER}: 1'.",
            )

    def _own_host(self, request: web.Request) -> str:
        if self.behind_proxy and request.headers.get("X-Forwarded-Host"):
            return request.headers["X-Forwarded-Host"].lower()
        return request.host.lower()

    def set_cookie(self, request: web.Request, response: web.StreamResponse, value: str) -> None:
        """Set the session's cookie: not for scripts, not for other sites, and over TLS only where TLS is."""
        forwarded = request.headers.get("X-Forwarded-Proto", "") if self.behind_proxy else ""
        response.set_cookie(
            COOKIE,
            value,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure or forwarded == "https",
            path="/",
        )


_BEARER = {"WWW-Authenticate": 'Bearer realm="openmsi_streams"'}


def local_path(value: str) -> str:
    """Return where to go after a login: a path of ours, never another site."""
    if value.startswith("/") and not value.startswith(("//", "/\\")) and value.isprintable() and "\\" not in value:
        return value
    return "/"
