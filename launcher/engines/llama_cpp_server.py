"""The demo engine's process: llama.cpp's HTTP server, as xllamacpp embeds it, on one port.

    python -m launcher.engines.llama_cpp_server --model demo --port 31000 --threads 2

SIGTERM ends it at once, loading included: whoever sends it has drained it first. It prints one line and exits with 1
when the port is taken or the model cannot be loaded.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.engines.llama_cpp import INSTALL, KEY, locate
from launcher.errors import LaunchError

# Seconds. llama.cpp logs on a thread of its own that cannot be waited for; a line of ours would land within its last.
LOG_DELAY = 0.25


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    # Python runs handlers on its main thread only, which is inside llama.cpp while it loads; the kernel does not wait.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    options = _parser().parse_args(argv)
    try:
        server = _serve(options, locate(options.model, os.environ))
    except (LaunchError, ImportError, OSError, RuntimeError) as error:
        sys.exit(f"llama.cpp: {error}")
    print(f"llama.cpp: serving {options.alias or options.model} at {server.listening_address}", flush=True)
    while True:
        signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llama_cpp_server", description="llama.cpp's server, embedded.")
    add = parser.add_argument
    add("--model", required=True, help="a .gguf file, a folder with one, or demo")
    add("--alias", help="the model's name in /v1/models; by default --model")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--threads", "-t", type=int, default=os.cpu_count() or 1)
    add("--parallel", "-np", type=int, default=4, help="requests at once; more wait")
    add("--ctx-size", "-c", type=int, default=32_768, help="tokens of KV cache, shared by the requests; 0: the model's")
    add("--cache-ram", type=int, default=1024, help="MiB for prompts that have left the KV cache; 0: none")
    add("--swa-full", action="store_true", help="keep all of the KV cache of layers with a sliding window: more memory")
    return parser


def _serve(options: argparse.Namespace, model: Path) -> Any:
    """Load and listen. Raises OSError when the port is taken, RuntimeError when the model cannot be loaded."""
    try:
        import xllamacpp
    except ImportError as error:
        raise ImportError(f"xllamacpp is not installed in {sys.executable}: {INSTALL}") from error

    _require_port(options.host, options.port)  # llama.cpp would say so only after it has loaded the model
    try:
        return xllamacpp.Server(_params(xllamacpp, options, model))
    except RuntimeError as error:
        _require_port(options.host, options.port)
        time.sleep(LOG_DELAY)
        raise RuntimeError(f"cannot load {model}: what is wrong is said above") from error


def _params(xllamacpp: Any, options: argparse.Namespace, model: Path) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {options.alias or options.model}
    params.hostnames = [options.host]
    params.port = options.port
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.n_parallel = options.parallel
    params.n_ctx = options.ctx_size
    # One KV cache for all slots: a request may fill it alone, and what an idle slot held is kept for the next prompt
    # that begins like it. With a cache per slot a prompt that another one had pushed out was computed anew (2.9 s
    # instead of 0.35 s for 905 tokens on one core), and more memory was used (675 MB instead of 631 MB).
    params.kv_unified = True
    # Without it nothing is found again, of a model with a sliding window, of beginnings shorter than the window (Gemma:
    # 512 tokens), and little once other slots have overwritten a part: of four texts of 576 tokens it was one of four.
    params.swa_full = options.swa_full
    params.cache_ram_mib = options.cache_ram
    # By default an idle slot's prompt is moved to RAM as soon as another request starts. Of a model with a sliding
    # window little of it comes back from there: 85 of 577 known tokens (2.4 s instead of 0.25 s) with the demo weights.
    params.cache_idle_slots = False
    if key := os.environ.get(KEY):
        params.api_keys = [key]
    params.endpoint_metrics = True
    params.endpoint_slots = False  # shows what others ask
    params.cors_origins = ""  # by default any web page may read what this port answers
    params.ui = False
    params.offline = True
    return params


def _require_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}") from error


if __name__ == "__main__":
    main()
