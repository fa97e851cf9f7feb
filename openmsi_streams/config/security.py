"""One way into the broker, from `broker.options`, for both clients: librdkafka takes the options as they are, Faust
(aiokafka) gets credentials and an SSL context built from the same ones."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmsi_streams.errors import BrokerError, ConfigurationError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
# What both clients speak. Kerberos needs system libraries that neither wheel brings.
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
# librdkafka can; Python's ssl module cannot read these forms of key.
NOT_FOR_FAUST = {
    "ssl.keystore.location": "ssl.certificate.location and ssl.key.location (PEM)",
    "ssl.key.pem": "ssl.key.location (a PEM file)",
    "ssl.certificate.pem": "ssl.certificate.location (a PEM file)",
}
# Options of security that are translated for Faust; every other one works for librdkafka's clients alone.
FOR_BOTH = frozenset(
    {
        "security.protocol",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.username",
        "sasl.password",
        "sasl.oauthbearer.method",
        "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.scope",
        "sasl.oauthbearer.token.endpoint.url",
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
    }
)
# Seconds before its end that a token is renewed: a request in hand still has to reach the broker.
TOKEN_MARGIN = 30.0


def protocol(options: Mapping[str, str]) -> str:
    """Return the security protocol of librdkafka options. Raises ConfigurationError for one that does not exist."""
    name = options.get("security.protocol", "PLAINTEXT").upper()
    if name not in PROTOCOLS:
        raise ConfigurationError(
            f"The setting broker.options 'security.protocol' = {name!r} is not a protocol of Kafka. "
            f"Use one of {', '.join(PROTOCOLS)}; a hosted broker usually wants SASL_SSL."
        )
    return name


def mechanism(options: Mapping[str, str]) -> str:
    """Return the SASL mechanism. Raises ConfigurationError for one that both clients do not speak."""
    name = (options.get("sasl.mechanism") or options.get("sasl.mechanisms") or "").upper()
    if name not in MECHANISMS:
        raise ConfigurationError(
            f"The setting broker.options 'sasl.mechanism' = {name!r} is not one that producer and worker both speak. "
            f"Use one of {', '.join(MECHANISMS)}."
        )
    return name


def faust_options(settings: Settings) -> dict[str, Any]:
    """Return ``broker`` and, where the broker wants them, ``broker_credentials`` for ``faust.App``.

    Raises:
        ConfigurationError: an option contradicts another, names a missing file, or is known to librdkafka alone.
    """
    options = settings.broker.options
    found: dict[str, Any] = {"broker": broker_url(settings.broker.bootstrap)}
    if "client.id" in options:
        found["broker_client_id"] = options["client.id"]
    name = protocol(options)
    if name == "PLAINTEXT":
        return found
    context = ssl_context(options) if name in ("SSL", "SASL_SSL") else None

    import faust

    if name == "SSL":
        found["broker_credentials"] = faust.SSLCredentials(context=context)
    elif mechanism(options) == "OAUTHBEARER":
        from faust.auth import OAuthCredentials

        found["broker_credentials"] = OAuthCredentials(oauth_cb=token_provider(options), ssl_context=context)
    else:
        found["broker_credentials"] = faust.SASLCredentials(
            username=_needed(options, "sasl.username"),
            password=_needed(options, "sasl.password"),
            mechanism=mechanism(options),
            ssl_context=context,
        )
    return found


def broker_url(bootstrap: str) -> str:
    """Return bootstrap addresses in Faust's form, ``kafka://host:port`` with semicolons between."""
    return ";".join(f"kafka://{address.strip()}" for address in bootstrap.split(",") if address.strip())


def _needed(options: Mapping[str, str], key: str) -> str:
    if not options.get(key):
        raise ConfigurationError(
            f"The setting broker.options {key!r} is missing, which {options.get('security.protocol')} needs. "
            "Set it; a secret may be '$NAME' or '@PATH'."
        )
    return options[key]


