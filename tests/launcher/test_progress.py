"""How far a loading engine is. The lines are what the engines really print."""

from __future__ import annotations

import pytest

from launcher import progress as module
from launcher.progress import progress

KNOWN = {
    "Fetching 14 files:  43%|████▎     | 6/14 [00:12<00:16,  2.05s/it]": "download 43 %",
    "model-00001-of-00004.safetensors:  12%|█▏        | 598M/4.98G [00:14<01:44, 42.0MB/s]": "download, this file 12 %",
    "Loading safetensors checkpoint shards:  56% Completed | 5/9 [00:13<00:11,  2.87s/it]": "weights 56 %",
    "Multi-thread loading shards:  50% Completed | 2/4 [00:01<00:01,  1.2it/s]": "weights 50 %",
    "[2025-12-23 14:18:01] Load weight begin. avail mem=46.81 GB": "weights",
    "INFO 05-06 20:59:59 [gpu_model_runner.py:4879] Model loading took 12.66 GiB memory": "weights loaded",
    "INFO 05-06 21:00:16 [backends.py:1128] Dynamo bytecode transform time: 3.54 s": "compiling",
    "INFO 06-02 11:03:17 [monitor.py:33] torch.compile takes 45.81 s in total": "compiled",
    "INFO 06-02 11:03:18 [kv_cache_utils.py:637] GPU KV cache size: 1,131,008 tokens": "KV cache of 1,131,008 tokens",
    "[2025-11-20 17:55:15] KV Cache is allocated. #tokens: 335808, K size: 41.00 GB": "KV cache of 335808 tokens",
    "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  29%|██▉       | 15/51 [00:02]": "CUDA graphs 29 %",
    "Capturing batches (bs=1 avail_mem=25.10 GB): 100%|██████████| 52/52 [00:37<00:00]": "CUDA graphs 100 %",
    "[2025-11-20 17:55:16] Capture cuda graph begin. This can take up to several minutes.": "CUDA graphs",
    "INFO 06-02 11:03:55 [gpu_model_runner.py:1933] Graph capturing finished in 37 secs": "CUDA graphs captured",
    "Convert to turbomind format:  25%|█████████▊       | 12/48 [00:02]": "weights 25 %",
    "Loading weights from safetensors:  40%|████      | 2/5 [00:03]": "weights 40 %",
    "load_tensors: loading model tensors, this can take a while... (mmap = true)": "weights",
    "llama_context: constructing llama_context": "KV cache",
    "common_init_from_params: warming up the model with an empty run - please wait ...": "warming up",
    "main: model loaded": "weights loaded",
    "INFO:     Application startup complete.": "serving",
}


@pytest.mark.parametrize(("line", "words"), KNOWN.items())
def test_a_known_line_tells_how_far_it_is(line: str, words: str):
    assert progress(["INFO starting", line, "something that nobody knows"]) == words


def test_every_row_is_met_by_a_line_that_an_engine_prints():
    met = {row for line in KNOWN for row, _ in module._ROWS if row.search(line)}
    assert met == {row for row, _ in module._ROWS}


def test_the_newest_line_that_tells_it_counts():
    assert progress(["Fetching 4 files:  50%|", "Load weight begin.", "[Gloo] Rank 0 is connected"]) == "weights"


def test_a_log_that_tells_nothing_is_no_progress():
    assert progress(["sim: loading any"]) == ""
    assert progress([]) == ""
