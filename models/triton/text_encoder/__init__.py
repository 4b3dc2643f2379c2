"""Text in, vector out: the files that become one version directory of a Triton repository."""
