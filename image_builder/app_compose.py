"""Containers and volumes from a Compose file, for the subset that docs/apps.md lists.

Source: the Compose Specification. A service becomes a ``[[container]]`` of ``app.toml`` and is checked there;
what is not listed here is refused, and so are variables from the environment (``${…}``), YAML aliases and
keys given twice: the file must mean one thing only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from image_builder import app_values
from image_builder.recipe_errors import RecipeError

MAX_FILE = 1 << 20
_DURATION = re.compile(r"([0-9]{1,5})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_BYTES = re.compile(r"([0-9]{1,9})(k|m|g|kb|mb|gb)", re.IGNORECASE)
_UNITS = {"k": "KiB", "m": "MiB", "g": "GiB"}
_VARIABLE = re.compile(r"\$(?!\$)")
_CONDITIONS = {
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "completed",
}

Converter = Callable[[Any], dict[str, Any]]


def compose_document(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The containers, as tables of ``app.toml``, and the names of the volumes; raises ``RecipeError``."""
    try:
        document = _load(path)
        _only(document, ("services", "volumes"), "")
        volumes = _table(document.get("volumes") or {}, "volumes")
        for name, settings in volumes.items():
            if settings:
                raise ValueError(f"volumes.{name}: only plain named volumes exist; leave its settings out")
        services = _table(document.get("services") or {}, "services")
        return [_container(name, service) for name, service in services.items()], list(volumes)
    except ValueError as error:
        raise RecipeError(
            str(error), subject=path.name, advice="keep to the Compose subset of docs/apps.md"
        ) from None


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise ValueError(f"has more than {MAX_FILE} bytes")
    try:
        node = yaml.compose(data, Loader=yaml.SafeLoader)
        _unambiguous(node, set())
        return _table(_resolved(yaml.safe_load(data)), "the file")
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not valid YAML: {error}") from None


def _unambiguous(node: Any, seen: set[int]) -> None:
    """Refuse aliases (a node met twice), merge keys, and keys given twice."""
    if id(node) in seen:
        raise ValueError("uses a YAML alias")
    seen.add(id(node))
    pairs = node.value if node is not None and isinstance(node.value, list) else []
    keys = set[str]()
    for item in pairs:
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) == 2:
            key = str(parts[0].value)
            if key in keys or key == "<<":
                raise ValueError(f"gives the key {key} twice, or merges")
            keys.add(key)
        for part in parts:
            _unambiguous(part, seen)


def _resolved(value: Any) -> Any:
    """``$$`` is a dollar; any other dollar would take a variable of the environment."""
    if isinstance(value, str):
        if _VARIABLE.search(value.replace("$$", "")):
            raise ValueError(f"{value!r} takes a variable from the environment; write $$ for a dollar")
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_resolved(each) for each in value]
    return {key: _resolved(each) for key, each in value.items()} if isinstance(value, dict) else value


def _container(name: str, service: Any) -> dict[str, Any]:
    table = _table(service, f"services.{name}")
    container: dict[str, Any] = {"name": name}
    _only(table, _CONVERTERS, f"services.{name}.")
    for key, value in table.items():
        try:
            part = _CONVERTERS[key](value)
        except ValueError as error:
            raise ValueError(f"services.{name}.{key}: {error}") from None
        for target, converted in part.items():
            both = isinstance(converted, dict) and target in container
            container[target] = container[target] | converted if both else converted
    return container


