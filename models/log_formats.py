"""What the logs look like that people have: file names, separators, columns, tasks. Leaf.

To convert a log of another kind, name its columns (`marmot data convert --format csv --columns`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["text", "json", "parquet"]

#: Columns of events that are ids and times; every other one of a mapping is a task.
EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "feedback_timestamp")


@dataclass(frozen=True, slots=True)
class Layout:
    """One spelling of a log. `columns` names theirs by ours; `names` is for files without a header.

    `tasks` are rules like `like=rating>=4`; those whose column is not there are passed over.
    """

    columns: Mapping[str, str]
    tasks: tuple[str, ...] = ()
    kind: Kind = "text"
    delimiter: str = ","
    names: tuple[str, ...] = ()
    is_quoted: bool = True
    is_typed: bool = False  # `user_id:token`
    per_s: int = 1  # ticks of the timestamp in a second
    #: What the rows of the log say of their items, theirs by ours.
    item_columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogFormat:
    """File names as patterns, and the spellings in the order in which they are tried."""

    events: tuple[str, ...]
    layouts: tuple[Layout, ...]
    items: tuple[str, ...] = ()
    #: Any column of zeros and ones is a task, where nobody names one.
    finds_tasks: bool = False


def _same(*names: str) -> dict[str, str]:
    return dict(zip(EVENT_COLUMNS, names, strict=False))


_LIKE = ("like=rating>=4",)
_PLAIN = _same("user_id", "item_id", "timestamp")
_RATINGS = _same("userId", "movieId", "timestamp")
_NUMBERED = ("user_id", "item_id", "rating", "timestamp")

FORMATS: Mapping[str, LogFormat] = {
    "ml-100k": LogFormat(
        ("u.data",),
        (Layout(_PLAIN, _LIKE, delimiter="\t", names=_NUMBERED, is_quoted=False),),
        ("u.item",),
    ),
    "ml-1m": LogFormat(
        ("ratings.dat",),
        (Layout(_PLAIN, _LIKE, delimiter="::", names=_NUMBERED, is_quoted=False),),
        ("movies.dat",),
    ),
    "ml-20m": LogFormat(("ratings.csv",), (Layout(_RATINGS, _LIKE),), ("movies.csv",)),
    "kuairand": LogFormat(
        ("log_*.csv",),
        (
            Layout(
                _same("user_id", "video_id", "time_ms"),
                (
                    "click=is_click",
                    "long_view=long_view",
                    "like=is_like",
                    "follow=is_follow",
                    "comment=is_comment",
                    "forward=is_forward",
                    "hate=is_hate",
                ),
                per_s=1_000,
            ),
        ),
        ("video_features_basic*.csv",),
    ),
    "amazon": LogFormat(
        ("*.json*", "*.csv*"),
        (
            Layout(_same("reviewerID", "asin", "unixReviewTime"), ("like=overall>=4",), "json"),
            Layout(_same("user_id", "parent_asin", "timestamp"), _LIKE, "json", per_s=1_000),
            Layout(_same("user_id", "parent_asin", "timestamp"), _LIKE, per_s=1_000),
            Layout(_PLAIN, _LIKE, names=_NUMBERED),
        ),
        ("meta_*.json*",),
    ),
    "taobao": LogFormat(
        ("UserBehavior*.csv",),
        (
            Layout(
                _PLAIN,
                ("buy=behavior==buy", "cart=behavior==cart", "fav=behavior==fav"),
                names=("user_id", "item_id", "category", "behavior", "timestamp"),
                item_columns={"category": "category"},
            ),
        ),
    ),
    "recbole": LogFormat(
        ("*.inter",),
        (Layout(_PLAIN, (*_LIKE, "label=label"), delimiter="\t", is_quoted=False, is_typed=True),),
        ("*.item",),
    ),
    "csv": LogFormat(("*.csv*", "*.tsv*"), (Layout(_PLAIN),), finds_tasks=True),
    "parquet": LogFormat(("*.parquet",), (Layout(_PLAIN, kind="parquet"),), finds_tasks=True),
}
