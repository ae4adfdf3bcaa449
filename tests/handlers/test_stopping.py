# SPDX-License-Identifier: Apache-2.0
"""Early stopping with known validation scores, with and without resuming."""

import pytest
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import nn

from regplugins.handlers import EarlyStopping


def epochs_run(scores: list[float], stopping: dict, every: int = 1, first: int = 0, state: dict | None = None):
    """Number of epochs that a training runs with these validation scores."""
    trainer = Engine(lambda engine, batch: None)
    validator = SupervisedEvaluator(device="cpu", val_data_loader=[0], network=nn.Identity())

    def validate(engine: Engine) -> None:
        if engine.state.epoch % every == 0:
            validator.state.epoch = engine.state.epoch
            validator.state.key_metric_name = "val_score"
            validator.state.metrics = {"val_score": scores[engine.state.epoch - 1], "other": 100.0}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    handler = EarlyStopping(validator=validator, **stopping)
    if state is not None:
        handler.load_state_dict(state)
    handler.attach(trainer)
    trainer.state.max_epochs = len(scores)
    trainer.state.epoch = first
    trainer.run([0], max_epochs=len(scores))
    return trainer.state.epoch, handler.state_dict()


@pytest.mark.parametrize(
    ("scores", "stopping", "every", "epochs"),
    [
        ([1, 2, 3, 4, 5], {"patience": 1}, 1, 5),
        ([1, 2, 2, 2, 5], {"patience": 2}, 1, 4),  # equal is not better
        ([3, 2, 2, 4, 1, 1, 1, 9], {"patience": 3}, 1, 7),  # what is better begins anew
        ([0, 5, 0, 4, 9, 3, 9, 9], {"patience": 2}, 2, 6),  # epochs that are not validated do not count
        ([-3, -2, -1], {"patience": 1}, 1, 3),
    ],
)
def test_stops_after_so_many_validations(scores, stopping, every, epochs):
    assert epochs_run(scores, stopping, every)[0] == epochs


def test_resumed_it_stops_where_it_would_have():
    scores, stopping = [5, 4, 3, 2, 1], {"patience": 3}
    whole, _ = epochs_run(scores, stopping)
    _, state = epochs_run(scores[:2], stopping)
    assert epochs_run(scores, stopping, first=2, state=state)[0] == whole == 4


def test_a_training_that_stopped_does_not_go_on_when_resumed():
    stopping = {"patience": 2}
    last, state = epochs_run([5, 4, 3, 6, 7], stopping)
    assert last == 3
    assert epochs_run([5, 4, 3, 6, 7], stopping, first=3, state=state)[1] == state  # no further validation
