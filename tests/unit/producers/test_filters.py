"""Which files are sent."""

from __future__ import annotations

import pytest

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.producers.filters import Filter


@pytest.mark.parametrize(
    "path",
    [
        "Morphology.tif", "biologic.mpr", "analog_01.dat", "catalog.csv", "dialog/x.csv", "blog.txt", "log.csv",
        "a/b/empty", "2024-01-05 #1 (copy).dat", "tmp/data.csv", "done.csv", "Thumbs.database",
    ],
)  # fmt: skip
def test_names_that_the_ancestors_filter_lost_are_sent_by_default(path: str) -> None:
    assert Filter().why_not(path) == ""


@pytest.mark.parametrize(
    "path",
    [
        ".hidden", ".git/config", "a/.b/c.dat", "run.log", "a/RUN.LOG", "x.tmp", "~$report.docx", "LOGS/uploaded.csv",
        "sub/LOGS/x.csv", "Thumbs.db", "x.part", "movie.crdownload", "x.txt~",
    ],
)  # fmt: skip
def test_every_default_skip_names_its_rule(path: str) -> None:
    assert Filter().why_not(path).startswith("excluded by '")


def test_a_file_called_like_the_log_folder_is_sent() -> None:
    assert Filter().why_not("LOGS") == ""


def test_an_include_pattern_lifts_the_defaults_and_leaves_out_the_rest() -> None:
    chosen = Filter(include=["*.log", "raw/**/*.dat"])
    assert chosen.why_not("run.log") == ""
    assert chosen.why_not("raw/1/2/x.dat") == ""
    assert chosen.why_not("x.csv") == "matches no include pattern"


def test_excluding_a_folder_leaves_out_all_below_it_at_any_depth() -> None:
    chosen = Filter(exclude=["scratch/", "old*"])
    assert "scratch/" in chosen.why_not("a/scratch/b/c.dat")
    assert chosen.why_not("a/scratch") == ""
    assert chosen.why_not("older/x.dat")
    assert chosen.why_not("x/gold.dat") == ""


def test_exclude_wins_over_include() -> None:
    assert Filter(include=["*.dat"], exclude=["bad*"]).why_not("bad1.dat") == "excluded by 'bad*'"


def test_a_regular_expression_is_matched_on_the_whole_relative_path_from_its_start() -> None:
    chosen = Filter(include=[r"re:^run_\d+/.*\.csv$"])
    assert chosen.why_not("run_07/a.csv") == ""
    assert chosen.why_not("x/run_07/a.csv") != ""


def test_a_wrong_regular_expression_is_a_configuration_error_with_its_text() -> None:
    with pytest.raises(ConfigurationError, match=r"re:\(.*Mend it"):
        Filter(include=["re:("])
