"""Settings that exist are valid; those that cannot be used are refused in one line that names the option."""

from __future__ import annotations

import dataclasses
import math

import pytest

from router.config import ConfigError, RouterConfig

DAY = 86_400

# The options with a range: lowest and highest value.
RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "service_discovery_port": (1, 65_535),
    "router_replicas": (1, 1_000),
    "cache_threshold": (0, 1),
    "balance_abs_threshold": (0, 1_000_000),
    "balance_rel_threshold": (1, 1_000_000),
    "eviction_interval": (0.01, DAY),
    "max_tree_size": (0, 1_099_511_627_776),
    "max_worker_retries": (0, 1_000),
    "max_total_retries": (0, 1_000),
    "request_timeout": (0.01, 7 * DAY),
    "max_concurrent_requests": (0, 10_000_000),
    "queue_size": (0, 10_000_000),
    "queue_timeout": (0.01, DAY),
    "health_check_interval": (0.01, DAY),
    "health_check_timeout": (0.01, DAY),
    "health_failure_threshold": (1, 1_000),
    "health_success_threshold": (1, 1_000),
    "worker_startup_timeout": (0.01, 7 * DAY),
    "drain_timeout": (0, 7 * DAY),
    "max_payload_size": (1, 1_099_511_627_776),
}
ranged = pytest.mark.parametrize("name", RANGES)


def refusal(**settings: object) -> str:
    with pytest.raises(ConfigError) as error:
        RouterConfig(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_the_defaults_are_the_documented_ones() -> None:
    assert dataclasses.asdict(RouterConfig()) == {
        "host": "127.0.0.1",
        "port": 30000,
        "worker_urls": (),
        "service_discovery": False,
        "selector": (),
        "service_discovery_port": 80,
        "service_discovery_namespace": None,
        "router_replicas": 1,
        "pd_disaggregation": False,
        "prefill": (),
        "decode": (),
        "prefill_policy": None,
        "decode_policy": None,
        "policy": "least_work",
        "cache_threshold": 0.5,
        "balance_abs_threshold": 32,
        "balance_rel_threshold": 1.0001,
        "eviction_interval": 60,
        "max_tree_size": 16777216,
        "max_worker_retries": 3,
        "max_total_retries": 6,
        "request_timeout": 1800,
        "max_concurrent_requests": 0,
        "queue_size": 100,
        "queue_timeout": 60,
        "health_check_interval": 5,
        "health_check_timeout": 5,
        "health_failure_threshold": 3,
        "health_success_threshold": 1,
        "worker_startup_timeout": 1800,
        "drain_timeout": 180,
        "api_key": None,
        "admin_api_key": None,
        "ssl_certfile": None,
        "ssl_keyfile": None,
        "cors_allowed_origins": (),
        "max_payload_size": 512 * 1024 * 1024,
        "request_id_headers": ("x-request-id",),
        "otlp_endpoint": None,
        "log_level": "info",
        "log_format": "text",
    }


@pytest.mark.parametrize("label", ["app=worker", "example.com/role=llm_1", "app="])
def test_a_selector_is_labels(label: str) -> None:
    assert RouterConfig(service_discovery=True, selector=(label,)).selector == (label,)


@pytest.mark.parametrize(
    "label", ["app", "=worker", "app=a b", "app=-x", "app=a,b", "app!=worker", "a" * 64 + "=b", ""]
)
def test_what_is_no_label_is_refused(label: str) -> None:
    assert "--selector" in refusal(selector=(label,))


def test_discovery_without_a_selector_is_refused() -> None:
    assert "--selector" in refusal(service_discovery=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prefill": (("http://a", None),)}, "--prefill needs --pd-disaggregation"),
        ({"decode": ("http://a",)}, "--decode needs --pd-disaggregation"),
        ({"prefill_policy": "random"}, "--prefill-policy needs --pd-disaggregation"),
        ({"decode_policy": "random"}, "--decode-policy needs --pd-disaggregation"),
        ({"pd_disaggregation": True, "worker_urls": ("http://a",)}, "--worker-urls"),
        ({"pd_disaggregation": True, "service_discovery": True, "selector": ("a=b",)}, "--service-discovery"),
        ({"pd_disaggregation": True, "prefill": (("http://a", 0),)}, "between 1 and 65535"),
        ({"pd_disaggregation": True, "prefill": (("http://a", 65_536),)}, "between 1 and 65535"),
    ],
)
def test_what_does_not_go_with_pairs_of_workers_is_refused(settings: dict[str, object], says: str) -> None:
    assert says in refusal(**settings)


