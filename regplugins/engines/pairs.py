# SPDX-License-Identifier: Apache-2.0
"""Evaluator that registers a list of pairs, one after the other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator

from regplugins.checks import choice, error_line

if TYPE_CHECKING:
    from regplugins.engines import PairFolders

logger = logging.getLogger(__name__)

# Pairs that the error at the end of a run names.
_NAMED = 3


class PairEvaluator(SupervisedEvaluator):
    """Register the pairs of a list: preprocess, infer and postprocess one pair per iteration.

    A pair that fails at any step is recorded, and the next one follows.

    Args:
        preprocessing: maps a record, an item of the data loader, to the pair that ``prepare_batch`` takes.
        folders: output folders, which lock pairs, list finished pairs and record failures.
        failed_pairs: "skip": record a failed pair of a datalist, continue, and fail at the end; "stop": record it and
            fail at once. A single pair fails at once.
        kwargs: of ``monai.engines.SupervisedEvaluator``.
    """

    def __init__(
        self,
        preprocessing: Callable[[Mapping[str, Any]], dict[str, Any]],
        folders: PairFolders,
        failed_pairs: str = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.preprocessing = preprocessing
        self.folders = folders
        self.is_stopped_by_failure = choice("failed_pairs", failed_pairs, {"skip": False, "stop": True})

    def run(self) -> None:
        """Register all pairs that are neither done nor registered by another process, and print the results.

        Raises:
            RuntimeError: if pairs failed, with their names; or if another run writes into the output folder.
        """
        with self.folders.locked():
            _say(self.folders.start_message())
            super().run()
        _say(self.folders.result_message())
        rows = self.folders.rows()
        failures = [f"{row['name']}: {row['error']}" for row in rows if row["status"] == "failed"]
        if failures:
            more = "; ..." if len(failures) > _NAMED else ""
            named = "; ".join(failures[:_NAMED])
            raise RuntimeError(f"{len(failures)} of {len(rows)} pairs failed, see {self.folders.table}: {named}{more}")

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        with self.folders.claim(batchdata) as is_claimed:
            if not is_claimed:
                return {}
            try:
                # The postprocessing reads the batch and the output.
                engine.state.batch = self.preprocessing(batchdata)
                output: dict[str, Any] = super()._iteration(engine, engine.state.batch)
                # A terminal has a progress bar instead.
                if not self.folders.is_single and not sys.stderr.isatty():
                    print(self.folders.progress_message(batchdata), file=sys.stderr, flush=True)
                return output
            except Exception as error:
                if self.folders.is_single:
                    raise
                self.folders.record_failure(batchdata, error)
                if self.is_stopped_by_failure:
                    raise
                logger.warning("pair '%s' failed: %s", batchdata["name"], error_line(error))
                logger.info("where it failed:", exc_info=True)
                return {}


def _say(text: str) -> None:
    """Print to standard error, from the first process only. Standard output is for results of commands."""
    if text and not (dist.is_initialized() and dist.get_rank() > 0):
        print(text, file=sys.stderr, flush=True)
