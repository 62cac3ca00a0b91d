"""Validation of declared aggregations when definitions are read: one sentence for each problem."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from feast import FeatureView
from feast.types import Array

from extensions.asof.aggregations.declaration import (
    WHOLE_NUMBER,
    aggregated_features,
    aggregations_of,
    decays,
    feature_name,
    horizon_of,
    read_decay,
)
from extensions.asof.aggregations.filter_check import filter_problem
from extensions.asof.aggregations.functions import (
    DECAY_TAGS,
    FLOATS,
    FUNCTION_TAGS,
    FUNCTIONS,
    SYNONYMS,
    Function,
)
from extensions.asof.durations import duration_text, read_duration
from extensions.feature_types import unwrapped
from extensions.suggestions import did_you_mean

LONGEST_LIST = 10_000
_LONGEST_WINDOW = timedelta(days=36_525)


def aggregation_problems(view: Any) -> Iterator[str]:
    """What is wrong with a view's aggregations and with the tags that belong to them."""
    declared = aggregations_of(view)
    if not (declared and isinstance(view, FeatureView)):
        return
    problems = list(_problems(view, declared))
    yield from problems
    if not problems:
        yield from _derived_problems(view)


def _problems(view: FeatureView, declared: list[Any]) -> Iterator[str]:
    if "freshness" not in view.tags:
        yield (
            f"View {view.name} has aggregations and no freshness: give it "
            'tags={"freshness": "realtime"}, or hourly, or daily.'
        )
    if not view.online:
        yield (
            f"View {view.name} has aggregations, whose values are served: give it online=True "
            "(Feast's default for a BatchFeatureView is False)."
        )
    if getattr(view, "udf", None) or getattr(view, "feature_transformation", None):
        yield f"View {view.name} has aggregations and a transformation: take one of them out."
    yield from _filter_problems(f"The filter of view {view.name}", view.tags.get("filter"))
    fields = {field.name: field for field in view.features}
    names = Counter(feature_name(each) for each in declared)
    for name, times in names.items():
        if times > 1:
            yield f"View {view.name} has {times} aggregations for {name}: give each its own name."
    for name in fields.keys() - names.keys():
        yield (
            f"Field {view.name}:{name} has no aggregation: write Aggregation(…, "
            f'name="{name}").{did_you_mean(name, names)}'
        )
    for aggregation in declared:
        name = feature_name(aggregation)
        if name not in fields:
            yield (
                f"The aggregation {name} of view {view.name} has no Field in its schema: give it "
                f'one, Field(name="{name}", dtype=…, tags={{"default": "…"}}).'
                f"{did_you_mean(name, fields)}"
            )
        else:
            yield from _aggregation_problems(f"{view.name}:{name}", aggregation, fields[name])


def _aggregation_problems(what: str, aggregation: Any, field: Any) -> Iterator[str]:
    function = FUNCTIONS.get(aggregation.function)
    if function is None:
        other = SYNONYMS.get(str(aggregation.function).lower())
        hint = f" Did you mean {other}?" if other else did_you_mean(aggregation.function, FUNCTIONS)
        yield (
            f"The aggregation {what} has the function {aggregation.function!r}; there are "
            f"{', '.join(FUNCTIONS)}.{hint}"
        )
        return
    if function.column == "must" and not aggregation.column:
        yield f"The aggregation {what} must name the column of which it is the {function.name}."
    if function.column == "none" and aggregation.column:
        yield (
            f"The aggregation {what} names the column {aggregation.column}, and {function.name} "
            "counts rows: take it out, or take decayed_sum."
        )
    yield from _window_problems(what, aggregation)
    yield from _type_problems(what, function, field)
    yield from _tag_problems(what, function, field)


def _window_problems(what: str, aggregation: Any) -> Iterator[str]:
    window: timedelta | None = aggregation.time_window
    if window is None:
        return
    if not timedelta(0) < window <= _LONGEST_WINDOW or window.microseconds:
        yield (
            f"The time_window of {what} must be whole seconds, more than none and at most "
            f"{_LONGEST_WINDOW.days} days, not {window}; leave it out for all of history."
        )
    elif read_duration(duration_text(window)) is None:
        yield f"The time_window of {what} is so long that it must be whole hours, not {window}."
    if aggregation.slide_interval not in (None, window):
        yield (
            f"The slide_interval of {what} means nothing here, where a window ends at the moment "
            "that is asked about: take it out."
        )


