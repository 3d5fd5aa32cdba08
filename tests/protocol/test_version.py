# SPDX-License-Identifier: Apache-2.0
"""Which peers work together, tried with peers that can exist: this package's protocol as another release would ship it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ditto_cosim import protocol
from ditto_cosim.protocol import codec, version
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import DittoError, ParametersError, VersionError

ASK = """
import json, sys
from ditto_cosim.protocol import codec, messages as m, version
here = dict(protocol=version.PROTOCOL_VERSION, package=version.package_version(), parameters=version.parameters_digest())
theirs = codec.decode_host([bytes.fromhex(sys.argv[1])], m.Limits())
try:
    version.check_peer("host", theirs.protocol, theirs.package, theirs.parameters)
    answer = ""
except Exception as error:
    answer = type(error).__name__
json.dump({"hello": codec.encode(m.Hello(**here))[0].hex(), "answer": answer}, sys.stdout)
"""


@dataclass(frozen=True)
class Release:
    """Another release: its version, and what its protocol changed."""

    package: str
    file: str
    old: str
    new: str


NUMBER = f'PROTOCOL_VERSION = "{version.PROTOCOL_VERSION}"'
NOW_MAJOR, NOW_MINOR = map(int, version.PROTOCOL_VERSION.split("."))
MINOR = Release("0.2.0", "version.py", NUMBER, f'PROTOCOL_VERSION = "{NOW_MAJOR}.{NOW_MINOR + 1}"')
MAJOR = Release("1.0.0", "version.py", NUMBER, f'PROTOCOL_VERSION = "{NOW_MAJOR + 1}.0"')
OTHER_MEANING = Release("0.2.0", "isa.py", "p = rint(127 × exp32", "p = floor(127 × exp32")
TINY = '    "tiny": Geometry'
MORE_TILES = Release("0.1.1", "hardware.py", TINY, f'    "large": Geometry(lanes=8, columns=64),\n{TINY}')


@pytest.fixture
def meet(tmp_path: Path) -> Callable[[Release], tuple[m.Hello, str]]:
    """What a process of that release sends as its greeting, and what it says to ours."""

    def greeting(release: Release) -> tuple[m.Hello, str]:
        package = tmp_path / "ditto_cosim"
        shutil.copytree(Path(protocol.__file__).parent, package / "protocol")
        (package / "__init__.py").write_text("")
        information = tmp_path / f"ditto_cosim-{release.package}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: ditto-cosim\nVersion: {release.package}\n"
        )
        edited = package / "protocol" / release.file
        text = edited.read_text()
        assert release.old in text
        edited.write_text(text.replace(release.old, release.new))
        if release is MINOR:
            _add_a_field(package / "protocol" / "messages.py")
        ours = m.Hello(
            protocol=version.PROTOCOL_VERSION,
            package=version.package_version(),
            parameters=version.parameters_digest(),
        )
        done = subprocess.run(
            [sys.executable, "-c", ASK, bytes(codec.encode(ours)[0]).hex()],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        hello = codec.decode_host([bytes.fromhex(said["hello"])], m.Limits())
        assert isinstance(hello, m.Hello)
        assert hello.package == release.package, "the other release did not answer"
        return hello, said["answer"]

    return greeting


def _add_a_field(messages: Path) -> None:
    """A minor release's change: a field with a default, which is sent."""
    text = messages.read_text()
    place = "    parameters: Name\n    host: Name = "
    assert place in text
    messages.write_text(
        text.replace(place, '    parameters: Name\n    colour: Name = "red"\n    host: Name = ')
    )


@pytest.mark.parametrize("release", [MINOR, MORE_TILES], ids=["newer minor", "more tiles"])
def test_release_that_changed_no_meaning_goes_together(
    meet: Callable[[Release], tuple[m.Hello, str]], release: Release
) -> None:
    hello, answer = meet(release)
    version.check_peer("host", hello.protocol, hello.package, hello.parameters)
    assert answer == ""


@pytest.mark.parametrize(
    ("release", "error"),
    [(MAJOR, VersionError), (OTHER_MEANING, ParametersError)],
    ids=["newer major", "other meaning"],
)
def test_release_that_means_something_else_is_refused_by_both(
    meet: Callable[[Release], tuple[m.Hello, str]], release: Release, error: type[DittoError]
) -> None:
    hello, answer = meet(release)
    with pytest.raises(
        error, match=rf"package {release.package}, .*; this side has protocol {version.PROTOCOL_VERSION}"
    ):
        version.check_peer("host", hello.protocol, hello.package, hello.parameters)
    assert answer == error.__name__
