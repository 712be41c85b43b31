"""What an engine's last words mean, and what would help: a table of the known causes. Pure.

The phrases are those of PyTorch, CUDA, Hugging Face's hub, SGLang, vLLM, LMDeploy and llama.cpp. The first row that
matches wins, so the particular stands before the general (a gated repository is also "not a valid model identifier"),
and what only ever ends a process before what may have been a mere warning (the hub did not answer).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

READ = 400  # lines of a log's end: a traceback's cause stands far above the last line, once per process of the engine
SHOWN = 160  # characters of the line that gave the cause away

# What engines and their HTTP servers say, in lower case, when somebody else holds the port.
PORT_TAKEN = ("address already in use", "address in use", "errno 98", "eaddrinuse", "couldn't bind", "port is in use")

TABLE: tuple[tuple[str, str], ...] = (
    (
        r"driver/library version mismatch",
        "the NVIDIA driver was updated under a running kernel module: reboot, or reload the module",
    ),
    (
        r"driver on your system is too old|cuda driver version is insufficient|forward compatibility was attempted"
        r"|unsupported display driver|cuda error 803|cudaerrorinsufficientdriver",
        "the engine's CUDA is newer than the driver: update the driver, or install an engine built for an older CUDA "
        "(launch doctor shows the driver's)",
    ),
    (
        r"no kernel image is available|is not compatible with the current pytorch installation",
        "this build of the engine has no code for this GPU: install one that is built for its compute capability",
    ),
    (
        r"system not yet initialized|cuda error 802",
        "the GPUs' fabric is not up: start nvidia-fabricmanager in the driver's very version",
    ),
    (
        r"libcuda\.so\.1: cannot open|found no nvidia driver|no cuda gpus are available|no cuda-capable device",
        "the engine sees no GPU: check nvidia-smi, and --gpus all if this is a container",
    ),
    (
        r"free memory on device .* is less than desired",
        "something else holds memory of the GPU (nvidia-smi shows what): end it, or give vLLM less with "
        "-- --gpu-memory-utilization 0.8",
    ),
    (
        r"no available memory for the cache blocks|not enough memory\. please try to increase"
        r"|larger than the (available kv cache memory|maximum number of tokens that can be stored in kv cache)"
        r"|is needed, which is larger than the available kv",
        "the weights leave too little for the KV cache: a shorter context (vLLM -- --max-model-len, SGLang -- "
        "--context-length), a larger share of the GPU, or a larger --tp-size",
    ),
    (
        r"cuda out of memory|outofmemoryerror|cudamalloc failed|cuda error: out of memory|hip out of memory"
        r"|cublas_status_alloc_failed|unable to allocate cuda\d* buffer|ggml_backend_cuda_buffer_type_alloc_buffer",
        "the GPU's memory is full: a larger --tp-size, a smaller or quantised model, or leave the engine less "
        "(vLLM -- --gpu-memory-utilization, SGLang -- --mem-fraction-static)",
    ),
    (
        r"std::bad_alloc|cannot allocate memory|defaultcpuallocator|\bmemoryerror\b|oom-kill"
        r"|failed to allocate (cpu )?buffer",
        "the machine's own memory is full: fewer replicas, or a smaller model",
    ),
    (
        r"gated repo|gatedrepoerror|access to model \S+ is restricted|awaiting a review from the repo authors",
        "the model is gated: accept its terms on its page on the hub, then set HF_TOKEN to a token that may read it",
    ),
    (
        r"401 client error|403 client error|invalid (user )?token|token is required|invalid username or password",
        "the hub refuses the token, or wants one: set HF_TOKEN",
    ),
    (
        r"offline mode is enabled|cannot find the requested files in the (disk|local) cache|localentrynotfounderror"
        r"|couldn't connect to 'https://huggingface|failed to resolve 'huggingface|max retries exceeded with url",
        "the model is not on this machine and the hub cannot be reached: download it beforehand and give its folder",
    ),
    (
        r"is not a valid model identifier|repositorynotfounderror|repository not found|repo id must be in the form"
        r"|incorrect path_or_model_id|can't load the configuration of",
        "no such model on the hub: check how --model-path is spelt; of a private one, set HF_TOKEN",
    ),
    (
        r"does not appear to have a file named|no such file or directory: '[^']*(config\.json|safetensors)"
        r"|failed to open gguf file|cannot find any model weights|no \.?safetensors? (files? )?found|invalid magic",
        "the folder or file of --model-path is not a model that this engine can read, or its download was cut short",
    ),
    (
        r"trust_remote_code=true|contains custom code|requires you to execute the configuration file",
        "the model brings code of its own: if you trust its authors, add: -- --trust-remote-code",
    ),
    (
        r"does not recognize this architecture|model architectures? .* not supported|unknown model architecture"
        r"|unsupported architectures?",
        "this engine, or this version of it, does not know the model's architecture: update it, or try another",
    ),
    (
        r"no space left on device",
        "a disk is full: of the model's cache (HF_HOME), the logs (--log-dir), or /dev/shm (in a container --shm-size)",
    ),
    (
        r"bus error|shared memory .*(exhausted|too small)",
        "shared memory is too small: in a container --shm-size 16g, or --ipc host",
    ),
    (
        r"too many open files",
        "the limit of open files is too low: ulimit -n 65536 (in a unit file LimitNOFILE)",
    ),
    (
        "|".join(re.escape(phrase) for phrase in PORT_TAKEN),
        "another program has the port: end it, or choose another --worker-base-port",
    ),
    (
        r"must be divisible by (the )?tensor|not divisible by (the )?(tp|tensor)|attention heads .* divisible",
        "the model's heads cannot be split over so many GPUs: choose another --tp-size",
    ),
    (
        r"bfloat16 is only supported on gpus with compute capability",
        "this GPU does not know bfloat16: add -- --dtype float16",
    ),
    (
        r"unrecognized arguments|no such option|unexpected extra argument|invalid choice:|unknown argument",
        "the engine does not know an option that follows --: its own --help lists them",
    ),
    (
        r"(modulenotfounderror|importerror): no module named|undefined symbol|cannot open shared object file",
        "the engine's installation is broken or incomplete: install it in an environment of its own, and name that by "
        "--engine-python",
    ),
    (
        r"nccl error|ncclunhandled|ncclsystemerror",
        "the GPUs cannot talk to each other: NCCL_DEBUG=INFO says why; in a container --ipc host helps",
    ),
)

_ROWS = tuple((re.compile(pattern), advice) for pattern, advice in TABLE)


@dataclass(frozen=True)
class Hint:
    """The line that gave the cause away, and what would help."""

    line: str
    advice: str

    def told(self, shown: Sequence[str]) -> str:
        """The advice, and the line that gave the cause away, unless it is among those that are shown anyway."""
        return self.advice if any(self.line in line for line in shown) else f"{self.advice} (it said: {self.line})"


def hint(lines: Sequence[str]) -> Hint | None:
    """The known cause in the end of a log, oldest line first; None when there is none."""
    lower = [line.lower() for line in lines]
    for pattern, advice in _ROWS:
        for line, text in zip(lines, lower, strict=True):
            if pattern.search(text):
                return Hint(line.strip()[:SHOWN], advice)
    return None
