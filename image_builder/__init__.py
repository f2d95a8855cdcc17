"""Turns a recipe and a lock file into a VM image that is bit-identical wherever it is built."""
