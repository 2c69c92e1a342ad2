"""Options that several commands share, and the help of all options, which is in docstrings."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from worldline.errors import InputError
from worldline.workflows.learn_options import parse_settings

Count = Annotated[int, typer.Option(min=1)]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of threads.", show_default="number of free cores")]


def with_help(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the section `Args` of its docstring as help of its parameters.

    A parameter without a default is an argument, others are options. A text may end with "Default: none.", which is
    shown in place of the value. Parameters without a text stay as they are.

    A parameter whose type is a dataclass becomes one option per field, with the documentation of the dataclass. The
    metadata `option` of a field has keywords of `typer.Option`, or is None for a field that is no option.
    """
    description, texts = documentation(command)
    signature = inspect.signature(command, eval_str=True).parameters
    groups = {name: parameter.annotation for name, parameter in signature.items() if is_dataclass(parameter.annotation)}
    parameters = list[inspect.Parameter]()
    for name, parameter in signature.items():
        if name in groups:
            parameters += _options_of(groups[name])
        else:
            parameters.append(described(parameter, texts[name]) if name in texts else parameter)

    @wraps(command)
    def run(**values: Any) -> None:
        built = {name: _from_options(group, values) for name, group in groups.items()}
        command(**{name: value for name, value in values.items() if name in signature}, **built)

    run.__doc__ = description
    run.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]  # PEP 362
    return run


def _options_of(kind: Any) -> Iterator[inspect.Parameter]:
    """A parameter for each field of a dataclass that is an option. Of several types, the first one is parsed."""
    types, texts = inspect.get_annotations(kind, eval_str=True), documentation(kind)[1]
    for field in fields(kind):
        settings, hint = field.metadata.get("option", {}), types[field.name]
        if settings is None:
            continue
        first = get_args(hint)[0] if type(None) in get_args(hint) else hint
        is_repeated = get_origin(first) in (Mapping, Sequence)
        default = None if is_repeated else field.default
        parsed = list[str] if is_repeated else first
        parsed = parsed if default is not None else parsed | None
        option = inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[parsed, typer.Option(**settings)] if settings else parsed,
        )
        shared = {"device": Device, "workers": Workers}.get(field.name)
        yield option.replace(annotation=shared) if shared else described(option, texts[field.name])


def _from_options(kind: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass with the values of its options; a mapping was typed as texts PATH=VALUE."""
    built = {field.name: values[field.name] for field in fields(kind) if field.name in values}
    for field in fields(kind):
        if field.default_factory is dict:
            built[field.name] = parse_settings(built[field.name] or ())
        elif field.default == ():
            built[field.name] = tuple(built[field.name] or ())
    return kind(**built)


def documentation(documented: object) -> tuple[str, dict[str, str]]:
    """The docstring without its sections, and the text of each name in the section `Args` as one line."""
    text = inspect.cleandoc(documented.__doc__ or "")
    description, _, arguments = text.partition("\n\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments.partition("\n\n")[0], re.MULTILINE)
    # A bracket is markup in help texts.
    lines = {name: " ".join(entry.split()).replace("[", "\\[") for name, entry in entries}
    return description, {name: line[0].upper() + line[1:] for name, line in lines.items()}


def described(parameter: inspect.Parameter, text: str) -> inspect.Parameter:
    """The parameter with a help text; what its annotation says of it otherwise, such as bounds, stays."""
    if get_origin(parameter.annotation) is Annotated:
        kind, info = get_args(parameter.annotation)
    else:
        kind, info = parameter.annotation, typer.Option()
        if parameter.default is inspect.Parameter.empty:
            info = typer.Argument()
        elif parameter.default is False:
            info = typer.Option(f"--{parameter.name.replace('_', '-')}")  # else typer adds --no-NAME
    info, (info_help, _, default) = copy(info), text.partition(" Default: ")
    info.help = info_help
    if default:
        info.show_default = default.removesuffix(".")
    return parameter.replace(annotation=Annotated[kind, info])


def checked_file(option: str) -> Callable[[Path | None], Path | None]:
    """A callback that checks the path of an output file while the arguments are parsed.

    It raises `InputError` if the path is a folder, its folder does not exist, or it cannot be written.
    """

    def checked(path: Path | None) -> Path | None:
        if path is None:
            return path
        folder = path.absolute().parent
        if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise InputError(f"{option} {path} cannot be written. Give a file in an existing folder with write access.")
        return path

    return checked


Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the results to this JSON file.", callback=checked_file("--json")),
]


def _checked_device(name: str) -> str:
    """The name of a device that is available."""
    if name != "auto":  # which is always available, and needs no import of torch here
        from worldline.device import choose_device

        choose_device(name)
    return name


Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:N or mps; auto uses a GPU if there is one.", callback=_checked_device)
]


def _checked_workers(spec: str) -> str:
    """A number or an address of Ray."""
    from worldline.workers import is_alone  # imports multiprocessing

    is_alone(spec)
    return spec


Workers = Annotated[
    str,
    typer.Option(
        help="1 for this process, a number of processes with one thread each, ray, or ray://HOST:PORT.",
        metavar="N|ray|ray://HOST",
        callback=_checked_workers,
    ),
]


def free_cores() -> int:
    """Number of cores without load that this process may use, at least 1."""
    from worldline.workers import num_cores  # imports multiprocessing

    try:
        load = os.getloadavg()[0]
    except OSError:  # not available on this system
        load = 0.0
    return max(1, num_cores() - round(load))


def use_threads(threads: int | None) -> None:
    """Sets the number of torch threads; None for the number of free cores."""
    import torch

    torch.set_num_threads(threads or free_cores())
