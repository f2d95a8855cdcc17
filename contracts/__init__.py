"""The contracts on Ethereum: sources, committed artefacts, storage layout and binding."""
