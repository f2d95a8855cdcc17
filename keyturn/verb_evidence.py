"""``keyturn evidence``: evidence of any software made into one container, and what a container holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output, escape
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from attestation.container import EvidenceContainer
    from attestation.importers import SideFile

MAX_FILE = 16 << 20
OUTBLOB = "outblob"
_LOGS = ("tcg2", "ccel", "dstack")

_FileArgument = Annotated[
    Path,
    typer.Argument(help="Evidence in any known format; or a folder of configfs-tsm with outblob."),
]
_CertificatesOption = Annotated[
    Path | None, typer.Option("--certificates", help="Certificates beside it: PEM, or one in DER.")
]
_LogOption = Annotated[
    list[str] | None,
    typer.Option("--log", help="Event log beside it: tcg2=FILE, ccel=FILE or dstack=FILE; repeatable."),
]
_AuxblobOption = Annotated[
    Path | None, typer.Option("--auxblob", help="configfs-tsm's auxblob, for an SNP report.")
]
_HclOption = Annotated[Path | None, typer.Option("--hcl-report", help="Azure's HCL report, for a TPM quote.")]
_TdQuoteOption = Annotated[
    Path | None, typer.Option("--td-quote", help="Quote of the trust domain, for Azure's HCL report.")
]
_GpuOption = Annotated[Path | None, typer.Option("--gpu", help="Evidence of the machine's GPUs.")]
_GpuCertificatesOption = Annotated[
    Path | None, typer.Option("--gpu-certificates", help="PEM chain of a bare GPU report.")
]
_CollateralOption = Annotated[
    Path | None, typer.Option("--collateral", help="Collateral to put in: a bundle, JSON, PEM, DER or XML.")
]
_ManifestOption = Annotated[Path | None, typer.Option("--app-manifest", help="The app's manifest.")]
_ShapeOption = Annotated[Path | None, typer.Option("--shape", help="The machine's shape.")]
_ReferenceOption = Annotated[Path | None, typer.Option("--reference", help="Declared reference values.")]
_ActivatedSecretOption = Annotated[
    Path | None,
    typer.Option("--activated-secret", help="What the TPM opened: the secret of keyturn tpm challenge."),
]
_EkCertificateOption = Annotated[
    Path | None,
    typer.Option("--ek-certificate", help="Certificate of the TPM's endorsement key: PEM or DER."),
]
_FormatOption = Annotated[
    str | None, typer.Option("--format", help="Name of the format, where a file fits several.")
]
_OutputOption = Annotated[Path, typer.Option("--output", help="Where the container goes; .json gives JSON.")]


class EvidenceInputError(KeyturnError):
    """Files or options that do not say what is wanted."""

    code = "evidence-input"


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    evidence = typer.Typer(no_args_is_help=True, help="Import evidence, and look into it.")
    evidence.command("import")(import_)
    evidence.command("show")(show)
    evidence.command("formats")(formats)
    app.add_typer(evidence, name="evidence")


def import_(
    file: _FileArgument,
    output: _OutputOption,
    certificates: _CertificatesOption = None,
    log: _LogOption = None,
    auxblob: _AuxblobOption = None,
    hcl_report: _HclOption = None,
    td_quote: _TdQuoteOption = None,
    gpu: _GpuOption = None,
    gpu_certificates: _GpuCertificatesOption = None,
    collateral: _CollateralOption = None,
    app_manifest: _ManifestOption = None,
    shape: _ShapeOption = None,
    reference: _ReferenceOption = None,
    ek_certificate: _EkCertificateOption = None,
    activated_secret: _ActivatedSecretOption = None,
    format_name: _FormatOption = None,
    json: JsonOption = False,
) -> None:
    """Make a container of evidence as other software wrote it. Nothing is verified."""
    from attestation.container_codec import container_hash, encode_container
    from attestation.container_json import container_json
    from attestation.importers import SideFile, import_evidence
    from measurements.kept import write_whole

    named = {
        SideFile.CERTIFICATES: certificates,
        SideFile.AUXBLOB: auxblob,
        SideFile.HCL_REPORT: hcl_report,
        SideFile.TD_QUOTE: td_quote,
        SideFile.GPU: gpu,
        SideFile.GPU_CERTIFICATES: gpu_certificates,
        SideFile.COLLATERAL: collateral,
        SideFile.APP_MANIFEST: app_manifest,
        SideFile.SHAPE: shape,
        SideFile.REFERENCE: reference,
        SideFile.EK_CERTIFICATE: ek_certificate,
        SideFile.ACTIVATED: activated_secret,
        **_logs(log or []),
    }
    main, beside = _tsm_folder(file)
    paths = {**beside, **{kind: path for kind, path in named.items() if path is not None}}
    container = import_evidence(
        _read(main), files={kind: _read(path) for kind, path in paths.items()}, hint=format_name
    )
    text = output.suffix == ".json"
    write_whole(output, container_json(container) if text else encode_container(container))
    out = Output(json=json)
    digest = container_hash(container).hex()
    out.line(f"{escape(container.origin)} of {container.platform.value}: wrote {escape(str(output))}")
    out.line(f"next: keyturn evidence show {escape(str(output))}")
    out.result(
        {
            "output": str(output),
            "platform": container.platform.value,
            "origin": container.origin,
            "hash": digest,
        }
    )


def show(
    file: Annotated[Path, typer.Argument(help="A container, or evidence in any known format.")],
    format_name: _FormatOption = None,
    json: JsonOption = False,
) -> None:
    """Say what evidence holds. These are claims: keyturn verify checks them."""
    from attestation.container_json import container_json_document
    from attestation.container_summary import container_claims

    out = Output(json=json)
    container = read_evidence(file, hint=format_name)
    rows = [(claim.part, claim.field, escape(claim.value)) for claim in container_claims(container)]
    out.table("claims of the evidence, not verified", ("part", "field", "value"), rows)
    out.result(container_json_document(container))


def formats(json: JsonOption = False) -> None:
    """List the formats that are imported."""
    from attestation.importers import FORMATS

    out = Output(json=json)
    out.table("", ("format", "what it is"), [(one.name, escape(one.what)) for one in FORMATS])
    out.result({"formats": [{"name": one.name, "what": one.what} for one in FORMATS]})


def read_evidence(path: Path, *, hint: str | None = None) -> EvidenceContainer:
    """Evidence in any known format, or a folder of configfs-tsm; raises ``KeyturnError``."""
    from attestation.importers import import_evidence

    main, beside = _tsm_folder(path)
    files = {kind: _read(file) for kind, file in beside.items()}
    return import_evidence(_read(main), files=files, hint=hint)


def _tsm_folder(path: Path) -> tuple[Path, dict[SideFile, Path]]:
    """The evidence, and what is beside it in a folder of configfs-tsm."""
    from attestation.importers import SideFile

    if not path.is_dir():
        return path, {}
    files = {kind: path / kind.value for kind in (SideFile.AUXBLOB, SideFile.PROVIDER)}
    return path / OUTBLOB, {kind: file for kind, file in files.items() if file.is_file()}


def _logs(options: list[str]) -> dict[SideFile, Path | None]:
    """Event logs by what they are."""
    from attestation.importers import SideFile

    found: dict[SideFile, Path | None] = {}
    for option in options:
        kind, mark, path = option.partition("=")
        if not mark or kind not in _LOGS or SideFile(f"{kind}-log") in found:
            raise EvidenceInputError(
                f"{option!r} is not one of {', '.join(f'{name}=FILE' for name in _LOGS)}, each once",
                subject="--log",
                advice="name the format of the log, such as --log ccel=ccel.bin",
            )
        found[SideFile(f"{kind}-log")] = Path(path)
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise EvidenceInputError(
            f"cannot be read: {error.strerror}", subject=str(path), advice="give a file that can be read"
        ) from error
    if len(data) > MAX_FILE:
        raise EvidenceInputError(
            f"is larger than {MAX_FILE} bytes", subject=str(path), advice="evidence is at most a few MB"
        )
    return data
