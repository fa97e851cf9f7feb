"""`openmsi-streams crypto`: provision nodes, look after them, recover data."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
import msgspec

from openmsi_streams.errors import CryptoError

Folder = click.Path(file_okay=False, path_type=Path)
File = click.Path(dir_okay=False, path_type=Path)

AUTHORITY = click.option(
    "--authority",
    type=Folder,
    default=Path("authority"),
    show_default=True,
    envvar="OPENMSI_STREAMS_AUTHORITY",
    help="Folder of the authority.",
)
PASSWORDS = click.option(
    "--password-file",
    type=File,
    help="File with two lines: password of the root, password of the role keys (as for upstream's script).",
)
CONFIG = click.option("--config", "-c", "config_file", type=File, help="Settings (broker address and security).")
BROKER = click.option("--broker", help="Address of the broker, HOST:PORT.")
TOPICS = click.option("--topics", "-t", multiple=True, help="Topic; may be given again, or several with commas.")
ROLE = click.Choice(["producer", "consumer", "both"])
NODE = click.argument("node", type=File)


@click.group()
def crypto() -> None:
    """Provision and check message encryption.

    The authority signs nodes; each producer and each worker process is one node. See docs/encryption.md.
    """


def _settings(config_file: Path | None, broker: str | None, node: str | None = None) -> Any:
    from openmsi_streams.config import load

    return load(config_file, {"broker.bootstrap": broker, "crypto.node": node})


def _passwords(path: Path | None) -> tuple[str, str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CryptoError(f"The password file {path} cannot be read: {error}.") from None
    if len(lines) < 2 or not lines[0] or not lines[1]:
        raise CryptoError(f"{path} must hold two lines: the password of the root and that of the role keys.")
    return lines[0], lines[1]


def _split(topics: tuple[str, ...]) -> list[str]:
    return [one.strip() for given in topics for one in given.split(",") if one.strip()]


@crypto.command("init-authority")
@click.argument("folder", type=Folder, default=Path("authority"))
@PASSWORDS
def init_authority(folder: Path, password_file: Path | None) -> None:
    """Make the keys of a lab's authority in FOLDER (default: authority)."""
    from openmsi_streams.crypto import authority

    made = authority.create(folder, _passwords(password_file))
    click.echo(f"authority made in {folder}, root of trust {made.fingerprint}")
    click.echo(f"Keep a copy of {folder} in a safe place, and no copy on instruments or servers.")
    click.echo(f"Move {folder / authority.VAULT_KEY} away from the rest: whoever has it can read all data.")


@crypto.command()
@click.argument("node")
@click.option("--role", type=ROLE, required=True, help="What it may do; 'both' also for producers that read receipts.")
@TOPICS
@click.option("--folder", type=Folder, help="Where its files go  [default: a folder named like the node]")
@click.option("--days", type=float, default=365.0, show_default=True, help="Validity of its certificate; 0: for ever.")
@AUTHORITY
@PASSWORDS
@CONFIG
@BROKER
def provision(
    node: str,
    role: str,
    topics: tuple[str, ...],
    folder: Path | None,
    days: float,
    authority: Path,
    password_file: Path | None,
    config_file: Path | None,
    broker: str | None,
) -> None:
    """Make NODE's files, or give a node that is there a new certificate (its keys and seed are kept)."""
    from openmsi_streams.crypto import authority as authorities
    from openmsi_streams.crypto import chains
    from openmsi_streams.crypto import provision as provisioning

    signer = authorities.load(authority, _passwords(password_file))
    settings = _settings(config_file, broker)
    made = provisioning.provision(
        *(signer, node, cast(authorities.NodeRole, role), _split(topics), folder or Path(node), settings), days=days
    )
    certificate = chains.best(made)
    click.echo(f"node {node}: {certificate.role} for {', '.join(certificate.topics)}, {_until(certificate.expires)}")
    click.echo(f"Set  crypto.node = {str(made.config)!r}  where it runs.")


@crypto.command()
@NODE
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(node: Path, as_json: bool) -> None:
    """Show what NODE (a .config file) may do and until when. Works while it runs."""
    from openmsi_streams.crypto import chains, files, library

    found = files.NodeFiles(node)
    certificate = chains.best(found)
    left = None if certificate.expires is None else (certificate.expires - datetime.now(UTC)).total_seconds() / 86400
    shown = {
        "node": found.node_id,
        "role": certificate.role,
        "topics": list(certificate.topics),
        "expires": None if certificate.expires is None else f"{certificate.expires:%Y-%m-%dT%H:%M:%SZ}",
        "days_left": None if left is None else round(left, 1),
        "config": str(found.config),
        "secret": str(found.secret),
        "seed": str(found.seed),
        "trusted_roots": [chains.unpack(one)[2].hex() for one in found.roots.values()],
        "libsodium": library.backend(),
    }
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    for name, value in shown.items():
        click.echo(f"{name.replace('_', ' '):14} {', '.join(value) if isinstance(value, list) else value}")


