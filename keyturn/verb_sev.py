"""``keyturn sev``: what reports and firmware for SEV say, and ID blocks that bind a guest to its digest."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output, escape
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from measurements.platforms import PlatformPrediction

MAX_FILE = 1 << 30

BLOCK_FILE = "id-block.bin"
AUTHENTICATION_FILE = "id-auth.bin"
QEMU_FILE = "qemu-properties.txt"


class SevInputError(KeyturnError):
    """Options or files that do not say what is wanted."""

    code = "sev-input"


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    sev = typer.Typer(no_args_is_help=True, help="Read SEV reports and firmware, sign ID blocks.")
    sev.command("show")(show)
    sev.command("id-block")(id_block)
    app.add_typer(sev, name="sev")


def show(
    file: Annotated[Path, typer.Argument(help="An SNP report, an OVMF image, or an IGVM file.")],
    json: JsonOption = False,
) -> None:
    """Say what a report, a firmware image or an IGVM file holds. A report's signature is not checked."""
    from keyturn.sev_facts import facts_of

    facts = facts_of(_read(file, MAX_FILE), name=str(file))
    out = Output(json=json)
    out.table("", ("field", "value"), [(key, escape(_shown(value))) for key, value in facts.items()])
    out.result(facts)


def id_block(
    id_key: Annotated[Path, typer.Option("--id-key", help="PEM file of the ID key, on P-384.")],
    policy: Annotated[str, typer.Option("--policy", help="The guest's policy, such as 0x30000.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for the ID block.")],
    measurement: Annotated[
        str | None, typer.Option("--measurement", help="The launch digest, 96 hex digits.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Reference values of an SNP guest instead.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", help="Which of the reference values: KEY=VALUE, such as vcpus=4; repeatable."
        ),
    ] = None,
    author_key: Annotated[
        Path | None, typer.Option("--author-key", help="PEM file of the author key, which signs the ID key.")
    ] = None,
    family_id: Annotated[str, typer.Option("--family-id", help="32 hex digits of your choice.")] = "00" * 16,
    image_id: Annotated[str, typer.Option("--image-id", help="32 hex digits of your choice.")] = "00" * 16,
    guest_svn: Annotated[int, typer.Option("--guest-svn", help="The guest's security version.")] = 0,
    json: JsonOption = False,
) -> None:
    """Sign the launch digest that a guest must have: the processor refuses any other."""
    from measurements.sev.guest_policy import GuestPolicy
    from measurements.sev.id_block import MAX_KEY_FILE, IdBlock, check_id_block, load_key, sign_id_block

    out = Output(json=json)
    block = IdBlock(
        launch_digest=_digest(measurement, reference, label or []),
        policy=_number(policy),
        family_id=_bytes(family_id, 16, "--family-id"),
        image_id=_bytes(image_id, 16, "--image-id"),
        guest_svn=guest_svn,
    )
    if GuestPolicy.parse(block.policy).debug:
        out.warn("this policy lets the host read the guest's memory (DEBUG)")
    signed = sign_id_block(
        block,
        id_key=load_key(_read(id_key, MAX_KEY_FILE), name=str(id_key)),
        author_key=load_key(_read(author_key, MAX_KEY_FILE), name=str(author_key)) if author_key else None,
    )
    check_id_block(block, signed)
    properties = (
        f"id-block={base64.b64encode(block.pack()).decode()},id-auth={base64.b64encode(signed.pack()).decode()}"
        f"{',author-key-enabled=on' if author_key else ''}"
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / BLOCK_FILE).write_bytes(block.pack())
    (output / AUTHENTICATION_FILE).write_bytes(signed.pack())
    (output / QEMU_FILE).write_text(properties + "\n", encoding="ascii")
    facts: dict[str, object] = {
        "measurement": block.launch_digest.hex(),
        "policy": f"{block.policy:#x}",
        "id_key_digest": signed.id_key_digest.hex(),
        "author_key_digest": signed.author_key_digest.hex(),
        "id_block": str(output / BLOCK_FILE),
        "id_auth": str(output / AUTHENTICATION_FILE),
        "qemu_properties": str(output / QEMU_FILE),
    }
    out.table("ID block", ("field", "value"), [(key, escape(str(value))) for key, value in facts.items()])
    out.result(facts)


def _digest(measurement: str | None, reference: Path | None, labels: list[str]) -> bytes:
    """The launch digest that the options name."""
    if (measurement is None) == (reference is None):
        raise typer.BadParameter("give --measurement or --reference, one of them")
    if measurement is not None:
        return _bytes(measurement, 48, "--measurement")
    assert reference is not None
    from measurements.platforms import Platform
    from measurements.reference import parse_predictions

    wanted = dict(_pair(text) for text in labels)
    predictions = parse_predictions(_read(reference, MAX_FILE), subject=str(reference))
    snp = [prediction for prediction in predictions if prediction.platform is Platform.SNP]
    found = [prediction for prediction in snp if wanted.items() <= prediction.label.items()]
    digests = {prediction.registers["measurement"]["sha384"] for prediction in found}
    if len(digests) != 1:
        raise _ambiguous(reference, found or snp, wanted)
    return digests.pop()


def _ambiguous(reference: Path, near: list[PlatformPrediction], wanted: Mapping[str, str]) -> SevInputError:
    keys = dict.fromkeys(key for prediction in near for key in prediction.label)
    choices = [
        f"{key}={value}" for key in keys for value in dict.fromkeys(p.label.get(key, "") for p in near)
    ]
    return SevInputError(
        f"holds {len(near)} predictions for SNP" + (f" near {dict(wanted)}" if wanted else ""),
        subject=str(reference),
        advice=f"name one with --label, of: {', '.join(choices) or 'none, so predict platform snp first'}",
    )


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"--label {text}: give KEY=VALUE")
    return key, value


def _bytes(text: str, size: int, option: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size:
        raise SevInputError(
            f"is not {size} bytes in hex", subject=option, advice=f"give {2 * size} hex digits"
        )
    return data


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise SevInputError(
            "is no number", subject="--policy", advice="give a number, such as 0x30000"
        ) from None


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as problem:
        raise SevInputError(
            f"cannot be read: {problem.strerror}", subject=str(path), advice="name a file that is there"
        ) from problem
    if len(data) > limit:
        raise SevInputError(f"is larger than {limit} bytes", subject=str(path), advice="name the right file")
    return data


def _shown(value: object) -> str:
    """A value for people: lists one per line, nothing as a dash."""
    if isinstance(value, list):
        return "\n".join(str(part) for part in value) or "-"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {part}" for key, part in value.items())
    return "-" if value is None else str(value)
