# SPDX-License-Identifier: Apache-2.0
"""A bundle's workflow with values from a command line, which are data and not parts of its configuration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigWorkflow

from regplugins.checks import top_level

# Under this key of the configuration the values lie; other keys refer to them.
_VALUES = "command_line"


class DataWorkflow(ConfigWorkflow):
    """A bundle's inference with some keys set to values that are never evaluated.

    ``monai.bundle.run`` puts overrides into the configuration, where text that begins with "$", "@" or "%" is a
    program, a reference or a file to read, and "#" divides names: a file of such a name would be one of these.

    Args:
        files: configurations, laid one over the other.
        values: by key, nested keys with "#" or "::".

    Raises:
        ValueError: if no configuration has one of the keys, or a value would define a part of the configuration.
    """

    def __init__(self, files: Sequence[str], values: Mapping[str, Any]) -> None:
        with _quiet():
            super().__init__(list(files), workflow_type="infer")
        unknown = sorted(key for key in values if top_level(key) not in self.parser.get())
        if unknown:
            known = sorted(key for key in self.parser.get() if not key.startswith("_"))
            raise ValueError(f"unknown options {unknown}; {', '.join(map(repr, files))} have {known}")
        for key, value in values.items():
            if "_target_" in key or _has_mapping(value):
                raise ValueError(
                    f"--{key}: a definition ({{...}} or _target_) may run any code and is not taken from this command "
                    f"line; use python -m monai.bundle run --config_file {files[0]}"
                )
        self._values = list(values.values())
        references = {key: f"@{_VALUES}::{number}" for number, key in enumerate(values)}
        self.parser.update({_VALUES: [None] * len(values), **references})

    def initialize(self) -> Any:
        """Parse the configuration, set the values, and evaluate what is to happen first."""
        self.parser.parse(reset=True)
        for number, value in enumerate(self._values):
            self.parser.ref_resolver.resolved_content[f"{_VALUES}::{number}"] = value
        self._is_initialized = True
        return self._run_expr(id=self.init_id)


def _has_mapping(value: Any) -> bool:
    """Tell whether a value is a mapping, or a list with one at any depth."""
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(map(_has_mapping, value)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without messages below warnings: MONAI tells which file has told it what to log."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
