"""AWS Nitro: verification of documents of enclaves and of instances with a NitroTPM."""
