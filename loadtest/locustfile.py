"""For Locust's own web page:

    locust -f loadtest/locustfile.py --web-host 127.0.0.1 --host http://127.0.0.1:8080

Each Locust user is one open-loop stream of `--rate` requests per second. Locust's page shows its
own rounded percentiles; the honest ones are printed when the test stops. `python -m loadtest run`
uses the same user without the page.
"""

# mypy: disable-error-code="untyped-decorator"
# (Locust's event hooks carry no types.)

from loadtest.users import GatewayUser  # first: it imports Locust, which patches what follows

# isort: split
from argparse import ArgumentParser
from typing import Any

from locust import events

from loadtest.arrivals import ARRIVALS
from loadtest.results import Recorder, value_at_quantile_ms

__all__ = ["GatewayUser"]  # Locust runs the user classes that it finds in this module

recorder = Recorder()


@events.init_command_line_parser.add_listener
def add_arguments(parser: ArgumentParser) -> None:
    """What a stream sends; the web page shows these too."""
    parser.add_argument("--model", default="search-encoder", help="name of the served model")
    parser.add_argument(
        "--rate", dest="rate_per_s", type=float, default=50.0, help="requests per second and user"
    )
    parser.add_argument("--duration", dest="duration_s", type=float, default=30.0, help="seconds")
    parser.add_argument("--arrivals", choices=list(ARRIVALS), default="poisson")
    parser.add_argument("--seed", type=int, default=1)


@events.test_start.add_listener
def forget(**_: object) -> None:
    """Every test counts from zero."""
    global recorder
    recorder = Recorder()


@events.request.add_listener
def record(context: dict[str, Any], **_: object) -> None:
    """Keep the unrounded times."""
    recorder.record(context["sample"])


@events.test_stop.add_listener
def report(**_: object) -> None:
    """Percentiles from the planned send time, after the warm-up."""
    if recorder.latency.total_count:
        figures = ", ".join(
            f"p{100 * quantile:g} {value_at_quantile_ms(recorder.latency, quantile):.1f} ms"
            for quantile in (0.5, 0.9, 0.99)
        )
        print(f"from the planned send time: {figures} ({recorder.latency.total_count:,} requests)")
