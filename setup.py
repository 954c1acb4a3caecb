"""Build the parts in C, which setup.cfg cannot describe: the FUSE shim, and what packs the names of folders.

Both are optional. Without a compiler or libfuse's headers the package still installs, and the client serves through
plain single-process FUSE, and lists folders more slowly.
"""

import subprocess

from setuptools import Extension, setup


def pkg_config(option: str) -> list[str]:
    """Flags of libfuse 3 from pkg-config; empty where it is missing, which makes the optional build fail softly."""
    try:
        return subprocess.run(
            ["pkg-config", option, "fuse3"], check=True, capture_output=True, text=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


setup(
    ext_modules=[
        Extension(
            "fusemount._shim",
            sources=["fusemount/_shim.c"],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-D_FILE_OFFSET_BITS=64", *pkg_config("--cflags")],
            extra_link_args=pkg_config("--libs"),
            optional=True,
        ),
        Extension(
            "fusemount._pack",
            sources=["fusemount/_pack.c"],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
            optional=True,
        ),
    ]
)
