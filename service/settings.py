"""Every option of `marmot serve`; the environment is read here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import UsageError


class Settings(BaseSettings):
    """`MARMOT_…` in the environment, or by keyword from the command line, which wins."""

    model_config = SettingsConfigDict(env_prefix="MARMOT_", frozen=True, extra="ignore")

    bundle: Path = Path("var/bundle")
    retrieval: Path | None = Field(None, description="bundle for /v1/retrieve and /v1/recommend")
    prerank: Path | None = Field(None, description="bundle for /v1/prerank; also in the chain")
    bundle_key: Path | None = Field(None, description="public Ed25519 key that must have signed it")
    cache: str = "lmdb:./var/cache"
    keep: int | None = Field(None, ge=1)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    workers: int = Field(1, ge=1, le=256)
    keys: Path | None = Field(None, description="file of API keys; none = nobody is asked for one")
    no_keys: bool = Field(False, description="listen beyond this machine without keys")
    playground: bool = Field(True, description="the pages / and /status")
    open_metrics: bool = Field(False, description="/metrics without a key, where there are keys")
    provider: str = "cpu"
    compute: Literal["float32", "int8"] = Field(
        "float32", description="arithmetic of ranking; int8 for bundles of one head, on the CPU"
    )
    threads: int = Field(0, ge=0, description="engine threads per worker; 0 = share of the CPUs")
    buckets: Literal["auto", "on", "off"] = Field(
        "auto", description="pad runs to few shapes, kept on the device; auto: not on the CPU"
    )
    worker_metrics_dir: Path | None = None

    record_ttl_s: int = Field(30 * 86_400, ge=1)
    timeline_ttl_s: int | None = Field(None, ge=1)
    store_timeout_ms: float = Field(500.0, gt=0)
    store_fetch_ms: float = Field(10.0, gt=0, description="what a rank request waits for it")
    store_acks: int = Field(0, ge=0, description="replicas that have an event when we say so")
    store_replica_reads: bool = False
    models_dir: Path | None = Field(None, description="bundles that POST /v1/models may load")
    models_poll_s: float = Field(1.0, gt=0, description="how soon a change elsewhere is followed")
    models_users_per_s: float = Field(
        100.0, gt=0, description="users a second whose records of a new version are built"
    )
    models_share: float = Field(
        0.1, gt=0, le=1, description="of the time, what building and deleting records may take"
    )
    stale_ok_s: float = Field(
        0.0, ge=0, description="age of records that a model may borrow of its lineage; 0 = none"
    )
    stale_share: float = Field(0.01, ge=0, le=1, description="of those, compared with the truth")
    near_mib: int = Field(256, ge=0, description="per worker: users kept decoded; 0 = none")
    refresh_s: float = Field(0.0, ge=0, description="least age of a summary that is replaced")
    sweep_every_s: float = Field(600.0, gt=0, description="how often expired rows are deleted")

    truth_share: float = Field(
        0.001, ge=0, le=1, description="cached answers that are computed again in full"
    )

    answer_log: Path | None = Field(None, description="folder for a sample of the rank answers")
    answer_log_key: Path | None = Field(None, description="file: what its users are hashed with")
    answer_log_share: float = Field(0.01, ge=0, le=1, description="of rank answers, written down")
    answer_log_mib: int = Field(256, ge=1, description="together; the oldest go first")
    answer_log_days: float = Field(30.0, gt=0, description="age at which they are deleted")

    body_limit_bytes: int = Field(1 << 20, ge=1)
    head_limit_bytes: int = Field(32 << 10, ge=1, description="the request line and the headers")
    body_timeout_s: float = Field(10.0, gt=0)
    max_candidates: int = Field(2_000, ge=1)
    max_history: int = Field(10_000, ge=0)
    max_events: int = Field(1_000, ge=1)
    max_batch: int = Field(64, ge=1)
    max_explained: int = Field(20, ge=1, description="candidates of one explanation")
    max_retrieved: int = Field(1_000, ge=1, description="items of one retrieval")
    max_preranked: int = Field(10_000, ge=1, description="candidates of one pre-ranking")
    prerank_body_limit_bytes: int = Field(2 << 20, ge=1)
    max_seen: int = Field(1_000, ge=0, description="newest events whose items exclude_seen drops")
    chain_retrieved: int = Field(300, ge=1, description="items that retrieval hands on")
    chain_preranked: int = Field(100, ge=1, description="items that pre-ranking hands on")
    max_timeline: int = Field(10_000, ge=1)
    max_future_s: int = Field(86_400, ge=0)
    default_deadline_ms: float = Field(10_000.0, gt=0)
    write_deadline_s: float = Field(5.0, gt=0)

    few: int = Field(8, ge=1, description="always let in per worker; half while it refuses")
    queue_limit_ms: float = Field(20.0, gt=0, description="estimated wait that refuses newcomers")
    crowd_limit_ms: float = Field(250.0, gt=0, description="the same, for a moment")
    event_queue_limit_ms: float = Field(200.0, gt=0, description="the same for events")
    work_limit_ms: float = Field(2_000.0, gt=0, description="work of those let in that may wait")
    drain_s: float = Field(1.0, ge=0, description="ready says 503 this long before closing")

    metrics_host: str = Field("127.0.0.1", description="where `marmot consume` shows its metrics")
    metrics_port: int = Field(8001, ge=0, le=65_535, description="the same; 0 takes a free one")

    otlp: str | None = Field(None, description="collector of traces; takes the extra otel")
    log_format: Literal["json", "console"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool = False


def read_settings(**options: Any) -> Settings:
    """Settings from the environment, overridden by every option that is not None."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{name.replace('_', '-')} (MARMOT_{name.upper()}): {first['msg']}"
        ) from error
