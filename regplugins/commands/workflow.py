# SPDX-License-Identifier: Apache-2.0
"""A bundle's inference, whose values from the command line are data and not parts of its configuration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigWorkflow

from regplugins.engines.command_line import refuse_unknown

# Under this key of the configuration the values lie; other keys refer to them.
_VALUES = "command_line"


class DataWorkflow(ConfigWorkflow):
    """A bundle's inference with some keys set to values that are never evaluated.

    ``monai.bundle.run`` puts overrides into the configuration. There "$" begins a program, "@" a reference and "%" a
    file to read, and "#" divides names, so that the name of a file might be taken for one of these.

    Args:
        files: configurations; later ones override earlier ones.
        values: values by key; nested keys have "#" or "::". Mappings alone are parts of the configuration
            (``_target_``).

    Raises:
        ValueError: if no configuration has one of the keys.
    """

    def __init__(self, files: Sequence[str], values: Mapping[str, Any]) -> None:
        with _quiet():
            super().__init__(list(files), workflow_type="infer")
        refuse_unknown(list(values), self.parser.get())
        plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
        self._values = list(plain.values())
        references = {key: f"@{_VALUES}::{number}" for number, key in enumerate(plain)}
        self.parser.update(
            {_VALUES: [None] * len(plain), **references, **{k: values[k] for k in values.keys() - plain}}
        )

    def initialize(self) -> Any:
        """Parse the configuration, set the values, and evaluate its ``initialize``."""
        self.parser.parse(reset=True)
        for number, value in enumerate(self._values):
            self.parser.ref_resolver.resolved_content[f"{_VALUES}::{number}"] = value
        self._is_initialized = True
        return self._run_expr(id=self.init_id)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages below warnings: MONAI reports which file configures its log."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
