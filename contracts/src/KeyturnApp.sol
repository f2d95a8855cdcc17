// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {KeyturnPolicy} from "./KeyturnPolicy.sol";

/// @title Policy of one app: which code, on which images and devices, gets its keys
/// @notice The contract's address is the app id. Made by KeyturnRegistry.createApp.
contract KeyturnApp is KeyturnPolicy {
    /// @dev The only way is down: an app may get stricter, never looser.
    enum UpgradeMode {
        Mutable, // new code passes the timelock
        Delayed, // and starts no sooner than noticeSeconds after everybody can see it
        Frozen // no new code, ever
    }

    enum List {
        AppHash,
        Image,
        Device
    }

    struct Settings {
        UpgradeMode mode;
        uint32 noticeSeconds;
        uint64 expiry;
        bool anyDevice;
    }

    /// @notice Generation of the app's keys.
    uint64 public epoch;
    /// @notice From this time on, no key is released.
    uint64 public expiry;
    UpgradeMode public upgradeMode;
    /// @notice Explicit, so that an empty list of devices never means any device.
    bool public anyDevice;
    /// @notice Delayed apps: time between a hash being seen and being accepted.
    uint32 public noticeSeconds;

    mapping(bytes32 appHash => Entry entry) public appHashes;
    mapping(bytes32 imageId => Entry entry) public images;
    mapping(bytes32 platformId => Entry entry) public devices;

    /// @notice Digest of the app's TCB rule; zero leaves the rule to the verifier.
    bytes32 public tcbRule;
    /// @notice The registry this app belongs to.
    address public registry;

    event Allowed(List indexed list, bytes32 indexed id, uint64 notBefore, uint64 notAfter, uint64 policyVersion);
    event Revoked(List indexed list, bytes32 indexed id, uint64 policyVersion);
    event EpochBumped(uint64 epoch, uint64 policyVersion);
    event ExpirySet(uint64 expiry, uint64 policyVersion);
    event UpgradeModeSet(UpgradeMode mode, uint32 noticeSeconds, uint64 policyVersion);
    event AnyDeviceSet(bool anyDevice, uint64 policyVersion);
    event TcbRuleSet(bytes32 indexed rule, uint64 policyVersion);

    error Frozen();
    error NoticeTooShort();
    error Loosened();

    constructor(
        address registry_,
        address governor,
        address guardian,
        Settings memory settings
    ) KeyturnPolicy(governor, guardian) {
        if (registry_ == address(0)) revert ZeroValue();
        if (settings.expiry <= block.timestamp) revert EmptyPeriod();
        if (settings.mode == UpgradeMode.Delayed && settings.noticeSeconds == 0) revert NoticeTooShort();
        registry = registry_;
        epoch = 1;
        expiry = settings.expiry;
        upgradeMode = settings.mode;
        noticeSeconds = settings.noticeSeconds;
        anyDevice = settings.anyDevice;
        uint64 version = _changed();
        emit UpgradeModeSet(settings.mode, settings.noticeSeconds, version);
        emit ExpirySet(settings.expiry, version);
        emit AnyDeviceSet(settings.anyDevice, version);
    }

    /// @notice Add or renew an entry, through the timelock. A frozen app takes devices, but no code.
    function allow(List list, bytes32 id, uint64 notBefore, uint64 notAfter) external onlyRole(GOVERNOR_ROLE) {
        _notZero(id);
        Entry storage entry = _entry(list, id);
        if (list != List.Device) _checkUpgrade(entry, notBefore);
        _allow(entry, notBefore, notAfter);
        emit Allowed(list, id, notBefore, notAfter, _changed());
    }

    /// @notice Remove an entry, at once.
    function revoke(List list, bytes32 id) external onlyRole(GUARDIAN_ROLE) {
        _revoke(_entry(list, id));
        emit Revoked(list, id, _changed());
    }

    /// @notice New keys for the app, at once.
    function bumpEpoch() external onlyRole(GUARDIAN_ROLE) {
        ++epoch;
        emit EpochBumped(epoch, _changed());
    }

    /// @notice Move the app's end, through the timelock.
    function setExpiry(uint64 newExpiry) external onlyRole(GOVERNOR_ROLE) {
        if (newExpiry <= block.timestamp) revert EmptyPeriod();
        expiry = newExpiry;
        emit ExpirySet(newExpiry, _changed());
    }

    /// @notice Make the app stricter, through the timelock: a later mode, or a longer notice in the same mode.
    function tighten(UpgradeMode mode, uint32 newNoticeSeconds) external onlyRole(GOVERNOR_ROLE) {
        if (mode < upgradeMode || newNoticeSeconds < noticeSeconds) revert Loosened();
        if (mode == upgradeMode && newNoticeSeconds == noticeSeconds) revert AlreadySet();
        if (mode == UpgradeMode.Delayed && newNoticeSeconds == 0) revert NoticeTooShort();
        upgradeMode = mode;
        noticeSeconds = newNoticeSeconds;
        emit UpgradeModeSet(mode, newNoticeSeconds, _changed());
    }

    /// @notice Accept every device that chains to an allowed platform root, through the timelock.
    function allowAnyDevice() external onlyRole(GOVERNOR_ROLE) {
        _setAnyDevice(true);
    }

    /// @notice Accept listed devices only, at once.
    function requireListedDevice() external onlyRole(GUARDIAN_ROLE) {
        _setAnyDevice(false);
    }

    /// @notice Set the TCB rule, through the timelock.
    function setTcbRule(bytes32 rule) external onlyRole(GOVERNOR_ROLE) {
        _notZero(rule);
        tcbRule = rule;
        emit TcbRuleSet(rule, _changed());
    }

    function _setAnyDevice(bool value) private {
        if (anyDevice == value) revert AlreadySet();
        anyDevice = value;
        emit AnyDeviceSet(value, _changed());
    }

    function _checkUpgrade(Entry storage entry, uint64 notBefore) private view {
        if (upgradeMode == UpgradeMode.Frozen) revert Frozen();
        if (upgradeMode == UpgradeMode.Mutable) return;
        // Code that is accepted already and stays so without a gap is not new.
        bool open = entry.exists && !entry.revoked && block.timestamp < entry.notAfter;
        if (open && notBefore == entry.notBefore) return;
        if (notBefore < block.timestamp + noticeSeconds) revert NoticeTooShort();
    }

    function _entry(List list, bytes32 id) private view returns (Entry storage) {
        if (list == List.AppHash) return appHashes[id];
        if (list == List.Image) return images[id];
        return devices[id];
    }
}
