"""Questions about the stack that one command answers with measured ratios: `make bench-*`."""
