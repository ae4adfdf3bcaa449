# SPDX-License-Identifier: Apache-2.0
"""A bundle's inference, whose values from the command line are data and not parts of its configuration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigWorkflow

from regplugins.engines.begin import refuse_unknown

# Under this key of the configuration the values lie; other keys refer to them.
_VALUES = "command_line"
# Keys whose values are programs.
_PROGRAM = ("imports", "initialize", "run", "finalize")


class DataWorkflow(ConfigWorkflow):
    """A bundle's inference with some keys set to values that are never evaluated.

    ``monai.bundle.run`` puts overrides into the configuration. There "$" begins a program, "@" a reference and "%" a
    file to read, and "#" divides names, so that the name of a file might be taken for one of these.

    Args:
        files: configurations; later ones override earlier ones.
        values: values by key; nested keys have "#" or "::".

    Raises:
        ValueError: if no configuration has one of the keys, or a value would define a part of the configuration.
    """

    def __init__(self, files: Sequence[str], values: Mapping[str, Any]) -> None:
        with _quiet():
            super().__init__(list(files), workflow_type="infer")
        refuse_unknown(list(values), self.parser.get())
        for key, value in values.items():
            if "_target_" in key or key in _PROGRAM or _has_mapping(value):
                raise ValueError(
                    f"--{key}: a definition ({{...}} or _target_) or a program may run any code and is not taken from "
                    f"this command line; use python -m monai.bundle run --config_file {files[0]}"
                )
        self._values = list(values.values())
        references = {key: f"@{_VALUES}::{number}" for number, key in enumerate(values)}
        self.parser.update({_VALUES: [None] * len(values), **references})

    def initialize(self) -> Any:
        """Parse the configuration, set the values, and evaluate its ``initialize``."""
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
    """Suppress messages below warnings: MONAI reports which file configures its log."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
