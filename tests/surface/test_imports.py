from __future__ import annotations

import json
import subprocess
import sys

import worldline
from worldline.errors import install_command

HEAVY = """
    torch numpy pydantic matplotlib gymnasium h5py PIL rich typer pymunk scipy safetensors msgspec httpx openai
    fastapi uvicorn
"""


def test_importing_worldline_loads_nothing_heavy_and_describing_data_no_torch() -> None:
    code = """if True:
        import json, sys
        import worldline; worldline.errors.BundleError, worldline.WorldlineError
        print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
        from worldline import Schema, Signal, Role, Kind, Episode, History
        print("torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, has_torch = done.stdout.splitlines()
    assert set(json.loads(loaded)).isdisjoint(HEAVY.split())
    assert has_torch == "False"


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    cases = (
        ("worldline.world.remote", "httpx", "client"),
        ("worldline.engines.language.http_client", "openai", "language"),
        ("worldline.serve.http", "fastapi", "serve"),
        ("worldline.serve.connections", "uvicorn", "serve"),
        ("worldline.serve.mcp_server", "mcp", "mcp"),
    )
    code = """if True:
        import importlib, json, sys
        for module, package in json.loads(sys.argv[1]):
            sys.modules[package] = None
            try:
                importlib.import_module(module)
            except ImportError as error:
                print(f"{type(error).__name__}: {error}")
            del sys.modules[package]
    """
    asked = json.dumps([case[:2] for case in cases])
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"MissingExtraError: {package!r} is not installed. Run: {install_command(extra)}" for _, package, extra in cases
    ]


def test_public_names_are_sorted_and_unique() -> None:
    names = [name for name in worldline.__all__ if name != "errors"]
    assert sorted(set(names), key=lambda name: (name[0].islower(), name)) == names


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert worldline.__version__ == version("worldline")
