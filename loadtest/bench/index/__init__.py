"""`make bench-index`: what the sharded index promises, measured on the real stack and beside plain FAISS."""
