"""Evidence and its verification: who measured what, and whether that is allowed."""
