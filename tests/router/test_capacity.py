"""What engines' answers tell of their KV caches."""

from __future__ import annotations

import json

import pytest

from router.capacity import of_llama_cpp, of_sglang, of_vllm, slots_of_llama_cpp

# -- SGLang


def sglang(**info: object) -> int | None:
    return of_sglang(json.dumps({"model_path": "m", **info}).encode())


def test_sglang_tells_what_one_rank_holds():
    assert sglang(max_total_num_tokens=1_206_208, dp_size=1, internal_states=[{}]) == 1_206_208
    assert sglang(max_total_num_tokens=421_000, dp_size=4) == 1_684_000
    assert sglang(max_total_num_tokens=421_000) == 421_000


def test_what_only_the_ranks_of_sglang_tell_is_added_up():
    assert sglang(internal_states=[{"max_total_num_tokens": 100}, {"max_total_num_tokens": 28}]) == 128
    assert sglang(max_total_num_tokens=None, internal_states=[{"max_total_num_tokens": 100}, None]) == 100


# -- vLLM


def vllm(*series: dict[str, str]) -> int | None:
    lines = ["# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig", "vllm:num_requests_running 1.0"]
    for labels in series:
        told = ",".join(f'{name}="{value}"' for name, value in labels.items())
        lines.append(f"vllm:cache_config_info{{{told}}} 1.0")
    return of_vllm("\n".join([*lines, "vllm:cache_config_info_created 1"]).encode())


def config(engine: int, **labels: str) -> dict[str, str]:
    return {"block_size": "16", "cache_dtype": "auto", "num_gpu_blocks_override": "7", "engine": str(engine), **labels}


def test_vllm_tells_its_blocks():
    assert vllm(config(0, num_gpu_blocks="27000")) == 432_000


def test_vllm_tells_all_engines_blocks_for_each_of_them():
    assert vllm(config(0, num_gpu_blocks="54000"), config(1, num_gpu_blocks="54000")) == 864_000


def test_vllm_tells_each_engines_tokens():
    assert vllm(config(0, num_gpu_blocks="27000", kv_cache_size_tokens="400000")) == 400_000
    both = [config(engine, num_gpu_blocks="54000", kv_cache_size_tokens="400000") for engine in range(2)]
    assert vllm(*both) == 800_000


def test_a_series_from_before_vllm_knew_is_passed_over():
    early, late = config(0, num_gpu_blocks="None", kv_cache_size_tokens="None"), config(0, num_gpu_blocks="100")
    assert vllm(early) is None
    assert vllm(early, late) == vllm(late, early) == 1_600


def test_an_engine_of_vllms_counts_once():
    earlier, later = config(0, num_gpu_blocks="50"), config(0, num_gpu_blocks="100")
    assert vllm(*({**labels, "kv_cache_size_tokens": "1500"} for labels in (earlier, later))) == 1_500


def test_a_label_of_vllms_may_hold_anything():
    assert vllm({"path": r"a}b\",num_gpu_blocks=\"9", **config(0, num_gpu_blocks="2")}) == 32


# -- llama.cpp


def test_llama_cpp_tells_the_cache_that_its_slots_share():
    props = {"default_generation_settings": {"id": 0, "n_ctx": 32_768}, "total_slots": 4}
    assert of_llama_cpp(json.dumps(props).encode()) == 32_768
    assert slots_of_llama_cpp(json.dumps(props).encode()) == 4
    assert slots_of_llama_cpp(b"{}") is None


# -- anything else


@pytest.mark.parametrize("read", [of_sglang, of_vllm, of_llama_cpp])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b"[" * 5000,
        b"<html>",
        b'{"max_total_num_tokens": "7", "default_generation_settings": {"n_ctx": "7"}}',
        b'{"max_total_num_tokens": true, "default_generation_settings": {"n_ctx": true}}',
        b'{"max_total_num_tokens": -7, "default_generation_settings": {"n_ctx": 0}}',
        b'{"max_total_num_tokens": 7e99, "default_generation_settings": {"n_ctx": 7.5}}',
        b'{"max_total_num_tokens": 9999999999999999999999, "default_generation_settings": {"n_ctx": 1099511627776}}',
        b'{"internal_states": {"max_total_num_tokens": 7}, "default_generation_settings": [7]}',
        b'vllm:cache_config_info{block_size="16"} 1.0',
        b'vllm:cache_config_info{block_size="-16",num_gpu_blocks="7"} 1.0',
        b'vllm:cache_config_info{block_size="16",num_gpu_blocks="99999999999999999999"} 1.0',
        b'# vllm:cache_config_info{block_size="16",num_gpu_blocks="7"} 1.0',
        b'vllm:cache_config_info{block_size="16",num_gpu_blocks="7" 1.0',
        b"lmdeploy:gpu_cache_usage_perc 0.5",
    ],
)
def test_what_tells_nothing_is_taken_for_nothing(read, body):
    assert read(body) is None
