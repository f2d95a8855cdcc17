"""The part of ``keyturn predict`` that is about an app: its runtime events and PCR 14."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyturn.output import Output

if TYPE_CHECKING:
    from measurements.runtime_prediction import RuntimePrediction


def runtime_of(app: Path, config: Path, *, image: Path | None) -> RuntimePrediction:
    """What a guest will extend for ``app`` with the config disk ``config``.

    ``image`` says whether this is a development image; without it, it is none.
    """
    from image_builder.app_build import MANIFEST_NAME
    from image_builder.image import load_image
    from measurements.config_disk import read_frame
    from measurements.runtime_prediction import predict_runtime

    dev = image is not None and load_image(image, verify=False).manifest["dev"] is True
    with config.open("rb") as disk:
        document = read_frame(disk)
    return predict_runtime((app / MANIFEST_NAME).read_bytes(), document, dev=dev)


def launch_of(config: Path) -> Mapping[str, bytes]:
    """What the host of a trust domain binds at launch for the config disk ``config``."""
    from measurements.config_disk import read_frame
    from measurements.launch_binding import trust_domain_launch

    with config.open("rb") as disk:
        return trust_domain_launch(read_frame(disk))


def show_runtime(out: Output, prediction: RuntimePrediction) -> dict[str, Any]:
    """Show the events and the registers that they give; the document of both."""
    from measurements.runtime_events import DEV_IMAGE

    _show(out, prediction)
    return {
        "app_hash": prediction.app_hash.hex(),
        "dev": DEV_IMAGE in prediction.events,
        "events": [{"name": event.name, "payload": event.payload.hex()} for event in prediction.events],
        "release": _hex(prediction.release),
        "booted": {storage.value: _hex(registers) for storage, registers in prediction.booted.items()},
    }


def _show(out: Output, prediction: RuntimePrediction) -> None:
    out.table(
        "runtime events until key release",
        ("event", "payload"),
        [(event.name, event.payload.hex()) for event in prediction.events],
    )
    ends = {"key release": prediction.release}
    ends |= {f"boot, storage {storage.value}": values for storage, values in prediction.booted.items()}
    rows = [(when, values["sha256"].hex(), values["sha384"].hex()) for when, values in ends.items()]
    out.table("PCR 14", ("after", "sha256", "sha384"), rows)
    out.line(f"app hash {prediction.app_hash.hex()}")


def _hex(registers: Mapping[str, bytes]) -> dict[str, str]:
    return {bank: value.hex() for bank, value in registers.items()}
