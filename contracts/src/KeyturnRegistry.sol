// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {KeyturnApp} from "./KeyturnApp.sol";
import {KeyturnPolicy} from "./KeyturnPolicy.sol";

/// @title What every app relies on: images, machines, key services, and the anchors of their receipts
/// @notice Also the factory of apps. Anybody may make one: an app grants rights over its own keys only.
contract KeyturnRegistry is KeyturnPolicy {
    enum List {
        Image,
        Reference,
        PlatformRoot,
        KmsNode,
        App
    }

    struct Reference {
        Entry entry;
        bytes32 imageId;
    }

    struct KmsNode {
        Entry entry;
        address signer;
        uint64 lastSeq;
        bytes32 appHash;
        bytes32 evidenceHash;
    }

    /// @dev Public root keys of a key service; (x, y) is the secp256k1 key that signs anchors.
    struct KmsKeys {
        bytes32 ed25519;
        bytes32 x;
        bytes32 y;
    }

    bytes32 public constant ANCHOR_TYPEHASH =
        keccak256("Anchor(bytes32 kmsId,uint64 fromSeq,uint64 toSeq,bytes32 root)");
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    mapping(bytes32 imageId => Entry entry) public images;
    mapping(bytes32 digest => Reference ref) public references;
    mapping(bytes32 rootHash => Entry entry) public platformRoots;
    mapping(bytes32 kmsId => KmsNode node) public kmsNodes;
    mapping(address app => Entry entry) public apps;

    event Allowed(List indexed list, bytes32 indexed id, uint64 notBefore, uint64 notAfter, uint64 policyVersion);
    event Revoked(List indexed list, bytes32 indexed id, uint64 policyVersion);
    event ReferenceAllowed(bytes32 indexed digest, bytes32 indexed imageId);
    event KmsNodeJoined(bytes32 indexed kmsId, address indexed signer, bytes32 appHash, bytes32 evidenceHash);
    event AppCreated(address indexed app, address indexed governor, address indexed guardian);
    event ReceiptsAnchored(bytes32 indexed kmsId, uint64 fromSeq, uint64 toSeq, bytes32 root);

    error UseTheListsOwnFunction();
    error NodeNotAllowed();
    error SequenceGap(uint64 expectedFrom);
    error WrongSigner();

    constructor(address governor, address guardian) KeyturnPolicy(governor, guardian) {
        _changed();
    }

    /// @notice Add or renew an image, a platform root or an app that this registry made, through the timelock.
    function allow(List list, bytes32 id, uint64 notBefore, uint64 notAfter) external onlyRole(GOVERNOR_ROLE) {
        _notZero(id);
        if (list == List.Reference || list == List.KmsNode) revert UseTheListsOwnFunction();
        Entry storage entry = _entry(list, id);
        if (list == List.App && !entry.exists) revert UnknownEntry();
        _allow(entry, notBefore, notAfter);
        emit Allowed(list, id, notBefore, notAfter, _changed());
    }

    /// @notice Add the registers of one image on one machine shape, through the timelock.
    function allowReference(
        bytes32 digest,
        bytes32 imageId,
        uint64 notBefore,
        uint64 notAfter
    ) external onlyRole(GOVERNOR_ROLE) {
        _notZero(digest);
        if (!images[imageId].exists) revert UnknownEntry();
        _allow(references[digest].entry, notBefore, notAfter);
        references[digest].imageId = imageId;
        emit Allowed(List.Reference, digest, notBefore, notAfter, _changed());
        emit ReferenceAllowed(digest, imageId);
    }

    /// @notice Admit a key service, through the timelock. Its id is computed here, so id and signer cannot differ.
    function allowKmsNode(
        KmsKeys calldata keys,
        bytes32 appHash,
        bytes32 evidenceHash,
        uint64 notBefore,
        uint64 notAfter
    ) external onlyRole(GOVERNOR_ROLE) {
        _notZero(keys.ed25519);
        _notZero(keys.x);
        _notZero(keys.y);
        _notZero(appHash);
        _notZero(evidenceHash);
        bytes32 kmsId = kmsIdOf(keys);
        KmsNode storage node = kmsNodes[kmsId];
        _allow(node.entry, notBefore, notAfter);
        node.signer = address(uint160(uint256(keccak256(abi.encodePacked(keys.x, keys.y)))));
        node.appHash = appHash;
        node.evidenceHash = evidenceHash;
        emit Allowed(List.KmsNode, kmsId, notBefore, notAfter, _changed());
        emit KmsNodeJoined(kmsId, node.signer, appHash, evidenceHash);
    }

    /// @notice Remove an entry, at once.
    function revoke(List list, bytes32 id) external onlyRole(GUARDIAN_ROLE) {
        _revoke(_entry(list, id));
        emit Revoked(list, id, _changed());
    }

    /// @notice Make the contract of a new app, governed by its own timelock and guardian.
    function createApp(
        address governor,
        address guardian,
        KeyturnApp.Settings calldata settings
    ) external returns (address app) {
        app = address(new KeyturnApp(address(this), governor, guardian, settings));
        _allow(apps[app], uint64(block.timestamp), type(uint64).max);
        emit Allowed(List.App, bytes32(uint256(uint160(app))), uint64(block.timestamp), type(uint64).max, _changed());
        emit AppCreated(app, governor, guardian);
    }

    /// @notice Anchor receipts fromSeq to toSeq under their Merkle root. Anybody may pay; the node must have signed.
    /// Also possible while paused: refusals are receipts, too.
    function anchorReceipts(
        bytes32 kmsId,
        uint64 fromSeq,
        uint64 toSeq,
        bytes32 root,
        bytes calldata signature
    ) external {
        _notZero(root);
        KmsNode storage node = kmsNodes[kmsId];
        if (!_holds(node.entry)) revert NodeNotAllowed();
        if (fromSeq != node.lastSeq + 1 || toSeq < fromSeq) revert SequenceGap(node.lastSeq + 1);
        bytes32 digest = anchorDigest(kmsId, fromSeq, toSeq, root);
        if (ECDSA.recover(digest, signature) != node.signer) revert WrongSigner();
        node.lastSeq = toSeq;
        emit ReceiptsAnchored(kmsId, fromSeq, toSeq, root);
    }

    /// @notice The EIP-712 digest that a node signs.
    function anchorDigest(bytes32 kmsId, uint64 fromSeq, uint64 toSeq, bytes32 root) public view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPEHASH, keccak256("keyturn"), keccak256("1"), block.chainid, address(this))
        );
        bytes32 message = keccak256(abi.encode(ANCHOR_TYPEHASH, kmsId, fromSeq, toSeq, root));
        return MessageHashUtils.toTypedDataHash(domain, message);
    }

    /// @notice SHA-256 over both public root keys, the secp256k1 key compressed (docs/formats.md, Identities).
    function kmsIdOf(KmsKeys calldata keys) public pure returns (bytes32) {
        bytes1 prefix = uint256(keys.y) & 1 == 0 ? bytes1(0x02) : bytes1(0x03);
        return sha256(abi.encodePacked("keyturn-kms-root/1\x00", keys.ed25519, prefix, keys.x));
    }

    function _entry(List list, bytes32 id) private view returns (Entry storage) {
        if (list == List.Image) return images[id];
        if (list == List.Reference) return references[id].entry;
        if (list == List.PlatformRoot) return platformRoots[id];
        if (list == List.KmsNode) return kmsNodes[id].entry;
        if (uint256(id) > type(uint160).max) revert UnknownEntry();
        return apps[address(uint160(uint256(id)))];
    }

    function _holds(Entry storage entry) private view returns (bool) {
        bool started = entry.notBefore <= block.timestamp;
        return entry.exists && !entry.revoked && started && block.timestamp < entry.notAfter;
    }
}
