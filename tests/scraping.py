"""Metrics as a scraper sees them: the text read by the client library's own parser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ledger.services.metering import Reading

_parse: Any = text_string_to_metric_families  # the client library leaves it without types


class Scrape:
    """One scrape: its families by name, and its values by name and labels."""

    def __init__(self, text: bytes | str) -> None:
        text = text.decode() if isinstance(text, bytes) else text
        self.families: dict[str, Metric] = {}
        for family in _parse(text):
            assert family.name not in self.families, f"{family.name} stands there twice"
            assert family.documentation, f"{family.name} is not explained"
            self.families[family.name] = family

    def __call__(self, name: str, **labels: str) -> float:
        """The one value of that name with these labels."""
        (value,) = self.values(name, **labels)
        return value

    def values(self, name: str, **labels: str) -> list[float]:
        """All values of that name whose labels include these."""
        return [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of all values of that name."""
        return [dict(s.labels) for family in self.families.values() for s in family.samples if s.name == name]

    def check_histograms(self) -> None:
        """Each histogram's buckets must grow, and the last one be its count."""
        for family in self.families.values():
            if family.type != "histogram":
                continue
            series: dict[tuple[tuple[str, str], ...], list[float]] = {}
            for sample in family.samples:
                if sample.name == f"{family.name}_bucket":
                    rest = tuple(item for item in sample.labels.items() if item[0] != "le")
                    series.setdefault(rest, []).append(sample.value)
            for rest, values in series.items():
                assert values == sorted(values)
                assert values[-1] == self(f"{family.name}_count", **dict(rest))


def scraped(metrics: Iterable[Metric]) -> Scrape:
    """What a scrape of these alone says."""
    registry = CollectorRegistry()
    registry.register(Reading(lambda: metrics))
    return Scrape(generate_latest(registry))