def _image(value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or "@sha256:" not in value:
        raise ValueError(
            f"{value!r} has no digest: a tag may become another image at any time, so add @sha256:…"
        )
    return {"image": value}


def _words(key: str) -> Converter:
    def convert(value: Any) -> dict[str, Any]:
        return {key: shlex.split(value) if isinstance(value, str) else value}

    return convert


def _same(key: str) -> Converter:
    return lambda value: {key: value}


def _environment(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        pairs = [str(each).partition("=") for each in value]
        if not all(equals for _, equals, _ in pairs) or len({name for name, _, _ in pairs}) != len(pairs):
            raise ValueError("entries are NAME=value, each name once; the host's variables are not taken")
        return {"env": {name: text for name, _, text in pairs}}
    return {"env": {name: _scalar(each) for name, each in _table(value, "it").items()}}


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{value!r} is not a text: put it in quotes")
    return str(value)


def _volumes(value: Any) -> dict[str, Any]:
    return {"mounts": [_mount(each) for each in _list(value)]}


def _mount(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        _only(value, ("type", "source", "target", "read_only"), "")
        if value.get("type") != "volume":
            raise ValueError(f"type {value.get('type')!r}: only named volumes are mounted")
        source, path = str(value.get("source", "")), value.get("target", "")
        return {"volume": app_values.name(source), "path": path, "read-only": value.get("read_only", False)}
    source, _, rest = str(value).partition(":")
    path, _, mode = rest.partition(":")
    if mode not in {"", "ro", "rw"}:
        raise ValueError(f"{value!r} is not NAME:/path, with :ro or without")
    return {"volume": app_values.name(source), "path": path, "read-only": mode == "ro"}


def _ports(value: Any) -> dict[str, Any]:
    ports = []
    for each in _list(value):
        outer, colon, inner = str(each).partition(":")
        if colon and outer != inner.partition("/")[0]:
            raise ValueError(f"{each!r}: a port is the same inside and outside")
        ports.append(inner if colon else each)
    return {"ports": ports}


def _tmpfs(value: Any) -> dict[str, Any]:
    entries = []
    for each in [value] if isinstance(value, str) else _list(value):
        path, _, text = str(each).partition(":")
        options = dict(part.partition("=")[::2] for part in text.split(",") if part)
        _only(options, ("size", "mode"), "tmpfs option ")
        if "size" not in options:
            raise ValueError(f"{each!r} has no size: write {path}:size=64m")
        mode = {"mode": options["mode"]} if "mode" in options else {}
        entries.append({"path": path, "size": _size(options["size"]), **mode})
    return {"tmpfs": entries}


def _size(value: Any) -> str:
    match = _BYTES.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a size such as 64m")
    return f"{match[1]}{_UNITS[match[2][0].lower()]}"


def _depends(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"depends-on": [{"container": each} for each in value]}
    entries = []
    for name, settings in _table(value, "it").items():
        _only(_table(settings, name), ("condition",), f"{name}.")
        condition = settings.get("condition", "service_started")
        if condition not in _CONDITIONS:
            raise ValueError(f"{condition!r} is not one of {', '.join(_CONDITIONS)}")
        entries.append({"container": name, "condition": _CONDITIONS[condition]})
    return {"depends-on": entries}


def _restart(value: Any) -> dict[str, Any]:
    policy, colon, retries = str(value).partition(":")
    if isinstance(value, bool) or policy not in {"no", "always", "on-failure"}:
        raise ValueError(f'{value!r} is not "no", "always" or "on-failure[:N]"')
    if colon and not (policy == "on-failure" and retries.isascii() and retries.isdigit()):
        raise ValueError(f"{value!r}: only on-failure takes a number")
    return {"restart": {"policy": policy, "max-retries": int(retries or 0)}}


def _health(value: Any) -> dict[str, Any]:
    table = _table(value, "it")
    _only(table, ("test", "interval", "timeout", "retries", "start_period"), "")
    test = table.get("test")
    if not isinstance(test, list) or len(test) < 2 or test[0] != "CMD":
        raise ValueError('test is a list that begins with "CMD"; there may be no shell in the image')
    health: dict[str, Any] = {"command": test[1:]}
    for key, target in (("interval", "interval"), ("timeout", "timeout"), ("start_period", "start")):
        if key in table:
            health[f"{target}-seconds"] = _seconds(table[key])
    return {"health": health | ({"retries": table["retries"]} if "retries" in table else {})}


def _seconds(value: Any) -> int:
    match = _DURATION.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a duration such as 10s")
    return int(match[1]) * _SECONDS[match[2]]


def _cap_add(value: Any) -> dict[str, Any]:
    names = [str(each).upper() for each in _list(value)]
    return {"capabilities": [each if each.startswith("CAP_") else f"CAP_{each}" for each in names]}


def _cap_drop(value: Any) -> dict[str, Any]:
    if value != ["ALL"]:
        raise ValueError('every capability is dropped anyway: write ["ALL"] or leave it out')
    return {}


def _cpus(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?", str(value)):
        raise ValueError(f'{value!r} is not a number of CPUs such as "0.5"')
    whole, _, part = str(value).partition(".")
    return {"limits": {"cpu-percent": int(whole) * 100 + int(part.ljust(2, "0"))}}


def _ulimits(value: Any) -> dict[str, Any]:
    table = _table(value, "it")
    _only(table, ("nofile",), "")
    return {"limits": {"open-files": table.get("nofile")}}


def _extension(value: Any) -> dict[str, Any]:
    table = _table(value, "it")
    _only(table, ("socket", "allowed-env"), "")
    return table


_CONVERTERS: Mapping[str, Converter] = {
    "image": _image,
    "entrypoint": _words("entrypoint"),
    "command": _words("command"),
    "working_dir": _same("working-dir"),
    "environment": _environment,
    "user": lambda value: {"user": str(value)},
    "cap_add": _cap_add,
    "cap_drop": _cap_drop,
    "read_only": _same("read-only"),
    "tmpfs": _tmpfs,
    "volumes": _volumes,
    "ports": _ports,
    "depends_on": _depends,
    "restart": _restart,
    "healthcheck": _health,
    "mem_limit": lambda value: {"limits": {"memory": _size(value)}},
    "pids_limit": lambda value: {"limits": {"pids": value}},
    "cpus": _cpus,
    "ulimits": _ulimits,
    "x-keyturn": _extension,
}


def _only(table: Mapping[str, Any], known: Any, where: str) -> None:
    """Refuse keys that are not ``known``, with the reason where there is one."""
    for key in table:
        if key not in known:
            reason = app_values.forbidden_reason(str(key)) or f"known keys here: {', '.join(sorted(known))}"
            raise ValueError(f"{where}{key} is refused: {reason}")


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} is not a table with texts as keys")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return value
