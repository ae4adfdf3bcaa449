# SPDX-License-Identifier: Apache-2.0
"""Output folders of the pairs of a run, with locks and the status of each pair."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from regplugins.checks import boolean, error_line
from regplugins.data.records import pair_records, remove_results, result_files
from regplugins.io import FolderLock, folder_lock, read_json, refuse_overwriting_inputs, remove_temporaries
from regplugins.report.summary import write_json
from regplugins.report.table import metrics_text, report_row, write_table
from regplugins.transforms.save import SavePaird

logger = logging.getLogger(__name__)

FAILURE = "failed.json"
REPORT = "report.json"
SUMMARY = "summary.csv"
PAGE = "report.html"
# What may be chosen for each pair, in the report, the table and the terminal.
_CHOICES = ("init", "preset")
# Pairs that a warning names.
_NAMED = 3


class PairFolders:
    """Distribute the pairs of a list over processes, and track their status on disk.

    A pair is done if its ``report.json`` exists, and failed if its ``failed.json`` exists. Its folder is locked during
    registration, so that processes of one run, or of several runs with ``resume``, register different pairs. Locks of
    killed processes are released, and ``resume`` registers their pairs.

    Args:
        records: of ``regplugins.data.pair_records``; a single one without a name is written into the folder itself.
        writer: transform that saves the results.
        resume: keep results with the same inputs, weights, settings and version (by sha256), and register the other
            pairs. False: register all pairs.
    """

    def __init__(self, records: Sequence[Mapping[str, str]], writer: SavePaird, resume: bool = False) -> None:
        self.records = records
        self.writer = writer
        self.resume = boolean("resume", resume)
        self.table, self.page = writer.output_dir / SUMMARY, writer.output_dir / PAGE
        self.is_single = len(records) == 1 and "name" not in records[0]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the output folder for a run, and write the table of all pairs at its end, also after an error.

        Raises:
            RuntimeError: if another run writes into the folder.
            ValueError: if an output has the path of an input, or lies in a folder that is one.
        """
        self.writer.refuse_overwriting_inputs(self.records)
        lock = FolderLock(self.writer.output_dir, self.writer.configuration_sha256)
        try:
            if dist.is_initialized() and dist.get_rank() > 0:
                dist.barrier()
                self._hold(lock, shared=True)
            else:
                self._hold(lock, shared=self.resume and not self.is_single)
                if not _is_restarted():
                    self._remove_stale_files()
                if not self.is_single:
                    lock.share()
                if dist.is_initialized():
                    dist.barrier()
            try:
                yield
                if dist.is_initialized():
                    dist.barrier()  # torchrun would end the others at the first process that fails
            finally:
                self._write_table()
        finally:
            lock.release()

    @contextmanager
    def claim(self, record: Mapping[str, str]) -> Iterator[bool]:
        """Lock the folder of one pair, and tell whether to register it: it is not done, failed or locked by another."""
        folder = self.writer.folder(record)
        with ExitStack() as stack:
            is_held = self.is_single or stack.enter_context(folder_lock(folder))
            yield is_held and not (folder / REPORT).exists() and not (folder / FAILURE).exists()

    def record_failure(self, record: Mapping[str, str], error: Exception) -> None:
        """Record the error of a failed pair."""
        folder = self.writer.folder(record)
        write_json({"name": record["name"], "error": error_line(error), "inputs": dict(record)}, folder / FAILURE)

    def start_message(self) -> str:
        """One line about the pairs of a run, for its start."""
        if self.is_single:
            return f"registering {self.records[0]['moving']} to {self.records[0]['fixed']}"
        done = self._count_done()
        finished = f", {done} of them done already" if done else ""
        return f"registering {len(self.records)} {'pair' if len(self.records) == 1 else 'pairs'}{finished}"

    def progress_message(self, record: Mapping[str, str]) -> str:
        """One line about a pair of several that has just been registered."""
        return f"{self._count_done()} of {len(self.records)} done: {record['name']}"

    def result_message(self) -> str:
        """Results of a run as lines for a terminal."""
        rows = self.rows()
        lines = [metrics_text(rows)]
        for key in _CHOICES:
            counts = Counter(row[key] for row in rows if key in row)
            chosen = ", ".join(name if self.is_single else f"{count} {name}" for name, count in counts.items())
            lines.append(chosen and f"{key}: {chosen}")
        if not self.is_single:
            counts = Counter(row["status"] for row in rows)
            counts["done with warnings"] = sum(row.get("warnings", 0) > 0 for row in rows)
            lines.append(", ".join(f"{count} {status}" for status, count in counts.items() if count))
        return "\n".join([*filter(None, lines), f"results: {self.writer.output_dir}"])

    def rows(self) -> list[dict[str, Any]]:
        """A row per record: ``status`` "done", "failed" (with the ``error``) or "missing", and the metrics."""
        return [self._row(record) for record in self.records]

    def _count_done(self) -> int:
        return sum((self.writer.folder(record) / REPORT).exists() for record in self.records)

    def _row(self, record: Mapping[str, str]) -> dict[str, Any]:
        folder = self.writer.folder(record)
        name = record.get("name", "pair")
        if (folder / REPORT).exists():
            report = read_json(folder / REPORT)
            row = {"name": name, "status": "done", "warnings": len(report["warnings"])}
            chosen = report["settings"].get("chosen", {})
            row |= {key: chosen[key] for key in _CHOICES if key in chosen}
            return row | {key: value for key, value in report_row(report).items() if key != "name"}
        if (folder / FAILURE).exists():
            return {"name": name, "status": "failed", "error": read_json(folder / FAILURE)["error"]}
        return {"name": name, "status": "missing"}

    def _hold(self, lock: FolderLock, shared: bool) -> None:
        if not lock.acquire(shared, retries=5):
            raise RuntimeError(
                f"{self.writer.output_dir}: another run writes into this folder; wait for it, or choose another "
                "--output_dir (runs with --resume True and the same settings may share the pairs of one datalist)"
            )

    def _remove_stale_files(self) -> None:
        """Remove stale files of earlier runs: the table, its page, failures, and reports that cannot be kept."""
        self.page.unlink(missing_ok=True)
        if not self.resume:
            self.table.unlink(missing_ok=True)
            remove_temporaries(self.writer.output_dir)
        folders = [self.writer.folder(record) for record in self.records]
        output_dir = self.writer.output_dir
        reports = [output_dir / REPORT, *output_dir.glob(f"*/{REPORT}")]
        own = {*folders, output_dir / "backward"}
        others = sorted({report for report in reports if report.exists() and report.parent not in own})
        if others:
            named = ", ".join(map(str, others[:_NAMED])) + (
                f" and {len(others) - _NAMED} more" * (len(others) > _NAMED)
            )
            logger.warning("%s: results that are not of this run are kept: %s", output_dir, named)
        for folder, record in zip(folders, self.records, strict=True):
            if not folder.is_dir():
                continue
            with ExitStack() as stack:
                # Another run with the lock is about to write this pair.
                if not self.is_single and not stack.enter_context(folder_lock(folder)):
                    continue
                remove_temporaries(folder)
                (folder / FAILURE).unlink(missing_ok=True)
                if not (self.resume and self.writer.is_complete(record)):
                    remove_results(result_files(folder))

    def _write_table(self) -> None:
        if self.is_single and self.rows()[0]["status"] != "done":
            return
        written: list[dict[str, Any]] = []
        # Repeat if another process finished a pair in the meantime, whose table this one may have replaced.
        while (rows := self.rows()) != written:
            write_table(rows, self.table)
            written = rows


