"""Vector search and row lookup over shards that each fit their node: FAISS on Triton.

vectors ─► build ─► generations/<name>/shard-NNNN ─► shard (Triton model) ◄─ router ◄─ /v1/search, /v1/lookup
"""
