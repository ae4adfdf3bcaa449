# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training, and resuming from them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from regplugins.checks import boolean
from regplugins.io import atomic

_PROGRESS = ("epoch", "iteration", "best", "random_state")


class TrainingCheckpoints:
    """Trainer handler that saves ``last.pt`` after every epoch and ``model.pt`` after every best epoch.

    ``last.pt`` has the whole state of the training, so that it resumes with the same curve. ``model.pt`` is the
    network's state dict. Files are replaced atomically and the best metric is saved, unlike with MONAI's
    ``CheckpointSaver``. Attach it after the validation handler.

    Args:
        folder: of the files.
        network: saved as ``model.pt``.
        state: objects with a state, by name: network, optimizer, learning rate schedule.
        validator: evaluator whose key metric is maximized.
        resume: resume from ``last.pt``.

    Raises:
        FileNotFoundError: if there is no checkpoint to resume from.
        ValueError: if an epoch has no batch, or the checkpoint is damaged, of another training, or its learning rate
            schedule has another length.
    """

    def __init__(
        self, folder: str | Path, network: nn.Module, state: Mapping[str, Any], validator: Engine, resume: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.network = network
        self.objects = dict(state)
        self.validator = validator
        self.best = float("-inf")
        self.resume = boolean("resume", resume)
        if self.resume and not (self.folder / "last.pt").is_file():
            raise FileNotFoundError(f"{self.folder / 'last.pt'}: no checkpoint to resume from")

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        if engine.state.epoch_length == 0:  # ignite would end without an error
            raise ValueError("an epoch has no batch: fewer pairs or images an epoch than a batch holds")
        engine.add_event_handler(Events.STARTED, self.load if self.resume else self.discard)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def discard(self, engine: Engine) -> None:
        """Remove the files of an earlier training, which would pass for those of this one if it ended early."""
        if idist.get_rank() == 0:
            for name in ("last.pt", "model.pt"):
                (self.folder / name).unlink(missing_ok=True)

    def load(self, engine: Engine) -> None:
        """Restore the state of ``last.pt``."""
        device = next(self.network.parameters()).device
        try:
            checkpoint = torch.load(self.folder / "last.pt", map_location=device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{self.folder / 'last.pt'}: damaged, or no checkpoint") from error
        if missing := sorted({*self.objects, *_PROGRESS} - checkpoint.keys()):
            raise ValueError(f"{self.folder / 'last.pt'}: of another training, it lacks {', '.join(missing)}")
        for name, item in self.objects.items():
            steps, saved_steps = getattr(item, "total_steps", None), checkpoint[name].get("total_steps")
            if steps != saved_steps:  # stepping past the end is an error
                raise ValueError(
                    f"{self.folder / 'last.pt'}: its {name} has {saved_steps} steps, this training's {steps}: "
                    "resume with the original numbers of epochs, pairs and processes"
                )
            item.load_state_dict(checkpoint[name])
        engine.state.epoch, engine.state.iteration = checkpoint["epoch"], checkpoint["iteration"]
        self.best = checkpoint["best"]
        torch.set_rng_state(checkpoint["random_state"].cpu())

    def save(self, engine: Engine) -> None:
        """Save ``last.pt``, and ``model.pt`` if this epoch has the best metric; the last epoch is always validated."""
        state = self.validator.state
        if engine.state.epoch == engine.state.max_epochs and state.epoch != engine.state.epoch:
            self.validator.run(engine.state.epoch)
        if idist.get_rank() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not the evaluator's best metric, which remains NaN if it is once.
        if state.epoch == engine.state.epoch and state.metrics[state.key_metric_name] > self.best:
            self.best = float(state.metrics[state.key_metric_name])
            _save(self.network.state_dict(), self.folder / "model.pt")
        checkpoint = {name: item.state_dict() for name, item in self.objects.items()}
        progress = engine.state.epoch, engine.state.iteration, self.best, torch.get_rng_state()
        _save(checkpoint | dict(zip(_PROGRESS, progress, strict=True)), self.folder / "last.pt")


def _save(content: Any, path: Path) -> None:
    with atomic(path) as temporary:
        torch.save(content, temporary)
