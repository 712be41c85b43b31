"""The known causes of a start that failed. The lines are what the engines really print."""

from __future__ import annotations

import pytest

from launcher import hints
from launcher.hints import hint

KNOWN = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has": "memory is full",
    "ValueError: Free memory on device (31.44/47.38 GiB) on startup is less than desired": "nvidia-smi",
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when": "KV cache",
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.": "KV cache",
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8148 MiB on device 0: cudaMalloc failed": "memory is full",
    "OSError: org/nope is not a local folder and is not a valid model identifier listed on 'https://": "no such model",
    "gguf_init_from_file: failed to open GGUF file '/models/x.gguf'": "--model-path",
    "OSError: /models/x does not appear to have a file named config.json.": "--model-path",
    "OSError: You are trying to access a gated repo.": "HF_TOKEN",
    "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized": "HF_TOKEN",
    "requests.exceptions.ConnectionError: Max retries exceeded with url: /api/models/org/name": "cannot be reached",
    "[Errno 98] while attempting to bind on ('127.0.0.1', 31000): address already in use": "--worker-base-port",
    "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).": "newer than the driver",
    "Failed to initialize NVML: Driver/library version mismatch": "reboot",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device": "compute capability",
    "CUDA initialization: CUDA error 802: system not yet initialized": "fabricmanager",
    "RuntimeError: Found no NVIDIA driver on your system.": "sees no GPU",
    "ValueError: The repository org/x contains custom code; pass `trust_remote_code=True`": "--trust-remote-code",
    "ValueError: Model architectures ['New'] are not supported for now.": "architecture",
    "OSError: [Errno 28] No space left on device": "HF_HOME",
    "OSError: [Errno 24] Too many open files": "ulimit -n",
    "ValueError: Total number of attention heads (28) must be divisible by tensor parallel size (8).": "--tp-size",
    "vllm: error: unrecognized arguments: --max-modle-len 8192": "--help",
    "ModuleNotFoundError: No module named 'flashinfer'": "--engine-python",
    "terminate called after throwing an instance of 'std::bad_alloc'": "machine's own memory",
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690": "NCCL_DEBUG",
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.": "--dtype float16",
    "Fatal Python error: Bus error": "--shm-size",
}


@pytest.mark.parametrize(("line", "words"), KNOWN.items())
def test_a_known_cause_has_its_advice(line: str, words: str):
    found = hint(["INFO starting", line, "Engine core initialization failed. See root cause above."])
    assert found is not None
    assert words in found.advice
    assert found.line == line[: hints.SHOWN]


def test_every_row_is_met_by_a_line_that_an_engine_prints():
    met = {found.advice for line in KNOWN if (found := hint([line]))}
    assert met == {advice for _, advice in hints.TABLE}


HARMLESS = [
    "sim: cannot load any: told to fail by --fail-start",
    "[2026-01-14 05:25:33] server_args=ServerArgs(model_path='m', trust_remote_code=False, nccl_port=None,",
    "INFO 07-07 00:40:17 [cli_args.py:325] non-default args: {'model': 'm', 'gpu_memory_utilization': 0.6}",
    "[2025-11-20 17:55:54] max_total_num_tokens=335808, chunked_prefill_size=8192, max_prefill_tokens=16384",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]


def test_what_is_not_known_gets_no_advice():
    assert hint(HARMLESS) is None
    assert hint([]) is None


def test_the_particular_goes_before_the_general_wherever_it_stands():
    found = hint(["OSError: x is not a valid model identifier", "GatedRepoError: 401 Client Error."])
    assert found is not None
    assert "terms" in found.advice


def test_a_hint_quotes_the_line_but_not_all_of_a_long_one():
    found = hint(["  torch.OutOfMemoryError: " + "x" * 1000])
    assert found is not None
    assert found.told(["Engine core initialization failed."]).startswith(f"{found.advice} (it said: torch.OutOfMemory")
    assert len(found.told([])) < len(found.advice) + 200


def test_a_line_that_is_shown_anyway_is_not_quoted_again():
    found = hint(["torch.OutOfMemoryError: CUDA out of memory."])
    assert found is not None
    assert found.told(["loading", "  torch.OutOfMemoryError: CUDA out of memory."]) == found.advice
