# SPDX-License-Identifier: Apache-2.0
"""The seal of a safetensors file: a digest of its tensors and its words, among the words, so that a changed byte is seen.

    metadata["digest"] = seal_of(metadata, tensors)      before it is written; behind reading, the same must come out

What this file does not do: read or write (`compiled.py`, `factors.py`), or tell who wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def seal_of(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Of everything in a file but the seal itself."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(metadata.keys() - {"digest"}):
        digest.update(f"{name}={metadata[name]}".encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
