"""The recipe: what it accepts, and what it says about the rest."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from image_builder.recipe import parse_recipe, read_recipe
from image_builder.recipe_errors import RecipeError
from tests.support.archive import RECIPE


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text.encode())
    return caught.value


def test_the_default_recipe_is_valid_and_explained() -> None:
    data = resources.files("image_builder").joinpath("data/recipe_default.toml").read_bytes()
    recipe = parse_recipe(data)
    assert recipe.kernel.suite == "trixie-backports"
    assert recipe.image.root_size_limit == 120 << 20
    assert data.count(b"#") > 20


def test_every_table_is_read() -> None:
    recipe = parse_recipe(
        (
            RECIPE
            + """
[[file]]
source = "motd"
path = "/etc/motd"
mode = "0600"
[[user]]
name = "service"
uid = 900
gid = 901
groups = ["tty"]
[[tmpfs]]
path = "/srv"
size = "64MiB"
[divert]
"/usr/bin/x" = "app"
[permissions]
setuid = ["/usr/bin/su"]
capabilities = {"/usr/bin/ping" = "cap_net_raw+ep"}
[python]
wheels = ["cryptography==47.0.0"]
"""
        ).encode()
    )
    assert (recipe.files[0].mode, recipe.files[0].owner) == (0o600, "root")
    assert (recipe.users[0].uid, recipe.users[0].gid, recipe.users[0].groups) == (900, 901, ("tty",))
    assert recipe.tmpfs[0].size == 64 << 20
    assert recipe.divert == {"/usr/bin/x": "app"}
    assert recipe.permissions.setuid == ("/usr/bin/su",)
    assert recipe.python.wheels == ("cryptography==47.0.0",)


def test_scripts_are_accepted_with_a_reason() -> None:
    text = RECIPE.replace('["app"]', '["app"]\nscripts = {app = "only makes a log folder"}')
    assert parse_recipe(text.encode()).packages.scripts == {"app": "only makes a log folder"}
    assert "packages.scripts.app" in refused(text.replace("only makes a log folder", "")).reason


@pytest.mark.parametrize(
    ("line", "key", "near"),
    [
        ("instal = []", "boot.instal", "stub-package"),
        ("stub-pakage = 'x'", "boot.stub-pakage", "did you mean stub-package?"),
        ("suit = 'x'", "boot.suit", "did you mean suite?"),
        ("stub_package = 'xx'", "boot.stub_package", "did you mean stub-package?"),
        ("[imgae]", "imgae", "did you mean image?"),
        ("[[file]]\nsource='a'\npath='/a'\nmod='0644'", "file[0].mod", "did you mean mode?"),
        ("[[packages.pinned]]\nname='aa'\nsuit='b'\nsuite='b'", "packages.pinned[0].suit", "suite"),
        ("sha256 = 1", "boot.sha256", "known keys here"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(line: str, key: str, near: str) -> None:
    error = refused(RECIPE + line)
    assert f"unknown key {key}" in error.reason
    assert near in error.advice


def test_the_internal_hash_cannot_be_set() -> None:
    assert "unknown key sha256" in refused("sha256 = 'x'\n" + RECIPE).reason


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('version = "1"', "", "key image.version is missing"),
        ('version = "1"', 'version = "1/2"', "image.version: '1/2' is not a plain name"),
        ('version = "1"', 'version = "1"\ndev = "yes"', "image.dev"),
        ('version = "1"', 'version = "1"\nroot-size-limit = 5', 'not a size such as "120MiB"'),
        ('"stable-security"', '"stable"', "'stable' is given twice"),
        ('"stable-security"', '"../x"', "not a suite name"),
        ('install = ["app"]', 'install = ["a;b"]', "not a package name"),
        ('install = ["app"]', 'install = ["app"]\nomit = {app = "why"}', "both installed and omitted"),
        ('install = ["app"]', 'install = ["app"]\nomit = {other = ""}', "packages.omit.other"),
        ('package = "linux', 'modules = ["a.ko"]\npackage = "linux', "kernel module name"),
        ('package = "linux', 'command-line = ["a b"]\npackage = "linux', "one word of a kernel command"),
        ('package = "linux', 'command-line = ["a", "a"]\npackage = "linux', "'a' is given twice"),
        ('stub-package = "stub"', "stub-package = 7", "boot.stub-package: 7 is not a text"),
        ('install = ["app"]', 'install = "app"', "packages.install: 'app' is not a list"),
        ('install = ["app"]', 'install = ["app", 5]', "packages.install[1]: 5 is not a text"),
        ('install = ["app"]', 'install = ["app"]\nomit = ["x"]', "packages.omit: ['x'] is not a table"),
        ('install = ["app"]', 'install = ["app"]\npinned = ["x"]', "packages.pinned[0]: 'x' is not a table"),
        ("[boot]", "[[user]]\nname='a'\nuid=true\ngid=1\n[boot]", "user[0].uid: True is not a whole number"),
        ("[boot]", "[[user]]\nname='a'\nuid=1\ngid=70000\n[boot]", "user[0].gid: 70000 is not"),
    ],
)
def test_bad_values_name_their_key(old: str, new: str, says: str) -> None:
    assert says in refused(RECIPE.replace(old, new, 1)).reason


def test_everything_that_is_wrong_is_named_at_once() -> None:
    error = refused(RECIPE.replace('version = "1"', 'dev = 1\nverzion = "1"', 1))
    assert error.reason == (
        "key image.version is missing; image.dev: 1 is neither true nor false; unknown key image.verzion"
    )


@pytest.mark.parametrize(
    ("source", "path", "mode"),
    [
        ("../up", "/a", "0644"),
        ("/etc/passwd", "/a", "0644"),
        ("a/../b", "/a", "0644"),
        ("a", "etc/a", "0644"),
        ("a", "/etc/../a", "0644"),
        ("a", "/etc//a", "0644"),
        ("a", "/", "0644"),
        ("a", "/a\\u0000", "0644"),
        ("a", "/a", "0999"),
        ("a", "/a", "4755"),
    ],
)
def test_unsafe_files_are_refused(source: str, path: str, mode: str) -> None:
    error = refused(RECIPE + f'[[file]]\nsource="{source}"\npath="{path}"\nmode="{mode}"\n')
    assert error.exit_status == 2


def test_not_toml_names_the_place() -> None:
    assert "line 2" in refused("[image]\nname = \n").reason


def test_an_absent_recipe_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(tmp_path / "keyturn.toml")
    assert "keyturn init" in caught.value.advice


def test_the_request_hash_covers_packages_only() -> None:
    recipe = parse_recipe(RECIPE.encode())
    comment = parse_recipe((RECIPE + "# more\n").encode())
    other = parse_recipe(RECIPE.replace('"app"', '"app2"').encode())
    assert recipe.sha256 != comment.sha256
    assert recipe.request_sha256 == comment.request_sha256 != other.request_sha256


def test_suites_of_pins_are_read_too() -> None:
    text = RECIPE.replace(
        "[boot]", '[[packages.pinned]]\nname = "crun"\nsuite = "backports"\n[boot]\nsuite = "sid"'
    )
    assert parse_recipe(text.encode()).all_suites == ("stable", "stable-security", "backports", "sid")
