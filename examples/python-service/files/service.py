"""A service that proves that its libraries came along."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

key = Ed25519PrivateKey.generate()
key.public_key().verify(key.sign(b"hello"), b"hello")
print("service: signature good")
