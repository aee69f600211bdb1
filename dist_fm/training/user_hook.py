"""`--hook=MODULE:FUNCTION`: a function of the user's that is told of every event."""

import importlib
import os
import pathlib
import sys
import traceback

from dist_fm.errors import UserError, nearest
from dist_fm.training.hook import Event, Listener


def load_hook(name: str) -> Listener:
    """The function MODULE:FUNCTION, its module found as any, or in the working directory.

    Raises ``UserError`` when there is none; and when the function raises anything, where and on which event.
    """
    module_name, _, function_name = name.partition(":")
    if not (module_name and function_name):
        raise UserError(
            f"--hook={name}: must be MODULE:FUNCTION, as in my_hooks:log for `def log(event)` in my_hooks.py"
        )
    function = getattr(_import(module_name, name), function_name, None)
    if not callable(function):
        module = sys.modules[module_name]
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        about = nearest(function_name, functions) if functions else "it has no functions"
        raise UserError(f"--hook={name}: {module.__file__ or module_name} has no function {function_name!r}; {about}")

    def told(event: Event) -> None:
        try:
            function(event)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[1:2]  # in the user's function
            where = f" ({at[0].filename}:{at[0].lineno})" if at else ""
            raise UserError(
                f"--hook={name} raised {type(error).__name__}: {error}{where}, told of {event['split']} at step "
                f"{event['step']}; training was stopped; the same command goes on from the last checkpoint"
            ) from error

    return told


def _import(module_name: str, name: str) -> object:
    here = os.getcwd()
    if here not in sys.path:  # as it is with `python -m`, but not with `dist-fm`
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"--hook={name}: {module_name} cannot be imported: {error}") from error
        found = [path.stem for path in pathlib.Path(here).glob("*.py")]
        about = nearest(module_name, found) if found else f"{here} has no Python files"
        raise UserError(f"--hook={name}: there is no module {module_name!r}; {about}") from error
    except Exception as error:
        raise UserError(f"--hook={name}: {module_name} cannot be imported: {type(error).__name__}: {error}") from error
