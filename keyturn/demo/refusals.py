"""What the demo shows to be refused, each by booting a guest that differs in one thing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from keyturn.demo.app_act import HELLO, Pins, build_app, configure, machine
from keyturn.demo.guest import GivenUp, Guest
from keyturn.demo.images import BASE, CHANGED, RECIPE, make_changed_image
from keyturn.demo.kms_act import make_tpm
from keyturn.demo.relay import Relay
from keyturn.demo.runner import DemoError, DemoRefusedError, Runner
from keyturn.demo.story import Story


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One refusal: ``name`` as in the table and of the guest, and the codes that may say it."""

    name: str
    what: str
    codes: frozenset[str]


CONTAINER = Case(
    name="changed-container",
    what="one line of the container's program changed",
    codes=frozenset({"app-hash-not-allowed"}),
)
COMMAND_LINE = Case(
    name="changed-command-line",
    what="one more word on the kernel's command line",
    codes=frozenset({"registers"}),
)
APP_HASH = Case(
    name="app-hash-not-allowed",
    what="a new version of the app that nobody has allowed",
    codes=frozenset({"app-hash-not-allowed"}),
)
WRONG_KMS = Case(
    name="wrong-kms-pinned",
    what="an app that pins another KMS",
    codes=frozenset({"no-kms"}),
)
REVOKED = Case(
    name="image-revoked",
    what="the good app again, after the guardian has revoked its image",
    codes=frozenset({"image-revoked"}),
)
REPLAY = Case(
    name="replayed-evidence",
    what="the host sends the app's request for keys a second time",
    codes=frozenset({"challenge-replayed"}),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A case and how it was refused."""

    case: Case
    given_up: GivenUp

    def as_json(self) -> dict[str, str]:
        """For ``--json``."""
        found = self.given_up
        return {"name": self.case.name, "by": found.by, "code": found.code, "reason": found.reason}


class Refusals:
    """Boots the cases. Methods may run in threads; each has its own project, TPM, disks and log."""

    def __init__(self, story: Story, runner: Runner, *, kms_url: str) -> None:
        self._story = story
        self._runner = runner
        self._kms_url = kms_url
        self.revoked = threading.Event()

    def prepare(self) -> None:
        """What can be done before there is a KMS: another image, and a TPM for every guest."""
        make_changed_image(self._runner)
        for case in (COMMAND_LINE, CONTAINER, APP_HASH, REVOKED):
            make_tpm(self._runner, case.name)

    def changed_container(self, pins: Pins) -> Refusal:
        """The host runs another program in the container."""
        project = self._copy(CONTAINER)
        service = self._runner.folder / project / "root" / "service.py"
        service.write_text(service.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
        self._runner.run("lock", "--local", f"{project}/root/{RECIPE}")
        self._runner.run("app", "lock", f"{project}/app.toml")
        return self._boot(CONTAINER, app=self._build(project, pins))

    def changed_command_line(self) -> Refusal:
        """The host changes the command line, and shows the reference values of the allowed image."""
        return self._boot(COMMAND_LINE, app=f"{HELLO}/app", image=f"{CHANGED}/image")

    def app_hash(self, pins: Pins) -> Refusal:
        """A manifest that is not on chain."""
        project = self._copy(APP_HASH)
        recipe = self._runner.folder / project / "app.toml"
        text = recipe.read_text(encoding="utf-8")
        changed = text.replace('version = "1"', 'version = "2"', 1)
        if changed == text:
            raise DemoError("has no version 1", subject=str(recipe), advice="restore examples/hello")
        recipe.write_text(changed, encoding="utf-8")
        return self._boot(APP_HASH, app=self._build(project, pins))

    def wrong_kms(self, pins: Pins) -> Refusal:
        """The app pins a KMS that is not the one it meets."""
        return self._boot(WRONG_KMS, app=self._build(self._copy(WRONG_KMS), pins))

    def image_revoked(self) -> Refusal:
        """Nothing changed but the chain: the guest finds the KMS once its image is ``revoked``."""
        return self._boot(REVOKED, app=f"{HELLO}/app", is_open=self.revoked)

    def replayed_evidence(self, relay: Relay) -> Refusal:
        """Good evidence, for the second time."""
        with self._story.step(f"refused: {REPLAY.what}") as step:
            refusal = checked(Refusal(case=REPLAY, given_up=relay.replay()))
            step.result = told(refusal.given_up)
        return refusal

    def _copy(self, case: Case) -> str:
        target = self._runner.folder / case.name
        shutil.copytree(self._runner.folder / HELLO, target, ignore=shutil.ignore_patterns("app"))
        return case.name

    def _build(self, project: str, pins: Pins) -> str:
        build_app(self._runner, project, pins)
        return f"{project}/app"

    def _boot(
        self, case: Case, *, app: str, image: str = f"{BASE}/image", is_open: threading.Event | None = None
    ) -> Refusal:
        with (
            self._story.step(f"refused: {case.what}") as step,
            Relay(self._kms_url, is_open=is_open).serving() as relay,
        ):
            make_tpm(self._runner, case.name)
            configure(self._runner, case.name, app=app, kms_url=relay.guest_url)
            guest = Guest(self._runner, machine(case.name, app=app, image=image))
            try:
                refusal = checked(Refusal(case=case, given_up=guest.await_end()))
            finally:
                guest.close()
            step.result = told(refusal.given_up)
        return refusal


def checked(refusal: Refusal) -> Refusal:
    """The refusal, if it is the one that the case stands for. Raises ``DemoRefusedError``."""
    found = refusal.given_up
    if found.code not in refusal.case.codes:
        raise DemoRefusedError(
            f"was refused for another reason: {told(found)}",
            subject=refusal.case.name,
            advice=f"expected {' or '.join(sorted(refusal.case.codes))}",
        )
    return refusal


def told(found: GivenUp) -> str:
    """A refusal in one line."""
    return f"{found.by}: {found.code}: {found.reason}" if found.code else f"{found.by}: {found.reason}"


def table_rows(refusals: Sequence[Refusal]) -> list[tuple[str, str, str, str]]:
    """For the table at the end."""
    return [(each.case.what, each.given_up.by, each.given_up.code, each.given_up.reason) for each in refusals]
