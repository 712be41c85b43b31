"""What a worker's KV cache holds, from what engines tell of themselves. Pure.

LMDeploy does not tell. vLLM tells nothing when it is started with --disable-log-stats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

# No cache holds as many tokens; larger numbers are mistakes, and JSON could not carry all of them.
_LIMIT = 2**40
_NUMBER = re.compile(r"[0-9]{1,13}")
_CACHE_CONFIG = re.compile(r'^vllm:cache_config_info\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}', re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = Mapping[str, str]


def of_sglang(body: bytes) -> int | None:
    """From GET /server_info (/get_server_info in older versions).

    At the top level stands what the first data-parallel rank holds, beside the server's arguments; dp_size is one.
    """
    info = _object(body)
    rank = _count(info.get("max_total_num_tokens"))
    if rank:
        return _told(rank * max(1, _count(info.get("dp_size"))))
    states = info.get("internal_states")
    ranks = [state for state in states if isinstance(state, dict)] if isinstance(states, list) else []
    return _told(sum(_count(state.get("max_total_num_tokens")) for state in ranks))


def of_vllm(body: bytes) -> int | None:
    """From GET /metrics: the labels of vllm:cache_config_info, one series for each data-parallel engine.

    kv_cache_size_tokens is one engine's share. Versions that lack it tell num_gpu_blocks, which for a hybrid model is
    only near, and is the sum over all engines in the series of each (core_client.py adds them up). Either is "None"
    before it is known.
    """
    series = _series(body.decode(errors="replace"))
    shares = [_labelled(labels, "kv_cache_size_tokens") for labels in series]
    if shares and all(shares):
        return _told(sum(shares))
    return _told(
        max((_labelled(labels, "block_size") * _labelled(labels, "num_gpu_blocks") for labels in series), default=0)
    )


def of_llama_cpp(body: bytes) -> int | None:
    """From GET /props: n_ctx, the most that one of its total_slots slots holds.

    By default, and in the engine that comes with this program, the slots share one cache of that size. With
    --no-kv-unified each has its own, which /props does not tell: then this is what is certain.
    """
    settings = _object(body).get("default_generation_settings")
    return _told(_count(settings.get("n_ctx")) if isinstance(settings, dict) else 0)


def slots_of_llama_cpp(body: bytes) -> int | None:
    """From GET /props: total_slots, each of which keeps the prompt that it computed last and nothing else."""
    return _told(_count(_object(body).get("total_slots")))


class Source(NamedTuple):
    """What an answer tells: `tokens`, and where a cache is no pool of blocks, how many `prompts` it keeps."""

    tokens: Callable[[bytes], int | None]
    prompts: Callable[[bytes], int | None] = lambda body: None


# Where engines tell it, in the order in which to ask. What answers to the path of another engine, as all do to
# /metrics and vLLM in its development mode to /server_info, says nothing there that is taken for this.
SOURCES: Mapping[str, Source] = {
    "/server_info": Source(of_sglang),
    "/get_server_info": Source(of_sglang),
    "/metrics": Source(of_vllm),
    "/props": Source(of_llama_cpp, slots_of_llama_cpp),
}


def _object(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _series(metrics: str) -> list[Labels]:
    """The labels of each vllm:cache_config_info that knows its blocks: one series an engine, the last it has."""
    engines: dict[str, Labels] = {}
    for found in _CACHE_CONFIG.findall(metrics):
        labels = dict(_LABEL.findall(found))
        if _labelled(labels, "num_gpu_blocks"):
            engines[labels.get("engine", "")] = labels
    return list(engines.values())


def _labelled(labels: Labels, name: str) -> int:
    text = labels.get(name, "")
    return int(text) if _NUMBER.fullmatch(text) else 0


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _told(tokens: int) -> int | None:
    return tokens if 0 < tokens < _LIMIT else None
