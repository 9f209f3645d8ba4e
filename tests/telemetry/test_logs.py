"""What is logged, and how often."""

from __future__ import annotations

import logging

import pytest

from holdfast.telemetry.logs import configure_logging


def test_the_pools_warnings_come_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure_logging("warning")
        for number in range(50):
            logging.getLogger("psycopg.pool").warning("no connection %d", number)
            logging.getLogger("holdfast").warning("said %d", number)
        said = capsys.readouterr().err
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("psycopg.pool").filters.clear()
    assert said.count("psycopg.pool: no connection") == 1
    assert said.count("holdfast: said") == 50
