"""What a host binds at launch: the config disk, in values that no other stack has."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from measurements.dstack.mr_config import config_id_v1
from measurements.launch_binding import host_data, mr_config_id, trust_domain_launch

CONFIG = b'{"type":"keyturn-config/1"}'


def test_the_values_are_those_of_the_formats_document() -> None:
    digest = hashlib.sha256(CONFIG).digest()
    assert mr_config_id(CONFIG) == b"keyturn-launch/1" + digest
    assert host_data(CONFIG) == digest
    launch = trust_domain_launch(CONFIG)
    assert {name: len(value) for name, value in launch.items()} == {
        "mrconfigid": 48,
        "mrowner": 48,
        "mrownerconfig": 48,
    }
    assert not any(launch["mrowner"] + launch["mrownerconfig"])


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_other_disks_have_other_values(first: bytes, second: bytes) -> None:
    assert (mr_config_id(first) == mr_config_id(second)) == (first == second)


def test_attack_a_value_of_dstack_is_never_one_of_ours() -> None:
    assert config_id_v1(hashlib.sha256(CONFIG).digest())[0] == 1
    assert mr_config_id(CONFIG)[0] not in (0, 1, 2, 3)
