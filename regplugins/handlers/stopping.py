# SPDX-License-Identifier: Apache-2.0
"""When a training has learned what it will learn."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine, Events

from regplugins.checks import whole

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Handler of a trainer: ends it once so many validations in a row have not been better than the best before.

    Has a state, for checkpoints: a resumed training stops where it would have. (MONAI's handler forgets, and wants the
    trainer whose handler it is.) Attach it after the handler that validates, and before ``TrainingCheckpoints``.

    Args:
        patience: number of validations.
        validator: evaluator whose key metric says what is better (larger is).
        min_delta: gain that counts as better.

    Raises:
        ValueError: ``patience`` is no whole number of at least one.
    """

    def __init__(self, patience: int, validator: Engine, min_delta: float = 0.0) -> None:
        self.patience = whole("patience", patience)
        self.validator = validator
        self.min_delta = min_delta
        self.best = float("-inf")
        self.waited = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state = self.validator.state
        if state.epoch != engine.state.epoch:  # not validated in this epoch
            return
        score = state.metrics[state.key_metric_name]
        if score > self.best + self.min_delta:
            self.best, self.waited = float(score), 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            logger.info("stopped early: %s has not risen for %d validations", state.key_metric_name, self.waited)
            engine.terminate()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