def _type_problems(what: str, function: Function, field: Any) -> Iterator[str]:
    name, depth = unwrapped(field.dtype)
    is_list = isinstance(field.dtype, Array) and depth == 1
    if function.makes_list != is_list or (depth and not is_list) or name not in function.types:
        wanted = [_type_text(each, is_list=function.makes_list) for each in function.types]
        yield (
            f"{what} is a {function.name} and has the dtype {field.dtype}: take "
            f"{', '.join(wanted[:-1])} or {wanted[-1]}."
        )


def _tag_problems(what: str, function: Function, field: Any) -> Iterator[str]:
    tags = field.tags
    for tag in FUNCTION_TAGS:
        if tag in tags and tag not in function.tags:
            yield f"The tag {tag} of field {what} means nothing for {function.name}: take it out."
    yield from _filter_problems(f"The filter of field {what}", tags.get("filter"))
    if "limit" in function.tags:
        yield from _limit_problems(what, function, tags.get("limit", ""))
    if "divide_by" in tags and "divide_by" in function.tags:
        if not WHOLE_NUMBER.fullmatch(tags["divide_by"]):
            yield (
                f"The tag divide_by of field {what} must be a whole number such as 60000, "
                f"not {tags['divide_by']!r}."
            )
        if unwrapped(field.dtype)[0] not in FLOATS:
            yield f"Field {what} is divided, which makes fractions: take Float32 or Float64."
    if DECAY_TAGS[0] in function.tags:
        yield from _decay_problems(what, function, tags)


def _limit_problems(what: str, function: Function, limit: str) -> Iterator[str]:
    if not WHOLE_NUMBER.fullmatch(limit) or int(limit) > LONGEST_LIST:
        yield (
            f"Field {what} is a {function.name} and must say how long its list may be: "
            f'tags={{"limit": "20"}}, at most {LONGEST_LIST}'
            f"{f', not {limit!r}' if limit else ''}."
        )


def _decay_problems(what: str, function: Function, tags: dict[str, str]) -> Iterator[str]:
    said = [tag for tag in DECAY_TAGS if tag in tags]
    if len(said) != 1:
        yield (
            f"Field {what} is a {function.name} and must say how it decays, once: "
            'tags={"half_life": "3 days"} or {"decay_rate": "0.1 per day"}.'
        )
        return
    try:
        decay = read_decay(tags)
    except ValueError as error:
        yield f"Field {what}: {error}, not {tags[said[0]]!r}."
        return
    if decay is not None and decay.reach > _LONGEST_WINDOW:
        yield f"Field {what} decays too slowly to have an end: take a sum over a window."


def _derived_problems(view: FeatureView) -> Iterator[str]:
    """Tags of the view that must say what follows from its aggregations, if they say anything."""
    features = aggregated_features(view)
    horizon = horizon_of(features)
    said = view.tags.get("horizon")
    if said is not None and read_duration(said) != horizon:
        yield (
            f"The horizon of view {view.name} follows from its aggregations "
            f"({'none' if horizon is None else duration_text(horizon)}): take the tag out."
        )
    if view.tags.get("decays", str(decays(features)).lower()) != str(decays(features)).lower():
        yield (
            f"Whether view {view.name} decays follows from its aggregations "
            f"({str(decays(features)).lower()}): take the tag out."
        )
    if decays(features) and view.tags.get("freshness") == "realtime":
        [first, *_] = [each for each in features if each.kind.decays]
        yield (
            f"{view.name}:{first.name} changes at every moment ({first.function}), so the view "
            "cannot be realtime: make it hourly or daily."
        )
    if "," in view.tags.get("reads", ""):
        yield f"View {view.name} has aggregations, which read one source: name one in reads."


def stray_tag_problems(view: Any) -> Iterator[str]:
    """Tags of aggregations in a view that has none, as its file has it.

    Feast's registry keeps the tags of a view and not its aggregations: a view that was read from
    there is not asked.
    """
    if aggregations_of(view) or not (isinstance(view, FeatureView) and "freshness" in view.tags):
        return
    if "filter" in view.tags:
        yield f"View {view.name} has the tag filter and no aggregations: its SQL is the filter."
    for field in view.features:
        for tag in ("filter", *FUNCTION_TAGS):
            if tag in field.tags:
                yield (
                    f"Field {view.name}:{field.name} has the tag {tag}, which belongs to an "
                    "aggregation, and the view has none: take it out."
                )


def _filter_problems(what: str, text: str | None) -> Iterator[str]:
    if text is not None and (problem := filter_problem(text)):
        yield f"{what} {problem}: {text!r}."


def _type_text(name: str, *, is_list: bool) -> str:
    plain = "".join(part.capitalize() for part in name.split("_"))
    return f"Array({plain})" if is_list else plain