def test_every_number_has_a_range() -> None:
    numbers = {field.name for field in dataclasses.fields(RouterConfig) if type(field.default) in (int, float)}
    assert numbers == set(RANGES)


@ranged
def test_the_ends_of_a_range_can_be_used(name: str) -> None:
    for value in RANGES[name]:
        assert getattr(RouterConfig(**{name: value}), name) == value  # type: ignore[arg-type]


@ranged
def test_what_lies_outside_is_refused_with_the_option_the_value_and_the_range(name: str) -> None:
    low, high = RANGES[name]
    for value in (low - 1, -1e30, high + 1, 1e30, math.nan, math.inf, -math.inf):
        expected = f"{flag(name)} is {value}: it must lie between {low} and {high}"
        assert refusal(**{name: value}) == expected
    assert flag(name) in refusal(**{name: low - 0.001})
    assert flag(name) in refusal(**{name: high + 0.001})


@pytest.mark.parametrize("given", ["ssl_certfile", "ssl_keyfile"])
def test_a_certificate_and_its_key_belong_together(given: str) -> None:
    message = refusal(**{given: "a.pem"})
    assert "--ssl-certfile" in message
    assert "--ssl-keyfile" in message
    RouterConfig(ssl_certfile="a.pem", ssl_keyfile="b.pem")


@pytest.mark.parametrize("origin", ["*", "null", "https://example.org", "http://localhost:3000", "http://[::1]:3000"])
def test_an_origin_is_spelt_as_browsers_do(origin: str) -> None:
    assert RouterConfig(cors_allowed_origins=(origin,)).cors_allowed_origins == (origin,)


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "https://Example.org", "https://a b", ""])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    assert "--cors-allowed-origins" in refusal(cors_allowed_origins=("*", origin))


@pytest.mark.parametrize("name", ["a b", "x-id:", "", "x-ïd"])
def test_a_request_id_header_must_be_a_headers_name(name: str) -> None:
    assert "--request-id-headers" in refusal(request_id_headers=("x-request-id", name))


@pytest.mark.parametrize("name", ["api_key", "admin_api_key"])
@pytest.mark.parametrize("key", ["", " \n"])
def test_an_empty_key_is_refused_for_it_would_guard_nothing(name: str, key: str) -> None:
    assert flag(name) in refusal(**{name: key})


def test_no_key_is_shown_where_settings_are_printed() -> None:
    config = RouterConfig(api_key="first-secret", admin_api_key="second-secret")
    assert "secret" not in repr(config)
    assert "secret" not in f"{config} {[config]}"


def test_no_key_is_told_where_other_settings_are_wrong() -> None:
    assert "secret" not in refusal(api_key="secret", admin_api_key="secret", port=-1)


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RouterConfig().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "url", ["", "collector:4318", "ftp://c:1", "http://", "http://me:k3y@c:4318", "http://c/x?key=k3y"]
)
def test_a_collector_is_named_by_a_plain_url(url: str) -> None:
    said = refusal(otlp_endpoint=url)
    assert said.startswith("--otlp-endpoint ")
    assert "k3y" not in said
    assert RouterConfig(otlp_endpoint="https://c:4318/a/path").otlp_endpoint
