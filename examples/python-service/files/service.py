"""A service that proves that its libraries came along."""

import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

key = Ed25519PrivateKey.generate()
key.public_key().verify(key.sign(b"hello"), b"hello")
sys.stdout.write("service: signature good\n")
