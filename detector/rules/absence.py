"""Nobody was seen for too long."""

from __future__ import annotations

from config.rules import AbsenceRule
from detector.rules.condition import ConditionWatch

__all__ = ["AbsenceWatch"]


class AbsenceWatch(ConditionWatch):
    """Fires when no object that counts was seen for `for_s`."""

    settings: AbsenceRule

    @property
    def _for_s(self) -> float:
        return self.settings.for_s

    def _holds(self, counted: int) -> bool:
        return counted == 0

    def _say(self, counted: int, held: str) -> str:
        place = f"{' or '.join(self.settings.zones)} on {self.camera}" if self.settings.zones else self.camera
        return f"{counted or 'no'} {self.settings.label} seen in {place} for {held}"
