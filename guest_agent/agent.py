"""The guest agent: mounts, marks a development image, reads registers and logs, reports, and runs the app of
the config disk; without such a disk it waits for the word to stop.

Any failure ends the program with status 1 after one line on the console; init then powers the machine off.
"""

from __future__ import annotations

import time
from pathlib import Path

from guest_agent import console, timeline
from guest_agent.facts import read_facts
from guest_agent.mounts import mount_all
from guest_agent.phases import Boot, Phase
from guest_agent.power import event_devices, listen, wait_for_stop
from guest_agent.registers import read_banks, read_event_log
from guest_agent.tpm_commands import extend
from measurements.boot_report import BootReport, frame_report
from measurements.boot_timeline import Moment
from measurements.errors import KeyturnError
from measurements.image_facts import IMAGE_FACTS, ImageFacts, parse_facts
from measurements.runtime_events import DEV_IMAGE, RUNTIME_BANKS, RUNTIME_PCR, RuntimeEvent, event_digest

CONFIG_SERIAL = "keyturn-config"
"""Virtio serial of the disk that makes the machine run an app."""


def run_on_console(*, started_us: int) -> int:
    """Run the boot; the exit status. ``started_us`` is the boot time at which the program started, in
    microseconds.
    """
    try:
        run(started_us=started_us)
    except KeyturnError as error:
        console.say(f"gives up ({error.code}): {error}")
        return 1
    except OSError as error:
        console.say(f"gives up (system): {error}")
        return 1
    return 0


def run(*, started_us: int) -> None:
    """All phases, in order."""
    timeline.BOOT.mark(Moment.AGENT, at_us=started_us)
    console.detach_input()
    console.silence_kernel()
    boot = Boot().enter(Phase.MOUNT)
    mount_all()

    boot = boot.enter(Phase.IDENTIFY)
    image = parse_facts(Path("/", IMAGE_FACTS).read_bytes())

    boot = boot.enter(Phase.MARK)
    events = mark(image)

    # Whoever reads the report may press the button at once.
    power = listen(event_devices())

    boot = boot.enter(Phase.MEASURE)
    banks, log, facts = read_banks(), read_event_log(), read_facts()

    boot = boot.enter(Phase.REPORT)
    report = BootReport(
        image_name=image.name,
        image_version=image.version,
        dev=image.dev,
        banks=banks,
        event_log=log,
        runtime_events=events,
        command_line=facts.command_line,
        kernel_release=facts.kernel_release,
        os_release=facts.os_release,
        agent_start_us=started_us,
        report_us=time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000,
    )
    console.write(frame_report(report))
    timeline.BOOT.mark(Moment.REPORT)

    boot.enter(Phase.WAIT)
    console.say(f"stops: {wait(image, events, power)}")


def wait(image: ImageFacts, events: tuple[RuntimeEvent, ...], power: tuple[int, ...]) -> str:
    """Run the app of the config disk to its end, or without such a disk wait; why that ended."""
    if not has_config_disk():
        return wait_for_stop(power)
    # What only apps need costs other machines nothing.
    from guest_agent.app_machine import run_app

    return run_app(image, events, power)


def has_config_disk(root: Path = Path("/")) -> bool:
    """Whether the host attached a disk that calls itself a config disk."""
    return any(
        path.read_text(encoding="ascii", errors="replace").strip() == CONFIG_SERIAL
        for path in (root / "sys/block").glob("vd*/serial")
    )


def mark(image: ImageFacts) -> tuple[RuntimeEvent, ...]:
    """Extend the marker of a development image; the runtime events so far."""
    if not image.dev:
        return ()
    console.say("DEVELOPMENT IMAGE: its registers say so, and no release policy may allow them")
    extend(RUNTIME_PCR, {bank: event_digest(DEV_IMAGE, algorithm=bank) for bank in RUNTIME_BANKS})
    return (DEV_IMAGE,)
