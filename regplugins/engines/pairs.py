# SPDX-License-Identifier: Apache-2.0
"""Evaluator that registers a list of pairs, one after the other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.distributed as dist
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator

from regplugins.checks import choice, error_line

if TYPE_CHECKING:
    from regplugins.engines import PairFolders

logger = logging.getLogger(__name__)

# Pairs that the error at the end of a run names.
_NAMED = 3


class _Saving(NamedTuple):
    """Pair that another thread saves, and the lock of its folder."""

    record: Mapping[str, Any]
    lock: ExitStack
    result: Future[None]


class PairEvaluator(SupervisedEvaluator):
    """Register the pairs of a list: preprocess, infer and postprocess one pair per iteration.

    Another thread saves a pair while the next one is registered; a third pair waits until the first is saved. A pair
    that fails at any step is recorded, and the next one follows.

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
        self._saving: _Saving | None = None

    def run(self) -> None:
        """Register all pairs that are neither done nor registered by another process, and print the results.

        Raises:
            RuntimeError: if pairs failed, with their names; or if another run writes into the output folder.
        """
        with self.folders.locked():
            _say(self.folders.start_message())
            with ThreadPoolExecutor(max_workers=1) as self._thread:
                try:
                    super().run()
                finally:
                    self._finish_saving()
        _say(self.folders.result_message())
        rows = self.folders.rows()
        failures = [f"{row['name']}: {row['error']}" for row in rows if row["status"] == "failed"]
        if failures:
            more = "; ..." if len(failures) > _NAMED else ""
            named = "; ".join(failures[:_NAMED])
            raise RuntimeError(f"{len(failures)} of {len(rows)} pairs failed, see {self.folders.table}: {named}{more}")

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        if self._saving is not None and self._saving.result.done():
            self._finish_saving()  # so that its failure ends the run now
        with ExitStack() as lock:
            if not lock.enter_context(self.folders.claim(batchdata)):
                return {}
            output: dict[str, Any] = {}
            with self._recorded_failure(batchdata), self.folders.writer.deferred() as writes:
                # The postprocessing reads the batch and the output.
                engine.state.batch = self.preprocessing(batchdata)
                output = super()._iteration(engine, engine.state.batch)
            if output:
                self._finish_saving()
                self._saving = _Saving(batchdata, lock.pop_all(), self._thread.submit(_call, writes))
            return output

    def _finish_saving(self) -> None:
        """Wait until the pair that is being saved is, and release its folder."""
        if self._saving is None:
            return
        record, lock, result = self._saving
        wait([result])  # an interrupt here releases nothing: the thread is still writing
        self._saving = None
        with lock, self._recorded_failure(record):
            result.result()
            # A terminal has a progress bar instead.
            if not self.folders.is_single and not sys.stderr.isatty():
                print(self.folders.progress_message(record), file=sys.stderr, flush=True)

    @contextmanager
    def _recorded_failure(self, record: Mapping[str, Any]) -> Iterator[None]:
        """Record an error of the block as that of a pair, and continue after it unless it ends the run."""
        try:
            yield
        except Exception as error:
            if self.folders.is_single:
                raise
            self.folders.record_failure(record, error)
            if self.is_stopped_by_failure:
                raise
            logger.warning("pair '%s' failed: %s", record["name"], error_line(error))
            logger.info("where it failed:", exc_info=True)


def _call(functions: Sequence[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _say(text: str) -> None:
    """Print to standard error, from the first process only. Standard output is for results of commands."""
    if text and not (dist.is_initialized() and dist.get_rank() > 0):
        print(text, file=sys.stderr, flush=True)
