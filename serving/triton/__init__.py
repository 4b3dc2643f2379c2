"""Real Triton, started and kept by us: `run_triton` in launch.py is the way in."""
