"""One set of options opens the broker to both clients."""

from __future__ import annotations

import asyncio
import http.server
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsi_streams.config import Settings, load
from openmsi_streams.config.kafka import faust_options
from openmsi_streams.config.security import token_provider
from openmsi_streams.errors import BrokerError, ConfigurationError

SASL = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.username": "lab",
    "sasl.password": "0012345",
}


def with_options(**options: str) -> Settings:
    return load(flags={f"broker.options.{key}": value for key, value in options.items()}, environment={})


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key, made by openssl."""
    folder = tmp_path_factory.mktemp("pem")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=lab", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        capture_output=True,
        check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("no openssl program here")
    return folder


def test_a_plain_broker_needs_no_credentials_and_several_addresses_are_kept() -> None:
    settings = load(flags={"broker.bootstrap": "a:9092, b:9092"}, environment={})
    assert faust_options(settings) == {"broker": "kafka://a:9092;kafka://b:9092"}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_user_and_password_reach_faust_unchanged(mechanism: str) -> None:
    credentials = faust_options(with_options(**{**SASL, "sasl.mechanism": mechanism}))["broker_credentials"]
    assert (credentials.username, credentials.password) == ("lab", "0012345")
    assert credentials.mechanism.value == mechanism
    assert credentials.protocol.value == "SASL_PLAINTEXT"


def test_the_plural_spelling_of_the_mechanism_works_too() -> None:
    options = {key: value for key, value in SASL.items() if key != "sasl.mechanism"}
    built = faust_options(with_options(**options, **{"sasl.mechanisms": "PLAIN"}))
    assert built["broker_credentials"].mechanism.value == "PLAIN"


def test_tls_loads_authority_and_client_certificate(pem: Path) -> None:
    built = faust_options(
        with_options(
            **{
                "security.protocol": "SSL",
                "ssl.ca.location": str(pem / "cert.pem"),
                "ssl.certificate.location": str(pem / "cert.pem"),
                "ssl.key.location": str(pem / "key.pem"),
            }
        )
    )
    context = built["broker_credentials"].context
    assert context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED
    assert any(("commonName", "lab") in part for one in context.get_ca_certs() for part in one["subject"])


def test_host_names_are_checked_unless_the_option_says_none(pem: Path) -> None:
    options = {"security.protocol": "SASL_SSL", "ssl.endpoint.identification.algorithm": "none"}
    built = faust_options(with_options(**{**SASL, **options}))
    context = built["broker_credentials"].ssl_context
    assert not context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED
    assert built["broker_credentials"].protocol.value == "SASL_SSL"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"security.protocol": "TLS"}, "SASL_SSL"),
        ({**SASL, "sasl.mechanism": "GSSAPI"}, "SCRAM-SHA-256"),
        ({**SASL, "sasl.password": ""}, "sasl.password"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/no/such/ca.pem"}, "does not exist"),
        ({"security.protocol": "SSL", "ssl.keystore.location": "x.p12"}, r"ssl\.key\.location"),
        ({"security.protocol": "SSL", "ssl.key.location": "x"}, "Set both"),
        ({**SASL, "sasl.mechanism": "OAUTHBEARER"}, "oidc"),
    ],
)
def test_what_one_client_cannot_do_is_said_with_its_cure(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        faust_options(with_options(**options))


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    with pytest.raises(ConfigurationError, match="openssl"):
        faust_options(with_options(**{"security.protocol": "SSL", "ssl.ca.location": str(tmp_path / "ca.pem")}))


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[str]]]:
    """A token endpoint that counts what it is asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append(body)
            if "wrong" in body:
                self.send_error(401)
                return
            answer = json.dumps({"access_token": f"token-{len(asked)}", "expires_in": 3600}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/token", asked
    server.shutdown()
    server.server_close()


def oauth(url: str, secret: str = "s") -> dict[str, str]:
    return {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": url,
        "sasl.oauthbearer.client.id": "worker",
        "sasl.oauthbearer.client.secret": secret,
        "sasl.oauthbearer.scope": "kafka",
    }


def test_tokens_come_from_the_endpoint_and_are_kept(endpoint: tuple[str, list[str]]) -> None:
    provider = token_provider(oauth(endpoint[0]))

    async def twice() -> tuple[str, str]:
        return await provider.token(), await provider.token()

    assert asyncio.run(twice()) == ("token-1", "token-1")
    assert "grant_type=client_credentials" in endpoint[1][0] and "scope=kafka" in endpoint[1][0]


def test_a_refused_client_is_named_and_its_secret_is_not(endpoint: tuple[str, list[str]]) -> None:
    with pytest.raises(BrokerError, match="worker") as caught:
        asyncio.run(token_provider(oauth(endpoint[0], "wrong")).token())
    assert "wrong" not in str(caught.value)


def test_reading_settings_loads_neither_faust_nor_aiokafka() -> None:
    code = (
        "import sys, openmsi_streams.config.kafka, openmsi_streams.config.security, openmsi_streams.config.topics;"
        "sys.exit(any(name in sys.modules for name in ('faust', 'aiokafka', 'rocksdict')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
