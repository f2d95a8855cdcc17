"""``keyturn policy``: write, check, explain and name a verifier's policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output, escape

if TYPE_CHECKING:
    from attestation.container import EvidencePlatform
    from attestation.policy_words import Paragraph, Sentence

_FileArgument = Annotated[Path, typer.Argument(help="A policy: TOML, or its canonical JSON document.")]

_COLOURS = {"allows": "green", "refuses": "red", "decides": "cyan", "ends": "magenta", "warns": "yellow"}

_DEVELOPMENT = "a policy for development only: its trust means nothing in production"


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    policy = typer.Typer(no_args_is_help=True, help="Write, check and explain a verifier's policy.")
    policy.command("init")(init)
    policy.command("explain")(explain)
    policy.command("digest")(digest)
    app.add_typer(policy, name="policy")


def init(
    platform: Annotated[
        str, typer.Option("--platform", help="Platforms, with commas: tdx, sgx, snp, tpm, nitro, sim.")
    ],
    gpu: Annotated[bool, typer.Option("--gpu", help="Also demand NVIDIA GPUs.")] = False,
    permissive: Annotated[
        bool, typer.Option("--permissive", help="For looking at evidence: whatever is signed passes.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", help="Where the file goes; else stdout.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a commented policy, valid as it is: strict, and without any machine until you list one."""
    from attestation.policies import permissive_template, policy_template

    out = Output(json=json)
    platforms = _platforms(platform)
    text = (permissive_template if permissive else policy_template)(platforms, gpu=gpu)
    if 'environment = "dev"' in text.splitlines():
        out.warn(_DEVELOPMENT)
    if output is not None:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
        out.line(f"wrote {escape(str(output))}; next: keyturn policy explain {escape(str(output))}")
    elif not json:
        typer.echo(text, nl=False)
    names = [one.value for one in platforms]
    out.result({"platforms": names, "output": None if output is None else str(output), "policy": text})


def explain(
    file: _FileArgument,
    now: Annotated[
        str | None, typer.Option("--now", help="Time to judge by: 2026-12-31, 2026-12-31T12:00:00Z, or Unix.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say in words what a policy allows, refuses and decides openly, and what ends when."""
    from attestation.policy_words import policy_words
    from keyturn.policy_inputs import parse_moment, read_policy

    out = Output(json=json)
    moment = int(time.time()) if now is None else parse_moment(now)
    policy = read_policy(file)
    paragraphs = policy_words(policy, moment)
    out.tree(
        f"[bold]{escape(policy.name)}[/bold] ({policy.environment})",
        [(f"[bold]{paragraph.title}[/bold]", _leaves(paragraph)) for paragraph in paragraphs],
    )
    warnings = sum(one.tone == "warns" for paragraph in paragraphs for one in paragraph.sentences)
    if warnings:
        out.line(f"[yellow]{warnings} warnings[/yellow]")
    out.result(
        {
            "name": policy.name,
            "environment": policy.environment.value,
            "now": moment,
            "warnings": warnings,
            "paragraphs": [paragraph.as_json() for paragraph in paragraphs],
        }
    )


def digest(
    file: _FileArgument,
    output: Annotated[
        Path | None, typer.Option("--output", help="Also write the canonical document here, for a KMS.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the digest that stands for a policy on chain: an app's TCB rule."""
    from attestation.policy_document import document_digest, encode_policy, policy_document
    from keyturn.policy_inputs import read_policy

    out = Output(json=json)
    policy = read_policy(file)
    data = encode_policy(policy)
    if output is not None:
        output.write_bytes(data)
    development = policy.environment == "dev"
    if development:
        out.warn(_DEVELOPMENT)
    out.line(document_digest(data).hex())
    out.result(
        {
            "digest": document_digest(data).hex(),
            "development": development,
            "output": None if output is None else str(output),
            "document": policy_document(policy),
        }
    )


def _platforms(text: str) -> list[EvidencePlatform]:
    from attestation.container import EvidencePlatform
    from keyturn.policy_inputs import PolicyUsageError

    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in set(EvidencePlatform)]
    if unknown or len(set(names)) != len(names):
        raise PolicyUsageError(
            f"{unknown[0]!r} is no platform" if unknown else "names a platform twice",
            subject="--platform",
            advice=f"choose of {', '.join(EvidencePlatform)}",
        )
    return [EvidencePlatform(name) for name in names]


def _leaves(paragraph: Paragraph) -> list[tuple[str, list[str]]]:
    return [(_leaf(sentence), []) for sentence in paragraph.sentences]


def _leaf(sentence: Sentence) -> str:
    colour = _COLOURS[sentence.tone.value]
    return f"[{colour}]{sentence.tone.value:8}[/{colour}]{escape(sentence.text)}"
