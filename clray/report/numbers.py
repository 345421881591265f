"""Numbers as people read them: units of scores, short counts, durations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from clray.spec.task import LOWER_IS_BETTER

NOTHING = "–"
THIN = "\u202f"
MINUS = "−"


def finite(value: Any) -> float | None:
    """`value` as a float; None where it is missing, not a number, or infinite."""
    if value is None or isinstance(value, bool | str) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class Unit:
    """How one metric is shown: fractions as percent, everything else as it is."""

    metric: str

    @property
    def lower(self) -> bool:
        """Whether a lower score is the better one."""
        return self.metric in LOWER_IS_BETTER

    @property
    def label(self) -> str:
        """The metric in words."""
        return {"rouge_l": "ROUGE-L"}.get(self.metric, self.metric.replace("_", " "))

    @property
    def suffix(self) -> str:
        """What follows a big number."""
        return "" if self.lower else "%"

    def show(self, value: Any) -> str:
        """The score: 0.8412 -> 84.1 (percent), 1.2345 bits per byte -> 1.234; a dash where there is none."""
        rounded = self.rounded(value)
        return NOTHING if rounded is None else f"{MINUS[: rounded < 0]}{abs(rounded):.{self._digits}f}"

    def signed(self, value: Any) -> str:
        """The same with a sign, for differences."""
        return f"{'+' if (self.rounded(value) or 0) > 0 else ''}{self.show(value)}"

    def better(self, difference: float) -> str:
        """Class of a difference between two scores: good, bad or even (nothing to see at this precision)."""
        if not self.rounded(difference):
            return "even"
        return "good" if (difference < 0) == self.lower else "bad"

    def rounded(self, value: Any) -> float | None:
        """The score as a number, as far as it is shown; None where there is none."""
        number = finite(value)
        return None if number is None else float(f"{number if self.lower else number * 100:.{self._digits}f}")

    @property
    def _digits(self) -> int:
        return {"perplexity": 2}.get(self.metric, 3) if self.lower else 1


def short_count(value: Any, suffix: str = "") -> str:
    """1234567 -> 1.23 M, with prefixes up to Z."""
    number = finite(value)
    if number is None:
        return NOTHING
    prefixes = ("", "k", "M", "G", "T", "P", "E", "Z")
    power = 0
    while abs(number) >= 999.5 and power < len(prefixes) - 1:
        number, power = number / 1000, power + 1
    digits = 0 if abs(number) >= 100 or (power == 0 and number == int(number)) else 1 if abs(number) >= 10 else 2
    return f"{number:.{digits}f}{THIN}{prefixes[power]}{suffix}".rstrip(THIN)


def whole(value: Any) -> str:
    """1234567 -> 1 234 567 with thin spaces."""
    number = finite(value)
    return NOTHING if number is None else f"{number:,.0f}".replace(",", THIN)


def duration(value: Any) -> str:
    """Seconds as 0.42 s, 12.3 s, 4 min 05 s or 3 h 07 min."""
    number = finite(value)
    if number is None:
        return NOTHING
    if number < 59.95:
        return f"{number:.2f}{THIN}s" if number < 1 else f"{number:.1f}{THIN}s"
    minutes, seconds = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {seconds:02d}{THIN}s"
    return f"{minutes // 60}{THIN}h {minutes % 60:02d}{THIN}min"


def loss(value: Any) -> str:
    """A loss with three decimals."""
    number = finite(value)
    return NOTHING if number is None else f"{number:.3f}"


def setting(value: Any) -> str:
    """A hyper-parameter: mappings as `lora, rank 8, alpha 16`, floats without noise."""
    if isinstance(value, dict):
        kind = [str(value["kind"])] if "kind" in value else []
        rest = [f"{name} {setting(item)}" for name, item in value.items() if name != "kind" and item is not None]
        return ", ".join(kind + rest) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value) or NOTHING
    if isinstance(value, float):
        return f"{value:.6g}".replace("e-0", "e-")
    return NOTHING if value is None else str(value)


def shorten(text: str, limit: int) -> str:
    """`text` with its middle left out where it is longer than `limit`."""
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"
