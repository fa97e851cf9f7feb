"""Settings from a TOML file, the environment and flags, each value with its source."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from openmsi_streams.config import sizes
from openmsi_streams.config.settings import SECRETS, S3Settings, Section, Settings
from openmsi_streams.errors import ConfigurationError

PREFIX = "OPENMSI_STREAMS__"
FILE_VARIABLE = "OPENMSI_STREAMS_CONFIG"
DEFAULT_FILE = "openmsi-streams.toml"
LEGACY_SUFFIXES = (".config", ".cfg", ".ini")
_BOUNDS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}

Tree = dict[str, Any]


def load(
    path: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings; see `load_with_sources`."""
    return load_with_sources(path, flags, environment)[0]


def load_with_sources(
    path: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Return the settings and where each value that is not a default comes from.

    Args:
        path: a TOML file, or a `.config` file of OpenMSIStream; None: the file that ``OPENMSI_STREAMS_CONFIG`` names,
            else ``openmsi-streams.toml`` in the current folder if it is there.
        flags: ``{"section.key": value}``; None values are passed over.
        environment: variables like ``OPENMSI_STREAMS__SECTION__KEY``; None: the process's own.

    Raises:
        ConfigurationError: naming the key, its value and source, and the nearest known name.
    """
    variables = os.environ if environment is None else environment
    tree: Tree = {}
    sources: dict[str, str] = {}
    found = _find(path, variables)
    if found is not None:
        for dotted, value in _leaves(_read(found)):
            _put(tree, dotted, value)
            if value != {}:
                sources[".".join(dotted)] = str(found)
    for name, text in sorted(variables.items()):
        if name.upper().startswith(PREFIX):
            dotted = _name_of_variable(name)
            _put(tree, dotted, _from_text(text, _type_of(dotted)))
            sources[".".join(dotted)] = name
    for name, value in (flags or {}).items():
        if value is not None:
            dotted = tuple(name.split(".", 2)) if name.split(".")[1:2] == ["options"] else tuple(name.split("."))
            _put(tree, dotted, list(value) if isinstance(value, tuple) else value)
            sources[name] = "flag"
    _refuse_unknown(tree, Settings, "", sources)
    tree = _expand(tree, variables)
    _read_sizes(tree, sources)
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_explain(str(error), tree, sources)) from None
    for store in settings.s3.values():
        # OpenMSIStream's rule: an endpoint without a scheme is https.
        if store.endpoint and "://" not in store.endpoint and not store.endpoint.startswith("$"):
            store.endpoint = f"https://{store.endpoint}"
    return settings, sources


def _find(path: str | Path | None, variables: Mapping[str, str]) -> Path | None:
    if path is None and not variables.get(FILE_VARIABLE):
        default = Path(DEFAULT_FILE)
        return default if default.is_file() else None
    chosen = Path(path or variables[FILE_VARIABLE])
    if not chosen.is_file():
        raise ConfigurationError(
            f"The configuration file {str(chosen)!r} does not exist. Write one with `openmsi-streams config init`."
        )
    return chosen


def _read(path: Path) -> Tree:
    if path.suffix in LEGACY_SUFFIXES:
        from openmsi_streams.config.legacy import read_legacy

        return read_legacy(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}. Mend that line.") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}. Check its owner and mode.") from None


def _is_options(dotted: tuple[str, ...]) -> bool:
    """Tables whose keys are other programs' (librdkafka's, Kafka headers) are one value."""
    return len(dotted) == 2 and dotted[1] in ("options", "headers")


def _leaves(tree: Tree, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in tree.items():
        here = (*above, key)
        if isinstance(value, dict) and _is_options(here):
            # Unquoted, TOML reads `sasl.password = "x"` as a table in a table.
            found += [((*here, name), _text(inner)) for name, inner in _flat(value).items()] or [(here, {})]
        elif isinstance(value, dict) and value:
            found += _leaves(value, here)
        else:
            found.append((here, value))
    return found


def _flat(table: Tree, above: str = "") -> Tree:
    flat: Tree = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{above}{key}."))
        else:
            flat[f"{above}{key}"] = value
    return flat


def _text(value: Any) -> Any:
    """Write a number or truth value as librdkafka reads it; its settings are all text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _put(tree: Tree, dotted: tuple[str, ...], value: Any) -> None:
    for part in dotted[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{'.'.join(dotted)} cannot be set: {part!r} is a value, not a section.")
        tree = inner
    known = tree.get(dotted[-1])
    tree[dotted[-1]] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value


def _name_of_variable(name: str) -> tuple[str, ...]:
    parts = tuple(part.lower() for part in name[len(PREFIX) :].split("__"))
    if len(parts) > 2 and parts[1] == "options":
        # A shell takes no dots in names: ...__BROKER__OPTIONS__SASL_PASSWORD is `sasl.password`.
        return (*parts[:2], ".".join(parts[2:]).replace("_", "."))
    return parts


def _type_of(dotted: tuple[str, ...]) -> Any:
    """Return the type of a setting, or None for what is not known."""
    kind: Any = Settings
    for part in dotted:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
            continue
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return None
        kind = next((field.type for field in msgspec.structs.fields(kind) if field.name == part), None)
    return kind


def _from_text(text: str, kind: Any) -> Any:
    """Lists and tables are given as JSON, lists also with commas; text stays text, whatever it looks like."""
    if get_origin(kind) is list and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    if get_origin(kind) in (list, dict):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return text


def _expand(tree: Any, variables: Mapping[str, str], dotted: str = "") -> Any:
    """``$NAME`` as a whole value stands for that variable, ``@PATH`` as a secret's value for that file's content."""
    if isinstance(tree, dict):
        return {key: _expand(value, variables, f"{dotted}.{key}" if dotted else key) for key, value in tree.items()}
    if not isinstance(tree, str):
        return tree
    if tree.startswith("$") and len(tree) > 1:
        name = tree[1:].strip("{}")
        if name in variables:
            return variables[name]
        if dotted.startswith("s3."):
            # One file serves instrument PCs too, which know no keys of S3. The worker refuses to start with it.
            return tree
        raise ConfigurationError(
            f"The setting {dotted} = {tree!r} names an environment variable that is not set. Set {name}."
        )
    if tree.startswith("@") and is_secret(dotted):
        return _secret_of(dotted, tree[1:])
    return tree


def _secret_of(dotted: str, path: str) -> str:
    try:
        # Editors end a file with a line end that is no part of the secret.
        return Path(path).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"The setting {dotted} = '@{path}' names a file that cannot be read: {why}. Check the path, owner and mode."
        ) from None


