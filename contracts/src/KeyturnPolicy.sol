// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @title Roles, version counter and entries that registry and app share
/// @notice Slow to add, instant to remove: the governor is a timelock and the only one that adds or resumes; the
/// guardian revokes and pauses at once and can do nothing else. Policy is data in documented slots
/// (contracts/layout.py), read with eth_getProof. There are no immutables: the runtime code has one hash everywhere.
abstract contract KeyturnPolicy is AccessControl {
    /// @dev One word. It holds from notBefore (inclusive) to notAfter (exclusive).
    struct Entry {
        uint64 notBefore;
        uint64 notAfter;
        bool revoked;
        bool exists;
    }

    bytes32 public constant GOVERNOR_ROLE = keccak256("GOVERNOR_ROLE");
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");

    /// @notice Raised by every change of policy.
    uint64 public policyVersion;
    /// @notice While true, no key is released.
    bool public paused;

    event Paused(address indexed by, uint64 policyVersion);
    event Unpaused(uint64 policyVersion);

    error ZeroValue();
    error EmptyPeriod();
    error UnknownEntry();
    error AlreadyRevoked();
    error AlreadySet();
    error GovernorIsNoTimelock();

    constructor(address governor, address guardian) {
        _grantRole(DEFAULT_ADMIN_ROLE, governor);
        _grantRole(GOVERNOR_ROLE, governor);
        _grantRole(GUARDIAN_ROLE, guardian);
    }

    /// @notice Stop every release of keys, at once.
    function pause() external onlyRole(GUARDIAN_ROLE) {
        if (paused) revert AlreadySet();
        paused = true;
        emit Paused(msg.sender, _changed());
    }

    /// @notice Resume, through the timelock.
    function unpause() external onlyRole(GOVERNOR_ROLE) {
        if (!paused) revert AlreadySet();
        paused = false;
        emit Unpaused(_changed());
    }

    /// @dev Every role but the guardian's adds, so it goes to timelocks only.
    function _grantRole(bytes32 role, address account) internal override returns (bool) {
        if (account == address(0)) revert ZeroValue();
        if (role != GUARDIAN_ROLE) {
            if (account.code.length == 0) revert GovernorIsNoTimelock();
            if (TimelockController(payable(account)).getMinDelay() == 0) revert GovernorIsNoTimelock();
        }
        return super._grantRole(role, account);
    }

    function _allow(Entry storage entry, uint64 notBefore, uint64 notAfter) internal {
        // An entry that has already ended would be an addition that adds nothing: a mistake.
        if (notAfter <= notBefore || notAfter <= block.timestamp) revert EmptyPeriod();
        entry.notBefore = notBefore;
        entry.notAfter = notAfter;
        entry.revoked = false;
        entry.exists = true;
    }

    function _revoke(Entry storage entry) internal {
        if (!entry.exists) revert UnknownEntry();
        if (entry.revoked) revert AlreadyRevoked();
        entry.revoked = true;
    }

    function _changed() internal returns (uint64) {
        return ++policyVersion;
    }

    function _notZero(bytes32 value) internal pure {
        if (value == bytes32(0)) revert ZeroValue();
    }
}
