"""What can go wrong in the service, and what the caller is told.

ServiceError                    exit code 1 on the command line
├── UsageError                  the command line or a setting makes no sense (exit code 2)
├── StartError                  the service cannot start: bundle, provider, port, store
├── NotMeasured                 an evaluation came to no figures
├── NotMoved                    a dump or a restore came to no end
├── NotOurs                     a store has other events than this stream's (exit code 2)
├── StreamAway                  the stream of events did not answer, or could not take a write
└── Problem                     an answer to an HTTP request, RFC 9457
    ├── NotInference        400 not a request of the Open Inference Protocol
    ├── NotHttp             400 what was sent is no HTTP
    ├── Unauthorized        401 no key, or one that is not known
    ├── Forbidden           403 a key without the scope that this takes
    ├── InvalidRequest      422 a field is missing, of the wrong type, or over a limit
    ├── UnknownModel        422 no loaded bundle is called that
    ├── NoSummary           422 a summary of a model whose family has none
    ├── NotFound            404
    ├── MethodNotAllowed    405
    ├── NotLoaded           409 the service was started without this stage
    ├── BodyTimeout         408 the body did not arrive in time
    ├── Conflict            409 not as the models stand now
    ├── BodyTooLarge        413
    ├── NotJson             415
    ├── RateLimited         429 with Retry-After: the key's own rate
    ├── HeadTooLarge        431 the request line and the headers are over the limit
    ├── EngineFailed        500 the runtime refused a batch
    ├── InternalError       500 anything unforeseen; reveals nothing
    ├── Unavailable         503 with Retry-After
    │   ├── Overloaded          the queue is full
    │   ├── Draining            shutting down
    │   ├── StoreAway           the store did not answer or could not take a write
    │   ├── LogAway             the answer log could not be purged of a user
    │   └── Contended           writers of one user kept overtaking us until the deadline
    └── DeadlineExceeded    504 the caller's deadline passed; nothing was run for it after that
"""

from __future__ import annotations

from math import ceil
from typing import Any, ClassVar


class ServiceError(Exception):
    """Anything that is told in one sentence."""

    exit_code: ClassVar[int] = 1


class UsageError(ServiceError):
    """The command line or a setting makes no sense."""

    exit_code = 2


class NotMeasured(ServiceError):
    """An evaluation that came to no figures."""


class NotMoved(ServiceError):
    """A dump or a restore that came to no end."""


class NotOurs(ServiceError):
    """A store with other events than this stream's."""

    exit_code = 2


class StreamAway(ServiceError):
    """The stream that events are read from did not answer, or could not take a write."""


class StartError(ServiceError):
    """The service cannot start as it was asked to."""


class Problem(ServiceError):
    """An answer to a request: status, a stable type, and a sentence."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something went wrong on our side"
    retry_after_s: ClassVar[int | None] = None
    #: The rest of the request's body was not read, so the connection cannot be used again.
    closes: ClassVar[bool] = False

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.title)

    def to_dict(self) -> dict[str, Any]:
        """The problem as RFC 9457 writes it."""
        return {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": str(self),
        }

    def headers(self) -> dict[str, str]:
        """The HTTP headers that belong to this problem."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.closes:
            headers["connection"] = "close"
        return headers


class NotInference(Problem):
    """Not a request of the Open Inference Protocol."""

    status, slug, title = 400, "not-inference", "Not a request of the Open Inference Protocol"


class Unauthorized(Problem):
    """No key, or one that is not known."""

    status, slug, title = 401, "unauthorized", "This takes a key: Authorization: Bearer …"

    def __init__(self, detail: str | None = None, challenge: str = "Bearer") -> None:
        super().__init__(detail)
        self._challenge = challenge

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "www-authenticate": self._challenge}


class Forbidden(Problem):
    """The key is not good for this."""

    status, slug, title = 403, "forbidden", "The key is not good for this"


class RateLimited(Problem):
    """The key's own rate is used up for now."""

    status, slug, title = 429, "rate-limited", "The key's own rate is used up"

    def __init__(self, detail: str | None = None, wait_s: float = 1.0) -> None:
        super().__init__(detail)
        self._wait_s = wait_s

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "retry-after": str(ceil(self._wait_s))}


class NotHttp(Problem):
    """No request could be made out."""

    status, slug, title, closes = 400, "not-http", "What was sent is not HTTP", True


class InvalidRequest(Problem):
    """A field is missing, of the wrong type, or over a limit."""

    status, slug, title = 422, "invalid-request", "The request is not valid"


class UnknownModel(Problem):
    """No loaded bundle fits the `model` of the request."""

    status, slug, title = 422, "unknown-model", "No such model is loaded"


class NoSummary(Problem):
    """A summary was asked of a model whose family has none."""

    status, slug, title = 422, "no-summary", "This model keeps no summaries"


class NotFound(Problem):
    """No resource at this path."""

    status, slug, title = 404, "not-found", "There is nothing at this path"


class NotLoaded(Problem):
    """A stage that this service was started without."""

    status, slug, title = 409, "not-loaded", "No model for this stage is loaded"


class MethodNotAllowed(Problem):
    """The path exists, the method does not."""

    status, slug, title = 405, "method-not-allowed", "This path does not take that method"


class BodyTimeout(Problem):
    """The body did not arrive in time."""

    status, slug, title, closes = 408, "body-timeout", "The body did not arrive in time", True


class Conflict(Problem):
    """What was asked does not go with how things are: a version that is active, or not ready."""

    status, slug, title = 409, "conflict", "Not as things are now"


class BodyTooLarge(Problem):
    """The body is over the limit."""

    status, slug, title, closes = 413, "body-too-large", "The body is too large", True


class NotJson(Problem):
    """The body is declared as something else than JSON."""

    status, slug, title, closes = 415, "not-json", "Only application/json is understood", True


class HeadTooLarge(Problem):
    """The request line and the headers are over the limit."""

    status, slug, title, closes = 431, "head-too-large", "The headers are too large", True


class EngineFailed(Problem):
    """The runtime refused a batch."""

    status, slug, title = 500, "engine-failed", "The model could not be run"


class InternalError(Problem):
    """Anything unforeseen."""


class Unavailable(Problem):
    """Not now; try again later."""

    status, slug, title, retry_after_s = 503, "unavailable", "Not now", 1


class Overloaded(Unavailable):
    """The queue is full."""

    slug, title = "overloaded", "Too much is waiting already"


class Draining(Unavailable):
    """The service is shutting down."""

    slug, title = "draining", "This replica is shutting down"


class StoreAway(Unavailable):
    """The store did not answer, or could not take a write."""

    slug, title = "store-away", "The store is not reachable; nothing was stored"


class LogAway(Unavailable):
    """The answer log could not be purged of a user; the store was."""

    slug, title = "log-away", "The log of answers cannot be written; ask again to forget the user"


class Contended(Unavailable):
    """Other writers of the same user kept overtaking us."""

    slug, title = "contended", "The user is being written by too many at once; nothing was stored"


class DeadlineExceeded(Problem):
    """The caller's deadline passed."""

    status, slug, title = 504, "deadline-exceeded", "The deadline passed"