@crypto.command()
@NODE
@click.option("--role", type=ROLE, help="Another role.")
@TOPICS
@click.option("--days", type=float, default=365.0, show_default=True, help="Validity from now; 0: for ever.")
@click.option(
    "--publish", is_flag=True, help="Send the new certificate to the node over the broker; it may be running."
)
@AUTHORITY
@PASSWORDS
@CONFIG
@BROKER
def renew(
    node: Path,
    role: str | None,
    topics: tuple[str, ...],
    days: float,
    publish: bool,
    authority: Path,
    password_file: Path | None,
    config_file: Path | None,
    broker: str | None,
) -> None:
    """Give NODE (a .config file) a new certificate; keys, seed and old data keys stay."""
    from openmsi_streams.crypto import authority as authorities
    from openmsi_streams.crypto import provision as provisioning

    signer = authorities.load(authority, _passwords(password_file))
    public, chain = provisioning.renew(
        *(signer, node),
        role=cast("authorities.NodeRole | None", role),
        topics=_split(topics),
        days=days,
        write=not publish,
    )
    if publish:
        provisioning.publish(_settings(config_file, broker), public, chain)
        click.echo(
            "certificate published on the topic 'chains'; the node takes it within seconds, or at its next start"
        )
    else:
        click.echo(f"certificate of {node} renewed, {_until(authorities.expiry(days))}")


@crypto.command()
@NODE
@click.option("--repair", is_flag=True, help="Tighten modes, remove the temporary root, make paths absolute.")
def check(node: Path, repair: bool) -> None:
    """Check NODE (a .config file): files, modes, trust, certificate. Exit 1 if something is wrong."""
    from openmsi_streams.crypto import library
    from openmsi_streams.crypto import provision as provisioning

    problems, repaired = provisioning.findings(node, repair=repair)
    for line in repaired:
        click.echo(f"repaired: {line}")
    for line in problems:
        click.echo(f"problem: {line}")
    if problems:
        raise CryptoError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} with {node}; see above.")
    click.echo(f"{node}: all right ({library.backend()})")


@crypto.group()
def vault() -> None:
    """Seeds of producers, sealed, so that their data can be read when they are gone."""


@vault.command("add")
@NODE
@AUTHORITY
def vault_add(node: Path, authority: Path) -> None:
    """Add the producer NODE (a .config file) as it is now; provisioning does this for new producers by itself."""
    from openmsi_streams.crypto import authority as authorities
    from openmsi_streams.crypto import recover as recovering
    from openmsi_streams.crypto import vault as vaults

    signer = authorities.load(authority, signing=False)
    name, public, seed, topics = recovering.seed_of(node)
    vaults.add(signer, name, public, seed, topics)
    click.echo(f"{name} added to the vault: its data from now on can be recovered")


@vault.command("list")
@AUTHORITY
def vault_list(authority: Path) -> None:
    """List the producers in the vault."""
    from openmsi_streams.crypto import vault as vaults

    for entry in vaults.entries(authority):
        click.echo(f"{entry.node:24} {entry.added}  {', '.join(entry.topics)}")


@crypto.command()
@click.option("--topics", "-t", multiple=True, required=True, help="Topic to recover; may be given again.")
@click.option("--vault-key", type=File, required=True, help="The vault.key of the authority.")
@click.option("--into", type=File, help="Give the data keys to this node (a .config file), which may be running.")
@click.option("--output", type=Folder, help="Write the decrypted files into this folder.")
@click.option("--steps", type=click.IntRange(1), default=8000, show_default=True, help="Key generations to try.")
@AUTHORITY
@CONFIG
@BROKER
def recover(
    topics: tuple[str, ...],
    vault_key: Path,
    into: Path | None,
    output: Path | None,
    steps: int,
    authority: Path,
    config_file: Path | None,
    broker: str | None,
) -> None:
    """Read the data of producers that are gone, from the vault.

    With --into a worker gets the data keys: what is parked goes on by itself, and `replay` brings back the rest.
    """
    from openmsi_streams.crypto import recover as recovering
    from openmsi_streams.crypto import vault as vaults
    from openmsi_streams.crypto.messages import root_of

    if into is None and output is None:
        raise click.UsageError("Say where to: --into NODE.config, --output FOLDER, or both.")
    settings = _settings(config_file, broker)
    key = vaults.read_key(vault_key)
    names = _split(topics)
    wanted: dict[str, set[bytes]] = {}
    for topic in names:
        seen = recovering.scan(settings, topic)
        wanted.setdefault(root_of(topic), set()).update(seen.indexes)
        click.echo(f"{topic}: {seen.messages} messages, {len(seen.indexes)} data keys, {seen.plain} not encrypted")
    keys = vaults.find(vaults.entries(authority), key, wanted, steps)
    missing = sum(len(indexes - keys[root].keys()) for root, indexes in wanted.items())
    click.echo(f"{sum(map(len, keys.values()))} data keys found in the vault, {missing} not")
    if into is not None:
        click.echo(f"{recovering.into_node(into, keys)} data keys given to {into}")
    damaged = 0
    if output is not None:
        for topic in names:
            result = recovering.to_folder(settings, topic, keys, output / topic, click.echo)
            damaged += sum(state != "whole" for state in result.files.values())
            for path, state in result.files.items():
                if state == "incomplete":
                    click.echo(f"incomplete: {path}")
            for reason, count in result.unusable.items():
                click.echo(f"{count} messages unusable: {reason}")
    if missing or damaged:
        raise CryptoError(
            f"Not all could be recovered: {missing} data keys are of producers that the vault does not hold (or the "
            f"vault holds them from a later time), {damaged} files are not whole."
        )


def _until(expires: datetime | None) -> str:
    return "without expiry" if expires is None else f"until {expires:%Y-%m-%d}"


__all__ = ["crypto"]
