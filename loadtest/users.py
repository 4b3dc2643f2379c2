"""The Locust user: one open-loop stream of requests to the gateway, and the process that runs it.

Importing this module imports Locust, which patches the standard library for gevent: only Locust's
own processes (`python -m loadtest.users`, `locust -f loadtest/locustfile.py`) may import it.

A closed-loop user waits for an answer before it sends again, so a stalled server silences it and
the stall is hardly measured. Here each request leaves at its planned time whether or not earlier
ones have answered.
"""

from locust import User, task  # first: it patches what the imports below use
from locust.env import Environment
from locust.exception import StopUser

# isort: split
import itertools
import json
import resource
import signal
import sys
import time
from argparse import Namespace
from typing import Any

import gevent
import gevent.lock
import gevent.pool
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError

from loadtest.arrivals import ARRIVALS
from loadtest.queries import load_queries, sample_queries
from loadtest.results import CONNECTION, OK, REFUSED, SERVER_ERROR, TIMEOUT, Sample
from loadtest.settings import Settings, make_settings

PATH = "/v1/embeddings"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
# A generator this far behind will not catch up: what is left stays unsent and marks it saturated.
GIVE_UP_BEHIND_S = 1.0
# Open files that the process needs besides its connections.
RESERVED_FILES = 128
FLUSH_EVERY_S = 0.2


class GatewayUser(User):
    """One stream of `rate_per_s` requests; several users send several independent streams."""

    streams = itertools.count()

    def on_start(self) -> None:
        self.settings = settings = settings_of(self.environment)
        seed = settings.seed + next(self.streams)
        self.schedule = ARRIVALS[settings.arrivals](settings.rate_per_s, settings.total_s, seed)
        self.queries = sample_queries(load_queries(settings.queries), seed)
        connections = most_connections(settings)
        self.slots = gevent.lock.BoundedSemaphore(connections)
        self.client = HTTPClient.from_url(
            settings.url,
            concurrency=connections,
            connection_timeout=settings.timeout_s,
            network_timeout=settings.timeout_s,
        )

    @task
    def stream(self) -> None:
        """Send every request at its planned time, then wait for the last answers."""
        requests = gevent.pool.Group()
        try:
            self.send_all(requests)
        finally:
            requests.join()  # also when stopped early: what was sent is measured
        raise StopUser

    def send_all(self, requests: gevent.pool.Group) -> None:
        settings = self.settings
        origin_s = time.monotonic() + settings.warmup_s
        last_send_s = origin_s + settings.duration_s + GIVE_UP_BEHIND_S
        for planned_s in (self.schedule - settings.warmup_s).tolist():
            if planned_s < 0 and time.monotonic() > origin_s:
                continue  # behind already, and the warm-up is over
            body = request_body(settings.model, next(self.queries))
            wait_until(origin_s + planned_s)
            if time.monotonic() > last_send_s:
                return
            requests.spawn(self.send, body, origin_s, planned_s)

    def send(self, body: bytes, origin_s: float, planned_s: float) -> None:
        """One request; Locust's listeners get its unrounded times in `context`."""
        with self.slots:
            sent_s = time.monotonic() - origin_s
            outcome, size_bytes, exception = post(self.client, body)
        done_s = time.monotonic() - origin_s
        self.environment.events.request.fire(
            request_type="POST",
            name=PATH,
            response_time=(done_s - planned_s) * 1e3,
            response_length=size_bytes,
            exception=exception,
            context={"sample": Sample(planned_s, sent_s, done_s, outcome, origin_s)},
        )


def settings_of(environment: Environment) -> Settings:
    """The settings of a run, from Locust's options (command line, web page or our own process)."""
    options: dict[str, Any] = vars(environment.parsed_options or Namespace())
    chosen = {name: options[name] for name in Settings.model_fields if name in options}
    return make_settings(**chosen | {"url": environment.host or options["url"]})


def request_body(model: str, text: str) -> bytes:
    """The request as the OpenAI client sends it: base64, so that nobody pays for parsing floats."""
    return json.dumps({"model": model, "input": text, "encoding_format": "base64"}).encode()


def wait_until(moment_s: float) -> None:
    """Sleep until a monotonic time, and let the answers in even when it has passed."""
    gevent.sleep(max(moment_s - time.monotonic(), 0))
    while (early_s := moment_s - time.monotonic()) > 0:  # timers may fire a little early
        gevent.sleep(early_s)


def post(client: HTTPClient, body: bytes) -> tuple[str, int, Exception | None]:
    """Send one request and read its answer to the last byte: outcome, size in bytes, error."""
    try:
        response = client.post(PATH, body=body, headers=HEADERS)
        size_bytes, status = len(response.read()), response.status_code
    except TimeoutError as error:
        return TIMEOUT, 0, error
    except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
        return CONNECTION, 0, error
    if 200 <= status < 300:
        return OK, size_bytes, None
    outcome = SERVER_ERROR if status >= 500 else REFUSED
    return outcome, size_bytes, RuntimeError(f"HTTP {status}")


def most_connections(settings: Settings) -> int:
    """Enough connections for every request to wait until its timeout, as open files allow."""
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    # Twice the mean, so that a burst of a Poisson stream never waits for a connection.
    wanted = int(2 * settings.rate_per_s * settings.timeout_s) + RESERVED_FILES
    if most_files == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, most_files - RESERVED_FILES))


def main(settings_json: str) -> None:
    """Run one stream without a web page; print every sample, then the share of a core it took."""
    settings = Settings.model_validate_json(settings_json)
    environment = Environment(
        user_classes=[GatewayUser],
        host=settings.url,
        parsed_options=Namespace(**settings.model_dump()),
    )
    environment.events.request.add_listener(print_sample)  # type: ignore[no-untyped-call]
    runner = environment.create_local_runner()
    gevent.signal_handler(signal.SIGINT, runner.quit)
    flusher = gevent.spawn(flush_often)
    started_s, cpu_started_s = time.monotonic(), time.process_time()
    runner.start(1, spawn_rate=1)
    gevent.joinall([runner.spawning_greenlet])
    runner.user_greenlets.join()  # when interrupted, it outlives the spawning
    share = (time.process_time() - cpu_started_s) / (time.monotonic() - started_s)
    flusher.kill()
    print(json.dumps({"cpu_share": share}), flush=True)


def print_sample(context: dict[str, Any], **_: object) -> None:
    """One sample as a JSON array on one line."""
    sys.stdout.write(json.dumps(context["sample"]) + "\n")


def flush_often() -> None:
    """Send what was printed in batches: waking the reader for each sample would cost both."""
    while True:
        gevent.sleep(FLUSH_EVERY_S)
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
