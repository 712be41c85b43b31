"""How far a loading engine is, by what its log says: a table of what the known engines print. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

READ = 40  # lines of a log's end that are looked at

# What an engine prints, newest releases and older ones -> what it is at; {n} is the pattern's n-th group.
TABLE: tuple[tuple[str, str], ...] = (
    # Hugging Face's hub, in all of them
    (r"Fetching \d+ files:\s+(\d+)%", "download {1} %"),
    (r"\S+\.(?:safetensors|gguf|bin):\s+(\d+)%", "download, this file {1} %"),
    # vLLM and SGLang
    (r"(?:checkpoint|[Ll]oading) shards:\s+(\d+)%", "weights {1} %"),
    (r"Load weight begin|Starting to load model", "weights"),
    (r"Load weight end|Loading weights took|[Mm]odel loading took", "weights loaded"),
    (r"torch\.compile takes .* in total", "compiled"),
    (r"Dynamo bytecode transform|Compiling a graph|torch\.compile", "compiling"),
    (r"KV cache size: ([\d,]+) tokens", "KV cache of {1} tokens"),
    (r"KV Cache is allocated\..*?#tokens: (\d+)", "KV cache of {1} tokens"),
    (r"Graph capturing finished|Capture (?:\w+ )*cuda graph end", "CUDA graphs captured"),
    (r"Capturing CUDA graphs?.*?:\s+(\d+)%", "CUDA graphs {1} %"),
    (r"Capturing batches.*?:\s+(\d+)%", "CUDA graphs {1} %"),
    (r"Capture (?:\w+ )*cuda graph (?:begin|bs)", "CUDA graphs"),
    # LMDeploy
    (r"Convert to turbomind format:\s+(\d+)%", "weights {1} %"),
    (r"Loading weights from \S+:\s+(\d+)%", "weights {1} %"),
    # llama.cpp
    (r"llama_model_loader: loaded meta data|load_model: loading model|load_tensors:", "weights"),
    (r"llama_context: constructing|llama_kv_cache:", "KV cache"),
    (r"warming up the model", "warming up"),
    (r"\bmodel loaded\b", "weights loaded"),
    # their HTTP servers
    (r"Application startup complete|fired up and ready|server is listening", "serving"),
)

_ANY = re.compile("|".join(pattern for pattern, _ in TABLE))
_ROWS = tuple((re.compile(pattern), words) for pattern, words in TABLE)


def progress(lines: Sequence[str]) -> str:
    """What the newest line that tells it says of the engine's progress; "" when none does. Oldest line first."""
    for line in reversed(lines):
        if _ANY.search(line):
            return next(_words(found, words) for row, words in _ROWS if (found := row.search(line)))
    return ""


def _words(found: re.Match[str], words: str) -> str:
    return words.format("", *found.groups())
