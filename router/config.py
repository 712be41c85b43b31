"""The router's settings: a RouterConfig that exists is valid, and every CLI default is read from it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MIB = 1024 * 1024


class ConfigError(ValueError):
    """One line for a person: which value, why it cannot be used, and what would be right."""


@dataclass(frozen=True)
class RouterConfig:
    """Settings of one router process. Times are seconds, sizes are bytes unless the comment says otherwise.

    Raises ConfigError when a value cannot be used.
    """

    host: str = "127.0.0.1"
    port: int = 30000
    worker_urls: tuple[str, ...] = ()
    service_discovery: bool = False  # workers are pods of a Kubernetes cluster
    selector: tuple[str, ...] = ()  # labels that such pods have, key=value
    service_discovery_port: int = 80  # where they listen
    service_discovery_namespace: str | None = None  # None: all namespaces
    router_replicas: int = 1  # routers over the same workers, this one included
    pd_disaggregation: bool = False  # each request is prefilled by one worker and decoded by another
    prefill: tuple[tuple[str, int | None], ...] = ()  # URL and bootstrap port; None: the engine's default
    decode: tuple[str, ...] = ()
    prefill_policy: str | None = None  # None: as `policy`
    decode_policy: str | None = None
    policy: str = "least_work"
    cache_threshold: float = 0.5  # lowest match rate that counts as a cache hit
    balance_abs_threshold: int = 32  # requests
    balance_rel_threshold: float = 1.0001
    eviction_interval: float = 60.0
    max_tree_size: int = 16_777_216  # characters across all workers
    max_worker_retries: int = 3  # consecutive failures before a worker is unavailable
    max_total_retries: int = 6  # retries per request
    request_timeout: float = 1800.0  # until the first body byte
    max_concurrent_requests: int = 0  # 0: no limit
    queue_size: int = 100
    queue_timeout: float = 60.0
    health_check_interval: float = 5.0
    health_check_timeout: float = 5.0
    health_failure_threshold: int = 3
    health_success_threshold: int = 1
    worker_startup_timeout: float = 1800.0  # how long add_worker waits for a worker to become healthy
    drain_timeout: float = 180.0
    api_key: str | None = field(default=None, repr=False)
    admin_api_key: str | None = field(default=None, repr=False)
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    cors_allowed_origins: tuple[str, ...] = ()
    max_payload_size: int = 512 * MIB
    request_id_headers: tuple[str, ...] = ("x-request-id",)
    otlp_endpoint: str | None = None  # of an OpenTelemetry collector
    log_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{_flag(name)} is {value}: it must lie between {low:g} and {high:.15g}")
        for name in ("api_key", "admin_api_key"):  # one that is meant to guard, and would not
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise ConfigError(f"{_flag(name)} is empty: give a key, or leave the option out")
        for origin in self.cors_allowed_origins:  # compared as a browser spells it
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"--cors-allowed-origins has {origin}: give https://host[:port] with no path, or *")
        for name in self.request_id_headers:
            if not _TOKEN.fullmatch(name):
                raise ConfigError(f"--request-id-headers has {name}: a header's name is letters, digits and dashes")
        endpoint = self.otlp_endpoint  # not quoted: a key may be in it
        if endpoint is not None and not _COLLECTOR.fullmatch(endpoint):
            raise ConfigError(
                "--otlp-endpoint is no URL of a collector: give http://host:4318, keys by OTEL_EXPORTER_OTLP_HEADERS"
            )
        for label in self.selector:
            if not _LABEL.fullmatch(label):
                raise ConfigError(f"--selector has {label}: give labels as key=value")
        if self.service_discovery and not self.selector:
            raise ConfigError("--service-discovery needs --selector: which labels do the workers' pods have?")
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise ConfigError("--ssl-certfile and --ssl-keyfile belong together: give both, or neither")
        self._check_roles()

    def _check_roles(self) -> None:
        """A router has workers that do all of a request, or workers that do a half of it."""
        if self.pd_disaggregation and self.worker_urls:
            raise ConfigError("--pd-disaggregation has no place for --worker-urls: give --prefill URL and --decode URL")
        if self.pd_disaggregation and self.service_discovery:
            raise ConfigError("--service-discovery cannot tell prefill from decode workers: leave it out")
        for name in ("prefill", "decode", "prefill_policy", "decode_policy"):
            if getattr(self, name) and not self.pd_disaggregation:
                raise ConfigError(f"{_flag(name)} needs --pd-disaggregation")
        for url, port in self.prefill:
            if port is not None and not 1 <= port <= 65_535:
                raise ConfigError(f"--prefill {url} has the bootstrap port {port}: it must lie between 1 and 65535")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+")
_COLLECTOR = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL = re.compile(
    r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?=([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", re.A
)
_DAY = 86_400.0
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("port", 0, 65_535),
    ("service_discovery_port", 1, 65_535),
    ("router_replicas", 1, 1_000),
    ("cache_threshold", 0, 1),
    ("balance_abs_threshold", 0, 1_000_000),
    ("balance_rel_threshold", 1, 1_000_000),
    ("eviction_interval", 0.01, _DAY),
    ("max_tree_size", 0, 1 << 40),
    ("max_worker_retries", 0, 1_000),
    ("max_total_retries", 0, 1_000),
    ("request_timeout", 0.01, 7 * _DAY),
    ("max_concurrent_requests", 0, 10_000_000),
    ("queue_size", 0, 10_000_000),
    ("queue_timeout", 0.01, _DAY),
    ("health_check_interval", 0.01, _DAY),
    ("health_check_timeout", 0.01, _DAY),
    ("health_failure_threshold", 1, 1_000),
    ("health_success_threshold", 1, 1_000),
    ("worker_startup_timeout", 0.01, 7 * _DAY),
    ("drain_timeout", 0, 7 * _DAY),
    ("max_payload_size", 1, 1 << 40),
)
