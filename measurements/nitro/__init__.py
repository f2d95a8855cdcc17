"""AWS Nitro Enclaves: enclave image files, their registers, and the documents that report them."""
