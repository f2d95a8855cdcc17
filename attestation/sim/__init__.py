"""Simulated TEEs for development: a generated PKI with the structure of Intel DCAP, and quotes signed by it.

Nothing here verifies anything, and no verifying module imports it: its certificates and quotes go through the
same code as real ones, under a root that only policies for development may hold.
"""
