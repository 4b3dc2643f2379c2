"""The search of serving parameters on a real Triton: `tune` in run.py is the table of contents.

space (what may be tried) -> trials (one configuration, served and loaded) -> objective (its highest rate)
-> study (which one to try next) -> confirm (the best against the default, in turns) -> apply
"""