def ssl_context(options: Mapping[str, str]) -> ssl.SSLContext:
    """Return the SSL context that says what librdkafka's ``ssl.*`` options say.

    Raises:
        ConfigurationError: a file is missing or is not PEM, a key's password is wrong, or only librdkafka knows a key.
    """
    for key, instead in NOT_FOR_FAUST.items():
        if key in options:
            raise ConfigurationError(
                f"The setting broker.options {key!r} works for producers alone. Use {instead}, which the worker reads."
            )
    context = ssl.create_default_context(cadata=options.get("ssl.ca.pem") or None)
    authority = options.get("ssl.ca.location", "")
    # librdkafka's word for "search the usual places", which is what the default context has done.
    if authority and authority != "probe":
        path = _file("ssl.ca.location", authority)
        try:
            context.load_verify_locations(
                cafile=None if path.is_dir() else str(path), capath=str(path) if path.is_dir() else None
            )
        except ssl.SSLError:
            raise ConfigurationError(
                f"The setting broker.options 'ssl.ca.location' = {authority!r} holds no certificate in PEM form. "
                "Convert it: openssl x509 -inform der -in ca.der -out ca.pem"
            ) from None
    if "ssl.certificate.location" in options:
        certificate = _file("ssl.certificate.location", options["ssl.certificate.location"])
        key_file = options.get("ssl.key.location")
        try:
            context.load_cert_chain(
                str(certificate),
                str(_file("ssl.key.location", key_file)) if key_file else None,
                # Without one, OpenSSL would ask on the terminal and the service would hang.
                options.get("ssl.key.password") or "",
            )
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"The client certificate {certificate} and its key cannot be used together ({_short(error)}). "
                "Check that ssl.key.location belongs to the certificate and that ssl.key.password is right."
            ) from None
    elif "ssl.key.location" in options:
        raise ConfigurationError(
            "The setting broker.options 'ssl.key.location' has no 'ssl.certificate.location' beside it. Set both."
        )
    # librdkafka's default since 2.0 is `https`: the certificate must name the host.
    if options.get("ssl.endpoint.identification.algorithm", "https").lower() in ("none", ""):
        context.check_hostname = False
    if options.get("enable.ssl.certificate.verification", "true").lower() in ("false", "0", "f"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _short(error: BaseException) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)


def _file(key: str, value: str) -> Path:
    path = Path(value).expanduser()
    if not path.exists():
        raise ConfigurationError(
            f"The setting broker.options {key!r} = {value!r} names a file that does not exist. "
            "Give its absolute path: services start in another folder."
        )
    return path


def token_provider(options: Mapping[str, str]) -> Any:
    """Return aiokafka's token provider that asks the same token endpoint as librdkafka's ``oidc`` method.

    Raises:
        ConfigurationError: librdkafka's other methods (unsecured tokens) are asked for, or a key is missing.
    """
    from aiokafka.abc import AbstractTokenProvider

    if options.get("sasl.oauthbearer.method", "default").lower() != "oidc":
        raise ConfigurationError(
            "The setting broker.options 'sasl.oauthbearer.method' must be 'oidc' for OAUTHBEARER: the worker gets its "
            "tokens from sasl.oauthbearer.token.endpoint.url with the client's id and secret."
        )
    endpoint = _needed(options, "sasl.oauthbearer.token.endpoint.url")
    client_id = _needed(options, "sasl.oauthbearer.client.id")
    secret = _needed(options, "sasl.oauthbearer.client.secret")
    scope = options.get("sasl.oauthbearer.scope", "")
    authority = options.get("https.ca.location")

    class Provider(AbstractTokenProvider):  # type: ignore[misc]
        """Keeps one token until shortly before its end."""

        def __init__(self) -> None:
            self._token = ""
            self._until = 0.0

        async def token(self) -> str:
            if time.monotonic() >= self._until:
                self._token, lifetime = await asyncio.to_thread(
                    fetch_token, endpoint, client_id, secret, scope, authority
                )
                self._until = time.monotonic() + max(0.0, lifetime - TOKEN_MARGIN)
            return self._token

    return Provider()


def fetch_token(
    endpoint: str, client_id: str, secret: str, scope: str = "", authority: str | None = None
) -> tuple[str, float]:
    """Return a token and its life in seconds by OAuth 2.0's client credentials grant (RFC 6749, section 4.4).

    Raises:
        BrokerError: the endpoint does not answer, or refuses; the secret is not shown.
    """
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    if scope:
        form["scope"] = scope
    request = urllib.request.Request(endpoint, urllib.parse.urlencode(form).encode(), method="POST")
    if not endpoint.startswith(("https://", "http://")):
        raise ConfigurationError(f"The token endpoint {endpoint!r} is not a http(s) address.")
    context = ssl.create_default_context(cafile=authority) if endpoint.startswith("https") else None
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            told = json.load(answer)
        return str(told["access_token"]), float(told.get("expires_in", 300))
    except urllib.error.HTTPError as error:
        raise BrokerError(
            f"The token endpoint {endpoint} refused client {client_id!r} with HTTP {error.code}. "
            "Check sasl.oauthbearer.client.id, client.secret and scope."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokerError(f"The token endpoint {endpoint} gave no token ({error}). Check the address.") from None
