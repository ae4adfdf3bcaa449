# SPDX-License-Identifier: Apache-2.0
"""What a training leaves on disk, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from regplugins.checks import boolean
from regplugins.io import atomic


class TrainingCheckpoints:
    """Handler of a trainer: ``last.pt`` after every epoch, ``model.pt`` whenever the network is better than ever
    before.

    ``last.pt`` holds all that a killed training needs to go on along the same curve; ``model.pt`` is the network's
    plain state dict. (MONAI's saver and loader keep neither a fixed name that survives a kill while it is written, nor
    the best metric so far.) Attach it after the handler that validates.

    Args:
        folder: where the files go.
        network: what ``model.pt`` holds.
        state: everything with a state, by name: network, optimizer, learning rate schedule.
        validator: evaluator whose key metric says what is better (larger is).
        resume: go on from ``last.pt``.

    Raises:
        TypeError: ``resume`` is no boolean.
        FileNotFoundError: there is nothing to resume from.
        ValueError: an epoch has no batch, or on resuming, the rate's schedule ends elsewhere than that of the training
            which was begun.
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
        """Register with a trainer."""
        if engine.state.epoch_length == 0:  # ignite would end at once, as if all were well
            raise ValueError("an epoch has no batch: fewer pairs or images an epoch than a batch holds")
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Bring everything back to where ``last.pt`` left it."""
        device = next(self.network.parameters()).device
        checkpoint = torch.load(self.folder / "last.pt", map_location=device, weights_only=True)
        for name, item in self.objects.items():
            ends, begun = getattr(item, "total_steps", None), checkpoint[name].get("total_steps")
            if ends != begun:  # it would stop with an error once the shorter one is over
                raise ValueError(
                    f"{self.folder / 'last.pt'}: its {name} ends after {begun} steps, this training's after {ends}: "
                    "resume with as many epochs, pairs and processes as it was begun with"
                )
            item.load_state_dict(checkpoint[name])
        engine.state.epoch, engine.state.iteration = checkpoint["epoch"], checkpoint["iteration"]
        self.best = checkpoint["best"]

    def save(self, engine: Engine) -> None:
        """Write ``last.pt``, and ``model.pt`` if this epoch is the best of those validated; the last one always is."""
        state = self.validator.state
        if engine.state.epoch == engine.state.max_epochs and state.epoch != engine.state.epoch:
            self.validator.run(engine.state.epoch)
        if idist.get_rank() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if state.epoch > 0 and state.best_metric_epoch == engine.state.epoch and state.best_metric > self.best:
            self.best = float(state.best_metric)
            _save(self.network.state_dict(), self.folder / "model.pt")
        checkpoint = {name: item.state_dict() for name, item in self.objects.items()}
        progress = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, "best": self.best}
        _save(checkpoint | progress, self.folder / "last.pt")


def _save(content: Any, path: Path) -> None:
    with atomic(path) as temporary:
        torch.save(content, temporary)
