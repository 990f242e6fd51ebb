"""Users for Locust, for its web page and its ramps: `locust -f loadtest/locustfile.py -H URL`.

Locust is a closed loop: a user who waits asks nothing, and so a slow server is asked less. Take
numbers from `marmot load`.
"""

from __future__ import annotations

from typing import Any

from locust import FastHttpUser, constant_throughput, events, task

from loadtest.traffic import Traffic, Universe


# Locust does not say what its listeners are.
@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: Any) -> None:
    group = parser.add_argument_group("marmot")
    group.add_argument("--population", type=int, default=943, help="user ids 1 to N, by Zipf")
    group.add_argument("--catalogue", type=int, default=1_682, help="item ids 1 to N, by Zipf")
    group.add_argument("--candidates", type=int, default=100, help="candidates in a request")
    group.add_argument("--events-share", type=float, default=0.05, help="share that are events")
    group.add_argument("--seed", type=int, default=0, help="the same seed asks the same")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _traffic(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    environment.traffic = Traffic(
        Universe.of_counts(options.population, options.catalogue),
        candidates=options.candidates,
        events_share=options.events_share,
        seed=options.seed,
    )


class Visitor(FastHttpUser):
    """Asks for one ranking a second; now and then tells what became of one."""

    wait_time = constant_throughput(1)

    @task
    def ask(self) -> None:
        request = next(self.environment.traffic)
        self.client.post(
            request.path,
            data=request.body,
            headers={"content-type": "application/json"},
            name=request.path,
        )
