"""Fetches collateral from vendors, or from services that stand in for them, into the form of
``attestation.collateral``.

What is fetched follows from the (unverified) evidence in ``needs``; where from follows from ``sources``,
which only options and defaults set. ``http`` asks, ``bodies`` looks whether an answer is of the kind that was
asked for, ``cache`` keeps it on disk, ``fetcher`` joins them. Nothing here is verified: that is the
verifiers' work.
"""
