# SPDX-License-Identifier: Apache-2.0
"""Which versions work together, and the hash of everything both sides must agree on before they do.

Three things are compared, each for what it can tell:
  protocol    a change that an older peer would misread raises the major number, and peers of different major numbers
              refuse each other. A field added with a default raises the minor number: older peers ignore fields they
              do not know, so all minor numbers of a major one go together.
  parameters  a hash of what no version number can vouch for: the instruction set, to the words of its commands, and
              the slots of a PE. Peers of different hashes would compute different values and refuse each other.
  package     says who is there, in messages and logs. It decides nothing: a release that changes neither of the above
              goes together with its predecessor.
Tiles are not among them: a run names the digest of its own, and the device compares it when the run starts.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata

from ditto_cosim.protocol import hardware, isa
from ditto_cosim.protocol.errors import ParametersError, VersionError

PROTOCOL_VERSION = "2.0"


@cache
def package_version() -> str:
    try:
        return metadata.version("ditto-cosim")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@cache
def parameters_digest() -> str:
    """Sixteen hex digits over the instruction set and the slots of a PE."""
    text = [str(hardware.SLOTS_PER_CYCLE), *hardware.MODES]
    for form in isa.ISA.values():
        text += [form.op, form.kind, *map(str, form.operands), *form.results, *form.attrs, form.semantics]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def check_peer(peer: str, protocol: str, package: str, parameters: str) -> None:
    """Refuse a peer that would misunderstand us; the message names both sides."""
    here = (PROTOCOL_VERSION, package_version(), parameters_digest())
    ours = "this side has protocol {}, package {}, parameters {}".format(*here)
    theirs = f"the {peer} has protocol {protocol}, package {package}, parameters {parameters}"
    if _major(protocol) != _major(PROTOCOL_VERSION):
        raise VersionError(
            f"protocol versions do not go together: {theirs}; {ours}. "
            "Install the same ditto-cosim on both sides."
        )
    if parameters != parameters_digest():
        raise ParametersError(
            f"instruction sets differ: {theirs}; {ours}. Install the same ditto-cosim on both sides."
        )


def _major(version: str) -> str:
    return version.partition(".")[0]