def discard_results(
    output_dir: str | Path,
    pair: Mapping[str, str | None],
    init: str,
    datalist: str | Path | None = None,
    resume: bool = False,
) -> None:
    """Remove the results of an earlier run on the same pairs, which would look current if this run failed early.

    Results that are inputs of this run, or locked by another run, are kept.

    Args:
        output_dir: folder of the results.
        pair: paths of the inputs by key; None for those that are not given.
        init: file of the initial transform, or another value of ``init``.
        datalist: file with many pairs; default: there is a single one.
        resume: keep all results.
    """
    folder = Path(output_dir)
    if resume or _is_restarted() or not folder.is_dir():
        return
    records: list[dict[str, str]] = [{key: path for key, path in pair.items() if path is not None}]
    if datalist is not None:
        try:
            records = pair_records({}, datalist, "")
        except (OSError, ValueError):  # the run is about to end with this error, and has no pairs
            return
    places = {folder / record.get("name", "") for record in records}
    results = [path for place in places for path in (place / FAILURE, *result_files(place))]
    if folder in places or not (folder / REPORT).exists():  # the table of a single pair stays beside its report
        results[:0] = [folder / SUMMARY, folder / PAGE]
    inputs = [path for record in records for key, path in record.items() if key != "name"]
    try:
        refuse_overwriting_inputs(results, [*inputs, init if Path(str(init)).is_file() else None])
    except ValueError:  # the run is about to end with this error
        return
    with folder_lock(folder) as is_held:
        if is_held:
            remove_results(results)


def _is_restarted() -> bool:
    """True if torchrun restarted the processes of a run after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
