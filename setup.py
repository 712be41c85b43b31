"""What setup.cfg cannot say: the modules that every request crosses are compiled to C by mypyc, where that is possible.

Compiled or not, the same source runs. An editable install is never compiled, for what is edited must take effect.
"""

from __future__ import annotations

import contextlib
import glob
import logging
from collections.abc import Iterator

from setuptools import Distribution, setup
from setuptools.command.build_ext import build_ext

POLICIES = sorted(glob.glob("router/policies/[a-z]*.py"))
COMPILED = [
    *(f"router/{name}.py" for name in ("front", "http1", "request", "admission", "exchange", "upstream", "relay")),
    *(f"router/{name}.py" for name in ("abridge", "bootstrap", "crowd", "fleet", "metrics", "pairs", "prefix")),
    *(f"router/{name}.py" for name in ("retry", "suspects", "trace", "usage")),
    *POLICIES,
]
# What these modules import is there when they are built (setup_requires), so that mypyc knows its types; what the rest
# of the router imports need not be.
OPTIONS = ("--ignore-missing-imports", "--no-warn-unused-ignores")


class Compile(build_ext):
    """Compile what can be; where there is no C compiler, say so and install the source alone."""

    def finalize_options(self) -> None:
        if not self.of_source():
            with self.uncompiled():
                from mypyc.build import mypycify

                self.distribution.ext_modules = mypycify([*OPTIONS, *COMPILED], group_name="llm_launch")
        super().finalize_options()

    def run(self) -> None:
        if self.of_source():  # what is told late: a source distribution may have been listed before
            return
        with self.uncompiled():
            super().run()

    def of_source(self) -> bool:
        """Whether the sources are to be used where they are; older pips say so by `setup.py develop`, as `inplace`."""
        return bool(self.editable_mode or self.inplace)

    @contextlib.contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Go on without what cannot be compiled."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.extensions = self.distribution.ext_modules = []
            logging.warning("the router is installed uncompiled and needs half as much CPU again: %s", error)


class Platform(Distribution):
    """A wheel that holds what was compiled."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_ext": Compile}, distclass=Platform)
