# SPDX-License-Identifier: Apache-2.0
"""Stopped and resumed training with a known metric."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn

from regplugins.handlers import TrainingCheckpoints


def training(
    folder: Path, metrics: list[float], resume: bool = False, steps: int | None = None
) -> tuple[Engine, nn.Module]:
    """A trainer that adds one to a weight an epoch, and a validator that reports the given metrics, one an epoch;
    perhaps a schedule of so many steps.
    """
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)

    def step(engine: Engine, batch: float) -> None:
        with torch.no_grad():
            network.weight += 1

    trainer = Engine(step)
    validator = SupervisedEvaluator(device="cpu", val_data_loader=[0], network=network)

    def validate(engine: Engine) -> None:
        value = metrics[engine.state.epoch - 1]
        validator.state.epoch = engine.state.epoch
        validator.state.metrics["score"] = value
        validator.state.key_metric_name = "score"

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    state: dict[str, Any] = {"network": network}
    if steps is not None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        state["lr_scheduler"] = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    TrainingCheckpoints(folder, network, state, validator, resume).attach(trainer)
    return trainer, network


def test_an_epoch_without_a_batch_is_refused(tmp_path):
    network = nn.Linear(1, 1)
    validator = SupervisedEvaluator(device="cpu", val_data_loader=[0], network=network)
    handler = TrainingCheckpoints(tmp_path, network, {"network": network}, validator)
    options = {
        "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), 0.1),
        "loss_function": nn.MSELoss(),
    }
    with pytest.raises(ValueError, match="an epoch has no batch"):
        SupervisedTrainer(torch.device("cpu"), 1, [], train_handlers=[handler], **options)


def best_weight(folder: Path) -> float:
    return float(torch.load(folder / "model.pt", weights_only=True)["weight"])


def test_best_is_kept_over_a_stop(tmp_path):
    metrics = [0.3, 0.8, 0.5, 0.7, 0.9]
    trainer, _ = training(tmp_path, metrics)
    trainer.run([0], max_epochs=3)
    assert best_weight(tmp_path) == 2
    trainer, network = training(tmp_path, metrics, resume=True)
    trainer.run([0], max_epochs=4)
    assert trainer.state.epoch == 4
    assert float(network.weight) == 4  # went on from three, once
    assert best_weight(tmp_path) == 2  # 0.7 is the best since the stop, but not the best ever
    trainer, network = training(tmp_path, metrics, resume=True)
    trainer.run([0], max_epochs=5)
    assert best_weight(tmp_path) == 5


def test_a_score_that_is_no_number_is_not_the_best(tmp_path):
    trainer, _ = training(tmp_path, [float("nan"), 0.5, float("nan"), 0.4])
    trainer.run([0], max_epochs=4)
    assert best_weight(tmp_path) == 2


def test_no_unfinished_file_is_left(tmp_path):
    trainer, _ = training(tmp_path, [0.5, 0.4])
    trainer.run([0], max_epochs=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "model.pt"]


def test_resume_needs_a_checkpoint_and_a_boolean(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last\.pt"):
        training(tmp_path, [], resume=True)
    with pytest.raises(TypeError, match="resume must be True or False"):
        training(tmp_path, [], resume="True")


def test_a_stop_does_not_change_what_is_drawn(tmp_path):
    """Random numbers of PyTorch go on where they were."""

    def drawn(folder: Path, stops: list[int]) -> list[float]:
        numbers: list[float] = []
        for resume, epochs in enumerate(stops):
            torch.manual_seed(0)
            trainer, _ = training(folder, [0.5] * 4, resume=bool(resume))
            trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: numbers.append(float(torch.rand(()))))
            trainer.run([0], max_epochs=epochs)
        return numbers

    assert drawn(tmp_path / "stopped", [2, 4]) == drawn(tmp_path / "whole", [4])


def test_nothing_of_an_earlier_training_is_left(tmp_path):
    training(tmp_path, [0.5])[0].run([0], max_epochs=1)
    trainer, _ = training(tmp_path, [0.4])
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run([0], max_epochs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_checkpoint_that_is_none(content, tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"network": {}}, path)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pt: (damaged|of another training, it lacks best, epoch)"):
        training(tmp_path, [0.5], resume=True)[0].run([0], max_epochs=1)


def test_a_schedule_that_ends_elsewhere_is_not_gone_on_with(tmp_path):
    training(tmp_path, [0.5], steps=10)[0].run([0], max_epochs=1)
    with pytest.raises(ValueError, match=r"its lr_scheduler has 10 steps, this training's 20"):
        training(tmp_path, [0.5, 0.6], resume=True, steps=20)[0].run([0], max_epochs=2)
    trainer, _ = training(tmp_path, [0.5, 0.6], resume=True, steps=10)
    trainer.run([0], max_epochs=2)
    assert trainer.state.epoch == 2


def test_the_last_epoch_is_validated_whatever_the_interval(tmp_path):
    network = nn.Linear(1, 1, bias=False)
    trainer = Engine(lambda engine, batch: None)
    validator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}],
        network=network,
        key_val_metric={"score": Average(lambda output: 0.5)},
        decollate=False,
    )
    ValidationHandler(interval=2, validator=validator).attach(trainer)
    TrainingCheckpoints(tmp_path, network, {"network": network}, validator).attach(trainer)
    epochs = []
    validator.add_event_handler(Events.COMPLETED, lambda engine: epochs.append(trainer.state.epoch))
    trainer.run([0], max_epochs=5)
    assert epochs == [2, 4, 5]
    assert (tmp_path / "model.pt").is_file()
