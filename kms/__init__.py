"""The key management service: checks evidence and policy, derives keys, writes receipts."""
