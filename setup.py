"""Builds the compiled kernels beside the Python code where there is a C++ compiler; all else is in ``pyproject.toml``.

The library has no Python in it, so a wheel fits every Python 3.  Without a compiler the package is whole too: torch
does what the kernels would, and ``bench doctor`` says so.
"""

import hashlib
import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NAME, FOLDER = "ovss.harness.native.libkernels", Path("harness/native")


class BuildKernels(build_ext):
    """A plain shared library: no suffix of an interpreter, no symbol of a module."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"  # noqa: PTH118 - what setuptools expects

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)


class AnyPython(bdist_wheel):
    """Tagged by platform if the library was built, else pure."""

    def get_tag(self) -> tuple[str, str, str]:
        built = list(Path(self.bdist_dir).rglob("libkernels.so"))
        return ("py3", "none", super().get_tag()[2] if built else "any")


os.chdir(Path(__file__).parent)
sources = sorted(p for p in FOLDER.iterdir() if p.suffix in (".cpp", ".h"))
digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:16]
# A product and a sum that are fused to one operation round otherwise than torch, and than other processors.
rounding = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
kernels = Extension(
    NAME,
    [str(FOLDER / "kernels.cpp")],
    depends=[str(p) for p in sources],
    language="c++",
    define_macros=[("OVSS_SOURCE", f'"{digest}"')],
    extra_compile_args=["-O3", "-g0", "-std=c++17", "-pthread", "-Wno-psabi", *rounding],
    extra_link_args=["-pthread"],
    optional=True,
)
setup(
    ext_modules=[kernels] if os.name == "posix" else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
)
