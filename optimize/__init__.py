"""Recipe in, cheapest variant that keeps its quality out, packaged as a Triton repository."""
