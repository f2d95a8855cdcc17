"""dstack deployments: their runtime events, identities and measurement documents, predicted and judged.

Facts about formats come from Dstack-TEE/dstack (Apache-2.0) at commit 312dc605 unless a module says
otherwise.
"""
