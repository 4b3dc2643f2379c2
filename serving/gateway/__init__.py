"""HTTP in, Triton behind: `answer.py` shows the order of one answer, `app.py` puts it together."""
