"""What can be wrong from the user's point of view: each message says what, both values, and the remedy.

Commands turn a `UserError` into one line on standard error and exit status 1 (`pipeline.commands.command`); anything
else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from importlib.util import find_spec


class UserError(Exception):
    """Something outside the program is not as it must be, and the user can mend it."""


class ShardError(UserError):
    """A tar shard is absent, damaged, changed since it was indexed, or not of a layout that we read."""


class ImageError(UserError):
    """A payload is not an image that the written policy accepts (`docs/images.md`)."""


class RecipeError(UserError):
    """A recipe value is out of range or not understood."""


class MismatchError(UserError):
    """Two things that must be the same (recipe, index, teacher, class map, …) are not."""


class ContractError(MismatchError):
    """What is there was made under another contract: other labels, not the same ones asked for differently."""


class StoreError(UserError):
    """A label store is absent, incomplete, locked, damaged or of another format."""


class ViewError(UserError):
    """A view that was drawn here is not the one that the teacher saw."""


class WeightsError(UserError):
    """A file of weights is absent, damaged, would run code, or belongs to another model."""


class DeviceError(UserError):
    """A device that the user named is not there, or cannot compute."""


class TeacherError(UserError):
    """A teacher cannot be loaded, has a head that was never trained, or gives answers that cannot be stored."""


class StudentError(UserError):
    """A student cannot be built, trained, resumed, evaluated or exported as asked."""


class PictureCacheError(UserError):
    """The folder for decoded pictures cannot be used as asked."""


class WorkerError(UserError):
    """A process that renders views died, or said something that nobody expected."""


class PackageError(UserError):
    """A package that only this command or option needs is not installed."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed. pip install 'offline-distiller[{extra}]' brings it."
        )


def first_line(error: BaseException, most: int | None = 200) -> str:
    """The first line of what an error says, or else its kind: so much of somebody else's words fits into a message."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0][:most]


def require_packages(purpose: str, *packages: str, extra: str) -> None:
    """Refuse, before the work, what needs a package that is not installed, and say which extra brings it."""
    for package in packages:
        if find_spec(package) is None:
            raise PackageError(purpose, package, extra)
