"""Too many are there, or too few."""

from __future__ import annotations

from config.rules import CountRule
from detector.rules.condition import ConditionWatch

__all__ = ["CountWatch"]


class CountWatch(ConditionWatch):
    """Fires when `at_least` or `at_most` so many objects have been there for `for_s`."""

    settings: CountRule

    @property
    def _for_s(self) -> float:
        return self.settings.for_s

    def _holds(self, counted: int) -> bool:
        if self.settings.at_least is not None:
            return counted >= self.settings.at_least
        return self.settings.at_most is None or counted <= self.settings.at_most

    def _say(self, counted: int, held: str) -> str:
        settings = self.settings
        zones = f" in {', '.join(settings.zones)}" if settings.zones else ""
        bound = f"{settings.at_least} or more" if settings.at_least is not None else f"{settings.at_most} or fewer"
        return f"{counted} x {settings.label}{zones} on {self.camera} for {held}: {bound}"
