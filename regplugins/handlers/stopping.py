# SPDX-License-Identifier: Apache-2.0
"""Early stopping of a training."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine, Events

from regplugins.checks import whole

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Trainer handler that stops the training after some validations without an improvement of the best metric.

    Unlike the handlers of MONAI and ignite it needs no reference to its trainer. Its state goes into checkpoints.
    Attach it after the validation handler and before ``TrainingCheckpoints``.

    Args:
        patience: number of validations without improvement.
        validator: evaluator whose key metric is maximized.
    """

    def __init__(self, patience: int, validator: Engine) -> None:
        self.patience = whole("patience", patience)
        self.validator = validator
        self.best = float("-inf")
        self.waited = 0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._stop_if_patience_is_over)  # one that is resumed
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state = self.validator.state
        if state.epoch != engine.state.epoch:  # not validated in this epoch
            return
        score = state.metrics[state.key_metric_name]
        if score > self.best:
            self.best, self.waited = float(score), 0
            return
        self.waited += 1
        self._stop_if_patience_is_over(engine)

    def _stop_if_patience_is_over(self, engine: Engine) -> None:
        if self.waited >= self.patience:
            logger.info("stopped early: no better validation score in %d validations", self.waited)
            engine.terminate()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
