import subprocess
import sys
from pathlib import Path

import loadtest

LOCUSTFILE = Path(loadtest.__file__).parent / "locustfile.py"


def test_locust_itself_runs_the_same_user_and_prints_honest_percentiles(gateway_url, tmp_path):
    options = {"--host": gateway_url, "--users": 2, "--rate": 50, "--duration": 2, "--run-time": 7}
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    command += [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "from the planned send time: p50" in done.stdout
    assert "POST" in done.stdout + done.stderr  # Locust's own statistics