def is_secret(dotted: str) -> bool:
    """Return whether a setting's value is never shown, by its dotted name."""
    return any(dotted == name or dotted.endswith(f".{name}") for name in SECRETS)


def _read_sizes(tree: Tree, sources: dict[str, str]) -> None:
    """Turn numbers of bytes that are written with a unit into numbers, in place."""
    for dotted, value in _leaves(tree):
        if isinstance(value, str) and sizes.is_size(_type_of(dotted)):
            try:
                _put(tree, dotted, sizes.parse(value))
            except ValueError as error:
                name = ".".join(dotted)
                source = f" ({sources[name]})" if name in sources else ""
                raise ConfigurationError(f"The setting {name}{source} is not usable: {error}") from None


def _refuse_unknown(tree: Any, section: type[Section], above: str, sources: dict[str, str]) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(section)}
    for key, value in tree.items():
        name = f"{above}{key}"
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            source = next((where for dotted, where in sources.items() if dotted.startswith(name)), "")
            raise ConfigurationError(
                f"The setting {name!r}{f' ({source})' if source else ''} is not known. "
                + (f"Did you mean {above + near[0]!r}?" if near else f"Known here: {', '.join(sorted(fields))}.")
            )
        kind = fields[key]
        if isinstance(kind, type) and issubclass(kind, Section):
            if not isinstance(value, dict):
                raise ConfigurationError(f"The setting {name!r} is a section, not a value. Write its keys below it.")
            _refuse_unknown(value, kind, f"{name}.", sources)
        elif key == "s3" and above == "":
            for store, inner in value.items() if isinstance(value, dict) else ():
                if not isinstance(inner, dict):
                    raise ConfigurationError(
                        f"The setting s3.{store} must be a section: S3 stores have names, so write [s3.main]."
                    )
                _refuse_unknown(inner, S3Settings, f"s3.{store}.", sources)


def _explain(problem: str, tree: Tree, sources: dict[str, str]) -> str:
    what, _, place = problem.partition(" - at `$.")
    name = place.rstrip("`")
    value: Any = tree
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if name.startswith("s3[...]"):
        # msgspec does not say which store; name the first whose conversion fails.
        name, value = _which_store(name, tree)
    shown = "***" if is_secret(name) else repr(value)
    source = sources.get(name, "")
    if not name:
        return f"The settings are not usable: {what}."
    quote = " Write it between quotes." if what.startswith("Expected `str`, got") else ""
    where = f" ({source})" if source else ""
    return f"The setting {name} = {shown}{where} is not usable: {what}.{quote}{_cure(what, name)}"


def _cure(what: str, name: str) -> str:
    """Return what to write instead of a number that is out of its bounds."""
    bound = re.search(r" (>=|>|<=|<) (-?[\d.]+)$", what)
    if bound is None:
        return ""
    limit = bound[2]
    if limit.isdigit() and sizes.is_size(_type_of(tuple(name.split(".")))):
        limit = sizes.written(int(limit))
    return f" Set it to {_BOUNDS[bound[1]]} {limit}."


def _which_store(name: str, tree: Tree) -> tuple[str, Any]:
    key = name.rpartition(".")[2]
    for store, inner in tree.get("s3", {}).items():
        try:
            msgspec.convert(inner, S3Settings, strict=False)
        except msgspec.ValidationError:
            return f"s3.{store}.{key}", inner.get(key) if isinstance(inner, dict) else None
    return name, None
