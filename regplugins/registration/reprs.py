# SPDX-License-Identifier: Apache-2.0
"""Readable ``repr`` of configured objects, for reports and metadata."""

from __future__ import annotations


def one_line(value: object) -> str:
    """The text of an object in one line, for settings that a report lists."""
    return " ".join(str(value).split())


class ReprMixin:
    """Mixin whose ``repr`` lists the class and its public attributes in one line."""

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name[0] != "_")
        return one_line(f"{type(self).__name__}({values})")
