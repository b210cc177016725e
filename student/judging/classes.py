"""Are these pictures of the classes that the student learns or learned, as far as one can tell?

Without names it is the highest class that tells; with names every one of them must be the student's, in its order.
"""

from __future__ import annotations

from itertools import zip_longest

from pipeline.errors import MismatchError


def require_classes(
    number: int, names: tuple[str, ...] | None, *, known: int, known_names: tuple[str, ...] | None, what: str
) -> None:
    """Refuse `what`, whose pictures have `number` classes of these names, where the student's are others."""
    if number > known or (names is not None and number != known):
        raise MismatchError(
            f"{what}: {number} classes, the student has {known}. Judge it on pictures of the classes that it learned."
        )
    if names is None or known_names is None:
        return
    for at, (theirs, own) in enumerate(zip_longest(names, known_names)):
        if theirs != own:
            raise MismatchError(
                f"{what}: class {at} is '{theirs}', the student learned '{own}'. "
                "Pack the pictures with the same class folders."
            )
